"""The outer loop: the only map over tasks in meta-training, and the only scan over meta-steps."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import PyTree, Scalar

from maml._checks import check_count, check_optimizer
from maml.mapping import TASK, across, count_tasks, tasks_at_once
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
    RandomKeys,
    Sampler,
    Scheduled,
)


def init(
    algorithm: Algorithm, optimizer: optax.GradientTransformation, params: Params
) -> MetaState:
    """The state before the first meta-step.

    Raises:
        ValueError: the outer optimiser is not optax's, or the algorithm refuses the parameters.
    """
    check_optimizer(optimizer)
    meta_params = algorithm.init(params)
    return MetaState(meta_params, optimizer.init(meta_params), jnp.zeros((), jnp.int32))


def batched(sample: Sampler, num_tasks: int) -> Sampler:
    """From a sampler of one task to a sampler of a meta-batch, `Episode[task, ...]`.

    Args:
        sample: of one task; the arrays of a `Partial` remain arguments of jit.
        num_tasks: the size of the meta-batch, >= 1.

    Returns:
        A `Partial`; those of one sampler and one size are the same function to jit.

    Raises:
        ValueError: `num_tasks` is below 1.

    >>> from maml import Episode
    >>> sample = batched(lambda key: Episode(*jax.random.normal(key, (2, 5))), 3)
    >>> sample(jax.random.key(0)).support.shape
    (3, 5)
    """
    check_count(num_tasks, least=1, of="tasks")
    partial_type = jax.tree_util.Partial
    sample = sample if isinstance(sample, partial_type) else partial_type(sample)
    return partial_type(_Batch(num_tasks), sample)


class _Batch(NamedTuple):
    """Compared by value, where two equal `functools.partial` differ: jit compiles once."""

    num_tasks: int

    def __call__(self, sample: Sampler, key: RandomKey) -> Episode:
        return jax.vmap(sample)(jax.random.split(key, self.num_tasks))


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

    However the tasks are mapped, each has the same key, and the mean is the same to rounding.

    Args:
        grad: of one task.
        meta_params: where.
        episodes: `Episode[task, ...]`.
        key: split into one key a task.
        chunk: how many tasks a device maps at once; chunks run one after the other with their
            gradients accumulated, so memory is that of one chunk. Default: all at once.
        mesh: devices that share out the tasks, see `task_mesh`. Default: one device.

    Raises:
        ValueError: leaves disagree about the number of tasks, the mesh does not divide it, or the
            chunk a device's share of it; the mesh has another axis than "task".
    """
    if isinstance(grad, Either):
        branches = [partial(meta_gradient, g, chunk=chunk, mesh=mesh) for g in grad.grads]
        return jax.lax.cond(grad.first, *branches, meta_params, episodes, key)
    objective = grad.objective if isinstance(grad, Derivative) else _linear(grad)
    num_tasks = count_tasks(episodes)
    chunk = tasks_at_once(num_tasks, chunk, mesh)

    def share(
        meta_params: MetaParams, tasks: tuple[Episode, RandomKeys]
    ) -> tuple[MetaParams, Metrics]:
        (_, metrics), grads = value_and_grad(objective, meta_params, tasks, chunk)
        sums = grads, metrics
        return sums if mesh is None else jax.lax.psum(sums, TASK)

    tasks = (episodes, jax.random.split(key, num_tasks))
    sums = across(mesh, share, summed=True)(meta_params, tasks)
    return jax.tree.map(lambda leaf: leaf / num_tasks, sums)


def value_and_grad(
    objective: LossFn, meta_params: MetaParams, tasks: tuple[Episode, RandomKeys], chunk: int
) -> tuple[tuple[Scalar, Metrics], MetaParams]:
    """((value, metrics), gradient) of an objective, summed over the tasks, a chunk at a time."""

    def summed(meta_params: MetaParams, tasks: tuple[Episode, RandomKeys]) -> Any:
        return _sum(jax.vmap(objective, (None, 0, 0))(meta_params, *tasks))

    def add_chunk(grads: MetaParams, tasks: tuple[Episode, RandomKeys]) -> Any:
        seen, more = jax.value_and_grad(summed, has_aux=True)(meta_params, tasks)
        return jax.tree.map(jnp.add, grads, more), seen

    count = count_tasks(tasks[0]) // chunk
    chunks = jax.tree.map(lambda leaf: leaf.reshape(count, chunk, *leaf.shape[1:]), tasks)
    grads, seen = jax.lax.scan(add_chunk, jax.tree.map(jnp.zeros_like, meta_params), chunks)
    return _sum(seen), grads


def _linear(grad: MetaGrad) -> LossFn:
    """The objective with this gradient: its sum over tasks is differentiated, not each of them.

    So what tasks share, they share in the derivative too: products with theta are one for all.
    """

    def objective(
        meta_params: MetaParams, episode: Episode, key: RandomKey
    ) -> tuple[Scalar, Metrics]:
        grads, metrics = jax.lax.stop_gradient(grad(meta_params, episode, key))
        return jnp.asarray(optax.tree.vdot(meta_params, grads)), metrics

    return objective


def _sum(stacked: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf.sum(axis=0), stacked)


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
        optimizer: the outer one, any optax transformation.
        state: before.
        episodes: `Episode[task, ...]`.
        key: split into one key a task.
        chunk, mesh: see `meta_gradient`.
    """
    grad = algorithm.grad
    grad = grad.at(state.step) if isinstance(grad, Scheduled) else grad
    grads, metrics = meta_gradient(grad, state.params, episodes, key, chunk=chunk, mesh=mesh)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
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
        sample: a meta-batch from a key, `Episode[task, ...]`.
        state: before. Step t uses `fold_in(key, t)`, so two calls of n steps are one of 2 n.
        key: the key of the whole run, the same in every call.
        num_steps: how many.
        chunk, mesh: see `meta_gradient`.
        draw: of how many meta-steps the episodes are drawn at once. The same episodes: one large
            draw costs less than many small ones, and needs the memory for its episodes.

    Returns:
        The state after, and the metrics of every meta-step, `[num_steps]`.

    Raises:
        ValueError: `num_steps` is negative, or `draw` does not divide it; chunk or mesh as in
            `meta_gradient`.
    """
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
        ValueError: `num_steps` is negative, or `draw` does not divide it.
    """
    check_count(num_steps, least=0)
    check_count(draw, least=1, of="meta-steps of a draw")
    if num_steps % draw:
        raise ValueError(f"a draw of {draw} meta-steps does not divide {num_steps} of them")

    def body(state: MetaState, drawn: tuple[Any, RandomKey]) -> tuple[MetaState, Metrics]:
        return step(state, *drawn)

    def block(state: MetaState, _: None) -> tuple[MetaState, Metrics]:
        steps = state.step + jnp.arange(draw)
        keys = jax.vmap(lambda step: jax.random.split(jax.random.fold_in(key, step)))(steps)
        return jax.lax.scan(body, state, (jax.vmap(sample)(keys[:, 0]), keys[:, 1]))

    state, metrics = jax.lax.scan(block, state, length=num_steps // draw)
    return state, jax.tree.map(lambda leaf: leaf.reshape(num_steps, *leaf.shape[2:]), metrics)
