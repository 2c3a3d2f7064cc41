"""The meta-gradient of a meta-batch, and the meta-step that an optimiser takes with it."""

from typing import Any

import jax
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Scalar

from maml import tree
from maml._checks import check_key
from maml._contracts import (
    check_algorithm,
    check_episode,
    check_gradient,
    check_params,
    check_state,
    check_step,
)
from maml._optimizers import check_opt_state, check_transformation
from maml._updates import update
from maml.gradients import run_phase
from maml.mapping import TASK_AXIS, check_tasks, count_tasks, shard_over_devices, tasks_at_once
from maml.total import Tasks, Total, cast_like, mean_value, total_gradient
from maml.types import (
    Algorithm,
    Episode,
    MetaGradient,
    MetaParams,
    MetaState,
    Metrics,
    Params,
    RandomKey,
    Step,
)


def meta_gradient(
    grad: MetaGradient,
    meta_params: MetaParams,
    episodes: Episode,
    key: RandomKey,
    *,
    step: Step = 0,
    chunk: int | None = None,
    mesh: Mesh | None = None,
) -> tuple[MetaParams, Metrics]:
    """The mean over tasks of the meta-gradient and of the metrics.

    Random keys, and the mean up to rounding, do not depend on `chunk` and `mesh`. Means are taken
    in float32 at least. Tasks whose gradient is not finite are left out of both means. If the
    meta-gradient has an objective, so are tasks with a metric of NaN, apart from metrics of the
    support set; an example is a task whose query set has only weights of zero. If all tasks are
    left out, the means are NaN. A metric that is NaN in some of the remaining tasks is averaged
    over the others.

    Args:
        grad: Meta-gradient of one task, `algorithm.grad`.
        meta_params: Meta-parameters at which the gradient is taken. The gradient of leaves without
            a derivative is None.
        episodes: Tasks, `Episode[task, ...]`.
        key: Random key, split into one for each task.
        step: Number of meta-steps taken before, on which some meta-gradients depend.
        chunk: Number of tasks that a device maps at once. Chunks run one after the other and their
            gradients are summed, so the memory needed is that of one chunk. None: all at once.
        mesh: Devices that share the tasks, see `task_mesh`. None: one device.

    Returns:
        The mean gradient, and the mean metrics over tasks. Those of `unrolled` are `loss`, the
        outer loss, and the metrics that the losses return: `query`, those of the outer loss, and
        `support`, those of the inner steps, `[K]`. `left_out` is the fraction of tasks left out.

    Raises:
        ValueError: leaves differ in the number of tasks; the mesh does not divide that number, or
            the chunk does not divide the number of tasks of a device; the mesh has another axis
            than "task"; an argument has the wrong type.
    """
    grads, metrics, _ = _gradient_and_mask(
        grad, meta_params, episodes, key, step=step, chunk=chunk, mesh=mesh
    )
    return grads, metrics


def _gradient_and_mask(
    grad: MetaGradient,
    meta_params: MetaParams,
    episodes: Episode,
    key: RandomKey,
    *,
    step: Step,
    chunk: int | None,
    mesh: Mesh | None,
) -> tuple[MetaParams, Metrics, Bool[Array, " task"]]:
    """The results of `meta_gradient`, and a mask of the tasks that are in the means."""
    check_params(meta_params)
    check_key(key)
    check_gradient(grad)
    check_step(step)
    check_episode(episodes)
    check_tasks(episodes, mesh)
    num_tasks = count_tasks(episodes)
    chunk = tasks_at_once(num_tasks, chunk, mesh)

    def run(part: MetaGradient, meta_params: MetaParams, tasks: Tasks) -> tuple[Any, Any, Array]:
        def share(meta_params: MetaParams, tasks: Tasks) -> tuple[Total, Array]:
            total, included = total_gradient(part, step, meta_params, tasks, chunk)
            return total if mesh is None else jax.lax.psum(total, TASK_AXIS), included

        total, included = shard_over_devices(mesh, share, summed=(True, False))(meta_params, tasks)
        mean = total.mean()
        left_out = (num_tasks - mean.number) / num_tasks
        return cast_like(meta_params, mean.grads), mean.metrics | {"left_out": left_out}, included

    tasks = episodes, jax.random.split(key, num_tasks)
    return run_phase(grad, step, run, meta_params, tasks)


def _value(
    grad: MetaGradient, step: Step, meta_params: MetaParams, data: Any, options: dict[str, Any]
) -> Scalar:
    """The mean objective of the tasks in the means, for an outer optimiser that needs its value."""

    def run(part: MetaGradient, meta_params: MetaParams) -> Scalar:
        if part.objective is None:
            raise ValueError("the outer optimiser needs a loss; this meta-gradient has none")
        return mean_value(part.objective, step, meta_params, data, **options)

    return run_phase(grad, step, run, meta_params)


def meta_step(
    algorithm: Algorithm,
    optimizer: optax.GradientTransformation,
    state: MetaState,
    episodes: Episode,
    key: RandomKey,
    *,
    chunk: int | None = None,
    mesh: Mesh | None = None,
) -> tuple[MetaState, Metrics]:
    """One meta-step:  theta <- theta + u(mean over tasks of the meta-gradient).

    Args:
        algorithm: Algorithm whose meta-gradient is used.
        optimizer: Outer optimiser, an optax transformation.
        state: State before the step.
        episodes: Tasks of the meta-batch, `Episode[task, ...]`.
        key: Random key, split into one for each task.
        chunk, mesh: As in `meta_gradient`.

    Returns:
        The state after the step, and the metrics of `meta_gradient`.

    Raises:
        ValueError: as `meta_gradient`, an argument has the wrong type, or the state belongs to
            another optimiser.
    """
    check_algorithm(algorithm)
    check_transformation(optimizer)
    check_state(state)
    learned, constants = tree.partition(state.params, tree.floating_mask(state.params))
    check_opt_state(optimizer, state.opt_state, learned)
    options: dict[str, Any] = {"chunk": chunk, "mesh": mesh}
    grad, step = algorithm.grad, state.step
    grads, metrics, mask = _gradient_and_mask(
        grad, state.params, episodes, key, step=step, **options
    )

    def value(learned: Params) -> Scalar:
        tasks = episodes, jax.random.split(key, mask.size)
        mapping = {"chunk": tasks_at_once(mask.size, chunk, mesh), "mesh": mesh}
        return _value(grad, step, tree.combine(learned, constants), (tasks, mask), mapping)

    updates, opt_state = update(optimizer, grads, state.opt_state, learned, value)
    params = tree.combine(optax.apply_updates(learned, updates), constants)
    return MetaState(params, opt_state, state.step + 1), metrics
