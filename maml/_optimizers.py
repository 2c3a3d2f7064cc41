"""What is asked of an optax transformation, and what it is given.

Whether an optimiser can be trusted shows in its first update of a small matrix, which is computed
once, when an algorithm is built.
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


def check_optimizer(optimizer: optax.GradientTransformation) -> None:
    """Refuses what is not an optax transformation of a tree of parameters, or has a rate of NaN.

    Raises:
        ValueError: `optimizer` has no `init` and `update`, is `optax.MultiSteps` itself or
            `optax.lookahead`, or its update of a gradient of ones is not finite.
    """
    if isinstance(optimizer, optax.MultiSteps):
        raise ValueError(
            "optax.MultiSteps is not itself a transformation: pass"
            " optax.MultiSteps(...).gradient_transformation()"
        )
    if not isinstance(optimizer, optax.GradientTransformation):
        raise ValueError(f"the optimiser must be an optax transformation; got {optimizer!r}")
    if "lookahead" in getattr(optimizer.init, "__qualname__", ""):
        raise ValueError(
            "optax.lookahead keeps a second set of parameters, for which neither loop has a place;"
            " maml.reptile moves slow parameters towards fast ones"
        )
    step = _probe(optimizer, lambda steps, ones: steps(ones, ones))
    if step is not None and not np.isfinite(step).all():
        raise ValueError(f"the optimiser makes {step[0, 0]} of gradients of 1; see its rate")


def check_differentiable(
    optimizer: optax.GradientTransformation, *, first_order: bool = False
) -> None:
    """Refuses an inner optimiser through which no meta-gradient can be taken.

    Behind a ReLU that is off a gradient is exactly zero. There the derivatives of Adam, of its
    relatives without `eps_root`, and of clipping by `optax.clip_by_global_norm` are NaN.

    Args:
        optimizer: the inner one.
        first_order: whether the gradients that it is given are constants.

    Raises:
        ValueError: the derivative of the update is not finite at gradients of zero, or there is no
            derivative in reverse mode.
    """

    def slope(steps: Callable[[Any, Any], Any], ones: Any) -> Any:
        try:
            by_grads, _ = jax.vjp(steps, 0 * ones, ones)[1](ones)
        except ValueError as error:
            if "Reverse-mode" not in str(error):
                raise
            raise _NoDerivativeError from error
        return by_grads

    try:
        derivative = _probe(optimizer, slope)
    except _NoDerivativeError as error:
        raise ValueError(
            "the inner optimiser searches along a line, a loop that has no derivative in reverse"
            " mode; use it with maml.reptile or maml.imaml, or outside"
        ) from error
    if derivative is not None and not first_order and not np.isfinite(derivative).all():
        raise ValueError(
            f"the derivative of the inner optimiser's update is {derivative[0, 0]} where a gradient"
            " is zero, as it is behind a ReLU that is off, and so would be the meta-gradient: give"
            " Adam and its relatives eps_root=1e-8, and clip by maml.clip_by_global_norm"
        )


class _NoDerivativeError(Exception):
    pass


def _probe(optimizer: optax.GradientTransformation, look: Callable[[Callable, Any], Any]) -> Any:
    """What `look(steps, ones)` sees of three updates of a matrix of ones, or None.

    An optimiser of a tree with names, or with a traced rate, shows nothing. One that searches along
    a line takes seconds to show its numbers, so that it is only traced.
    """

    def steps(count: int) -> Callable[[Any, Any], Any]:
        def taken(grads: Any, params: Any) -> Any:
            opt_state = optimizer.init(params)
            for _ in range(count):  # some begin in another way than they go on
                loss = lambda params: jnp.vdot(grads, params) + 1  # noqa: E731
                updates, opt_state = update(optimizer, grads, opt_state, params, loss)
                params = params + updates
            return params

        return taken

    ones = np.ones((2, 2), np.float32)
    with jax.ensure_compile_time_eval():
        try:
            if "while[" in str(jax.make_jaxpr(steps(1))(ones, ones)):
                jax.eval_shape(partial(look, steps(1)), ones)
                return None
            seen = look(steps(3), ones)
        except _NoDerivativeError:
            raise
        except Exception:  # it needs other parameters than a matrix: which are not known yet
            return None
        return None if isinstance(seen, Tracer) else np.asarray(seen)


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
