"""Rewards of child networks: their check, and those that are broken."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Real

from maml.rows import upcast

MAX_REWARD = 1e18  # largest reward; its sums and squares are finite in float32


def is_broken(rewards: Real[Array, "*child"]) -> Bool[Array, "*child"]:
    """Whether each reward is not finite, or has an absolute value above 1e18.

    >>> is_broken(jnp.array([0.5, -jnp.inf, jnp.nan, 1e38])).tolist()
    [False, True, True, True]
    """
    return ~(jnp.abs(upcast(rewards)) <= MAX_REWARD)


def check_reward(reward: Any, *, children: tuple[int, ...] = ()) -> None:
    """Refuses a value that is not one real number for each child; NaN, for a broken child, passes.

    Args:
        reward: Value to check.
        children: Expected shape, `(children,)` for a batch and `()` for one child.

    Raises:
        ValueError: the value is a string, a bool or complex, or has another shape.
    """
    try:
        array = reward if isinstance(reward, jax.Array) else np.asarray(reward)
    except ValueError as error:  # lists of several lengths
        raise ValueError(f"a reward must be a real number; got {reward!r}") from error
    if array.shape != children:
        expected = f"an array of {children}, one for each child" if children else "one number"
        raise ValueError(f"a reward must be {expected}; got an array of {array.shape}")
    if not any(jnp.issubdtype(array.dtype, kind) for kind in (np.integer, np.floating)):
        raise ValueError(f"a reward must be a real number; got {reward!r}")
