"""Checks of what is passed between the parts of the library: losses, learners, states and trees.

As in `maml._checks`, only Python values, shapes and types are looked at.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree

from maml._checks import check_callable
from maml.types import (
    Algorithm,
    Batch,
    Inner,
    LossFn,
    MetaGradient,
    MetaState,
    Metrics,
    Params,
    RandomKey,
)


def check_loss(loss: LossFn, name: str = "loss") -> None:
    """Refuses a loss that cannot be called as `loss(params, batch, key)`.

    Raises:
        ValueError: it is no function, or one of other arguments.
    """
    check_callable(loss, name, "params, batch, key")


def checked(loss: LossFn) -> LossFn:
    """The same loss, refused while it is traced unless it returns `(scalar, metrics)`.

    Raises:
        ValueError: the loss returns something else: a vector of losses, an integer or complex
            value, or metrics that are no arrays.
    """

    def checked_loss(params: Params, batch: Batch, key: RandomKey) -> tuple[Any, Metrics]:
        out = loss(params, batch, key)
        if not (isinstance(out, tuple) and len(out) == 2):
            raise ValueError(f"a loss returns (scalar, metrics); got {type(out).__name__}")
        value, metrics = out
        if not is_array(value):
            raise ValueError(f"a loss returns one number; got {value!r}")
        if jnp.shape(value) != ():
            raise ValueError(f"a loss returns one number; got an array of {jnp.shape(value)}")
        if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            raise ValueError(
                f"a loss returns a real floating-point number; got {jnp.result_type(value)}"
            )
        for path, leaf in jax.tree.leaves_with_path(metrics):
            if not is_array(leaf):
                raise ValueError(
                    f"the metrics of a loss are numbers; got {leaf!r} at {_name(path)}"
                )
        return out

    return checked_loss


def is_array(leaf: Any) -> bool:
    return isinstance(leaf, bool | int | float | complex | np.generic | np.ndarray | jax.Array)


def is_number(leaf: Any) -> bool:
    """Whether a leaf is a number or an array of numbers, and no random key."""
    return is_array(leaf) and not jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)


def check_learner(learner: Any) -> None:
    """Refuses a learner that cannot be called as `learner(meta_params)`.

    Raises:
        ValueError: it is no function, or one of other arguments.
    """
    check_callable(learner, "learner", "meta_params")


def check_inner(inner: Any) -> None:
    """Refuses what is not an `Inner`, as a learner returns it.

    Raises:
        ValueError: saying what a learner has to return.
    """
    if not isinstance(inner, Inner):
        raise ValueError(
            "a learner returns an Inner, as maml.gradient_descent makes it; got"
            f" {type(inner).__name__}"
        )


def check_gradient(grad: Any) -> None:
    """Refuses what is not a `MetaGradient` with either an objective or a gradient.

    Raises:
        ValueError: saying how one is made.
    """
    if not isinstance(grad, MetaGradient):
        raise ValueError(
            "a MetaGradient is wanted, as maml.unrolled makes it or maml.MetaGradient(gradient=f);"
            f" got {grad!r}"
        )
    if (grad.objective is None) == (grad.gradient is None):
        raise ValueError(f"a MetaGradient has an objective or a gradient, one of them; got {grad}")
    if grad.gradient is not None:
        check_callable(grad.gradient, "the gradient", "meta_params, episode, key")
    if grad.objective is not None:
        check_callable(grad.objective, "the objective", "meta_params, episode, key, step")
    if grad.early is not None:
        check_gradient(grad.early)


def check_meta_params(meta_params: Any) -> None:
    """Refuses a `MetaState` in the place of its parameters.

    Raises:
        ValueError: saying which field is wanted.
    """
    if isinstance(meta_params, MetaState):
        raise ValueError("meta-parameters are wanted; got a MetaState: pass its .params")


def check_algorithm(algorithm: Any) -> None:
    """Refuses what is not an `Algorithm`.

    Raises:
        ValueError: saying how one is made.
    """
    if not isinstance(algorithm, Algorithm):
        raise ValueError(
            f"an Algorithm is wanted, as maml.maml makes it; got {type(algorithm).__name__}"
        )
    check_gradient(algorithm.grad)


def check_state(state: Any) -> None:
    """Refuses what is not a `MetaState`, or has a step that is no count.

    Raises:
        ValueError: saying how one is made, or what its step is.
    """
    if not isinstance(state, MetaState):
        raise ValueError(
            f"a MetaState is wanted, as maml.init makes it; got {type(state).__name__}"
        )
    step = state.step
    whole = jnp.shape(step) == () and jnp.issubdtype(jnp.result_type(step), jnp.integer)
    if not whole or not (isinstance(step, Tracer) or step >= 0):
        raise ValueError(f"the step of a MetaState must be an integer >= 0; got {step!r}")


def check_params(params: Params) -> None:
    """Refuses parameters of which nothing can be learned.

    Raises:
        ValueError: no leaf is floating-point, or a leaf is no array.
    """
    leaves = jax.tree.leaves_with_path(params)
    for path, leaf in leaves:
        if not is_array(leaf) or getattr(leaf, "dtype", None) == np.dtype(object):
            raise ValueError(f"parameters are arrays of numbers; got {leaf!r} at {_name(path)}")
    if not any(is_inexact(leaf) for _, leaf in leaves):
        raise ValueError(f"parameters need a floating-point leaf to learn; got {params!r}")


def check_mask(
    mask: PyTree, params: PyTree | None = None, name: str = "mask", *, some: bool = True
) -> None:
    """Refuses a mask that is not a tree of bools like the parameters.

    Args:
        mask: True where a leaf is chosen.
        params: The tree that it is a mask of; None leaves the structure unchecked.
        name: What the error calls it.
        some: Whether it has to choose at least one leaf.

    Raises:
        ValueError: the structure is another one, a leaf is not True or False, or none is True.
    """
    got, wanted = jax.tree.structure(mask), jax.tree.structure(params)
    if params is not None and got != wanted:
        raise ValueError(f"the {name} has the structure {got}; the parameters have {wanted}")
    for path, leaf in jax.tree.leaves_with_path(mask):
        if not isinstance(leaf, bool | np.bool_):
            raise ValueError(f"the {name} must be True or False at {_name(path)}; got {leaf!r}")
    if some and not any(jax.tree.leaves(mask)):
        raise ValueError(f"the {name} is False everywhere, so that nothing is chosen; got {mask!r}")


def check_shapes(tree: PyTree, params: Params, name: str) -> None:
    """Refuses a tree whose leaves do not have the shapes of the parameters.

    Raises:
        ValueError: the structure is another one, or a shape, with the name of the leaf and both.
    """
    got, wanted = jax.tree.structure(tree), jax.tree.structure(params)
    if got != wanted:
        raise ValueError(f"the {name} has the structure {got}; the parameters have {wanted}")
    leaves = zip(jax.tree.leaves_with_path(tree), jax.tree.leaves(params), strict=True)
    for (path, leaf), param in leaves:
        if jnp.shape(leaf) != jnp.shape(param):
            raise ValueError(
                f"the {name} has the shape {jnp.shape(leaf)} at {_name(path)}; the parameters have"
                f" {jnp.shape(param)}"
            )


def check_floating(params: Params, mask: PyTree[bool], name: str = "mask") -> None:
    """Refuses an integer, a key or another leaf that has no derivative where the mask is True.

    Raises:
        ValueError: naming the leaf, its type, and the way out.
    """
    for (path, leaf), chosen in zip(
        jax.tree.leaves_with_path(params), jax.tree.leaves(mask), strict=True
    ):
        if chosen and not is_inexact(leaf):
            raise ValueError(
                f"only floating-point leaves can adapt; got {jnp.asarray(leaf).dtype} at"
                f" {_name(path)}: let the {name} be False there"
            )


def is_inexact(leaf: Any) -> bool:
    """Whether a leaf is a floating-point or complex number or array, and so has a derivative.

    >>> is_inexact(1.0), is_inexact(jnp.arange(3)), is_inexact(jax.random.key(0))
    (True, False, False)
    """
    return bool(jnp.issubdtype(jnp.result_type(leaf), jnp.inexact))


def _name(path: tuple) -> str:
    return repr(jax.tree_util.keystr(path, simple=True, separator="/") or "the only leaf")
