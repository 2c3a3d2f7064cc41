"""The inner loop: the only one in the library.

    phi_0 = theta,   phi_{k+1} = phi_k + u(grad L_support(phi_k)),   k = 0 .. K-1

with u the update of an optax transformation. Where that has a derivative, so has phi_K: the
derivative by theta, through every step and every optimiser state, is JAX's.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from maml import tree
from maml._checks import check_callable, check_count, check_key
from maml._contracts import (
    check_floating,
    check_inner,
    check_loss,
    check_mask,
    check_params,
    checked,
)
from maml._optimizers import check_optimizer, update, with_noise_from
from maml.memory import Memory, check_memory, grad
from maml.types import (
    Batch,
    Inner,
    LossFn,
    Metrics,
    Params,
    PerStep,
    RandomKey,
    RandomKeys,
)

UNROLLED = 5  # inner steps up to which a loop is compiled step by step


def gradient_descent(
    loss: LossFn,
    optimizer: optax.GradientTransformation,
    params: Params,
    *,
    mask: PyTree[bool] | None = None,
    per_step: PyTree[bool] | None = None,
    first_order: bool = False,
    memory: Memory = "store",
    opt_state: PyTree | None = None,
) -> Inner:
    """Gradient descent on a loss, from `params`, by an optax transformation.

    Args:
        loss: `(params, batch, key) -> (scalar, metrics)`.
        optimizer: an optax transformation. One that asks for `value`, `grad` and `value_fn` gets
            those of the support set; one that draws noise draws it with the key of the step.
        params: where the descent starts. Leaves without a derivative, such as counters and random
            keys, may be among them.
        mask: True where a leaf adapts (default: every floating-point leaf); the others are
            constants of the task.
        per_step: True where a leaf is `[K + 1, ...]`, one for the model after each number of steps;
            beyond K the last. None of them adapts.
        first_order: take the gradients of the steps for constants, that is, drop every second
            derivative of the loss (Finn et al. 2017, section 5.2).
        memory: what is kept of the steps for their derivative, and how it is taken: `maml.Memory`.
        opt_state: the state that the optimiser starts from (default: a new one in every task).

    Returns:
        The inner problem, whose state is `(adapted leaves, opt_state, steps taken)`. The metrics of
        its steps are reported, not differentiated.

    Raises:
        ValueError: the optimiser is not optax's, a mask has another structure than `params` or
            lets nothing adapt or a leaf without a derivative, what adapts is another leaf at each
            step, there is no such memory mode or first-order steps cannot honour it, or (when the
            step is traced) the loss returns something else than `(scalar, metrics)`.

    >>> loss = lambda w, target, key: (0.5 * (w - target) ** 2, {})
    >>> inner = gradient_descent(loss, optax.sgd(0.5), 4.0)
    >>> state, _ = inner.step(inner.state, 0.0, jax.random.key(0))
    >>> float(inner.params(state))
    2.0
    """
    check_loss(loss)
    check_optimizer(optimizer)
    check_memory(memory, first_order=first_order)
    check_params(params)
    mask = tree.floating(params) if mask is None else mask
    per_step = jax.tree.map(lambda _: False, params) if per_step is None else per_step
    check_mask(mask, params)
    check_mask(per_step, params, "per_step mask", some=False)
    check_floating(params, mask)
    adapted, _ = tree.partition(params, mask)
    if any(jax.tree.leaves(jax.tree.map(lambda a, b: a and b, mask, per_step))):
        raise ValueError("what adapts cannot be another leaf at each step; mask and per_step meet")

    def whole(adapted: Params, count: Any) -> Params:
        def of_step(leaf: Any, several: bool) -> Any:
            return leaf[jnp.minimum(count, leaf.shape[0] - 1)] if several else leaf

        chosen = jax.tree.map(of_step, params, per_step)
        return tree.combine(adapted, tree.partition(chosen, mask)[1])

    def objective(adapted: Params, count: Any, batch: Batch, key: RandomKey) -> tuple[Any, Metrics]:
        return checked(loss)(whole(adapted, count), batch, key)

    def step(state: PyTree, batch: Batch, key: RandomKey) -> tuple[PyTree, Metrics]:
        adapted, opt_state, count = state
        grads, metrics = grad(objective, memory)(adapted, count, batch, key)
        grads = jax.lax.stop_gradient(grads) if first_order else grads

        def value(adapted: Params) -> Any:
            return objective(adapted, count, batch, key)[0]

        updates, opt_state = update(
            optimizer, grads, with_noise_from(key, opt_state), adapted, value
        )
        state = optax.apply_updates(adapted, updates), opt_state, count + 1
        return state, jax.lax.stop_gradient(metrics)

    recompute = memory.endswith("recompute")
    step = jax.checkpoint(step, prevent_cse=False) if recompute else step
    start = adapted, optimizer.init(adapted) if opt_state is None else opt_state, 0
    return Inner(start, step, lambda state: whole(state[0], state[2]), recompute)


def adapt(
    inner: Inner,
    batch: Batch,
    key: RandomKey,
    num_steps: int,
    *,
    probe: Callable[[Params], PyTree] | None = None,
) -> tuple[Params, PyTree]:
    """`num_steps` inner steps on one batch, or on one each, each with a key of its own.

    Args:
        inner: the inner problem.
        batch: the support set, or a `PerStep` of K of them.
        key: split into one key a step.
        num_steps: K >= 0.
        probe: looks at the parameters after 0, 1, ..., K steps.

    Returns:
        The adapted parameters and a trace: what the probe saw, `[K + 1, ...]`, or, without a
        probe, the metrics of the steps, `[K, ...]`.

    Raises:
        ValueError: `num_steps` is negative, there are not as many batches, or `inner` or `key` is
            something else.

    >>> loss = lambda w, target, key: (0.5 * (w - target) ** 2, {})
    >>> inner = gradient_descent(loss, optax.sgd(0.5), 4.0)
    >>> params, path = adapt(inner, 0.0, jax.random.key(0), 3, probe=lambda w: w)
    >>> path.tolist()
    [4.0, 2.0, 1.0, 0.5]
    """
    check_inner(inner)
    check_key(key)
    check_count(num_steps, least=0)
    if probe is not None:
        check_callable(probe, "probe", "params")

    own = batch.batches if isinstance(batch, PerStep) else None
    counts = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(own)}
    if counts - {(num_steps,)}:
        raise ValueError(f"{num_steps} steps need as many batches; got {sorted(counts)}")

    def body(state: PyTree, step: tuple[RandomKey, Batch]) -> tuple[PyTree, PyTree]:
        step_key, own = step
        state, metrics = inner.step(state, batch if own is None else own, step_key)
        return state, metrics if probe is None else probe(inner.params(state))

    def run(state: PyTree, steps: tuple[RandomKeys, Batch]) -> tuple[PyTree, PyTree]:
        if inner.recompute or not 0 < num_steps <= UNROLLED:
            return jax.lax.scan(body, state, steps)
        # Few steps are faster one by one: a loop copies what it keeps, and mapped over tasks, its
        # first step would work with a copy of theta for each.
        traces = []
        for number in range(num_steps):
            state, trace = body(state, jax.tree.map(lambda leaf, n=number: leaf[n], steps))
            traces.append(trace)
        return state, jax.tree.map(lambda *leaves: jnp.stack(leaves), *traces)

    steps = jax.random.split(key, num_steps), own
    if inner.recompute and num_steps:
        # Blocks of about sqrt(K) steps, and one of the rest: the first states of all are kept, and
        # while one is derived, its own.
        size = math.isqrt(num_steps)
        count, block = num_steps // size, jax.checkpoint(run, prevent_cse=False)
        blocks = jax.tree.map(
            lambda leaf: leaf[: count * size].reshape(count, size, *leaf.shape[1:]), steps
        )
        state, trace = jax.lax.scan(block, inner.state, blocks)
        trace = jax.tree.map(lambda leaf: leaf.reshape(count * size, *leaf.shape[2:]), trace)
        if count * size < num_steps:
            state, more = block(state, jax.tree.map(lambda leaf: leaf[count * size :], steps))
            trace = jax.tree.map(lambda *parts: jnp.concatenate(parts), trace, more)
    else:
        state, trace = run(inner.state, steps)
    if probe is not None:
        start = probe(inner.params(inner.state))
        trace = jax.tree.map(lambda a, b: jnp.concatenate([jnp.asarray(a)[None], b]), start, trace)
    return inner.params(state), trace
