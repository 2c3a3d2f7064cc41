"""Meta-training: the first state, and a scan over meta-steps."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jax.sharding import Mesh

from maml import tree
from maml._checks import check_callable, check_count, check_key
from maml._contracts import (
    check_algorithm,
    check_params,
    check_state,
)
from maml._optimizers import check_on_small_arrays, check_optimizer
from maml._returns import check_arrays, check_same_structure
from maml._updates import init_state
from maml.first_order import check_keeps_inner_state
from maml.outer import meta_step
from maml.sampling import is_batched
from maml.types import (
    Algorithm,
    MetaState,
    Metrics,
    Params,
    RandomKey,
    Sampler,
)

MAX_STEPS = 2**31 - 1  # largest value of the counter of meta-steps


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
    learned, _ = tree.partition(meta_params, tree.floating_mask(meta_params))
    check_on_small_arrays(optimizer, learned)
    opt_state = init_state(optimizer, learned)
    check_keeps_inner_state(meta_params, opt_state)
    return MetaState(meta_params, opt_state, jnp.zeros((), jnp.int32))


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
        sample: Sampler of meta-batches, the result of `batch_tasks`.
        state: State before the first of these meta-steps. Meta-step t uses `fold_in(key, t)`, so
            that two calls of n meta-steps equal one call of 2 n.
        key: Random key of the whole run, the same in every call.
        meta_steps: Number of meta-steps, >= 0.
        chunk, mesh: As in `meta_gradient`.
        prefetch: Number of meta-steps whose episodes are drawn at once. It does not change the
            episodes; one large draw takes less time and more memory than many small ones.

    Returns:
        The state after the last meta-step, and the metrics of `meta_gradient` in every meta-step,
        `[meta_steps, ...]`.

    Raises:
        ValueError: `meta_steps` is negative, or `prefetch` does not divide it; the sampler is one
            of single tasks; otherwise as `meta_gradient`.
    """
    if not is_batched(sample):
        raise ValueError(
            "train needs a sampler of meta-batches, maml.batch_tasks(sample, num_tasks), or"
            " maml.iterate where a sampler draws the task axis itself; got"
            f" {'another function' if callable(sample) else type(sample).__name__}"
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
    if not isinstance(state.step, Tracer) and int(state.step) + meta_steps > MAX_STEPS:
        raise ValueError(
            f"at most {MAX_STEPS} meta-steps can be counted; got {meta_steps} after {state.step}"
        )

    def body(state: MetaState, drawn: tuple[Any, RandomKey]) -> tuple[MetaState, Metrics]:
        out = step(state, *drawn)
        if not (isinstance(out, tuple) and len(out) == 2 and isinstance(out[0], MetaState)):
            raise ValueError(f"step returns (MetaState, metrics); got {type(out).__name__}")
        check_arrays(out, "step")
        check_same_structure(out[0], state, "state after a step")
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
