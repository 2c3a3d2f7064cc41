"""Arrays of examples by class: checks of their counts and groups, and how they are scaled."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Integer

from maml._leaves import is_real


def check_finite(examples: Any, counts: np.ndarray | None) -> None:
    """Refuses a numpy array with an example that is not finite; those beyond the counts are free.

    Raises:
        ValueError: an example has NaN or infinity; the message has its class.
    """
    if not isinstance(examples, np.ndarray) or examples.dtype.kind != "f":
        return
    for row, each in enumerate(examples):
        used = each if counts is None else each[: counts[row]]
        if not np.isfinite(used).all():
            raise ValueError(f"examples must be finite; got NaN or infinity in class {row}")


def sizes_of(
    counts: np.ndarray, shape: tuple[int, ...], shots: int, queries: int
) -> Integer[Array, " class"]:
    """The numbers of examples, after a check that they are enough and there.

    Raises:
        ValueError: the counts are not integers, one for each class, or too small or too large.
    """
    if counts.shape != shape[:1] or not np.issubdtype(counts.dtype, np.integer):
        raise ValueError(
            f"counts must be integers, one for each of {shape[0]} classes; got {counts.dtype}"
            f" {list(counts.shape)}"
        )
    needed = shots + queries
    if (wrong := np.flatnonzero((counts < needed) | (counts > shape[1]))).size:
        raise ValueError(
            f"{shots} shots + {queries} queries need {needed} examples or more of each class, and"
            f" the array has {shape[1]}; got counts of {counts[wrong[0]]} for class {wrong[0]}"
        )
    return jnp.asarray(counts)


def members_of(groups: np.ndarray, classes: int, ways: int) -> Bool[Array, "group class"]:
    """The classes of each group that has enough of them.

    Raises:
        ValueError: the groups are not integers, one for each class, or no group has enough classes.
    """
    if groups.shape != (classes,) or not np.issubdtype(groups.dtype, np.integer):
        raise ValueError(
            f"groups must be integers, one for each of {classes} classes; got {groups.dtype}"
            f" {list(groups.shape)}"
        )
    numbers, counts = np.unique(groups, return_counts=True)
    if counts.max() < ways:
        raise ValueError(f"{ways} ways need a group of as many classes; got {counts.max()} at most")
    return jnp.asarray(groups == numbers[counts >= ways, None])


def parse_scaling(normalise: Any, example: tuple[int, ...]) -> tuple[Array, Array]:
    """Mean and standard deviation as arrays, after a check that examples allow them.

    Raises:
        ValueError: they are not a pair of finite numbers or arrays that fit an example, or a
            deviation is not > 0.
    """
    pair = isinstance(normalise, tuple | list) and len(normalise) == 2
    if not pair or not all(map(is_real, normalise)):
        raise ValueError(
            f"normalise must be a mean and a standard deviation; got {normalise!r:.99}"
        )
    mean, std = (np.asarray(value, np.float32) for value in normalise)
    try:
        fits = np.broadcast_shapes(mean.shape, std.shape, example) == example
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"normalise must broadcast against an example, {list(example)}; got"
            f" {list(mean.shape)} and {list(std.shape)}"
        )
    if not (np.isfinite(mean).all() and (std > 0).all() and np.isfinite(std).all()):
        raise ValueError(f"a standard deviation must be > 0, and both finite; got {mean}, {std}")
    return jnp.asarray(mean), jnp.asarray(std)


def scale(images: Array, scaling: tuple[Array, Array] | None) -> Array:
    """The images minus the mean, divided by the deviation; None leaves them as they are."""
    return images if scaling is None else (images - scaling[0]) / scaling[1]
