"""What is asked of an optax transformation, and what it is given.

Whether an optimiser can be trusted shows in its first updates of a small matrix, which are computed
once, when an algorithm is built. One that is for a tree with names shows it when the parameters are
known.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import PyTree, Scalar

from maml.types import RandomKey

MATRIX = np.ones((2, 2), np.float32)


def check_optimizer(optimizer: optax.GradientTransformation, params: PyTree = MATRIX) -> None:
    """Refuses what is not an optax transformation of a tree of parameters, or has a rate of NaN.

    Args:
        optimizer: Any value.
        params: Ones of small shapes, which it is tried on.

    Raises:
        ValueError: `optimizer` has no `init` and `update`, is `optax.MultiSteps` itself or
            `optax.lookahead`, or its update of a gradient of ones is not finite.
    """
    check_transformation(optimizer)
    if _has_lookahead(optimizer, params):
        raise ValueError(
            "optax.lookahead keeps a second set of parameters, for which neither loop has a place;"
            " maml.reptile moves slow parameters towards fast ones"
        )
    step = _probe(optimizer, lambda steps, ones: steps(ones, ones), params)
    if step is not None and not np.isfinite(step).all():
        raise ValueError(f"the optimiser makes {_not_finite(step)} of gradients of 1; see its rate")


def check_transformation(optimizer: Any) -> None:
    """Refuses what is not an optax transformation, without a look at its updates.

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
        ValueError: it is not what `optimizer.init(params)` gives, in structure and shapes.
    """
    wanted = jax.eval_shape(optimizer.init, params)
    trees = opt_state, wanted
    if jax.tree.structure(opt_state) != jax.tree.structure(wanted) or any(
        jnp.shape(leaf) != was.shape for leaf, was in zip(*map(jax.tree.leaves, trees), strict=True)
    ):
        raise ValueError(
            "this state is of another optimiser or of other parameters, maml.init makes one; got"
            f" {jax.tree.map(jnp.shape, opt_state)} for {jax.tree.map(jnp.shape, wanted)}"
        )


def check_differentiable(
    optimizer: optax.GradientTransformation, params: PyTree = MATRIX, *, first_order: bool = False
) -> None:
    """Refuses an inner optimiser through which no meta-gradient can be taken.

    Behind a ReLU that is off a gradient is exactly zero. There the derivatives of Adam, of its
    relatives without `eps_root`, and of clipping by `optax.clip_by_global_norm` are NaN.

    Args:
        optimizer: Inner optimiser.
        params: Ones of small shapes, which it is tried on.
        first_order: Whether the gradients that it is given are constants.

    Raises:
        ValueError: the derivative of the update is not finite at gradients of zero, or there is no
            derivative in reverse mode.
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
            "the inner optimiser searches along a line, a loop that has no derivative in reverse"
            " mode; use it with maml.reptile or maml.imaml, or outside"
        ) from error
    if derivative is not None and not first_order and not np.isfinite(derivative).all():
        raise ValueError(
            f"the derivative of the inner optimiser's update is {_not_finite(derivative)} where a"
            " gradient is zero, as it is behind a ReLU that is off, and so would be the"
            " meta-gradient: give Adam and its relatives eps_root=1e-8, and clip by"
            " maml.clip_by_global_norm"
        )


class _NoDerivativeError(Exception):
    pass


def check_for(
    optimizer: optax.GradientTransformation,
    params: PyTree,
    check: Callable[..., None] = check_optimizer,
) -> None:
    """Checks an optimiser of which a matrix has shown nothing on parameters like the real ones.

    Args:
        optimizer: Optimiser that has been checked without parameters.
        params: Parameters that it is for.
        check: Check that is made besides `check_optimizer`, such as `check_differentiable`.

    Raises:
        ValueError: as the checks.
    """
    try:
        jax.eval_shape(partial(_steps, optimizer, 1), MATRIX, MATRIX)
    except Exception:
        small = jax.tree.map(
            lambda leaf: np.ones([min(size, 2) for size in jnp.shape(leaf)], np.float32), params
        )
        for each in (check_optimizer, check):
            each(optimizer, small)


def _has_lookahead(optimizer: optax.GradientTransformation, params: PyTree) -> bool:
    twice = optax.LookaheadParams(params, params)
    try:
        state = jax.eval_shape(optimizer.init, twice)
    except Exception:  # it needs other parameters
        return False
    leaves = jax.tree.leaves(state, is_leaf=lambda part: isinstance(part, optax.LookaheadState))
    return any(isinstance(leaf, optax.LookaheadState) for leaf in leaves)


def _not_finite(seen: Any) -> Any:
    return seen[~np.isfinite(seen)][0]


def _steps(
    optimizer: optax.GradientTransformation, count: int, grads: PyTree, params: PyTree
) -> PyTree:
    """The parameters after some updates by the same gradients."""
    opt_state = optimizer.init(params)

    def loss(params: PyTree) -> Any:
        return 1 + sum(jax.tree.leaves(jax.tree.map(jnp.vdot, grads, params)))

    for _ in range(count):  # some begin in another way than they go on
        updates, opt_state = update(optimizer, grads, opt_state, params, loss)
        params = jax.tree.map(jnp.add, params, updates)
    return params


def _probe(
    optimizer: optax.GradientTransformation, look: Callable[[Callable, Any], Any], ones: PyTree
) -> Any:
    """What `look(steps, ones)` sees of three updates of ones, in one vector, or None.

    An optimiser of another tree, or with a traced rate, shows nothing. One that searches along a
    line takes seconds to show its numbers, so that it is only traced.
    """
    steps = partial(partial, _steps, optimizer)
    with jax.ensure_compile_time_eval():
        try:
            if "while[" in str(jax.make_jaxpr(steps(1))(ones, ones)):
                jax.eval_shape(partial(look, steps(1)), ones)
                return None
            seen = look(steps(3), ones)
        except _NoDerivativeError:
            raise
        except Exception:  # it needs other parameters
            return None
        leaves = jax.tree.leaves(seen)
        if any(isinstance(leaf, Tracer) for leaf in leaves):
            return None
        return np.concatenate([np.ravel(leaf) for leaf in leaves])


def update(
    optimizer: optax.GradientTransformation,
    grads: PyTree,
    opt_state: PyTree,
    params: PyTree,
    value_fn: Callable[[PyTree], Scalar],
) -> tuple[PyTree, PyTree]:
    """The updates and the state after, with the loss for an optimiser that asks for it.

    Args:
        optimizer: any optax transformation.
        grads: of the parameters.
        opt_state: the state before.
        params: the parameters before.
        value_fn: the loss of parameters; it is traced only where it is asked for.

    Raises:
        ValueError: the optimiser asks for something else.
    """
    try:
        return optimizer.update(grads, opt_state, params)
    except TypeError as error:  # how an optimiser asks for it
        if "required keyword-only argument" not in str(error):
            raise
    known = {"value": value_fn(params), "grad": grads, "value_fn": value_fn}
    try:
        return optimizer.update(grads, opt_state, params, **known)
    except TypeError as error:
        raise ValueError(
            f"an optimiser can be given {', '.join(known)}; this one asks for more: {error}"
        ) from error


def with_noise_from(key: RandomKey, opt_state: PyTree) -> PyTree:
    """The state of an optimiser, its random keys replaced by ones that are folded from `key`.

    An optimiser's keys start the same in every task, and so would its noise be.
    """

    def folded(number: int, leaf: Any) -> Any:
        if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
            return jax.random.fold_in(key, number)
        return leaf

    leaves, structure = jax.tree.flatten(opt_state)
    return structure.unflatten([folded(*leaf) for leaf in enumerate(leaves)])
