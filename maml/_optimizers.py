"""Checks of optax transformations.

An optimiser is checked by its first updates of a small matrix, which are computed once, when an
algorithm is built. An optimiser for a particular tree, such as one that reads the names of leaves
or updates some leaves by other rules, is checked when the parameters are known.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import PyTree

from maml._leaves import is_inexact
from maml._updates import init_state, update

MATRIX = np.ones((2, 2), np.float32)


def check_optimizer(optimizer: optax.GradientTransformation, params: PyTree = MATRIX) -> None:
    """Refuses a value that is not an optax transformation, or whose updates are not finite.

    Args:
        optimizer: Value to check.
        params: Small arrays of ones, for which updates are computed.

    Raises:
        ValueError: `optimizer` has no `init` and `update`, is `optax.MultiSteps` itself or
            `optax.lookahead`, or its update of a gradient of ones is not finite.
    """
    check_transformation(optimizer)
    if _has_lookahead(optimizer, params):
        raise ValueError(
            "optax.lookahead keeps a second set of parameters, which neither loop supports;"
            " maml.reptile also moves slow parameters towards fast ones and would work"
        )
    step = _probe(optimizer, lambda steps, ones: steps(ones, ones), params)
    if step is not None and not np.isfinite(step).all():
        raise ValueError(
            f"the optimiser turns gradients of 1 into updates of {_first_not_finite(step)}; check"
            " its learning rate"
        )


def check_transformation(optimizer: Any) -> None:
    """Refuses a value that is not an optax transformation, without computing updates.

    Raises:
        ValueError: `optimizer` has no `init` and `update`, or is `optax.MultiSteps` itself.
    """
    if isinstance(optimizer, optax.MultiSteps):
        raise ValueError(
            "optax.MultiSteps is not itself a transformation: pass"
            " optax.MultiSteps(...).gradient_transformation()"
        )
    if not isinstance(optimizer, optax.GradientTransformation):
        raise ValueError(f"the optimiser must be an optax transformation; got {optimizer!r}")


def check_opt_state(
    optimizer: optax.GradientTransformation, opt_state: PyTree, params: PyTree
) -> None:
    """Refuses the state of another optimiser, or of other parameters.

    Raises:
        ValueError: the state differs from `optimizer.init(params)` in structure or shapes.
    """
    expected = jax.eval_shape(partial(init_state, optimizer), params)
    trees = opt_state, expected
    if jax.tree.structure(opt_state) != jax.tree.structure(expected) or any(
        jnp.shape(leaf) != other.shape
        or is_inexact(leaf) != jnp.issubdtype(other.dtype, jnp.inexact)
        for leaf, other in zip(*map(jax.tree.leaves, trees), strict=True)
    ):
        raise ValueError(
            "this state is of another optimiser or of other parameters; got the shapes"
            f" {jax.tree.map(jnp.shape, opt_state)} where maml.init would give"
            f" {jax.tree.map(jnp.shape, expected)}"
        )


def check_differentiable(
    optimizer: optax.GradientTransformation, params: PyTree = MATRIX, *, first_order: bool = False
) -> None:
    """Refuses an inner optimiser whose update has no usable derivative.

    The gradient behind an inactive ReLU is exactly zero. At zero the derivatives of Adam and its
    variants without `eps_root`, and of clipping by `optax.clip_by_global_norm`, are NaN.

    Args:
        optimizer: Inner optimiser.
        params: Small arrays of ones, for which updates are computed.
        first_order: Whether the gradients passed to the optimiser are constants.

    Raises:
        ValueError: the derivative of the update is not finite at gradients of zero, or does not
            exist in reverse mode.
    """

    def slope(steps: Callable[[Any, Any], Any], ones: Any) -> Any:
        try:
            by_grads, _ = jax.vjp(steps, jax.tree.map(lambda leaf: 0 * leaf, ones), ones)[1](ones)
        except ValueError as error:
            if "Reverse-mode" not in str(error):
                raise
            raise _NoDerivativeError from error
        return by_grads

    try:
        derivative = _probe(optimizer, slope, params)
    except _NoDerivativeError as error:
        raise ValueError(
            "the inner optimiser has a line search, a loop that has no derivative in reverse mode;"
            " it would work with maml.reptile or maml.imaml, or as the outer optimiser"
        ) from error
    if derivative is not None and not first_order and not np.isfinite(derivative).all():
        raise ValueError(
            "the derivative of the inner optimiser's update is"
            f" {_first_not_finite(derivative)} where a gradient is zero, as behind an inactive"
            " ReLU, and so the meta-gradient would not be finite; Adam and its variants with"
            " eps_root=1e-8, and clipping by maml.clip_by_global_norm, would work"
        )


class _NoDerivativeError(Exception):
    """Raised if the update of an optimiser has no derivative in reverse mode."""


def check_on_small_arrays(
    optimizer: optax.GradientTransformation,
    params: PyTree,
    check: Callable[..., None] = check_optimizer,
) -> None:
    """Checks an optimiser for a particular tree, on small arrays like the parameters.

    Such an optimiser cannot update a matrix, or chooses leaves, as `optax.partition` and
    `optax.masked` do: a matrix does not show whether the rules of other leaves have a derivative.

    Args:
        optimizer: Optimiser that has been checked without parameters.
        params: Parameters that the optimiser updates.
        check: Check made in addition to `check_optimizer`, such as `check_differentiable`.

    Raises:
        ValueError: as `init_state`, `update`, `check_optimizer` and `check`.
    """
    try:
        jax.eval_shape(partial(_steps, optimizer, 1), MATRIX, MATRIX)
        particular = check is not check_optimizer and _has(optax.MaskedState, optimizer, params)
    except Exception:
        particular = True
    if particular:
        small_params = jax.tree.map(
            lambda leaf: np.ones([min(size, 2) for size in jnp.shape(leaf)], np.float32), params
        )
        jax.eval_shape(partial(_steps, optimizer, 1), params, params)  # refuses what cannot fit
        for run_check in dict.fromkeys((check_optimizer, check)):
            run_check(optimizer, small_params)


def _has_lookahead(optimizer: optax.GradientTransformation, params: PyTree) -> bool:
    try:
        return _has(optax.LookaheadState, optimizer, optax.LookaheadParams(params, params))
    except Exception:  # the optimiser needs parameters of another structure
        return False


def _has(kind: type, optimizer: optax.GradientTransformation, params: PyTree) -> bool:
    """Whether a part of the optimiser's state has this type."""
    state = jax.eval_shape(optimizer.init, params)
    parts = jax.tree.leaves(state, is_leaf=lambda part: isinstance(part, kind))
    return any(isinstance(part, kind) for part in parts)


def _first_not_finite(values: Any) -> Any:
    return values[~np.isfinite(values)][0]


def _steps(
    optimizer: optax.GradientTransformation, count: int, grads: PyTree, params: PyTree
) -> PyTree:
    """The parameters after `count` updates by the same gradients."""
    opt_state = init_state(optimizer, params)

    def loss(params: PyTree) -> Any:
        return 1 + sum(jax.tree.leaves(jax.tree.map(jnp.vdot, grads, params)))

    for _ in range(count):  # the first update of some optimisers differs from later ones
        updates, opt_state = update(optimizer, grads, opt_state, params, loss)
        params = jax.tree.map(jnp.add, params, updates)
    return params


def _probe(
    optimizer: optax.GradientTransformation, look: Callable[[Callable, Any], Any], ones: PyTree
) -> Any:
    """The result of `look(steps, ones)`, with `steps` three updates, as one vector or None.

    The result is None for an optimiser that needs parameters of another structure, has a traced
    learning rate, or has a line search. The latter is only traced, since running it takes seconds.
    """
    steps = partial(partial, _steps, optimizer)
    with jax.ensure_compile_time_eval():
        try:
            if "while[" in str(jax.make_jaxpr(steps(1))(ones, ones)):
                jax.eval_shape(partial(look, steps(1)), ones)
                return None
            # One program for a tree; operations on a matrix are compiled once for all optimisers.
            look_at = partial(look, steps(3))
            result = (look_at if ones is MATRIX else jax.jit(look_at))(ones)
        except _NoDerivativeError:
            raise
        except Exception:  # the optimiser needs parameters of another structure
            return None
        leaves = jax.tree.leaves(result)
        if any(isinstance(leaf, Tracer) for leaf in leaves):
            return None
        return np.concatenate([np.ravel(leaf) for leaf in leaves])
