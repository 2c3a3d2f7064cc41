"""Checks of single arguments: counts, numbers, flags, functions and keys.

A check reads only Python values, shapes and types. It runs while a program is traced, and costs
nothing when the program runs. The values of traced arrays are unknown, so they pass every check.
"""

import inspect
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def check_count(count: int, *, least: int, of: str = "steps") -> None:
    """Refuses a count that is not a Python or numpy integer, or is below `least`.

    Raises:
        ValueError: the count is a bool, a float, an array or too small.
    """
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < least:
        raise ValueError(f"the number of {of} must be an integer >= {least}; got {count!r}")


def check_counts(**counts: int) -> None:
    """Refuses counts that are not integers >= 1.

    Raises:
        ValueError: as `check_count`; the error names the count.
    """
    for name, count in counts.items():
        check_count(count, least=1, of=name)


def check_flags(**flags: bool) -> None:
    """Refuses options that are not True or False, such as None or 1.

    Raises:
        ValueError: an option is not a bool; the error names it.
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
        name: Name of the value in the error.
        above: Exclusive lower bound.
        least: Inclusive lower bound.
        below: Exclusive upper bound.
        most: Inclusive upper bound.

    Raises:
        ValueError: the value is a bool, a string, complex, an array, not finite or out of range.
    """
    if isinstance(value, Tracer):
        return
    # By numpy: within jit, even a comparison of a concrete jax.Array would be traced.
    number = np.asarray(value)[()] if _is_real(value) else math.nan
    if math.isfinite(number) and above < number < below and least <= number <= most:
        return
    bounds = {">": above, ">=": least, "<": below, "<=": most}
    given = [f"{sign} {bound}" for sign, bound in bounds.items() if abs(bound) < math.inf]
    limits = " and ".join(given)
    raise ValueError(f"{name} must be a finite number {limits}".rstrip() + f"; got {value!r}")


def _is_real(value: Any) -> bool:
    dtype = getattr(value, "dtype", np.dtype(type(value)))
    kinds = np.integer, np.floating
    return np.shape(value) == () and any(jnp.issubdtype(dtype, kind) for kind in kinds)


def check_callable(function: Any, name: str, arguments: str, keyword: str = "") -> None:
    """Refuses a value that cannot be called with these positional arguments.

    Args:
        function: Value to check.
        name: Name of the value in the error.
        arguments: Names of the positional arguments, such as `"params, batch, key"`.
        keyword: Name of a further argument that is passed by keyword; "" for none.

    Raises:
        ValueError: the value is not a function, or takes other arguments.
    """
    if not callable(function):
        raise ValueError(f"{name} must be a function of ({arguments}); got {function!r}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some built-in functions have no signature
        return
    try:
        signature.bind(*arguments.split(", "), **dict.fromkeys([keyword] if keyword else ()))
    except TypeError as error:
        expected = f"{arguments}, {keyword}" if keyword else arguments
        raise ValueError(
            f"{name} must be a function of ({expected}); got a function of {signature}"
        ) from error


def check_key(key: Any, name: str = "key") -> None:
    """Refuses a value that is not a single random key made by `jax.random.key`.

    Raises:
        ValueError: the value is a seed, a key made by `jax.random.PRNGKey`, or a batch of keys.
    """
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
    if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        got = repr(key) if dtype is None else f"an array of {dtype}{list(shape or ())}"
        raise ValueError(f"{name} must be a key as jax.random.key(seed) makes it; got {got}")
    if shape != ():
        raise ValueError(f"{name} must be one key; got a batch of keys of shape {shape}")
