"""What functions of tasks and models refuse, beside what `maml._checks` looks at."""

import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Integer


def as_path(value: Any, name: str) -> Path:
    """The path that a caller means, with the home folder in the place of `~`.

    Raises:
        ValueError: the value is neither a string nor a path.
    """
    if not isinstance(value, str | os.PathLike):
        raise ValueError(f"{name} must be a path; got {value!r}")
    return Path(value).expanduser()


def check_tokens(tokens: Integer[Array, "n time"], vocabulary: int | None = None) -> None:
    """Refuses what are no tokens. The values of traced tokens cannot be looked at, and pass.

    Raises:
        ValueError: they are no integers `[n, time]`, negative, or not below the vocabulary.
    """
    shape, dtype = jnp.shape(tokens), jnp.result_type(tokens)
    if len(shape) != 2 or not jnp.issubdtype(dtype, jnp.integer):
        raise ValueError(f"tokens must be integers [n, time]; got {dtype} {list(shape)}")
    if isinstance(tokens, Tracer) or 0 in shape:
        return
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or (vocabulary is not None and high >= vocabulary):
        most = "" if vocabulary is None else f" and below {vocabulary}"
        raise ValueError(f"tokens must be at least 0{most}; got tokens from {low} to {high}")


def nan_below_zero(tokens: Integer[Array, "n time"]) -> Integer[Array, "n time"]:
    """The same tokens, but negative ones beyond any vocabulary.

    JAX looks up NaN beyond the last row of a table, but counts negative rows from the end.
    """
    tokens = tokens.astype(jnp.promote_types(tokens.dtype, jnp.int32))
    return jnp.where(tokens < 0, jnp.iinfo(tokens.dtype).max, tokens)
