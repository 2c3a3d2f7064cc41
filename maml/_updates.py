"""The calls of optax transformations: their initial states, updates and random keys."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree, Scalar

from maml._contracts import check_shapes
from maml.types import RandomKey


def init_state(optimizer: optax.GradientTransformation, params: PyTree) -> PyTree:
    """The initial state of an optimiser.

    Raises:
        ValueError: the optimiser cannot be started with these parameters, as one with a mask or
            with labels of another tree.
    """
    try:
        return optimizer.init(params)
    except Exception as error:
        raise _misfit(params, error) from error


def _misfit(params: PyTree, error: Exception) -> ValueError:
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(params)]
    return ValueError(
        f"the optimiser must fit the parameters, with the leaves {', '.join(paths):.99}; got"
        f" {type(error).__name__}: {' '.join(str(error).split()):.300}"
    )


def update(
    optimizer: optax.GradientTransformation,
    grads: PyTree,
    opt_state: PyTree,
    params: PyTree,
    value_fn: Callable[[PyTree], Scalar],
) -> tuple[PyTree, PyTree]:
    """The updates and the next state; the loss is computed for an optimiser that needs it.

    Args:
        optimizer: Optax transformation.
        grads: Gradients of the parameters.
        opt_state: State of the optimiser before the update.
        params: Parameters before the update.
        value_fn: Loss as a function of the parameters, traced only if the optimiser needs it.

    Returns:
        The updates, to be added to the parameters, and the state after the update.

    Raises:
        ValueError: the optimiser needs another argument than `value`, `grad` and `value_fn`, or its
            updates do not fit the parameters.
    """
    out = _update(optimizer, grads, opt_state, params, value_fn)
    if not (isinstance(out, tuple) and len(out) == 2):
        raise ValueError(f"the update of an optimiser returns (updates, state); got {out!r}")
    check_shapes(out[0], params, "update of the optimiser")
    return out


def _update(
    optimizer: Any, grads: PyTree, opt_state: PyTree, params: PyTree, value_fn: Callable
) -> Any:
    try:
        return optimizer.update(grads, opt_state, params)
    except Exception as error:  # the call of an optimiser that needs further arguments fails so
        if not isinstance(error, TypeError) or "required keyword-only argument" not in str(error):
            raise _misfit(params, error) from error
    extra = {"value": value_fn(params), "grad": grads, "value_fn": value_fn}
    try:
        return optimizer.update(grads, opt_state, params, **extra)
    except TypeError as error:
        raise ValueError(
            f"an optimiser can use the arguments {', '.join(extra)}; this one needs others: {error}"
        ) from error


def reseed(key: RandomKey, opt_state: PyTree) -> PyTree:
    """The state of an optimiser, with random keys folded from `key` in place of its own.

    Otherwise every task would start with the same random key and draw the same noise.
    """

    def replace_key(number: int, leaf: Any) -> Any:
        if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
            return jax.random.fold_in(key, number)
        return leaf

    leaves, structure = jax.tree.flatten(opt_state)
    return structure.unflatten([replace_key(*leaf) for leaf in enumerate(leaves)])
