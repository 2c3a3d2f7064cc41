"""The meta-gradients of many tasks, summed in float32 at least.

The sum of the objectives is differentiated, so that computations shared by the tasks, such as
products with theta, are done once. Tasks whose gradient is not finite are left out, and so are
tasks whose objective has a metric of NaN, apart from metrics of the support set: a query set
without a row of positive weight has a gradient of zero that must not enter the mean. The sum does
not show which task is to be left out. If one is, the gradients of its chunk are computed again,
task by task.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, PyTree, Scalar

from maml import tree
from maml.finite import is_finite
from maml.gradients import value_and_gradient
from maml.mapping import TASK_AXIS, count_tasks, map_in_chunks, shard_over_devices
from maml.rows import upcast
from maml.types import (
    Episode,
    MetaGradient,
    MetaParams,
    Metrics,
    Objective,
    RandomKey,
    RandomKeys,
    Step,
)

Tasks = tuple[Episode, RandomKeys]


class Total(NamedTuple):
    """Sums over the tasks that are not left out.

    Attributes:
        number: Number of these tasks.
        value: Sum of the objective; 0 for a meta-gradient without objective.
        metrics: Sums of the metrics, each over the tasks in which it is not NaN.
        counted: Number of tasks in each of these sums.
        grads: Sum of the meta-gradients, like the meta-parameters; None where a leaf has none.
    """

    number: Float[Array, ""]
    value: Float[Array, ""]
    metrics: Metrics
    counted: Metrics
    grads: PyTree

    def mean(self) -> "Total":
        """The means instead of the sums; NaN if no task is finite."""
        mean = jax.tree.map(lambda leaf: leaf / self.number, self)
        metrics = jax.tree.map(jnp.divide, self.metrics, self.counted)
        return mean._replace(number=self.number, metrics=metrics, counted=self.counted)


def total_gradient(
    grad: MetaGradient, step: Step, meta_params: MetaParams, tasks: Tasks, chunk: int
) -> tuple[Total, Bool[Array, " task"]]:
    """Sums over the tasks, one chunk after the other, and a mask of the tasks in the sums.

    Args:
        grad: Meta-gradient of one task, without `early`.
        step: Number of meta-steps taken before.
        meta_params: Meta-parameters at which the gradient is taken.
        tasks: Episodes and keys, `[task, ...]`.
        chunk: Number of tasks mapped at once; it divides the number of tasks.

    Returns:
        The sums, and a mask `[task]` of the tasks in them.

    Raises:
        ValueError: (when traced) the gradient is not a tree like the meta-parameters, or the
            metrics are not a dictionary.
    """
    count = count_tasks(tasks[0]) // chunk
    chunks = jax.tree.map(lambda leaf: leaf.reshape(count, chunk, *leaf.shape[1:]), tasks)

    def add_chunk(grads: PyTree, tasks: Tasks) -> tuple[PyTree, tuple[Total, Array]]:
        total, included = _chunk_gradient(grad, step, meta_params, tasks)
        return jax.tree.map(jnp.add, grads, total.grads), (total._replace(grads=()), included)

    start = jax.tree.map(lambda leaf: jnp.zeros_like(upcast(leaf)), _learned(meta_params))
    grads, (totals, included) = jax.lax.scan(add_chunk, start, chunks)
    total = jax.tree.map(lambda leaf: leaf.sum(axis=0), totals)
    return total._replace(grads=grads), included.reshape(count * chunk)


def cast_like(meta_params: MetaParams, grads: PyTree) -> PyTree:
    """The gradients in the precision of the meta-parameters."""
    learned = _learned(meta_params)
    return jax.tree.map(lambda grad, leaf: grad.astype(jnp.result_type(leaf)), grads, learned)


def replace_excluded(included: Bool[Array, " task"], tasks: Tasks) -> Tasks:
    """The tasks, with each task that is not included replaced by one that is."""
    index = jnp.where(included, jnp.arange(included.size), jnp.argmax(included))
    return jax.tree.map(lambda leaf: leaf[index], tasks)


def _chunk_gradient(
    grad: MetaGradient, step: Step, meta_params: MetaParams, tasks: Tasks
) -> tuple[Total, Bool[Array, " task"]]:
    """Sums over the tasks of a chunk, and a mask of the tasks in the sums."""

    def is_learned(metrics: Metrics) -> Bool[Array, ""]:
        return jnp.asarray(grad.objective is None) | _has_no_nan(metrics)

    def task_by_task(tasks: Tasks) -> tuple[Total, Bool[Array, " task"]]:
        values, metrics, grads = jax.vmap(partial(value_and_gradient, grad, step, meta_params))(
            *tasks
        )
        included = jax.vmap(lambda x, m: is_finite(x) & is_learned(m))((values, grads), metrics)
        return _total(included, values, metrics, sum_included(included, grads)), included

    if grad.objective is None:
        return task_by_task(tasks)
    values, metrics, grads = values_and_total_gradient(grad.objective, step, meta_params, tasks)
    finite = is_finite((values, grads)) & is_learned(metrics)
    included = jnp.broadcast_to(finite, values.shape)

    def of_sum(tasks: Tasks) -> tuple[Total, Bool[Array, " task"]]:
        finite_grads = jax.tree.map(lambda leaf: jnp.where(finite, leaf, 0), grads)
        return _total(included, values, metrics, finite_grads), included

    if len(values) == 1:
        return of_sum(tasks)
    return jax.lax.cond(_any_mapped(~finite), task_by_task, of_sum, tasks)


def values_and_total_gradient(
    objective: Objective, step: Step, meta_params: MetaParams, tasks: Tasks
) -> tuple[Array, Any, Any]:
    """Values and metrics of each task, and the gradient of the sum of the values."""
    learned, constants = tree.partition(meta_params, tree.floating_mask(meta_params))
    leaves, structure = jax.tree.flatten(learned)
    types = [jnp.result_type(leaf) for leaf in leaves]
    # Each task has a copy of the narrow leaves; otherwise their gradients would be summed in that
    # precision.
    axes = [0 if upcast(leaf).dtype != jnp.result_type(leaf) else None for leaf in leaves]

    def task_objective(
        leaves: list[Array], episode: Episode, key: RandomKey
    ) -> tuple[Array, Metrics]:
        meta_params = tree.combine(structure.unflatten(leaves), constants)
        return objective(meta_params, episode, key, step)

    def sum_objectives(leaves: list[Array]) -> tuple[Array, tuple[Array, Metrics]]:
        copies = [
            leaf
            if axis is None
            else jnp.broadcast_to(leaf, (count_tasks(tasks), *leaf.shape)).astype(dtype)
            for leaf, dtype, axis in zip(leaves, types, axes, strict=True)
        ]
        values, metrics = jax.vmap(task_objective, (axes, 0, 0))(copies, *tasks)
        return upcast(values).sum(), (values, metrics)

    (_, (values, metrics)), grads = jax.value_and_grad(sum_objectives, has_aux=True)(
        [upcast(leaf) for leaf in leaves]
    )
    return values, metrics, structure.unflatten(grads)


def _total(included: Array, values: Array, metrics: Metrics, grads: PyTree) -> Total:
    """Sums of values and metrics over the included tasks, with the sum of their gradients."""
    not_nan = jax.tree.map(lambda leaf: ~jnp.isnan(upcast(leaf)), metrics)
    finite_metrics = jax.tree.map(lambda leaf, ok: jnp.where(ok, leaf, 0), metrics, not_nan)
    value, metrics, counted = sum_included(included, (values, finite_metrics, not_nan))
    return Total(included.sum(dtype=jnp.float32), value, metrics, counted, grads)


def sum_included(included: Bool[Array, " task"], stacked: PyTree) -> PyTree:
    """Sums over the included tasks, in float32 at least."""

    def total(leaf: Array) -> Array:
        return jnp.sum(upcast(leaf), axis=0, where=included.reshape(-1, *[1] * (leaf.ndim - 1)))

    return jax.tree.map(total, stacked)


def mean_value(
    objective: Objective,
    step: Step,
    meta_params: MetaParams,
    data: tuple[Tasks, Bool[Array, " task"]],
    chunk: int,
    mesh: Mesh | None,
) -> Scalar:
    """The mean of an objective over the included tasks, for an optimiser that needs it.

    Args:
        objective: Objective of one task.
        step: Number of meta-steps taken before.
        meta_params: Meta-parameters at which the objective is evaluated.
        data: Tasks `[task, ...]`, and a mask `[task]` of the tasks in the mean.
        chunk: Number of tasks that a device maps at once.
        mesh: Devices that share the tasks. None: one device.

    Returns:
        The mean, a scalar.
    """

    def share(meta_params: MetaParams, data: tuple[Tasks, Array]) -> tuple[Array, Array]:
        tasks, included = data

        def total() -> Array:
            def task_value(task: Any) -> Scalar:
                episode, key = task
                return objective(meta_params, episode, key, step)[0]

            values = map_in_chunks(task_value, replace_excluded(included, tasks), chunk)
            return sum_included(included, values)

        # A device whose tasks are all left out must not contribute to the derivative either.
        shape = jax.eval_shape(total)
        value = jax.lax.cond(included.any(), total, lambda: jnp.zeros(shape.shape, shape.dtype))
        sums = value, included.sum(dtype=jnp.float32)
        return sums if mesh is None else jax.lax.psum(sums, TASK_AXIS)

    value, number = shard_over_devices(mesh, share, summed=True)(meta_params, data)
    return value / number


def _learned(meta_params: MetaParams) -> PyTree:
    """The floating-point leaves of the meta-parameters."""
    return tree.partition(meta_params, tree.floating_mask(meta_params))[0]


def _has_no_nan(metrics: Metrics) -> Bool[Array, ""]:
    """Whether no metric is NaN, apart from those of the support set."""
    outer = {**metrics, "support": ()} if isinstance(metrics, dict) else metrics
    flags = [~jnp.isnan(upcast(leaf)).any() for leaf in jax.tree.leaves(outer)]
    return jnp.stack([jnp.asarray(True), *flags]).all()


@jax.custom_batching.custom_vmap
def _any_mapped(flag: Bool[Array, ""]) -> Bool[Array, ""]:
    """The flag; under vmap, whether any flag is True, so that a `cond` on it stays a branch."""
    return flag


@_any_mapped.def_vmap
def _any_mapped_rule(axis_size: int, in_batched: Any, flag: Array) -> tuple[Array, bool]:
    return _any_mapped(flag.any()), False
