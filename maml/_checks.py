"""Checks of single arguments: counts, numbers, flags, functions and keys.

A check looks at Python values, shapes and types alone: it runs while a program is traced, and costs
nothing when the program runs. A value that is traced cannot be looked at, and passes.
"""

import inspect
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def check_count(count: int, *, least: int, of: str = "steps") -> None:
    """Refuses a count that is not a Python or numpy integer, or is below the least.

    Raises:
        ValueError: the count is a bool, a float, an array or too small.
    """
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < least:
        raise ValueError(f"the number of {of} must be an integer >= {least}; got {count!r}")


def check_counts(**counts: int) -> None:
    """Refuses a count that is not an integer of at least 1, by the name of its argument.

    Raises:
        ValueError: as `check_count`.
    """
    for name, count in counts.items():
        check_count(count, least=1, of=name)


def check_flags(**flags: bool) -> None:
    """Refuses an option that is not True or False, such as None or 1, by its name.

    Raises:
        ValueError: saying which one.
    """
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise ValueError(f"{name} must be True or False; got {flag!r}")


def check_number(
    value: Any,
    name: str,
    *,
    above: int | float = -math.inf,
    least: int | float = -math.inf,
    below: int | float = math.inf,
    most: int | float = math.inf,
) -> None:
    """Refuses a value that is not one finite real number in the given range.

    Args:
        value: A Python or numpy number, or an array of no dimensions; a traced one passes.
        name: What the error calls it.
        above: Exclusive lower bound.
        least: Inclusive lower bound.
        below: Exclusive upper bound.
        most: Inclusive upper bound.

    Raises:
        ValueError: the value is a bool, a string, complex, an array, not finite or out of range.
    """
    if isinstance(value, Tracer):
        return
    if (
        _is_real(value)
        and math.isfinite(value)
        and above < value < below
        and least <= value <= most
    ):
        return
    bounds = {">": above, ">=": least, "<": below, "<=": most}
    given = [f"{sign} {bound}" for sign, bound in bounds.items() if abs(bound) < math.inf]
    wanted = " and ".join(given)
    raise ValueError(f"{name} must be a finite number {wanted}".rstrip() + f"; got {value!r}")


def _is_real(value: Any) -> bool:
    dtype = getattr(value, "dtype", np.dtype(type(value)))
    kinds = np.integer, np.floating
    return np.shape(value) == () and any(jnp.issubdtype(dtype, kind) for kind in kinds)


def check_callable(function: Any, name: str, arguments: str) -> None:
    """Refuses what cannot be called with as many arguments as are named.

    Args:
        function: Any value.
        name: What the error calls it.
        arguments: The positional arguments it is called with, such as `"params, batch, key"`.

    Raises:
        ValueError: it is no function, or one of other arguments.
    """
    if not callable(function):
        raise ValueError(f"{name} must be a function of ({arguments}); got {function!r}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some built-in functions have none
        return
    try:
        signature.bind(*arguments.split(", "))
    except TypeError as error:
        raise ValueError(
            f"{name} must be a function of ({arguments}); got one of {signature}"
        ) from error


def check_key(key: Any, name: str = "key") -> None:
    """Refuses what is not one random key, as `jax.random.key` makes it.

    Raises:
        ValueError: it is a seed, a key of the old kind, or a batch of keys.
    """
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
    if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        got = repr(key) if dtype is None else f"an array of {dtype}{list(shape or ())}"
        raise ValueError(f"{name} must be a key as jax.random.key(seed) makes it; got {got}")
    if shape != ():
        raise ValueError(f"{name} must be one key; got a batch of keys of shape {shape}")
