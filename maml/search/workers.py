"""Ray as an executor: child networks on the cores and devices of one machine or of many.

Ray is an extra, `pip install 'maml-jax[ray]'`, and is imported only when it is used.
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

# Ray reads these when it is imported and started. With `HERE` it listens on the loopback only. It
# has no other switch for that, and replaces an address of 127.0.0.1 by that of the host.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}
HERE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}


def engine() -> Any:
    """The module `ray`.

    Raises:
        ImportError: Ray is not installed.
    """
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        raise ImportError("Ray is not installed: pip install 'maml-jax[ray]'") from error


@contextmanager
def cluster(address: str | None = None, **options: Any) -> Iterator[None]:
    """A context in which Ray runs, without usage reports; it is shut down at the end.

    Args:
        address: Address of a running cluster, or "auto" for the one of this machine. None: a new
            cluster of this machine's cores and GPUs, which no other machine can reach.
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
    wanted = QUIET if address else QUIET | HERE
    if "ray" in sys.modules and not os.environ.keys() >= wanted.keys():
        raise RuntimeError(
            "Ray was imported before `cluster` could set its environment; import it afterwards, or"
            f" set {' '.join(f'{n}={v}' for n, v in wanted.items())}"
        )
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
    ray = engine()
    started = {"address": address} if address else {"address": "local", "include_dashboard": False}
    with warnings.catch_warnings():
        # JAX warns of every fork, but forking a process to run another program is safe.
        warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)
        ray.init(**started, **({"logging_level": logging.WARNING} | options))
    try:
        yield
    finally:
        ray.shutdown()


def running() -> Any:
    """The module `ray`, checked to be running, since it would start a cluster unasked otherwise.

    Raises:
        ImportError: Ray is not installed.
        RuntimeError: Ray is not running.
    """
    ray = engine()
    if not ray.is_initialized():
        raise RuntimeError("Ray is not running; use `with maml.search.cluster():`")
    return ray


def on_ray(*, retries: int = 3, **resources: Any) -> Executor:
    """An executor in which every item is a task of Ray, run by the next free worker.

    An item whose worker dies is restarted, and its outcome is that of the last attempt. A worker
    loads a function once and keeps its compiled code. Each item with a GPU gets a new worker, which
    frees the memory, unless `max_calls=0` is passed to Ray.

    Args:
        retries: Number of restarts of an item whose worker dies, >= 0; its outcome is then the
            exception. An exception of the function itself is the outcome at once.
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
        raise ValueError(f"Ray's max_retries is `retries` here; got {resources}")
    tasks = {}

    def execute(function: Callable[..., Any], items: Sequence[Item]) -> Iterator[Outcome]:
        ray = running()
        if function not in tasks:
            # A new task for each batch would be loaded and compiled anew each time.
            def one(*item: Any) -> Any:
                return jax.device_get(function(*item))

            tasks[function] = ray.remote(max_retries=retries, **resources)(one)
        waiting = {tasks[function].remote(*item): index for index, item in enumerate(items)}
        try:
            while waiting:
                (ended,), _ = ray.wait(list(waiting), num_returns=1)
                index = waiting.pop(ended)
                try:
                    outcome = ray.get(ended)
                except ray.exceptions.RayTaskError as error:
                    outcome = error.cause
                except ray.exceptions.RayError as error:
                    outcome = error
                yield index, outcome
        finally:
            for left in waiting:  # where the loop over the outcomes ended early
                ray.cancel(left, force=True)

    return execute
