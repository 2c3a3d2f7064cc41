"""The meta-gradients of many tasks, summed in float32 at least.

The derivative is that of the sum of the tasks' objectives, so that what they share, such as
products with theta, is computed once for all. Tasks whose gradient is not finite are left out. A
sum that is not finite does not say which task made it so: then, and only then, the gradient of the
chunk is taken again, task by task.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from maml import tree
from maml.gradients import value_and_gradient
from maml.mapping import count_tasks
from maml.rows import wide
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
    """Sums over the tasks whose meta-gradient is finite.

    Attributes:
        number: Number of these tasks.
        value: Sum of the objective; 0 for a meta-gradient without objective.
        metrics: Sums of the metrics.
        grads: Sum of the meta-gradients, like the meta-parameters; None where a leaf has none.
    """

    number: Float[Array, ""]
    value: Float[Array, ""]
    metrics: Metrics
    grads: PyTree

    def mean(self) -> "Total":
        """The means in the place of the sums; NaN where no task is finite."""
        return jax.tree.map(lambda leaf: leaf / self.number, self)._replace(number=self.number)


def total_gradient(
    grad: MetaGradient, step: Step, meta_params: MetaParams, tasks: Tasks, chunk: int
) -> tuple[Total, Bool[Array, " task"]]:
    """Sums over the tasks, one chunk after the other, and which tasks are in them.

    Args:
        grad: Meta-gradient of one task, without `early`.
        step: Number of meta-steps taken before.
        meta_params: Meta-parameters at which the gradient is taken.
        tasks: Episodes and keys, `[task, ...]`.
        chunk: Number of tasks mapped at once; it divides the number of tasks.

    Returns:
        The sums, and a mask `[task]` of the tasks that are in them.

    Raises:
        ValueError: (when traced) the gradient is no tree like the meta-parameters, or the metrics
            are not by name.
    """
    count = count_tasks(tasks[0]) // chunk
    chunks = jax.tree.map(lambda leaf: leaf.reshape(count, chunk, *leaf.shape[1:]), tasks)

    def add_chunk(grads: PyTree, tasks: Tasks) -> tuple[PyTree, tuple[Total, Array]]:
        total, kept = _of_chunk(grad, step, meta_params, tasks)
        return jax.tree.map(jnp.add, grads, total.grads), (total._replace(grads=()), kept)

    start = jax.tree.map(lambda leaf: jnp.zeros_like(wide(leaf)), _learned(meta_params))
    grads, (totals, kept) = jax.lax.scan(add_chunk, start, chunks)
    total = jax.tree.map(lambda leaf: leaf.sum(axis=0), totals)
    return total._replace(grads=grads), kept.reshape(count * chunk)


def like(meta_params: MetaParams, grads: PyTree) -> PyTree:
    """The gradients in the precision of the meta-parameters."""
    learned = _learned(meta_params)
    return jax.tree.map(lambda grad, leaf: grad.astype(jnp.result_type(leaf)), grads, learned)


def only(kept: Bool[Array, " task"], tasks: Tasks) -> Tasks:
    """The tasks, with one that is kept in the place of each that is not."""
    index = jnp.where(kept, jnp.arange(kept.size), jnp.argmax(kept))
    return jax.tree.map(lambda leaf: leaf[index], tasks)


def _of_chunk(
    grad: MetaGradient, step: Step, meta_params: MetaParams, tasks: Tasks
) -> tuple[Total, Bool[Array, " task"]]:
    def apart(tasks: Tasks) -> tuple[Total, Bool[Array, " task"]]:
        values, metrics, grads = jax.vmap(partial(value_and_gradient, grad, step, meta_params))(
            *tasks
        )
        kept = jax.vmap(_finite)((values, grads))
        return _total(kept, values, metrics, sum_over(kept, grads)), kept

    if grad.objective is None:
        return apart(tasks)
    values, metrics, grads = together(grad.objective, step, meta_params, tasks)
    finite = _finite((values, grads))
    kept = jnp.broadcast_to(finite, values.shape)

    def whole(tasks: Tasks) -> tuple[Total, Bool[Array, " task"]]:
        some = jax.tree.map(lambda leaf: jnp.where(finite, leaf, 0), grads)
        return _total(kept, values, metrics, some), kept

    if len(values) == 1:
        return whole(tasks)
    return jax.lax.cond(_anywhere(~finite), apart, whole, tasks)


def together(
    objective: Objective, step: Step, meta_params: MetaParams, tasks: Tasks
) -> tuple[Array, Any, Any]:
    """Values and metrics of each task, and the gradient of the sum of the values."""
    learned, constants = tree.partition(meta_params, tree.floating(meta_params))
    leaves, structure = jax.tree.flatten(learned)
    types = [jnp.result_type(leaf) for leaf in leaves]
    # Each task has a copy of what is narrow, or the sum would be taken in that precision.
    axes = [0 if wide(leaf).dtype != jnp.result_type(leaf) else None for leaf in leaves]

    def one(leaves: list[Array], episode: Episode, key: RandomKey) -> tuple[Array, Metrics]:
        meta_params = tree.combine(structure.unflatten(leaves), constants)
        return objective(meta_params, episode, key, step)

    def summed(leaves: list[Array]) -> tuple[Array, tuple[Array, Metrics]]:
        copies = [
            leaf
            if axis is None
            else jnp.broadcast_to(leaf, (count_tasks(tasks), *leaf.shape)).astype(dtype)
            for leaf, dtype, axis in zip(leaves, types, axes, strict=True)
        ]
        values, metrics = jax.vmap(one, (axes, 0, 0))(copies, *tasks)
        return wide(values).sum(), (values, metrics)

    (_, (values, metrics)), grads = jax.value_and_grad(summed, has_aux=True)(
        [wide(leaf) for leaf in leaves]
    )
    return values, metrics, structure.unflatten(grads)


def _total(kept: Array, values: Array, metrics: Metrics, grads: PyTree) -> Total:
    value, metrics = sum_over(kept, (values, metrics))
    return Total(kept.sum(dtype=jnp.float32), value, metrics, grads)


def sum_over(kept: Bool[Array, " task"], stacked: PyTree) -> PyTree:
    """Sums over the tasks that are kept, in float32 at least."""

    def total(leaf: Array) -> Array:
        return jnp.sum(wide(leaf), axis=0, where=kept.reshape(-1, *[1] * (leaf.ndim - 1)))

    return jax.tree.map(total, stacked)


def _learned(meta_params: MetaParams) -> PyTree:
    return tree.partition(meta_params, tree.floating(meta_params))[0]


def _finite(values: PyTree) -> Bool[Array, ""]:
    each = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(values)]
    return jnp.stack(each).all()


@jax.custom_batching.custom_vmap
def _anywhere(flag: Bool[Array, ""]) -> Bool[Array, ""]:
    """The flag; mapped over, one for all, so that a branch on it stays a branch."""
    return flag


@_anywhere.def_vmap
def _anywhere_mapped(axis_size: int, in_batched: Any, flag: Array) -> tuple[Array, bool]:
    return _anywhere(flag.any()), False
