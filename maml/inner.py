"""The inner loop, the only one in the library.

    s_0 = begin(s, support set),   s_{k+1} = step(s_k, support set),   phi_k = params(s_k)

for k = 0 .. K-1. If the steps have a derivative, so has phi_K: JAX computes the derivative by the
meta-parameters, through every step and every optimiser state.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from maml._checks import check_callable, check_count, check_key
from maml._contracts import check_inner, check_shapes
from maml._returns import check_arrays, check_pair
from maml.types import Batch, BatchPerStep, Inner, Params, RandomKey, RandomKeys

MAX_UNROLLED_STEPS = 5  # inner steps up to which a loop is compiled step by step


def adapt(
    inner: Inner,
    batch: Batch,
    key: RandomKey,
    inner_steps: int,
    *,
    probe: Callable[[Params], PyTree] | None = None,
) -> tuple[Params, PyTree]:
    """Adapts parameters to a support set by `inner_steps` inner steps.

    Args:
        inner: Inner problem.
        batch: Support set, or a `BatchPerStep` with one batch for each inner step.
        key: Random key, split into one for each inner step; before that, one for `inner.begin`, if
            there is one, so that the state before the first step does not depend on K.
        inner_steps: Number of inner steps K >= 0.
        probe: Function of the parameters that is evaluated after 0, 1, ..., K inner steps.

    Returns:
        The adapted parameters and a trace: the values of the probe, `[K + 1, ...]`, or without a
        probe the metrics of the inner steps, `[K, ...]`.

    Raises:
        ValueError: `inner_steps` is negative or differs from the number of batches, `inner` is not
            an `Inner`, `key` is not a key, or `inner.begin` changes the shapes of the state.

    >>> import optax
    >>> from maml import gradient_descent
    >>> loss = lambda w, target, key: (0.5 * (w - target) ** 2, {})
    >>> inner = gradient_descent(loss, optax.sgd(0.5), 4.0)
    >>> params, path = adapt(inner, 0.0, jax.random.key(0), 3, probe=lambda w: w)
    >>> path.tolist()
    [4.0, 2.0, 1.0, 0.5]
    """
    check_inner(inner)
    check_key(key)
    check_count(inner_steps, least=0, of="inner steps")
    if probe is not None:
        check_callable(probe, "probe", "params")

    if isinstance(batch, BatchPerStep) and isinstance(batch.batches, BatchPerStep):
        raise ValueError("a BatchPerStep has a batch for each step; got one in another")
    batches = batch.batches if isinstance(batch, BatchPerStep) else None
    counts = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(batches)}
    if counts - {(inner_steps,)}:
        raise ValueError(
            f"{inner_steps} inner steps need as many batches; got leading sizes {sorted(counts)}"
        )

    def body(state: PyTree, step: tuple[RandomKey, Batch]) -> tuple[PyTree, PyTree]:
        step_key, step_batch = step
        out = inner.step(state, batch if step_batch is None else step_batch, step_key)
        state, metrics = check_pair(out, "the step of an Inner", "state, metrics")
        trace = metrics if probe is None else probe(inner.params(state))
        check_arrays(trace, "the step of an Inner" if probe is None else "probe")
        return state, trace

    def run(state: PyTree, steps: tuple[RandomKeys, Batch]) -> tuple[PyTree, PyTree]:
        if inner.remat or not 0 < inner_steps <= MAX_UNROLLED_STEPS:
            return jax.lax.scan(body, state, steps)
        # Few steps are faster without a scan, which copies the values it stores; mapped over
        # tasks, its first step would need a copy of theta for each task.
        traces = []
        for number in range(inner_steps):
            state, trace = body(state, jax.tree.map(lambda leaf, n=number: leaf[n], steps))
            traces.append(trace)
        return state, jax.tree.map(lambda *leaves: jnp.stack(leaves), *traces)

    start = inner.state
    if inner.begin is not None:
        begin_key, key = jax.random.split(key)
        start = inner.begin(inner.state, batch, begin_key)
        check_shapes(start, inner.state, "state that begin returns", "state of the Inner has")
    steps = jax.random.split(key, inner_steps), batches
    if inner.remat and inner_steps:
        # Blocks of about sqrt(K) steps, and a block of the remaining ones: the first state of each
        # block is stored, and all states of a block only while it is differentiated.
        size = math.isqrt(inner_steps)
        count, block = inner_steps // size, jax.checkpoint(run, prevent_cse=False)
        blocks = jax.tree.map(
            lambda leaf: leaf[: count * size].reshape(count, size, *leaf.shape[1:]), steps
        )
        state, trace = jax.lax.scan(block, start, blocks)
        trace = jax.tree.map(lambda leaf: leaf.reshape(count * size, *leaf.shape[2:]), trace)
        if count * size < inner_steps:
            state, last_trace = block(state, jax.tree.map(lambda leaf: leaf[count * size :], steps))
            trace = jax.tree.map(lambda *parts: jnp.concatenate(parts), trace, last_trace)
    else:
        state, trace = run(start, steps)
    if probe is not None:
        first = probe(inner.params(start))
        trace = jax.tree.map(lambda a, b: jnp.concatenate([jnp.asarray(a)[None], b]), first, trace)
    return inner.params(state), trace
