"""How the second derivatives of the inner steps are computed: Hessian-vector products.

Reverse mode through reverse mode, as `jax.grad` of `jax.grad`, transposes the backward pass. A
Hessian is symmetric, so forward mode through reverse mode gives the same vector: it pushes the
cotangent of the step's gradient through that gradient as a tangent. It is usually faster.

Kemaev, Calian, Zintgraf, Farquhar, van Hasselt: Scalable meta-learning via mixed-mode
differentiation (ICML 2025), https://arxiv.org/abs/2505.00793
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from maml._checks import check_flags

Hvp = Literal["reverse", "forward"]
"""Mode of the Hessian-vector products; the result is the same to rounding."""


def check_hvp(hvp: str, remat: bool, *, first_order: bool = False) -> None:
    """Refuses a mode that does not exist, or that first-order steps have no use for.

    Raises:
        ValueError: `hvp` or `remat` has another value, or is changed for first-order steps.
    """
    if hvp not in get_args(Hvp):
        raise ValueError(f"hvp must be one of {', '.join(get_args(Hvp))}; got {hvp!r}")
    check_flags(remat=remat)
    if first_order and (hvp, remat) != ("reverse", False):
        raise ValueError(
            "first-order steps have no second derivatives: leave hvp='reverse' and remat=False;"
            f" got hvp={hvp!r}, remat={remat}"
        )


def grad(objective: Callable[..., tuple[Any, PyTree]], hvp: Hvp) -> Callable[..., tuple]:
    """`jax.grad(objective, has_aux=True)`, itself differentiated in the given mode.

    Forward-over-reverse takes the gradient for that of a function: an objective whose own
    derivative has been redefined as something else must be derived in reverse. The auxiliary
    output is a constant of it.
    """
    if hvp == "reverse":
        return jax.grad(objective, has_aux=True)

    def gradient(params: PyTree, *args: Any) -> tuple[PyTree, PyTree]:
        # What the objective closes over may depend on the meta-parameters as well.
        closed, hoisted = jax.closure_convert(objective, params, *args)
        return _symmetric(closed, params, (*args, *hoisted))

    return gradient


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _symmetric(objective: Callable, params: PyTree, others: tuple) -> tuple[PyTree, PyTree]:
    return jax.grad(objective, has_aux=True)(params, *others)


def _forward(objective: Callable, params: PyTree, others: tuple) -> tuple[Any, Callable]:
    """The gradient, and the function that pushes a tangent of the parameters through it."""
    leaves, structure = jax.tree.flatten(others)
    values = dict(enumerate(leaf.value for leaf in leaves))
    perturbed = {n: values[n] for n, leaf in enumerate(leaves) if leaf.perturbed}

    def whole(perturbed: dict) -> tuple:
        return structure.unflatten((values | perturbed).values())

    def gradients(params: PyTree) -> tuple[Any, PyTree]:
        def value(params: PyTree, perturbed: dict) -> tuple[Any, PyTree]:
            return objective(params, *whole(perturbed))

        (grads, rest), aux = jax.grad(value, (0, 1), has_aux=True)(params, perturbed)
        return (grads, structure.unflatten([rest.get(n) for n in values])), aux

    params = jax.tree.map(lambda leaf: leaf.value, params)
    (grads, _), push, aux = jax.linearize(gradients, params, has_aux=True)
    return (grads, aux), push


def _backward(objective: Callable, push: Callable, cotangents: Any) -> tuple[PyTree, tuple]:
    """H v, and the mixed second derivatives times v: the derivative of <v, gradient>."""
    return push(jax.tree.map(_dense, cotangents[0], is_leaf=_is_zero))


def _is_zero(leaf: Any) -> bool:
    return isinstance(leaf, jax.custom_derivatives.SymbolicZero)


def _dense(leaf: Any) -> jax.Array:
    return jnp.zeros(leaf.shape, leaf.dtype) if _is_zero(leaf) else leaf


_symmetric.defvjp(_forward, _backward, symbolic_zeros=True)
