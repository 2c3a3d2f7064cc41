"""Executors, which compute the rewards of a search in this process, on devices, or elsewhere.

An executor maps a function over items and yields the outcomes in the order of completion.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.tree_util import Partial

from maml._checks import check_count
from maml._returns import check_arrays
from maml.mapping import map_in_chunks, shard_over_devices, tasks_per_device

Item = tuple[Any, ...]
"""The arguments of one call; in a search, the tokens of one child and its key."""

Outcome = tuple[int, Any]
"""The index of an item, and its result or the `Exception` that it raised."""

Executor = Callable[[Callable[..., Any], Sequence[Item]], Iterable[Outcome]]
"""`executor(function, items)` yields one outcome for each item, in any order."""


def local_executor(function: Callable[..., Any], items: Sequence[Item]) -> Iterable[Outcome]:
    """Calls the function in this process, for one item after the other; an executor.

    >>> [outcome for _, outcome in local_executor(lambda a, b: a / b, [(1, 2), (3, 0)])]
    [0.5, ZeroDivisionError('division by zero')]
    """
    for index, item in enumerate(items):
        try:
            # An error on a device is raised only when the program waits for the result.
            yield index, jax.block_until_ready(function(*item))
        except Exception as error:
            yield index, error


def device_executor(mesh: Mesh | None = None, *, chunk: int = 1) -> Executor:
    """An executor that runs all items in one jitted program, divided among the devices.

    JAX must be able to trace the function; if it is a `jax.tree_util.Partial`, its arrays are
    arguments of the program. An exception is raised, since it concerns the program and not an item.

    Args:
        mesh: Devices that share the items, see `maml.task_mesh`; the number of devices need not
            divide the number of items. None: one device.
        chunk: Number of items that a device maps at once, >= 1.

    Returns:
        The executor.

    Raises:
        ValueError: `chunk` is below 1, or the mesh has another axis than "task"; (when called) the
            function returns values other than numbers and arrays.

    >>> squares = device_executor(chunk=2)(lambda x: x**2, [(1.0,), (2.0,), (3.0,)])
    >>> [float(square) for _, square in squares]
    [1.0, 4.0, 9.0]
    """
    check_count(chunk, least=1, of="items in a chunk")
    tasks_per_device(0, mesh)
    devices = 1 if mesh is None else mesh.size

    def call(function: Partial, item: Item) -> Any:
        result = function(*item)
        check_arrays(result, "a function over devices")
        return result

    @jax.jit
    def program(function: Partial, items: Item) -> Any:
        def share(function: Partial, items: Item) -> Any:
            return map_in_chunks(lambda item: call(function, item), items, chunk)

        return shard_over_devices(mesh, share, summed=False)(function, items)

    def execute(function: Callable[..., Any], items: Sequence[Item]) -> Iterable[Outcome]:
        if not items:
            return
        if not callable(function):
            raise ValueError(f"an executor needs a function of an item; got {function!r}")
        partial_function = function if isinstance(function, Partial) else Partial(function)
        padding = -len(items) % devices  # these repeat the last item, and their results are ignored
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *items, *[items[-1]] * padding)
        results = jax.device_get(program(partial_function, stacked))
        for index in range(len(items)):
            yield index, jax.tree.map(lambda leaf, at=index: leaf[at], results)

    return execute
