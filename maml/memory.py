"""What is kept of the inner loop until the meta-gradient is taken, and how it is taken.

The second derivatives of a step are a Hessian times a vector. Reverse mode through reverse mode,
as `jax.grad` of `jax.grad` does it, transposes the backward pass. A Hessian is symmetric, so
forward mode through reverse mode gives the same vector: it pushes the cotangent of the step's
gradient through it as a tangent.

Kemaev, Calian, Zintgraf, Farquhar, van Hasselt: Scalable meta-learning via mixed-mode
differentiation (ICML 2025).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

Memory = Literal["store", "recompute", "forward", "forward-recompute"]
"""What becomes of the K inner steps on the way to the meta-gradient; the answer is the same.

* `store`: everything that both passes of every step computed is kept.
* `recompute`: about 2 sqrt(K) states between steps are kept, and the steps are done again when they
  are needed.
* `forward`: second derivatives forward-over-reverse, which is faster; what they need is kept.
* `forward-recompute`: both, which is MixFlow-MG.
"""


def check_memory(memory: str, *, first_order: bool = False) -> None:
    """Refuses a mode that there is not, or that has nothing to manage.

    Raises:
        ValueError: saying what was got and what would work.
    """
    if memory not in get_args(Memory):
        raise ValueError(f"memory is one of {', '.join(get_args(Memory))}; got {memory!r}")
    if first_order and memory != "store":
        raise ValueError(
            "first-order steps have no second derivatives and keep nothing for them: memory must"
            f" be 'store'; got {memory!r}"
        )


def grad(objective: Callable[..., tuple[Any, PyTree]], memory: Memory) -> Callable[..., tuple]:
    """`jax.grad(objective, has_aux=True)`, itself derived in the way that the mode says.

    Forward-over-reverse takes the gradient for that of a function: an objective whose own
    derivative has been redefined as something else must be derived in reverse. The auxiliary
    output is a constant of it.
    """
    if not memory.startswith("forward"):
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
