"""Evaluation: a metric of the query set after 0 .. K inner steps, for each task."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Num, PyTree

from maml._checks import check_callable, check_count
from maml._contracts import check_episode, check_learner, query_of
from maml._leaves import is_number, is_real
from maml.inner import adapt
from maml.mapping import map_tasks
from maml.rows import upcast
from maml.types import Batch, Episode, Learner, MetaParams, Params, RandomKey


def evaluate(
    learner: Learner,
    metric: Callable[[Params, Batch, RandomKey], PyTree],
    meta_params: MetaParams,
    episodes: Episode,
    key: RandomKey,
    inner_steps: int,
    *,
    chunk: int | None = None,
    mesh: Mesh | None = None,
) -> PyTree[Array]:
    """The metric on the query set after 0, 1, ..., K inner steps on the support set.

    Args:
        learner: Learner of an algorithm, `algorithm.learner`.
        metric: Metric, `(params, query, key) -> tree of numbers`; a `LossFn` is one. Within a
            task, the random key is the same after every inner step.
        meta_params: Meta-parameters of the algorithm.
        episodes: Tasks, `Episode[task, ...]`.
        key: Random key, split into one for each task.
        inner_steps: Number of inner steps K >= 0.
        chunk: Number of tasks that a device maps at once; it need not divide the number of tasks.
            None: all at once.
        mesh: Devices that share the tasks, see `task_mesh`. None: one device.

    Returns:
        What the metric returns, with leaves `[task, K + 1, ...]`; for a `LossFn` the pair of losses
        and metrics.

    Raises:
        ValueError: `inner_steps` is negative or `chunk` below 1; the mesh does not divide the
            tasks, or has another axis than "task"; the metric does not return numbers; an argument
            has the wrong type.
    """
    check_learner(learner)
    check_callable(metric, "metric", "params, query, key")
    check_count(inner_steps, least=0, of="inner steps")
    check_episode(episodes)

    def evaluate_task(meta_params: MetaParams, episode: Episode, key: RandomKey) -> PyTree[Array]:
        support_key, query_key = jax.random.split(key)

        def probe(params: Params) -> PyTree:
            numbers = metric(params, query_of(episode), query_key)
            leaves = jax.tree.leaves(numbers)
            if not leaves or not all(map(is_number, leaves)):
                raise ValueError(f"a metric returns a tree of numbers; got {numbers!r}")
            return numbers

        inner = learner(meta_params)
        return adapt(inner, episode.support, support_key, inner_steps, probe=probe)[1]

    return map_tasks(evaluate_task, meta_params, episodes, key, chunk=chunk, mesh=mesh)


def mean_ci95(
    values: Num[Array, "task *rest"],
) -> tuple[Float[Array, "*rest"], Float[Array, "*rest"]]:
    """The mean over tasks and the half-width of its 95% confidence interval, 1.96 s / sqrt(n).

    s is the sample standard deviation, with n - 1 in the denominator; for a single task the
    half-width is NaN. Both results are computed in float32 at least.

    Raises:
        ValueError: there is no task, or the values are not an array of numbers.

    >>> mean, ci95 = mean_ci95(jnp.array([0.0, 1.0, 0.0, 1.0]))
    >>> f"{mean:.2f} +- {ci95:.2f}"
    '0.50 +- 0.57'
    """
    if not isinstance(values, np.ndarray | jax.Array) or not (
        is_real(values) or values.dtype == np.bool_
    ):
        raise ValueError(f"a mean over tasks needs an array of numbers; got {values!r}")
    if not jnp.shape(values)[:1] > (0,):
        raise ValueError(
            f"a mean over tasks needs at least one task; got the shape {list(jnp.shape(values))}"
        )
    values = upcast(values)
    deviation = jnp.std(values, axis=0, ddof=1)
    return jnp.mean(values, axis=0), 1.96 * deviation / jnp.sqrt(values.shape[0])
