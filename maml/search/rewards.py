"""Rewards of child networks: their check, and those that are broken."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Real

from maml.rows import upcast

MAX_REWARD = 1e18  # largest reward; its sums and squares are finite in float32


def is_broken(rewards: Real[Array, "*child"]) -> Bool[Array, "*child"]:
    """Whether each reward is not finite, or has an absolute value above 1e18.

    >>> is_broken(jnp.array([0.5, -jnp.inf, jnp.nan, 1e38])).tolist()
    [False, True, True, True]
    """
    return ~(jnp.abs(upcast(rewards)) <= MAX_REWARD)


def best_child(rewards: Real[np.ndarray, "*run child"]) -> Int[np.ndarray, "*run"]:
    """The place of the highest reward of each search, the first of several; broken ones are none.

    Raises:
        ValueError: All rewards of a search are broken.

    >>> best_child(np.array([0.5, np.nan, 0.9])).item()
    2
    """
    broken = np.asarray(is_broken(jnp.asarray(rewards)))
    if broken.all(axis=-1).any():
        raise ValueError(
            "no child of a search has a finite reward, so none is the best; got"
            f" {rewards.shape[-1]} children"
        )
    return np.asarray(np.where(broken, -np.inf, rewards).argmax(axis=-1))


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
