"""Executors on Ray, for child networks on the cores and devices of one or more machines.

Ray is an optional dependency, `pip install 'maml-jax[ray]'`, and is imported only when it is used.
"""

import importlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax

from maml._checks import check_count
from maml.search.executors import Executor, Item, Outcome

# Ray reads these variables when it is imported and started. With `LOCAL_ONLY` it listens only on
# the loopback interface. Ray has no other option for that: it replaces 127.0.0.1 by the host's
# address.
NO_USAGE_REPORTS = {"RAY_USAGE_STATS_ENABLED": "0"}
LOCAL_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}


def import_ray() -> Any:
    """The module `ray`.

    Raises:
        ImportError: Ray is not installed.
    """
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        raise ImportError("Ray is not installed: pip install 'maml-jax[ray]'") from error


@contextmanager
def ray_cluster(address: str | None = None, **options: Any) -> Iterator[None]:
    """A context in which Ray runs without usage reports; its end shuts Ray down.

    Args:
        address: Address of a running cluster, or "auto" for that of this machine. None: a new
            cluster with the cores and GPUs of this machine, which no other machine can reach.
        options: Further options of `ray.init`.

    Returns:
        The context manager.

    Raises:
        ValueError: the address is empty or not a string.
        ImportError: Ray is not installed.
        RuntimeError: Ray is already running in this process, or was imported before.
        ConnectionError: no cluster is found at the address.
    """
    if address is not None and not (isinstance(address, str) and address):
        raise ValueError(f"address must be None, 'auto' or HOST:PORT; got {address!r}")
    environment = NO_USAGE_REPORTS if address else NO_USAGE_REPORTS | LOCAL_ONLY
    if "ray" in sys.modules and not os.environ.keys() >= environment.keys():
        raise RuntimeError(
            "Ray was imported before `ray_cluster` could set its environment; import it afterwards,"
            f" or set {' '.join(f'{n}={v}' for n, v in environment.items())}"
        )
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    ray = import_ray()
    start_options = (
        {"address": address} if address else {"address": "local", "include_dashboard": False}
    )
    with warnings.catch_warnings():
        # JAX warns of every fork, but a fork that runs another program is safe.
        warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)
        ray.init(**start_options, **({"logging_level": logging.WARNING} | options))
    try:
        yield
    finally:
        ray.shutdown()


def require_ray() -> Any:
    """The module `ray`, after a check that Ray is running; otherwise a call would start a cluster.

    Raises:
        ImportError: Ray is not installed.
        RuntimeError: Ray is not running.
    """
    ray = import_ray()
    if not ray.is_initialized():
        raise RuntimeError("Ray is not running; use `with maml.search.ray_cluster():`")
    return ray


def ray_executor(*, retries: int = 3, **resources: Any) -> Executor:
    """An executor that runs each item as a Ray task on the next free worker.

    An item whose worker dies is restarted, and its outcome is that of the last attempt. A worker
    loads a function once and keeps its compiled code. Each item with a GPU gets a new worker, which
    frees the memory, unless `max_calls=0` is passed to Ray.

    Args:
        retries: Number of restarts of an item whose worker dies, >= 0; if all fail, the outcome is
            the exception. An item whose function raises an exception is not restarted.
        resources: Resources of one item, options of `ray.remote`: `num_gpus=0.5`, `num_cpus=2`.

    Returns:
        The executor.

    Raises:
        ValueError: `retries` is negative, or is given as Ray's `max_retries`.
        ImportError: (when called) Ray is not installed.
        RuntimeError: (when called) no cluster is running.

    Moritz, Nishihara et al.: Ray, a distributed framework for emerging AI applications (OSDI 2018).
    """
    check_count(retries, least=0, of="retries")
    if "max_retries" in resources:
        raise ValueError(f"Ray's max_retries is set by `retries`; got {resources}")
    tasks = {}

    def execute(function: Callable[..., Any], items: Sequence[Item]) -> Iterator[Outcome]:
        ray = require_ray()
        if function not in tasks:
            # A new task for each batch would be loaded and compiled again for each batch.
            def call_function(*item: Any) -> Any:
                return jax.device_get(function(*item))

            tasks[function] = ray.remote(max_retries=retries, **resources)(call_function)
        waiting = {tasks[function].remote(*item): index for index, item in enumerate(items)}
        try:
            while waiting:
                (finished,), _ = ray.wait(list(waiting), num_returns=1)
                index = waiting.pop(finished)
                try:
                    outcome = ray.get(finished)
                except ray.exceptions.RayTaskError as error:
                    outcome = error.cause
                except ray.exceptions.RayError as error:
                    outcome = error
                yield index, outcome
        finally:
            for unfinished in waiting:  # not empty if the loop over the outcomes ended early
                ray.cancel(unfinished, force=True)

    return execute
