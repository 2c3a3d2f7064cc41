"""Checks of the arguments of tasks and models, in addition to those of `maml._checks`."""

import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Integer

from maml._leaves import is_number
from maml.batch_norm import Reference, parse_reference


def as_path(value: Any, name: str) -> Path:
    """A `Path` from a string or a path, with `~` expanded to the home folder.

    Raises:
        ValueError: the value is neither a string nor a path.
    """
    if not isinstance(value, str | os.PathLike):
        raise ValueError(f"{name} must be a path; got {value!r}")
    return Path(value).expanduser()


def check_seed(seed: Any) -> None:
    """Refuses a seed that is not an integer.

    Raises:
        ValueError: the seed is not an integer.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise ValueError(f"the seed must be an integer; got {seed!r}")


def check_shape(name: str, array: Any, shape: tuple[int, ...]) -> None:
    """Refuses a value that is not an array of numbers of this shape.

    Raises:
        ValueError: the value is not an array of numbers, or has another shape.
    """
    if not is_number(array):
        raise ValueError(f"{name} must be an array of numbers {list(shape)}; got {array!r}")
    if jnp.shape(array) != shape:
        raise ValueError(f"{name} must have the shape {shape}; got {jnp.shape(array)}")


def check_is(value: Any, name: str, kind: type) -> None:
    """Refuses a value of another type.

    Raises:
        ValueError: the value is not an instance of the type.
    """
    if not isinstance(value, kind):
        raise ValueError(f"{name} must be a {kind.__name__}; got {value!r}")


def check_images(x: Array, side: int, reference: Reference) -> None:
    """Refuses inputs of a network that are no images of at least `side` x `side` pixels.

    Raises:
        ValueError: the inputs have another shape, or there are fewer rows than `reference`.
    """
    shape = np.shape(x)
    if len(shape) != 4 or min(shape[1:3]) < side or shape[3] < 1:
        raise ValueError(
            f"images must be [n, height, width, channels], of {side}x{side} pixels or more;"
            f" got {list(shape)}"
        )
    parse_reference(reference, shape[0])  # refuses more reference rows than there are rows


def check_dtype(dtype: Any) -> None:
    """Refuses a type in which layers cannot compute; None is allowed.

    Raises:
        ValueError: the type is not a floating-point type.
    """
    try:
        is_floating = dtype is None or jnp.issubdtype(dtype, jnp.floating)
    except TypeError:
        is_floating = False
    if not is_floating:
        raise ValueError(f"dtype must be a floating-point type, or None; got {dtype!r}")


def check_tokens(tokens: Integer[Array, "n time"], vocabulary: int | None = None) -> None:
    """Refuses values that are not tokens; traced tokens pass, because their values are unknown.

    Raises:
        ValueError: the tokens are not integers `[n, time]`, are negative, or are not below the
            vocabulary.
    """
    if not is_number(tokens):
        raise ValueError(f"tokens must be integers [n, time]; got {tokens!r}")
    shape, dtype = jnp.shape(tokens), jnp.result_type(tokens)
    if len(shape) != 2 or not jnp.issubdtype(dtype, jnp.integer):
        raise ValueError(f"tokens must be integers [n, time]; got {dtype} {list(shape)}")
    if isinstance(tokens, Tracer) or 0 in shape:
        return
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or (vocabulary is not None and high >= vocabulary):
        bound = "" if vocabulary is None else f" and below {vocabulary}"
        raise ValueError(f"tokens must be at least 0{bound}; got tokens from {low} to {high}")


def nan_below_zero(tokens: Integer[Array, "n time"]) -> Integer[Array, "n time"]:
    """The tokens, with each negative token replaced by a number beyond any vocabulary.

    In JAX a lookup beyond the end of a table gives NaN, but a negative index counts from the end.
    """
    tokens = tokens.astype(jnp.promote_types(tokens.dtype, jnp.int32))
    return jnp.where(tokens < 0, jnp.iinfo(tokens.dtype).max, tokens)
