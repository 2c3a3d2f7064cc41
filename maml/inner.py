"""The inner loop: the only one in the library.

    phi_0 = theta,   phi_{k+1} = phi_k + u(grad L_support(phi_k)),   k = 0 .. K-1

with u the update of an optax transformation. If that has a derivative, so has phi_K: the derivative
by theta, through every step and every optimiser state, is JAX's.
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
from maml.hvp import Hvp, check_hvp, grad
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
    hvp: Hvp = "reverse",
    remat: bool = False,
    opt_state: PyTree | None = None,
) -> Inner:
    """Gradient descent on a loss, from `params`, by an optax transformation.

    Args:
        loss: Inner loss, `(params, batch, key) -> (scalar, metrics)`.
        optimizer: Inner optimiser, an optax transformation. One that asks for `value`, `grad` and
            `value_fn` is given those of the support set; one that draws noise draws it with the
            random key of the inner step.
        params: Parameters at which the descent starts. Leaves without a derivative, such as
            counters and random keys, may be among them.
        mask: Tree of bools like `params`, True where a leaf adapts; the other leaves are constants
            of the task. None: every floating-point leaf adapts.
        per_step: Tree of bools, True where a leaf is `[K + 1, ...]`, with one value for the model
            after each number of inner steps; beyond K the last is used. None of them may adapt.
        first_order: Whether the gradients of the inner steps are treated as constants, so that
            every second derivative of the loss is dropped (Finn et al. 2017, section 5.2).
        hvp: Mode in which second derivatives are computed, `maml.Hvp`.
        remat: Whether only about 2 sqrt(K) of the K inner states are kept for the meta-gradient,
            and the steps between them are computed again; needs less memory and more time.
        opt_state: State that the optimiser starts from. None: a new one in every task.

    Returns:
        The inner problem, whose state is `(adapted leaves, opt_state, steps taken)`. The metrics of
        its steps are reported, not differentiated.

    Raises:
        ValueError: the optimiser is not optax's; a mask has another structure than `params`, or
            lets nothing adapt, or a leaf without a derivative; a leaf of `per_step` adapts; `hvp`
            or `remat` has another value, or is changed for first-order steps; or (when the step is
            traced) the loss returns something else than `(scalar, metrics)`.

    >>> loss = lambda w, target, key: (0.5 * (w - target) ** 2, {})
    >>> inner = gradient_descent(loss, optax.sgd(0.5), 4.0)
    >>> state, _ = inner.step(inner.state, 0.0, jax.random.key(0))
    >>> float(inner.params(state))
    2.0
    """
    check_loss(loss)
    check_optimizer(optimizer)
    check_hvp(hvp, remat, first_order=first_order)
    check_params(params)
    mask = tree.floating(params) if mask is None else mask
    per_step = jax.tree.map(lambda _: False, params) if per_step is None else per_step
    check_mask(mask, params)
    check_floating(params, mask)
    check_per_step(per_step, mask, params)
    adapted, _ = tree.partition(params, mask)

    def whole(adapted: Params, count: Any) -> Params:
        def of_step(leaf: Any, several: bool) -> Any:
            return leaf[jnp.minimum(count, leaf.shape[0] - 1)] if several else leaf

        chosen = jax.tree.map(of_step, params, per_step)
        return tree.combine(adapted, tree.partition(chosen, mask)[1])

    def objective(adapted: Params, count: Any, batch: Batch, key: RandomKey) -> tuple[Any, Metrics]:
        return checked(loss)(whole(adapted, count), batch, key)

    def step(state: PyTree, batch: Batch, key: RandomKey) -> tuple[PyTree, Metrics]:
        adapted, opt_state, count = state
        grads, metrics = grad(objective, hvp)(adapted, count, batch, key)
        grads = jax.lax.stop_gradient(grads) if first_order else grads

        def value(adapted: Params) -> Any:
            return objective(adapted, count, batch, key)[0]

        updates, opt_state = update(
            optimizer, grads, with_noise_from(key, opt_state), adapted, value
        )
        state = optax.apply_updates(adapted, updates), opt_state, count + 1
        return state, jax.lax.stop_gradient(metrics)

    step = jax.checkpoint(step, prevent_cse=False) if remat else step
    start = adapted, optimizer.init(adapted) if opt_state is None else opt_state, 0
    return Inner(start, step, lambda state: whole(state[0], state[2]), remat)


def check_per_step(per_step: PyTree[bool], mask: PyTree[bool], params: Params) -> None:
    """Refuses leaves that are others at each step where they adapt.

    Args:
        per_step: Tree of bools, True where a leaf has a value for each inner step.
        mask: Tree of bools like `params`, True where a leaf adapts.
        params: Parameters that both are masks of.

    Raises:
        ValueError: `per_step` is no mask of the parameters, or both are True at a leaf.
    """
    check_mask(per_step, params, "per_step mask", some=False)
    for path, both in tree.by_path(jax.tree.map(lambda a, b: a and b, mask, per_step)).items():
        if both:
            raise ValueError(
                f"what adapts cannot be another leaf at each step; mask and per_step meet at {path}"
            )


def adapt(
    inner: Inner,
    batch: Batch,
    key: RandomKey,
    inner_steps: int,
    *,
    probe: Callable[[Params], PyTree] | None = None,
) -> tuple[Params, PyTree]:
    """Adapts to a support set by `inner_steps` inner steps, each with a random key of its own.

    Args:
        inner: Inner problem.
        batch: Support set, or a `PerStep` with one batch for each inner step.
        key: Random key, split into one for each inner step.
        inner_steps: Number of inner steps K >= 0.
        probe: Function of the parameters that is evaluated after 0, 1, ..., K inner steps.

    Returns:
        The adapted parameters and a trace: the values of the probe, `[K + 1, ...]`, or without a
        probe the metrics of the inner steps, `[K, ...]`.

    Raises:
        ValueError: `inner_steps` is negative, the number of batches is another, or `inner` or `key`
            is of another kind.

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

    if isinstance(batch, PerStep) and isinstance(batch.batches, PerStep):
        raise ValueError("a PerStep has a batch for each step; got a PerStep of a PerStep")
    own = batch.batches if isinstance(batch, PerStep) else None
    counts = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(own)}
    if counts - {(inner_steps,)}:
        raise ValueError(f"{inner_steps} steps need as many batches; got {sorted(counts)}")

    def body(state: PyTree, step: tuple[RandomKey, Batch]) -> tuple[PyTree, PyTree]:
        step_key, own = step
        state, metrics = inner.step(state, batch if own is None else own, step_key)
        return state, metrics if probe is None else probe(inner.params(state))

    def run(state: PyTree, steps: tuple[RandomKeys, Batch]) -> tuple[PyTree, PyTree]:
        if inner.remat or not 0 < inner_steps <= UNROLLED:
            return jax.lax.scan(body, state, steps)
        # Few steps are faster one by one: a loop copies what it keeps, and mapped over tasks, its
        # first step would work with a copy of theta for each.
        traces = []
        for number in range(inner_steps):
            state, trace = body(state, jax.tree.map(lambda leaf, n=number: leaf[n], steps))
            traces.append(trace)
        return state, jax.tree.map(lambda *leaves: jnp.stack(leaves), *traces)

    steps = jax.random.split(key, inner_steps), own
    if inner.remat and inner_steps:
        # Blocks of about sqrt(K) steps, and one of the rest: the first states of all are kept, and
        # while one is derived, its own.
        size = math.isqrt(inner_steps)
        count, block = inner_steps // size, jax.checkpoint(run, prevent_cse=False)
        blocks = jax.tree.map(
            lambda leaf: leaf[: count * size].reshape(count, size, *leaf.shape[1:]), steps
        )
        state, trace = jax.lax.scan(block, inner.state, blocks)
        trace = jax.tree.map(lambda leaf: leaf.reshape(count * size, *leaf.shape[2:]), trace)
        if count * size < inner_steps:
            state, more = block(state, jax.tree.map(lambda leaf: leaf[count * size :], steps))
            trace = jax.tree.map(lambda *parts: jnp.concatenate(parts), trace, more)
    else:
        state, trace = run(inner.state, steps)
    if probe is not None:
        start = probe(inner.params(inner.state))
        trace = jax.tree.map(lambda a, b: jnp.concatenate([jnp.asarray(a)[None], b]), start, trace)
    return inner.params(state), trace
