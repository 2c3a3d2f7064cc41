"""The mapping of tasks over devices, for meta-training and evaluation alike."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import (
    AbstractMesh,
    AxisType,
    Mesh,
    NamedSharding,
    PartitionSpec,
    get_abstract_mesh,
    reshard,
)
from jaxtyping import Array, PyTree

from maml._checks import check_count, check_key
from maml._contracts import check_meta_params
from maml._leaves import is_number
from maml.types import Episode, MetaParams, RandomKey, RandomKeys

TASK_AXIS = "task"  # name of the mesh axis along which tasks are divided


def task_mesh(num_devices: int | None = None) -> Mesh:
    """A mesh of devices in a row, which share the tasks of a meta-batch.

    Each process contributes the same number of devices. On a CPU, create devices with
    `jax.config.update("jax_num_cpu_devices", n)` before the first array is made; with one device
    for each core, each core works on its own tasks.

    Args:
        num_devices: Number of devices, a multiple of the number of processes. None: all devices.

    Returns:
        The mesh, whose only axis is "task".

    Raises:
        ValueError: there are fewer devices than `num_devices`, or `num_devices` is not a multiple
            of the number of processes.

    >>> dict(task_mesh(1).shape)
    {'task': 1}
    """
    processes = jax.process_count()
    available = jax.device_count()
    count = available if num_devices is None else num_devices
    check_count(count, least=processes, of="devices in a mesh")
    if count > available or count % processes:
        raise ValueError(
            f"a mesh of {count} devices needs {count} devices, as many from each process; there"
            f" are {available} in {processes} processes (for more on a CPU: jax_num_cpu_devices)"
        )
    local = [jax.local_devices(process)[: count // processes] for process in range(processes)]
    return jax.make_mesh(
        (count,), (TASK_AXIS,), axis_types=(AxisType.Auto,), devices=[d for ds in local for d in ds]
    )


def count_tasks(episodes: Episode | PyTree) -> int:
    """The number of tasks, which is the size of the leading axis of every leaf.

    Raises:
        ValueError: a leaf has no axis, or leaves differ in the size of the leading axis.
    """
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(episodes)}
    if len(sizes) != 1 or sizes == {()}:
        raise ValueError(
            "episodes need one leading task axis, as those of maml.batch_tasks have; got leading"
            f" sizes {sorted(sizes)}"
        )
    return sizes.pop()[0]


def check_tasks(tasks: Episode | PyTree, mesh: Mesh | None) -> None:
    """Refuses tasks without data, or divided over other devices than those of the mesh.

    Raises:
        ValueError: an array is empty, episodes lack a support set, or an explicit axis of another
            mesh divides an array.
    """
    if isinstance(tasks, Episode) and not jax.tree.leaves(tasks.support):
        raise ValueError(f"episodes need a support set; got {tasks.support!r}")
    leaves = jax.tree.leaves(tasks)
    for leaf in leaves:
        if not isinstance(leaf, jax.Array) and not is_number(leaf):
            raise ValueError(f"tasks must be arrays of numbers; got {leaf!r}")
    shapes = [jnp.shape(leaf) for leaf in leaves]
    if empty := [shape for shape in shapes if 0 in shape]:
        raise ValueError(f"the arrays of a task must not be empty; got one of shape {empty[0]}")
    axes = {axis for leaf in leaves for axis in jax.typeof(leaf).sharding.spec} - {None}
    if axes and (mesh is None or axes != {TASK_AXIS}):
        raise ValueError(
            f"the tasks are divided over the explicit mesh axes {sorted(map(str, axes))}; got"
            f" {'no mesh' if mesh is None else mesh}: an axis {TASK_AXIS!r} and its mesh, or axes"
            " of jax.sharding.AxisType.Auto, would work"
        )


def tasks_per_device(num_tasks: int, mesh: Mesh | None) -> int:
    """The number of tasks of each device.

    Raises:
        ValueError: the mesh is not a `Mesh`, does not divide the tasks, or has another axis than
            "task".
    """
    if mesh is None:
        return num_tasks
    if not isinstance(mesh, Mesh | AbstractMesh):
        raise ValueError(f"a mesh must be made by maml.task_mesh(); got {mesh!r}")
    if mesh.axis_names != (TASK_AXIS,):
        raise ValueError(
            f"a mesh needs one axis, named {TASK_AXIS!r}, as that of maml.task_mesh() has; got"
            f" {mesh.axis_names}"
        )
    context = get_abstract_mesh()
    if not context.empty and context.shape != mesh.shape:
        raise ValueError(
            f"jax.set_mesh has set a mesh with the axes {dict(context.shape)}, and the tasks cannot"
            f" be divided over another mesh, {dict(mesh.shape)}, within it; mesh=None would work"
        )
    if num_tasks % mesh.size:
        raise ValueError(
            f"a mesh of {mesh.size} devices does not divide the {num_tasks} tasks; a mesh of"
            f" {_divisors(num_tasks)} does"
        )
    return num_tasks // mesh.size


def tasks_at_once(num_tasks: int, chunk: int | None, mesh: Mesh | None) -> int:
    """The number of tasks that a device maps at once: the chunk, or its whole share.

    Raises:
        ValueError: as `tasks_per_device`, or the chunk does not divide the share.
    """
    share = tasks_per_device(num_tasks, mesh)
    chunk = share if chunk is None else chunk
    check_count(chunk, least=1, of="tasks in a chunk")
    if share % chunk:
        raise ValueError(
            f"a chunk of {chunk} does not divide the {share} tasks of a device; a chunk of"
            f" {_divisors(share)} does"
        )
    return chunk


def shard_over_devices(
    mesh: Mesh | None, function: Callable[..., Any], *, summed: bool | tuple[bool, ...]
) -> Callable[..., Any]:
    """Turns a function of the tasks of one device into a function of all tasks on a mesh.

    Args:
        mesh: Devices that share the tasks. None: one device.
        function: Function `function(meta_params, tasks)` of one device, given all meta-parameters
            and the tasks of the device.
        summed: Whether `function` returns sums over all devices instead of results `[task, ...]`; a
            tuple has one bool for each member of the result.

    Returns:
        `function(meta_params, tasks)` of all tasks; without a mesh it is `function`.
    """
    if mesh is None:
        return function
    everywhere, by_task = PartitionSpec(), PartitionSpec(TASK_AXIS)

    def sharded(meta_params: MetaParams, tasks: Any) -> Any:
        devices = context if (context := get_abstract_mesh()).shape == mesh.shape else mesh
        # On a mesh with explicit axes, the types of arrays include their sharding.
        if AxisType.Explicit in devices.axis_types:
            meta_params = reshard(meta_params, NamedSharding(devices, everywhere))
            tasks = reshard(tasks, NamedSharding(devices, by_task))
        # `check_vma` is off: it would sum the gradients of the inner loop over the devices, and
        # require every optimiser state to be marked as varying between devices.
        return jax.shard_map(
            function,
            mesh=devices,
            in_specs=(everywhere, by_task),
            out_specs=jax.tree.map(lambda total: everywhere if total else by_task, summed),
            check_vma=False,
        )(meta_params, tasks)

    return sharded


def map_tasks(
    function: Callable[[MetaParams, Any, RandomKey], PyTree],
    meta_params: MetaParams,
    tasks: PyTree,
    key: RandomKey,
    *,
    chunk: int | None = None,
    mesh: Mesh | None = None,
) -> PyTree[Array]:
    """The results of `function(meta_params, task, key)` for each task.

    Args:
        function: Function of one task.
        meta_params: Meta-parameters, the same for all tasks.
        tasks: Tasks, a tree of arrays `[task, ...]`.
        key: Random key, split into one for each task.
        chunk: Number of tasks that a device maps at once; it need not divide the number of tasks.
            None: all at once.
        mesh: Devices that share the tasks, see `task_mesh`. None: one device.

    Returns:
        The results, a tree of arrays `[task, ...]`.

    Raises:
        ValueError: `chunk` is below 1, the mesh does not divide the tasks or has another axis than
            "task", or an argument has the wrong type.
    """
    check_meta_params(meta_params)
    check_key(key)
    check_tasks(tasks, mesh)
    num_tasks = count_tasks(tasks)
    chunk = tasks_per_device(num_tasks, mesh) if chunk is None else chunk
    check_count(chunk, least=1, of="tasks in a chunk")

    def map_share(meta_params: MetaParams, tasks: tuple[Any, RandomKeys]) -> PyTree[Array]:
        return map_in_chunks(lambda task: function(meta_params, *task), tasks, chunk)

    keys = jax.random.split(key, num_tasks)
    return shard_over_devices(mesh, map_share, summed=False)(meta_params, (tasks, keys))


def map_in_chunks(function: Callable[[Any], PyTree], tasks: Any, chunk: int) -> PyTree[Array]:
    """The results of `function(task)` for each task, in chunks; the last may be smaller.

    It replaces `jax.lax.map` with a batch size, which cannot return arrays of size zero, such as
    the metrics of zero inner steps.
    """
    map_chunk = jax.vmap(function)
    count = count_tasks(tasks) // chunk
    full = jax.tree.map(lambda leaf: leaf[: count * chunk], tasks)
    rest = jax.tree.map(lambda leaf: leaf[count * chunk :], tasks)
    folded = jax.tree.map(lambda leaf: leaf.reshape(count, chunk, *leaf.shape[1:]), full)
    out = jax.tree.map(
        lambda leaf: leaf.reshape(count * chunk, *leaf.shape[2:]), jax.lax.map(map_chunk, folded)
    )
    if not count_tasks(rest):
        return out
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), out, map_chunk(rest))


def _divisors(number: int) -> str:
    *others, last = [str(n) for n in range(1, number + 1) if number % n == 0]
    return f"{', '.join(others)} or {last}" if others else last
