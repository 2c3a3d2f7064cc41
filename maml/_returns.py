"""Checks of the results of a user's functions, made while they are traced."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from maml._contracts import check_shapes
from maml._leaves import is_array, is_inexact, is_number, is_real, path_name
from maml.types import (
    Batch,
    LossFn,
    Metrics,
    Params,
    RandomKey,
)


def checked_loss(loss: LossFn) -> LossFn:
    """The same loss, which checks while it is traced that it returns `(scalar, metrics)`.

    Raises:
        ValueError: (when traced) the loss returns a vector, an integer, a complex number, metrics
            that are not numbers, or no pair.
    """

    def checked_loss(params: Params, batch: Batch, key: RandomKey) -> tuple[Any, Metrics]:
        return _checked_pair(loss(params, batch, key), "a loss")

    return checked_loss


def checked_carry(objective: Callable) -> Callable:
    """The same objective, which checks while it is traced that its metrics are a carry and metrics.

    Raises:
        ValueError: (when traced) the objective does not return `(scalar, (carry, metrics))`.
    """

    def checked_carry(*args: Any) -> tuple[Any, tuple[PyTree, Metrics]]:
        value, metrics = objective(*args)
        if not (isinstance(metrics, tuple) and len(metrics) == 2):
            raise ValueError(
                "the loss of a chunk must return (scalar, (carry, metrics)); got (scalar,"
                f" {type(metrics).__name__})"
            )
        return value, metrics

    return checked_carry


def checked_objective(objective: Callable | None) -> Callable | None:
    """The same objective, checked as by `checked_loss`, with metrics by name that have a mean."""
    if objective is None:
        return None

    def checked_objective(*task: Any) -> tuple[Any, Metrics]:
        value, metrics = _checked_pair(objective(*task), "an objective")
        check_metrics(metrics)
        return value, metrics

    return checked_objective


def _checked_pair(out: Any, name: str) -> tuple[Any, Metrics]:
    if not (isinstance(out, tuple) and len(out) == 2):
        raise ValueError(f"{name} returns (scalar, metrics); got {type(out).__name__}")
    value, metrics = out
    if not is_number(value):
        raise ValueError(f"{name} returns one number; got {value!r}")
    if jnp.shape(value) != ():
        raise ValueError(f"{name} returns one number; got an array of {jnp.shape(value)}")
    if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        raise ValueError(
            f"{name} returns a real floating-point number; got {jnp.result_type(value)}"
        )
    _check_leaves(metrics, is_array, f"the metrics of {name} are numbers")
    return out


def check_metrics(metrics: Any) -> None:
    """Refuses metrics of a meta-gradient or an objective that are not numbers by name.

    Raises:
        ValueError: the metrics are not a dictionary, or a leaf is not a number.
    """
    if not isinstance(metrics, dict):
        raise ValueError(
            "the metrics of a meta-gradient or an objective are a dictionary; got"
            f" {type(metrics).__name__}"
        )
    _check_leaves(metrics, is_number, "the metrics of a meta-gradient are numbers")


def as_array(out: Any, name: str) -> Array:
    """The result of a model as an array.

    Raises:
        ValueError: the result is not a number or an array of numbers.
    """
    if not is_number(out):
        raise ValueError(f"{name} must return an array of numbers; got {out!r}")
    return jnp.asarray(out)


def check_pair(out: PyTree, name: str, members: str) -> tuple[Any, Any]:
    """The result of a function, if it is a pair.

    Raises:
        ValueError: the result is not a tuple of two members.
    """
    if not (isinstance(out, tuple) and len(out) == 2):
        raise ValueError(f"{name} must return ({members}); got {type(out).__name__}")
    return out


def checked_number(function: Callable[..., Any], name: str) -> Callable[..., Array]:
    """The same function, which checks while it is traced that it returns one real number.

    Raises:
        ValueError: (when traced) the function returns something else.
    """

    def checked_function(*args: Any) -> Array:
        value = function(*args)
        if not is_real(value) or jnp.shape(value) != ():
            raise ValueError(f"{name} must return one real number; got {value!r}")
        return jnp.asarray(value)

    return checked_function


def check_arrays(out: PyTree, name: str) -> None:
    """Refuses the result of a function that has other leaves than numbers and arrays.

    Raises:
        ValueError: a leaf is not a number, an array of numbers or a key.
    """
    _check_leaves(
        out, lambda leaf: isinstance(leaf, jax.Array) or is_number(leaf), f"{name} returns arrays"
    )


def _check_leaves(tree: PyTree, holds: Callable[[Any], bool], rule: str) -> None:
    for path, leaf in jax.tree.leaves_with_path(tree):
        if not holds(leaf):
            raise ValueError(f"{rule}; got {leaf!r} at {path_name(path)}")


def check_same_structure(after: PyTree, before: PyTree, name: str) -> None:
    """Refuses a state that has another structure, or other shapes or types, than the one before.

    Raises:
        ValueError: the structure differs, or a shape, or a type other than that of a weakly typed
            leaf, such as a Python number.
    """
    check_shapes(after, before, name, "state before it has")
    leaves = zip(jax.tree.leaves_with_path(after), jax.tree.leaves(before), strict=True)
    for (path, new), old in leaves:
        weak = any(getattr(leaf, "weak_type", True) for leaf in (new, old))
        if _kind(new) != _kind(old) if weak else new.dtype != old.dtype:
            raise ValueError(
                f"the {name} has {jnp.result_type(new)} at {path_name(path)}; the state before it"
                f" has {jnp.result_type(old)}"
            )


def _kind(leaf: Any) -> tuple[bool, bool]:
    return is_inexact(leaf), jnp.issubdtype(jnp.result_type(leaf), jnp.complexfloating)
