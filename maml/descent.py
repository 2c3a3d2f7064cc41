"""Gradient descent as the inner problem of a task.

    phi_{k+1} = phi_k + u(grad L_support(phi_k)),   k = 0 .. K-1

with u the update of an optax transformation.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from maml import tree
from maml._contracts import check_floating, check_loss, check_mask, check_params
from maml._optimizers import check_opt_state, check_optimizer
from maml._returns import checked_carry, checked_loss
from maml._updates import init_state, reseed, update
from maml.hvp import Hvp, check_hvp, grad, value_and_grad
from maml.types import Batch, Inner, LossFn, Metrics, Params, RandomKey


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
    """The inner problem of gradient descent on a loss, from `params`, by an optax transformation.

    Args:
        loss: Inner loss, `(params, batch, key) -> (scalar, metrics)`.
        optimizer: Inner optimiser, an optax transformation. If it takes `value`, `grad` and
            `value_fn`, they are those of the support set; if it draws noise, it uses the random
            key of the inner step.
        params: Parameters at which the descent starts. Leaves without a derivative, such as
            counters and random keys, are allowed.
        mask: Tree of bools like `params`, True where a leaf adapts; the other leaves are constants
            of the task. None: every floating-point leaf adapts.
        per_step: Tree of bools, True where a leaf is `[K + 1, ...]` and has one value for the
            model after each number of inner steps; beyond K the last value is used. These leaves
            must not adapt.
        first_order: Whether the gradients of the inner steps are treated as constants, so that
            every second derivative of the loss is dropped (Finn et al. 2017, section 5.2).
        hvp: Mode in which second derivatives are computed, `maml.Hvp`.
        remat: Whether only about 2 sqrt(K) of the K inner states are stored for the meta-gradient
            and the steps between them are recomputed, which takes less memory and more time.
        opt_state: Initial state of the optimiser. None: a new one in every task.

    Returns:
        The inner problem, whose state is `(adapted leaves, opt_state, steps taken)`. The metrics of
        its steps are reported, not differentiated.

    Raises:
        ValueError: the optimiser is not optax's; a mask differs from `params` in structure, is
            False everywhere, or is True at a leaf without a derivative; a leaf of `per_step`
            adapts; `hvp` or `remat` has another value, or `hvp` is changed for first-order
            steps; or (when the step is traced) the loss does not return `(scalar, metrics)`.

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
    mask = tree.floating_mask(params) if mask is None else mask
    per_step = jax.tree.map(lambda _: False, params) if per_step is None else per_step
    check_mask(mask, params)
    check_floating(params, mask)
    check_per_step(per_step, mask, params)
    adapted, _ = tree.partition(params, mask)
    if opt_state is None:
        opt_state = init_state(optimizer, adapted)
    else:
        check_opt_state(optimizer, opt_state, adapted)

    def assemble(adapted: Params, count: Any) -> Params:
        def value_of_step(leaf: Any, varies: bool) -> Any:
            return leaf[jnp.minimum(count, leaf.shape[0] - 1)] if varies else leaf

        current = jax.tree.map(value_of_step, params, per_step)
        return tree.combine(adapted, tree.partition(current, mask)[1])

    def objective(adapted: Params, count: Any, batch: Batch, key: RandomKey) -> tuple[Any, Metrics]:
        return checked_loss(loss)(assemble(adapted, count), batch, key)

    def descend(state: PyTree, grads: PyTree, batch: Batch, key: RandomKey) -> PyTree:
        adapted, opt_state, count = state
        grads = jax.lax.stop_gradient(grads) if first_order else grads

        def value(adapted: Params) -> Any:
            return objective(adapted, count, batch, key)[0]

        updates, opt_state = update(optimizer, grads, reseed(key, opt_state), adapted, value)
        return optax.apply_updates(adapted, updates), opt_state, count + 1

    def step(state: PyTree, batch: Batch, key: RandomKey) -> tuple[PyTree, Metrics]:
        adapted, _, count = state
        grads, metrics = grad(objective, hvp)(adapted, count, batch, key)
        return descend(state, grads, batch, key), jax.lax.stop_gradient(metrics)

    def scored_step(state: PyTree, batch: Batch, key: RandomKey) -> tuple[PyTree, PyTree]:
        adapted, _, count = state
        score, grads = value_and_grad(checked_carry(objective), hvp)(adapted, count, batch, key)
        return descend(state, grads, batch, key), score

    if remat:
        step = jax.checkpoint(step, prevent_cse=False)
        scored_step = jax.checkpoint(scored_step, prevent_cse=False)

    def params_of(state: PyTree) -> Params:
        return assemble(state[0], state[2])

    return Inner((adapted, opt_state, 0), step, params_of, remat, scored_step=scored_step)


def check_per_step(per_step: PyTree[bool], mask: PyTree[bool], params: Params) -> None:
    """Refuses leaves that both adapt and have a value for each inner step.

    Args:
        per_step: Tree of bools, True where a leaf has a value for each inner step.
        mask: Tree of bools like `params`, True where a leaf adapts.
        params: Parameters of the model.

    Raises:
        ValueError: `per_step` is not a mask of the parameters, or both masks are True at a leaf.
    """
    check_mask(per_step, params, "per_step mask", some=False)
    for path, overlaps in tree.leaves_by_path(
        jax.tree.map(lambda a, b: a and b, mask, per_step)
    ).items():
        if overlaps:
            raise ValueError(
                f"a leaf that adapts cannot have a value for each inner step; mask and per_step are"
                f" both True at {path}"
            )
