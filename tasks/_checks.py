"""Checks of the arguments of tasks and models, in addition to those of `maml._checks`."""

import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Integer


def as_path(value: Any, name: str) -> Path:
    """A `Path` from a string or a path, with `~` expanded to the home folder.

    Raises:
        ValueError: the value is neither a string nor a path.
    """
    if not isinstance(value, str | os.PathLike):
        raise ValueError(f"{name} must be a path; got {value!r}")
    return Path(value).expanduser()


def check_tokens(tokens: Integer[Array, "n time"], vocabulary: int | None = None) -> None:
    """Refuses values that are not tokens; traced tokens pass, because their values are unknown.

    Raises:
        ValueError: the tokens are not integers `[n, time]`, are negative, or are not below the
            vocabulary.
    """
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
