"""Hessian-vector products, which give the second derivatives of the inner steps.

Reverse mode through reverse mode, as `jax.grad` of `jax.grad`, transposes the backward pass. A
Hessian is symmetric, so forward mode through reverse mode gives the same vector: it pushes the
cotangent of the step's gradient through that gradient as a tangent. It is usually faster.

Kemaev, Calian, Zintgraf, Farquhar, van Hasselt: Scalable meta-learning via mixed-mode
differentiation (MixFlow-MG, ICML 2025), https://arxiv.org/abs/2505.00793
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jaxtyping import PyTree

from maml import tree
from maml._checks import check_flags
from maml._leaves import is_inexact

Hvp = Literal["reverse", "forward"]
"""Mode of the Hessian-vector products; both modes agree up to rounding."""


def check_hvp(hvp: str, remat: bool, *, first_order: bool = False) -> None:
    """Refuses an unknown mode, and one of second derivatives for first-order steps.

    Raises:
        ValueError: `hvp` or `remat` has another value, or `hvp` is changed for first-order steps.
    """
    if hvp not in get_args(Hvp):
        raise ValueError(f"hvp must be one of {', '.join(get_args(Hvp))}; got {hvp!r}")
    check_flags(remat=remat, first_order=first_order)
    if first_order and hvp != "reverse":
        raise ValueError(
            f"first-order steps have no second derivatives: leave hvp='reverse'; got hvp={hvp!r}"
        )


def grad(objective: Callable[..., tuple[Any, PyTree]], hvp: Hvp) -> Callable[..., tuple]:
    """The gradient `jax.grad(objective, has_aux=True)`, which is differentiated in the given mode.

    The mode "forward" assumes that the Hessian is symmetric. An objective with a custom derivative
    that is not the derivative of a function needs the mode "reverse". The auxiliary output is
    treated as a constant in the mode "forward".
    """
    if hvp == "reverse":
        return jax.grad(objective, has_aux=True)

    def gradient(params: PyTree, *args: Any) -> tuple[PyTree, PyTree]:
        closed, hoisted = _close(objective, params, *args)
        return _symmetric(closed, params, (*args, *hoisted))

    return gradient


def _close(objective: Callable, *args: Any) -> tuple[Callable, list]:
    """The objective with all values that it closes over as further arguments, and these values.

    They may depend on the meta-parameters. `jax.closure_convert` leaves out integers, which cannot
    be traced through a rule for derivatives within `jax.checkpoint`.
    """
    closed, shapes = jax.make_jaxpr(objective, return_shape=True)(*args)

    def with_values(*args_and_values: Any) -> Any:
        given, values = args_and_values[: len(args)], args_and_values[len(args) :]
        function = jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, values))
        return jax.tree.structure(shapes).unflatten(function(*jax.tree.leaves(given)))

    return with_values, closed.consts


def value_and_grad(
    objective: Callable[..., tuple[Any, tuple[PyTree, PyTree]]], hvp: Hvp
) -> Callable:
    """Value, state and gradient in one pass; all three are differentiated in the given mode.

    The gradient of  a f(params) + <b, state(params)>  by (params, a, b), at a = 1 and b = 0, is
    (grad f, f, state). So value and state are parts of a gradient, and the Hessian-vector product
    that differentiates it gives the derivatives of all three at once.

    Args:
        objective: Function `(params, *args) -> (value, (state, metrics))`. The floating-point
            leaves of the state have derivatives; its other leaves and the metrics have none.
        hvp: Mode of the second derivatives.

    Returns:
        The function `(params, *args) -> ((value, (state, metrics)), gradient)`.
    """
    if hvp == "reverse":
        return jax.value_and_grad(objective, has_aux=True)

    def value_and_gradient(params: PyTree, *args: Any) -> tuple:
        value, (state, _) = jax.eval_shape(objective, params, *args)
        floating, _ = tree.partition(state, tree.floating_mask(state))
        weights = jnp.ones((), value.dtype), jax.tree.map(jnp.zeros_like, floating)

        def weighted(weighted_params: PyTree, *args: Any) -> tuple[Any, PyTree]:
            params, (weight, weights) = weighted_params
            value, (state, metrics) = objective(params, *args)
            floating, constants = tree.partition(state, tree.floating_mask(state))
            products = jax.tree.leaves(jax.tree.map(jnp.vdot, weights, floating))
            total = weight * value + sum(product.astype(value.dtype) for product in products)
            return total, (constants, metrics)

        (grads, (value, floating)), (constants, metrics) = grad(weighted, hvp)(
            (params, weights), *args
        )
        return (value, (tree.combine(floating, constants), metrics)), grads

    return value_and_gradient


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _symmetric(objective: Callable, params: PyTree, others: tuple) -> tuple[PyTree, PyTree]:
    return jax.grad(objective, has_aux=True)(params, *others)


def _forward(objective: Callable, params: PyTree, others: tuple) -> tuple[Any, Callable]:
    """The gradient, and the function that pushes a tangent of the parameters through it."""
    leaves, structure = jax.tree.flatten(others)
    values = dict(enumerate(leaf.value for leaf in leaves))
    # Within a scan even an integer counts as perturbed.
    perturbed = {n: x for n, x in values.items() if leaves[n].perturbed and is_inexact(x)}

    def with_perturbed(perturbed: dict) -> tuple:
        return structure.unflatten((values | perturbed).values())

    def gradients(params: PyTree) -> tuple[Any, PyTree]:
        def value(params: PyTree, perturbed: dict) -> tuple[Any, PyTree]:
            return objective(params, *with_perturbed(perturbed))

        (grads, rest), aux = jax.grad(value, (0, 1), has_aux=True)(params, perturbed)
        return (grads, structure.unflatten([rest.get(n) for n in values])), aux

    params = jax.tree.map(lambda leaf: leaf.value, params)
    (grads, _), push, aux = jax.linearize(gradients, params, has_aux=True)
    return (grads, aux), push


def _backward(objective: Callable, push_tangent: Callable, cotangents: Any) -> tuple[PyTree, tuple]:
    """The derivative of <v, gradient>: H v, and the mixed second derivatives times v."""
    return push_tangent(jax.tree.map(_dense, cotangents[0], is_leaf=_is_zero))


def _is_zero(leaf: Any) -> bool:
    return isinstance(leaf, jax.custom_derivatives.SymbolicZero)


def _dense(leaf: Any) -> jax.Array:
    return jnp.zeros(leaf.shape, leaf.dtype) if _is_zero(leaf) else leaf


_symmetric.defvjp(_forward, _backward, symbolic_zeros=True)
