"""The kinds of the leaves of a tree, by their types alone."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def is_array(leaf: Any) -> bool:
    """Whether a leaf is a Python number, a numpy array or a JAX array."""
    return isinstance(leaf, bool | int | float | complex | np.generic | np.ndarray | jax.Array)


def is_number(leaf: Any) -> bool:
    """Whether a leaf is a number or an array of numbers or bools, and no random key."""
    kinds = np.number, np.bool_
    dtype = getattr(leaf, "dtype", np.dtype(type(leaf)))
    return is_array(leaf) and any(jnp.issubdtype(dtype, kind) for kind in kinds)


def is_real(leaf: Any) -> bool:
    """Whether a leaf is a real number or an array of real numbers, and no bool."""
    kinds = jnp.integer, jnp.floating
    return is_number(leaf) and any(jnp.issubdtype(jnp.result_type(leaf), kind) for kind in kinds)


def is_inexact(leaf: Any) -> bool:
    """Whether a leaf is a floating-point or complex number or array, and so has a derivative.

    >>> is_inexact(1.0), is_inexact(jnp.arange(3)), is_inexact(jax.random.key(0))
    (True, False, False)
    """
    return bool(jnp.issubdtype(jnp.result_type(leaf), jnp.inexact))


def path_name(path: tuple) -> str:
    """The path of a leaf in an error."""
    return repr(jax.tree_util.keystr(path, simple=True, separator="/") or "the only leaf")
