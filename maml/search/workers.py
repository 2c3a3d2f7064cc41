"""Ray as an executor: children on the cores and devices of one machine or of many.

Ray is an extra, `pip install 'maml-jax[ray]'`, and imported only when it is asked for.
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

# Read by Ray when it is imported and started. What it starts here listens on the loopback alone:
# Ray has no other switch for that, and replaces a 127.0.0.1 that it is given by the host's address.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}
HERE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}


def engine() -> Any:
    """The module `ray`.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        raise ImportError("Ray is not installed: pip install 'maml-jax[ray]'") from error


@contextmanager
def cluster(address: str | None = None, **options: Any) -> Iterator[None]:
    """A Ray to work with, shut down when it is left; usage reports are off.

    Args:
        address: of a cluster that runs, "auto" for the one that this machine belongs to. None
            starts one of this machine's cores and GPUs, which no other machine can reach.
        options: more of `ray.init`'s.

    Raises:
        ValueError: the address is not a string, or empty.
        ImportError: Ray is not installed.
        RuntimeError: this process has a Ray already, or imported it before.
        ConnectionError: there is no cluster at the address.
    """
    if address is not None and not (isinstance(address, str) and address):
        raise ValueError(f"address must be None, 'auto' or HOST:PORT; got {address!r}")
    wanted = QUIET if address else QUIET | HERE
    if "ray" in sys.modules and not os.environ.keys() >= wanted.keys():
        raise RuntimeError(
            "Ray was imported too early to be kept to this machine, and quiet; import it after"
            f" `cluster`, or set {' '.join(f'{n}={v}' for n, v in wanted.items())}"
        )
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
    ray = engine()
    started = {"address": address} if address else {"address": "local", "include_dashboard": False}
    with warnings.catch_warnings():
        # JAX warns of every fork; a process that is forked to run another program is in no danger.
        warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)
        ray.init(**started, **({"logging_level": logging.WARNING} | options))
    try:
        yield
    finally:
        ray.shutdown()


def running() -> Any:
    """The module `ray`, which would start another one by itself where there is none.

    Raises:
        ImportError: it is not installed.
        RuntimeError: it was not started.
    """
    ray = engine()
    if not ray.is_initialized():
        raise RuntimeError("there is no Ray to work with; use `with maml.search.cluster():`")
    return ray


def on_ray(*, retries: int = 3, **resources: Any) -> Executor:
    """An executor that is a queue of Ray's: every item a task, for whichever worker is free.

    An item whose worker dies is begun again, and its outcome is that of the attempt that ended. A
    worker loads a function once, and keeps what it has compiled; but of items with a GPU each has a
    new worker, so that memory is given back, unless Ray is told `max_calls=0`.

    Args:
        retries: how often an item is begun again; after that its outcome is the exception. One
            that the function itself raises is its outcome at once.
        resources: of one item, any of `ray.remote`: `num_gpus=0.5`, `num_cpus=2`.

    Raises:
        ValueError: `retries` is negative, or given by Ray's name for it.
        ImportError: when called, Ray is not installed.
        RuntimeError: when called, there is no cluster.

    Moritz, Nishihara et al.: Ray, a distributed framework for emerging AI applications (OSDI 2018).
    """
    check_count(retries, least=0, of="retries")
    if "max_retries" in resources:
        raise ValueError(f"Ray's max_retries is `retries` here; got {resources}")
    tasks = {}

    def execute(function: Callable[..., Any], items: Sequence[Item]) -> Iterator[Outcome]:
        ray = running()
        if function not in tasks:
            # A task of its own for each batch would be loaded, and compiled, anew each time.
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
            for left in waiting:  # by a loop that was broken off
                ray.cancel(left, force=True)

    return execute
