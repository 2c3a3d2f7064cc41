"""Checks of losses, learners, states and trees, the values that parts of the library exchange.

As in `maml._checks`, a check reads only Python values, shapes and types.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree

from maml._checks import check_callable, check_count, check_flags
from maml._leaves import is_array, is_inexact, is_number, path_name
from maml.types import (
    Algorithm,
    Batch,
    Episode,
    Inner,
    LossFn,
    MetaGradient,
    MetaState,
    Params,
)


def check_loss(loss: LossFn, name: str = "loss") -> None:
    """Refuses a loss that cannot be called as `loss(params, batch, key)`.

    Raises:
        ValueError: the loss is not a function, or takes other arguments.
    """
    check_callable(loss, name, "params, batch, key")


def check_learner(learner: Any) -> None:
    """Refuses a learner that cannot be called as `learner(meta_params)`.

    Raises:
        ValueError: the learner is not a function, or takes other arguments.
    """
    check_callable(learner, "learner", "meta_params")


def check_inner(inner: Any) -> None:
    """Refuses a result of a learner that is not an `Inner`.

    Raises:
        ValueError: the value is not an `Inner`, or its members have other types.
    """
    if not isinstance(inner, Inner):
        raise ValueError(
            "a learner returns an Inner, such as that of maml.gradient_descent; got"
            f" {type(inner).__name__}"
        )
    check_callable(inner.step, "the step of an Inner", "state, batch, key")
    check_callable(inner.params, "params of an Inner", "state")
    if inner.scored_step is not None:
        check_callable(inner.scored_step, "the scored step of an Inner", "state, batch, key")
    check_flags(remat=inner.remat)
    if inner.begin is not None:
        check_callable(inner.begin, "begin of an Inner", "state, batch, key")


def check_episode(episodes: Any) -> None:
    """Refuses a value that is not an `Episode`, such as a tuple.

    Raises:
        ValueError: the value is not an `Episode`.
    """
    if not isinstance(episodes, Episode):
        raise ValueError(
            f"the episodes must be an Episode of arrays; got {type(episodes).__name__}"
        )


def query_of(episode: Episode) -> Batch:
    """The query set of an episode.

    Raises:
        ValueError: the episode has none.
    """
    if not jax.tree.leaves(episode.query):
        raise ValueError(f"episodes need a query set; got {episode.query!r}")
    return episode.query


def check_gradient(grad: Any) -> None:
    """Refuses a value that is not a `MetaGradient` with either an objective or a gradient.

    Raises:
        ValueError: the value is not a `MetaGradient`, or its functions are refused.
    """
    if not isinstance(grad, MetaGradient):
        raise ValueError(
            "the meta-gradient must be a MetaGradient, such as the result of maml.unrolled or"
            f" maml.MetaGradient(gradient=f); got {type(grad).__name__}"
        )
    if (grad.objective is None) == (grad.gradient is None):
        raise ValueError(
            f"a MetaGradient must have exactly one of objective and gradient; got {grad}"
        )
    if grad.gradient is not None:
        check_callable(grad.gradient, "the gradient", "meta_params, episode, key")
    if grad.objective is not None:
        check_callable(grad.objective, "the objective", "meta_params, episode, key, step")
    check_count(grad.early_steps, least=0, of="meta-steps of early")
    if grad.early is None:
        if grad.early_steps:
            raise ValueError(f"early_steps must be 0 without early; got {grad.early_steps}")
        return
    check_gradient(grad.early)
    if grad.early.early is not None:
        raise ValueError(f"the early meta-gradient must have no early of its own; got {grad.early}")


def check_meta_params(meta_params: Any) -> None:
    """Refuses a `MetaState` where its parameters are expected.

    Raises:
        ValueError: the value is a `MetaState`.
    """
    if isinstance(meta_params, MetaState):
        raise ValueError("the meta-parameters are a tree of arrays; got a MetaState: pass .params")


def check_type(meta_params: Any, kind: type) -> None:
    """Refuses the parameters of a model where an algorithm has other meta-parameters.

    Raises:
        ValueError: the value is not of this type.
    """
    if not isinstance(meta_params, kind):
        raise ValueError(
            f"the meta-parameters must be a {kind.__name__}, such as the result of algorithm.init;"
            f" got {type(meta_params).__name__}"
        )


def check_algorithm(algorithm: Any) -> None:
    """Refuses a value that is not an `Algorithm`.

    Raises:
        ValueError: the value is not an `Algorithm`, or its meta-gradient is refused.
    """
    if not isinstance(algorithm, Algorithm):
        raise ValueError(
            "the algorithm must be an Algorithm, such as the result of maml.maml; got"
            f" {type(algorithm).__name__}"
        )
    check_gradient(algorithm.grad)
    check_callable(algorithm.init, "init of an Algorithm", "params")
    check_learner(algorithm.learner)


def check_state(state: Any) -> None:
    """Refuses a value that is not a `MetaState`, or whose step is not a count.

    Raises:
        ValueError: the value is not a `MetaState`, or its step is not an integer >= 0.
    """
    if not isinstance(state, MetaState):
        raise ValueError(
            "the state must be a MetaState, such as the result of maml.init; got"
            f" {type(state).__name__}"
        )
    check_step(state.step, "the step of a MetaState")


def check_step(step: Any, name: str = "the step") -> None:
    """Refuses a value that is not a number of meta-steps.

    Raises:
        ValueError: the value is not one integer >= 0 that an int32 can hold.
    """
    is_integer = is_number(step) and jnp.issubdtype(getattr(step, "dtype", type(step)), jnp.integer)
    is_count = is_integer and jnp.shape(step) == ()
    if is_count and (isinstance(step, Tracer) or 0 <= int(step) < 2**31):
        return
    raise ValueError(f"{name} must be an integer >= 0 and < 2**31; got {step!r}")


def check_params(params: Params) -> None:
    """Refuses parameters without a leaf that can be learned.

    Raises:
        ValueError: no leaf is floating-point, a leaf is not an array of numbers, or the value is a
            `MetaState`.
    """
    check_meta_params(params)
    leaves = jax.tree.leaves_with_path(params)
    for path, leaf in leaves:
        if not is_array(leaf) or getattr(leaf, "dtype", None) == np.dtype(object):
            raise ValueError(
                f"parameters are arrays of numbers; got {leaf!r:.99} at {path_name(path)}"
            )
    if not any(is_inexact(leaf) for _, leaf in leaves):
        raise ValueError(f"parameters need a floating-point leaf to learn; got {params!r:.99}")


def check_mask(
    mask: PyTree, params: PyTree | None = None, name: str = "mask", *, some: bool = True
) -> None:
    """Refuses a mask that is not a tree of bools like the parameters.

    Args:
        mask: Tree of bools, True at the selected leaves.
        params: Tree whose structure the mask must have; None leaves the structure unchecked.
        name: Name of the mask in the error.
        some: Whether at least one leaf must be True.

    Raises:
        ValueError: the structures differ, a leaf is not True or False, or every leaf is False.
    """
    structure, expected = jax.tree.structure(mask), jax.tree.structure(params)
    if params is not None and structure != expected:
        raise ValueError(
            f"the {name} has the structure {structure}; the parameters have {expected}"
        )
    for path, leaf in jax.tree.leaves_with_path(mask):
        if not isinstance(leaf, bool | np.bool_):
            raise ValueError(f"the {name} must be True or False at {path_name(path)}; got {leaf!r}")
    if some and not any(jax.tree.leaves(mask)):
        raise ValueError(f"the {name} is False everywhere and selects no leaf; got {mask!r:.99}")


def check_shapes(tree: PyTree, params: Params, name: str, others: str = "parameters have") -> None:
    """Refuses a tree whose leaves do not have the shapes of the parameters.

    Raises:
        ValueError: the structure is another one, or a shape, with the name of the leaf and both.
    """
    structure, expected = jax.tree.structure(tree), jax.tree.structure(params)
    if structure != expected:
        raise ValueError(f"the {name} has the structure {structure}; the {others} {expected}")
    leaves = zip(jax.tree.leaves_with_path(tree), jax.tree.leaves(params), strict=True)
    for (path, leaf), param in leaves:
        if jnp.shape(leaf) != jnp.shape(param):
            raise ValueError(
                f"the {name} has the shape {jnp.shape(leaf)} at {path_name(path)}; the"
                f" {others} {jnp.shape(param)}"
            )


def check_floating(params: Params, mask: PyTree[bool], name: str = "mask") -> None:
    """Refuses a mask that is True at a leaf without a derivative, such as an integer or a key.

    Raises:
        ValueError: such a leaf is selected; the error names the leaf and its type.
    """
    for (path, leaf), selected in zip(
        jax.tree.leaves_with_path(params), jax.tree.leaves(mask), strict=True
    ):
        if selected and not is_inexact(leaf):
            raise ValueError(
                f"only floating-point leaves can adapt; got {jnp.asarray(leaf).dtype} at"
                f" {path_name(path)}: let the {name} be False there"
            )
