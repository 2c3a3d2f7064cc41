"""The outer loop: the only map over tasks in meta-training, and the only scan over meta-steps."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jax.sharding import Mesh
from jaxtyping import Scalar

from maml import tree
from maml._checks import check_callable, check_count, check_key
from maml._contracts import check_algorithm, check_meta_params, check_params, check_state
from maml._optimizers import check_optimizer, update
from maml.mapping import TASK, across, check_tasks, count_tasks, each_task, tasks_at_once
from maml.total import Tasks, Total, like, total_gradient
from maml.types import (
    Algorithm,
    Derivative,
    Either,
    Episode,
    LossFn,
    MetaGrad,
    MetaParams,
    MetaState,
    Metrics,
    Params,
    RandomKey,
    Sampler,
    Scheduled,
)

MOST_STEPS = 2**31 - 1  # what the counter of meta-steps holds


def init(
    algorithm: Algorithm, optimizer: optax.GradientTransformation, params: Params
) -> MetaState:
    """The state before the first meta-step.

    The outer optimiser sees the floating-point leaves alone: counters, random keys and masks among
    the parameters stay as they are. `optax.selective_transform(optimizer, freeze_mask=mask)` keeps
    any other leaf as it is.

    Raises:
        ValueError: the outer optimiser is not optax's, or the algorithm refuses the parameters.
    """
    check_algorithm(algorithm)
    check_optimizer(optimizer)
    check_params(params)
    meta_params = algorithm.init(params)
    learned, _ = tree.partition(meta_params, tree.floating(meta_params))
    return MetaState(meta_params, optimizer.init(learned), jnp.zeros((), jnp.int32))


def batched(sample: Sampler, num_tasks: int) -> Sampler:
    """From a sampler of one task to a sampler of a meta-batch, `Episode[task, ...]`.

    Args:
        sample: of one task; the arrays of a `Partial` remain arguments of jit.
        num_tasks: the size of the meta-batch, >= 1.

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
        return jax.vmap(sample)(jax.random.split(key, self.num_tasks))


def _is_batched(sample: Any) -> bool:
    return isinstance(getattr(sample, "func", None), _Batch)


def meta_gradient(
    grad: MetaGrad,
    meta_params: MetaParams,
    episodes: Episode,
    key: RandomKey,
    *,
    chunk: int | None = None,
    mesh: Mesh | None = None,
) -> tuple[MetaParams, Metrics]:
    """The mean over tasks of the meta-gradient, and of the metrics.

    However the tasks are mapped, each has the same key, and the mean is the same to rounding: it is
    taken in float32 at least. Tasks whose gradient is not finite are left out of both means; where
    all are, the means are NaN.

    Args:
        grad: of one task.
        meta_params: where the gradient is taken. Leaves without a derivative may be among them;
            their gradient is None.
        episodes: `Episode[task, ...]`.
        key: split into one key a task.
        chunk: how many tasks a device maps at once; chunks run one after the other with their
            gradients accumulated, so memory is that of one chunk. Default: all at once.
        mesh: devices that share out the tasks, see `task_mesh`. Default: one device.

    Returns:
        The mean gradient, and the mean metrics with `left_out`, the share of tasks left out.

    Raises:
        ValueError: leaves disagree about the number of tasks, the mesh does not divide it, or the
            chunk a device's share of it; the mesh has another axis than "task"; an argument is of
            another kind.
    """
    check_meta_params(meta_params)
    check_key(key)
    if not isinstance(episodes, Episode):
        raise ValueError(f"an Episode of arrays is wanted; got {type(episodes).__name__}")
    if isinstance(grad, Either):
        branches = [partial(meta_gradient, g, chunk=chunk, mesh=mesh) for g in grad.grads]
        return jax.lax.cond(grad.first, *branches, meta_params, episodes, key)
    check_callable(grad, "grad", "meta_params, episode, key")
    check_tasks(episodes)
    num_tasks = count_tasks(episodes)
    chunk = tasks_at_once(num_tasks, chunk, mesh)

    def share(meta_params: MetaParams, tasks: Tasks) -> Total:
        total, _ = total_gradient(grad, meta_params, tasks, chunk)
        return total if mesh is None else jax.lax.psum(total, TASK)

    tasks = (episodes, jax.random.split(key, num_tasks))
    mean = across(mesh, share, summed=True)(meta_params, tasks).mean()
    left_out = 1 - mean.number / num_tasks
    return like(meta_params, mean.grads), mean.metrics | {"left_out": left_out}


def _value(objective: LossFn, *data: Any, chunk: int | None, mesh: Mesh | None) -> Scalar:
    """The mean over tasks of an objective, for an outer optimiser that asks for it."""

    def value(*task: Any) -> Scalar:
        return objective(*task)[0]

    return each_task(value, *data, chunk=chunk, mesh=mesh).mean()


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
    """One outer step:  theta <- theta + u(mean over tasks of the meta-gradient).

    Args:
        algorithm: what gives the meta-gradient.
        optimizer: the outer one, an optax transformation.
        state: before.
        episodes: `Episode[task, ...]`.
        key: split into one key a task.
        chunk, mesh: see `meta_gradient`.

    Raises:
        ValueError: as `meta_gradient`, or an argument is of another kind.
    """
    check_algorithm(algorithm)
    check_state(state)
    options: dict[str, Any] = {"chunk": chunk, "mesh": mesh}
    grad = algorithm.grad
    grad = grad.at(state.step) if isinstance(grad, Scheduled) else grad
    grads, metrics = meta_gradient(grad, state.params, episodes, key, **options)
    learned, constants = tree.partition(state.params, tree.floating(state.params))

    def value(learned: Params) -> Scalar:
        if not isinstance(grad, Derivative):
            raise ValueError("the outer optimiser asks for a loss, and this gradient is of none")
        theta = tree.combine(learned, constants)
        return _value(grad.objective, theta, episodes, key, **options)

    updates, opt_state = update(optimizer, grads, state.opt_state, learned, value)
    params = tree.combine(optax.apply_updates(learned, updates), constants)
    return MetaState(params, opt_state, state.step + 1), metrics


def train(
    algorithm: Algorithm,
    optimizer: optax.GradientTransformation,
    sample: Sampler,
    state: MetaState,
    key: RandomKey,
    num_steps: int,
    *,
    chunk: int | None = None,
    mesh: Mesh | None = None,
    draw: int = 1,
) -> tuple[MetaState, Metrics]:
    """`num_steps` meta-steps in one scan, sampling included: jit it, and the host sleeps.

    Args:
        algorithm: what gives the meta-gradient.
        optimizer: the outer one.
        sample: a meta-batch from a key, as `batched` makes it.
        state: before. Step t uses `fold_in(key, t)`, so two calls of n steps are one of 2 n.
        key: the key of the whole run, the same in every call.
        num_steps: how many.
        chunk, mesh: see `meta_gradient`.
        draw: of how many meta-steps the episodes are drawn at once. The same episodes: one large
            draw costs less than many small ones, and needs the memory for its episodes.

    Returns:
        The state after, and the metrics of every meta-step, `[num_steps]`.

    Raises:
        ValueError: `num_steps` is negative, or `draw` does not divide it; the sampler is of one
            task, whose points would pass for tasks; chunk or mesh as in `meta_gradient`.
    """
    if not _is_batched(sample):
        raise ValueError(
            "train wants a sampler of meta-batches, maml.batched(sample, num_tasks); got"
            f" {sample!r}"
        )
    step = partial(meta_step, algorithm, optimizer, chunk=chunk, mesh=mesh)
    return iterate(step, sample, state, key, num_steps, draw=draw)


def iterate(
    step: Callable[[MetaState, Any, RandomKey], tuple[MetaState, Metrics]],
    sample: Callable[[RandomKey], Any],
    state: MetaState,
    key: RandomKey,
    num_steps: int,
    *,
    draw: int = 1,
) -> tuple[MetaState, Metrics]:
    """As `train`, with any outer step, `step(state, sample(key), key) -> (state, metrics)`.

    Raises:
        ValueError: `num_steps` is negative, `draw` does not divide it, the number of meta-steps
            would not fit into an int32, or an argument is of another kind.
    """
    check_callable(step, "step", "state, episodes, key")
    check_callable(sample, "sample", "key")
    check_state(state)
    check_key(key)
    check_count(num_steps, least=0)
    check_count(draw, least=1, of="meta-steps of a draw")
    if num_steps % draw:
        raise ValueError(f"a draw of {draw} meta-steps does not divide {num_steps} of them")
    if not isinstance(state.step, Tracer) and int(state.step) + num_steps > MOST_STEPS:
        raise ValueError(f"at most {MOST_STEPS} meta-steps can be counted; {state.step} are taken")

    def body(state: MetaState, drawn: tuple[Any, RandomKey]) -> tuple[MetaState, Metrics]:
        return step(state, *drawn)

    def block(state: MetaState, _: None) -> tuple[MetaState, Metrics]:
        steps = state.step + jnp.arange(draw)
        keys = jax.vmap(lambda step: jax.random.split(jax.random.fold_in(key, step)))(steps)
        return jax.lax.scan(body, state, (jax.vmap(sample)(keys[:, 0]), keys[:, 1]))

    state, metrics = jax.lax.scan(block, state, length=num_steps // draw)
    return state, jax.tree.map(lambda leaf: leaf.reshape(num_steps, *leaf.shape[2:]), metrics)
