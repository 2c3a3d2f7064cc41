"""The outer loop: the only map over tasks in meta-training, and the only scan over meta-steps."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Scalar

from maml import tree
from maml._checks import check_callable, check_count, check_key
from maml._contracts import (
    check_algorithm,
    check_episode,
    check_gradient,
    check_meta_params,
    check_params,
    check_state,
    check_step,
)
from maml._optimizers import (
    check_for,
    check_opt_state,
    check_optimizer,
    check_transformation,
    start,
    update,
)
from maml._returns import check_alike, check_arrays
from maml.first_order import check_keeping
from maml.gradients import of_phase
from maml.mapping import TASK, across, check_tasks, count_tasks, tasks_at_once
from maml.total import Tasks, Total, like, mean_value, total_gradient
from maml.types import (
    Algorithm,
    Episode,
    MetaGradient,
    MetaParams,
    MetaState,
    Metrics,
    Params,
    RandomKey,
    Sampler,
    Step,
)

MOST_STEPS = 2**31 - 1  # largest value of the counter of meta-steps


def init(
    algorithm: Algorithm, optimizer: optax.GradientTransformation, params: Params
) -> MetaState:
    """The state before the first meta-step.

    The outer optimiser updates only the floating-point leaves; counters, random keys and masks
    among the parameters do not change. `optax.selective_transform(optimizer, freeze_mask=mask)`
    excludes further leaves.

    Args:
        algorithm: Algorithm to train.
        optimizer: Outer optimiser, an optax transformation.
        params: Initial parameters of the model.

    Returns:
        The state, with the initial meta-parameters of the algorithm.

    Raises:
        ValueError: the outer optimiser is not optax's, or the algorithm refuses the parameters.
    """
    check_algorithm(algorithm)
    check_optimizer(optimizer)
    check_params(params)
    meta_params = algorithm.init(params)
    learned, _ = tree.partition(meta_params, tree.floating(meta_params))
    check_for(optimizer, learned)
    opt_state = start(optimizer, learned)
    check_keeping(meta_params, opt_state)
    return MetaState(meta_params, opt_state, jnp.zeros((), jnp.int32))


def batched(sample: Sampler, num_tasks: int) -> Sampler:
    """A sampler of meta-batches, `Episode[task, ...]`, from a sampler of one task.

    Args:
        sample: Sampler of one task. If it is a `Partial`, its arrays remain arguments of jit.
        num_tasks: Number of tasks of a meta-batch, >= 1.

    Returns:
        The sampler, a `Partial`. Samplers made from one sampler with one size are the same
        function to jit.

    Raises:
        ValueError: `num_tasks` is below 1, or the sampler is not a function of a key or already
            returns meta-batches.

    >>> from maml import Episode
    >>> sample = batched(lambda key: Episode(*jax.random.normal(key, (2, 5))), 3)
    >>> sample(jax.random.key(0)).support.shape
    (3, 5)
    """
    check_count(num_tasks, least=1, of="tasks")
    check_callable(sample, "sample", "key")
    if _is_batched(sample):
        raise ValueError("this sampler returns meta-batches already: pass the sampler of one task")
    partial_type = jax.tree_util.Partial
    sample = sample if isinstance(sample, partial_type) else partial_type(sample)
    return partial_type(_Batch(num_tasks), sample)


class _Batch(NamedTuple):
    """A batched sampler, compared by value so that jit compiles equal ones once.

    Two equal `functools.partial` would differ.
    """

    num_tasks: int

    def __call__(self, sample: Sampler, key: RandomKey) -> Episode:
        check_key(key)

        def checked_sample(key: RandomKey) -> Episode:
            episode = sample(key)
            check_arrays(episode, "a sampler")
            if not jax.tree.leaves(episode):
                raise ValueError(f"a sampler returns arrays; got {episode!r}")
            return episode

        return jax.vmap(checked_sample)(jax.random.split(key, self.num_tasks))


def _is_batched(sample: Any) -> bool:
    return isinstance(getattr(sample, "func", None), _Batch)


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
        The mean gradient, and the mean metrics with `left_out`, the fraction of tasks left out.

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
    check_meta_params(meta_params)
    check_key(key)
    check_gradient(grad)
    check_params(meta_params)
    check_step(step)
    check_episode(episodes)
    check_tasks(episodes)
    num_tasks = count_tasks(episodes)
    chunk = tasks_at_once(num_tasks, chunk, mesh)

    def run(part: MetaGradient, meta_params: MetaParams, tasks: Tasks) -> tuple[Any, Any, Array]:
        def share(meta_params: MetaParams, tasks: Tasks) -> tuple[Total, Array]:
            total, kept = total_gradient(part, step, meta_params, tasks, chunk)
            return total if mesh is None else jax.lax.psum(total, TASK), kept

        total, kept = across(mesh, share, summed=(True, False))(meta_params, tasks)
        mean = total.mean()
        left_out = 1 - mean.number / num_tasks
        return like(meta_params, mean.grads), mean.metrics | {"left_out": left_out}, kept

    tasks = episodes, jax.random.split(key, num_tasks)
    return of_phase(grad, step, run, meta_params, tasks)


def _value(
    grad: MetaGradient, step: Step, meta_params: MetaParams, data: Any, options: dict[str, Any]
) -> Scalar:
    """The mean objective of the tasks in the means, for an outer optimiser that needs its value."""

    def run(part: MetaGradient, meta_params: MetaParams) -> Scalar:
        if part.objective is None:
            raise ValueError("the outer optimiser needs a loss; this meta-gradient has none")
        return mean_value(part.objective, step, meta_params, data, **options)

    return of_phase(grad, step, run, meta_params)


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
    learned, constants = tree.partition(state.params, tree.floating(state.params))
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


def train(
    algorithm: Algorithm,
    optimizer: optax.GradientTransformation,
    sample: Sampler,
    state: MetaState,
    key: RandomKey,
    meta_steps: int,
    *,
    chunk: int | None = None,
    mesh: Mesh | None = None,
    prefetch: int = 1,
) -> tuple[MetaState, Metrics]:
    """Meta-trains for `meta_steps` meta-steps in one scan that includes sampling; wrap it in jit.

    Args:
        algorithm: Algorithm whose meta-gradient is used.
        optimizer: Outer optimiser, an optax transformation.
        sample: Sampler of meta-batches, the result of `batched`.
        state: State before the first of these meta-steps. Meta-step t uses `fold_in(key, t)`, so
            that two calls of n meta-steps equal one call of 2 n.
        key: Random key of the whole run, the same in every call.
        meta_steps: Number of meta-steps, >= 0.
        chunk, mesh: As in `meta_gradient`.
        prefetch: Number of meta-steps whose episodes are drawn at once. It does not change the
            episodes; one large draw takes less time and more memory than many small ones.

    Returns:
        The state after the last meta-step, and the metrics of every meta-step, `[meta_steps]`.

    Raises:
        ValueError: `meta_steps` is negative, or `prefetch` does not divide it; the sampler is one
            of single tasks; otherwise as `meta_gradient`.
    """
    if not _is_batched(sample):
        raise ValueError(
            "train needs a sampler of meta-batches, maml.batched(sample, num_tasks); got"
            f" {sample!r}"
        )
    step = partial(meta_step, algorithm, optimizer, chunk=chunk, mesh=mesh)
    return iterate(step, sample, state, key, meta_steps, prefetch=prefetch)


def iterate(
    step: Callable[[MetaState, Any, RandomKey], tuple[MetaState, Metrics]],
    sample: Callable[[RandomKey], Any],
    state: MetaState,
    key: RandomKey,
    meta_steps: int,
    *,
    prefetch: int = 1,
) -> tuple[MetaState, Metrics]:
    """Meta-trains as `train`, with any outer step.

    Args:
        step: Outer step, `step(state, sample(key), key) -> (state, metrics)`.
        sample: Sampler of the second argument of the outer step.
        state, key, meta_steps, prefetch: As in `train`.

    Returns:
        The state after the last meta-step, and the metrics of every meta-step, `[meta_steps]`.

    Raises:
        ValueError: `meta_steps` is negative, `prefetch` does not divide it, the number of
            meta-steps would not fit into an int32, or an argument has the wrong type.
    """
    check_callable(step, "step", "state, episodes, key")
    check_callable(sample, "sample", "key")
    check_state(state)
    check_key(key)
    check_count(meta_steps, least=0, of="meta-steps")
    check_count(prefetch, least=1, of="meta-steps to prefetch")
    if meta_steps % prefetch:
        raise ValueError(f"prefetch must divide the {meta_steps} meta-steps; got {prefetch}")
    if not isinstance(state.step, Tracer) and int(state.step) + meta_steps > MOST_STEPS:
        raise ValueError(
            f"at most {MOST_STEPS} meta-steps can be counted; got {meta_steps} after {state.step}"
        )

    def body(state: MetaState, drawn: tuple[Any, RandomKey]) -> tuple[MetaState, Metrics]:
        out = step(state, *drawn)
        if not (isinstance(out, tuple) and len(out) == 2 and isinstance(out[0], MetaState)):
            raise ValueError(f"step returns (MetaState, metrics); got {type(out).__name__}")
        check_arrays(out, "step")
        check_alike(out[0], state, "state after a step")
        return out

    def draw(key: RandomKey) -> Any:
        drawn = sample(key)
        check_arrays(drawn, "sample")
        return drawn

    def block(state: MetaState, _: None) -> tuple[MetaState, Metrics]:
        steps = state.step + jnp.arange(prefetch)
        keys = jax.vmap(lambda step: jax.random.split(jax.random.fold_in(key, step)))(steps)
        return jax.lax.scan(body, state, (jax.vmap(draw)(keys[:, 0]), keys[:, 1]))

    state, metrics = jax.lax.scan(block, state, length=meta_steps // prefetch)
    return state, jax.tree.map(lambda leaf: leaf.reshape(meta_steps, *leaf.shape[2:]), metrics)
