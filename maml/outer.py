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
    check_gradient,
    check_meta_params,
    check_params,
    check_state,
    is_array,
)
from maml._optimizers import (
    check_for,
    check_opt_state,
    check_optimizer,
    check_transformation,
    update,
)
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

MOST_STEPS = 2**31 - 1  # what the counter of meta-steps holds


def init(
    algorithm: Algorithm, optimizer: optax.GradientTransformation, params: Params
) -> MetaState:
    """The state before the first meta-step.

    The outer optimiser sees the floating-point leaves alone: counters, random keys and masks among
    the parameters stay as they are. `optax.selective_transform(optimizer, freeze_mask=mask)` keeps
    any other leaf as it is.

    Args:
        algorithm: Algorithm that will be trained.
        optimizer: Outer optimiser, an optax transformation.
        params: Initial parameters of the model.

    Returns:
        The state, with the algorithm's meta-parameters.

    Raises:
        ValueError: the outer optimiser is not optax's, or the algorithm refuses the parameters.
    """
    check_algorithm(algorithm)
    check_optimizer(optimizer)
    check_params(params)
    meta_params = algorithm.init(params)
    learned, _ = tree.partition(meta_params, tree.floating(meta_params))
    check_for(optimizer, learned)
    opt_state = optimizer.init(learned)
    check_keeping(meta_params, opt_state)
    return MetaState(meta_params, opt_state, jnp.zeros((), jnp.int32))


def batched(sample: Sampler, num_tasks: int) -> Sampler:
    """A sampler of meta-batches, `Episode[task, ...]`, from a sampler of one task.

    Args:
        sample: Sampler of one task; the arrays of a `Partial` remain arguments of jit.
        num_tasks: Number of tasks of a meta-batch, >= 1.

    Returns:
        A `Partial`; those of one sampler and one size are the same function to jit.

    Raises:
        ValueError: `num_tasks` is below 1, or the sampler is no function of a key or gives
            meta-batches already.

    >>> from maml import Episode
    >>> sample = batched(lambda key: Episode(*jax.random.normal(key, (2, 5))), 3)
    >>> sample(jax.random.key(0)).support.shape
    (3, 5)
    """
    check_count(num_tasks, least=1, of="tasks")
    check_callable(sample, "sample", "key")
    if _is_batched(sample):
        raise ValueError("this sampler gives meta-batches already: pass the sampler of one task")
    partial_type = jax.tree_util.Partial
    sample = sample if isinstance(sample, partial_type) else partial_type(sample)
    return partial_type(_Batch(num_tasks), sample)


class _Batch(NamedTuple):
    """Compared by value, where two equal `functools.partial` differ: jit compiles once."""

    num_tasks: int

    def __call__(self, sample: Sampler, key: RandomKey) -> Episode:
        check_key(key)

        def checked(key: RandomKey) -> Episode:
            episode = sample(key)
            for leaf in jax.tree.leaves(episode):
                if not is_array(leaf):
                    raise ValueError(f"a sampler returns arrays; got {leaf!r}")
            return episode

        return jax.vmap(checked)(jax.random.split(key, self.num_tasks))


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

    However the tasks are mapped, each has the same key, and the mean is the same to rounding: it is
    taken in float32 at least. Tasks whose gradient is not finite are left out of both means, and so
    are those that are learned from and have a metric of NaN that is not of the support set, such
    as a task whose query set has weights of zero alone. If all are left out, the means are NaN. A
    metric that is NaN in some of the tasks that are left in is the mean over the others.

    Args:
        grad: Meta-gradient of one task, `algorithm.grad`.
        meta_params: Meta-parameters at which the gradient is taken. Leaves without a derivative may
            be among them; their gradient is None.
        episodes: Tasks, `Episode[task, ...]`.
        key: Random key, split into one for each task.
        step: Number of meta-steps taken before; some meta-gradients depend on it.
        chunk: Number of tasks that a device maps at once. Chunks run one after the other and their
            gradients are added up, so the memory needed is that of one chunk. None: all at once.
        mesh: Devices that share the tasks, see `task_mesh`. None: one device.

    Returns:
        The mean gradient, and the mean metrics with `left_out`, the share of tasks left out.

    Raises:
        ValueError: leaves disagree about the number of tasks, the mesh does not divide it, or the
            chunk a device's share of it; the mesh has another axis than "task"; an argument is of
            another kind.
    """
    grads, metrics, _ = _kept_gradient(
        grad, meta_params, episodes, key, step=step, chunk=chunk, mesh=mesh
    )
    return grads, metrics


def _kept_gradient(
    grad: MetaGradient,
    meta_params: MetaParams,
    episodes: Episode,
    key: RandomKey,
    *,
    step: Step,
    chunk: int | None,
    mesh: Mesh | None,
) -> tuple[MetaParams, Metrics, Bool[Array, " task"]]:
    """As `meta_gradient`, and which tasks are in the means."""
    check_meta_params(meta_params)
    check_key(key)
    check_gradient(grad)
    if not isinstance(episodes, Episode):
        raise ValueError(f"an Episode of arrays is wanted; got {type(episodes).__name__}")
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
    """The mean objective of the tasks that are kept, for an outer optimiser that asks for it."""

    def run(part: MetaGradient, meta_params: MetaParams) -> Scalar:
        if part.objective is None:
            raise ValueError("the outer optimiser asks for a loss, and this gradient is of none")
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
        algorithm: Algorithm, which gives the meta-gradient.
        optimizer: Outer optimiser, an optax transformation.
        state: State before the step.
        episodes: Tasks of the meta-batch, `Episode[task, ...]`.
        key: Random key, split into one for each task.
        chunk, mesh: As in `meta_gradient`.

    Returns:
        The state after the step, and the metrics of `meta_gradient`.

    Raises:
        ValueError: as `meta_gradient`, or an argument is of another kind, or the optimiser's state
            of another optimiser.
    """
    check_algorithm(algorithm)
    check_transformation(optimizer)
    check_state(state)
    learned, constants = tree.partition(state.params, tree.floating(state.params))
    check_opt_state(optimizer, state.opt_state, learned)
    options: dict[str, Any] = {"chunk": chunk, "mesh": mesh}
    grad, step = algorithm.grad, state.step
    grads, metrics, kept = _kept_gradient(grad, state.params, episodes, key, step=step, **options)

    def value(learned: Params) -> Scalar:
        tasks = episodes, jax.random.split(key, kept.size)
        at_once = {"chunk": tasks_at_once(kept.size, chunk, mesh), "mesh": mesh}
        return _value(grad, step, tree.combine(learned, constants), (tasks, kept), at_once)

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
    """Meta-trains for `meta_steps` meta-steps in one scan, sampling included; to be jitted.

    Args:
        algorithm: Algorithm, which gives the meta-gradient.
        optimizer: Outer optimiser, an optax transformation.
        sample: Sampler of meta-batches, as `batched` makes it.
        state: State before. Meta-step t uses `fold_in(key, t)`, so two calls of n meta-steps are
            one call of 2 n.
        key: Random key of the whole run, the same in every call.
        meta_steps: Number of meta-steps, >= 0.
        chunk, mesh: As in `meta_gradient`.
        prefetch: Number of meta-steps whose episodes are drawn at once. The episodes are the same;
            one large draw takes less time than many small ones, and more memory.

    Returns:
        The state after, and the metrics of every meta-step, `[meta_steps]`.

    Raises:
        ValueError: `meta_steps` is negative, or `prefetch` does not divide it; the sampler is of
            one task, whose points would be taken for tasks; chunk or mesh as in `meta_gradient`.
    """
    if not _is_batched(sample):
        raise ValueError(
            "train wants a sampler of meta-batches, maml.batched(sample, num_tasks); got"
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
    """As `train`, with any outer step.

    Args:
        step: Outer step, `step(state, sample(key), key) -> (state, metrics)`.
        sample: Sampler of what the outer step takes.
        state, key, meta_steps, prefetch: As in `train`.

    Returns:
        The state after, and the metrics of every meta-step, `[meta_steps]`.

    Raises:
        ValueError: `meta_steps` is negative, `prefetch` does not divide it, the number of
            meta-steps would not fit into an int32, or an argument is of another kind.
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
        raise ValueError(f"at most {MOST_STEPS} meta-steps can be counted; {state.step} are taken")

    def body(state: MetaState, drawn: tuple[Any, RandomKey]) -> tuple[MetaState, Metrics]:
        out = step(state, *drawn)
        if not (isinstance(out, tuple) and len(out) == 2 and isinstance(out[0], MetaState)):
            raise ValueError(f"step returns (MetaState, metrics); got {type(out).__name__}")
        return out

    def block(state: MetaState, _: None) -> tuple[MetaState, Metrics]:
        steps = state.step + jnp.arange(prefetch)
        keys = jax.vmap(lambda step: jax.random.split(jax.random.fold_in(key, step)))(steps)
        return jax.lax.scan(body, state, (jax.vmap(sample)(keys[:, 0]), keys[:, 1]))

    state, metrics = jax.lax.scan(block, state, length=meta_steps // prefetch)
    return state, jax.tree.map(lambda leaf: leaf.reshape(meta_steps, *leaf.shape[2:]), metrics)
