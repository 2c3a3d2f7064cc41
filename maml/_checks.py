"""What public functions refuse, each check with what it got and what would work.

A check looks at Python values, shapes and types alone: it runs while a program is traced, and costs
nothing when the program runs. A value that is traced cannot be looked at, and passes.
"""

import inspect
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from maml.types import Batch, LossFn, MetaState, Metrics, Params, RandomKey


def check_count(count: int, *, least: int, of: str = "steps") -> None:
    """Refuses a count that is not a Python or numpy integer, or is below the least.

    Raises:
        ValueError: the count is a bool, a float, an array or too small.
    """
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < least:
        raise ValueError(f"the number of {of} must be an integer >= {least}; got {count!r}")


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
    if isinstance(value, jax.core.Tracer):
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


def check_optimizer(optimizer: optax.GradientTransformation) -> None:
    """Refuses what is not an optax transformation of a tree of parameters.

    Raises:
        ValueError: `optimizer` has no `init` and `update`, is an `optax.MultiSteps` object, or
            cannot start from an array.
    """
    if isinstance(optimizer, optax.MultiSteps):
        raise ValueError(
            "optax.MultiSteps is not itself a transformation: pass"
            " optax.MultiSteps(...).gradient_transformation()"
        )
    if not isinstance(optimizer, optax.GradientTransformation):
        raise ValueError(f"the optimiser must be an optax transformation; got {optimizer!r}")
    if "lookahead" in getattr(optimizer.init, "__qualname__", ""):
        raise ValueError(
            "optax.lookahead keeps a second set of parameters, for which neither loop has a place;"
            " maml.reptile moves slow parameters towards fast ones"
        )


def check_loss(loss: LossFn, name: str = "loss") -> None:
    """Refuses a loss that cannot be called as `loss(params, batch, key)`.

    Raises:
        ValueError: it is no function, or one of other arguments.
    """
    check_callable(loss, name, "params, batch, key")


def checked(loss: LossFn) -> LossFn:
    """The same loss, refused while it is traced unless it returns `(scalar, metrics)`.

    Raises:
        ValueError: the loss returns something else: a vector of losses, an integer or complex
            value, or metrics that are no arrays.
    """

    def checked_loss(params: Params, batch: Batch, key: RandomKey) -> tuple[Any, Metrics]:
        out = loss(params, batch, key)
        if not (isinstance(out, tuple) and len(out) == 2):
            raise ValueError(f"a loss returns (scalar, metrics); got {type(out).__name__}")
        value, metrics = out
        if not _is_array(value):
            raise ValueError(f"a loss returns one number; got {value!r}")
        if jnp.shape(value) != ():
            raise ValueError(f"a loss returns one number; got an array of {jnp.shape(value)}")
        if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            raise ValueError(
                f"a loss returns a real floating-point number; got {jnp.result_type(value)}"
            )
        for path, leaf in jax.tree.leaves_with_path(metrics):
            if not _is_array(leaf):
                raise ValueError(
                    f"the metrics of a loss are numbers; got {leaf!r} at {_name(path)}"
                )
        return out

    return checked_loss


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, bool | int | float | complex | np.generic | np.ndarray | jax.Array)


def check_meta_params(meta_params: Any) -> None:
    """Refuses a `MetaState` in the place of its parameters.

    Raises:
        ValueError: saying which field is wanted.
    """
    if isinstance(meta_params, MetaState):
        raise ValueError("meta-parameters are wanted; got a MetaState: pass its .params")


def check_state(state: Any) -> None:
    """Refuses what is not a `MetaState`.

    Raises:
        ValueError: saying how one is made.
    """
    if not isinstance(state, MetaState):
        raise ValueError(
            f"a MetaState is wanted, as maml.init makes it; got {type(state).__name__}"
        )


def check_mask(mask: PyTree, params: PyTree, name: str = "mask", *, some: bool = True) -> None:
    """Refuses a mask that is not a tree of bools like the parameters.

    Args:
        mask: True where a leaf is chosen.
        params: The tree that it is a mask of.
        name: What the error calls it.
        some: Whether it has to choose at least one leaf.

    Raises:
        ValueError: the structure is another one, a leaf is not True or False, or none is True.
    """
    got, wanted = jax.tree.structure(mask), jax.tree.structure(params)
    if got != wanted:
        raise ValueError(f"the {name} has the structure {got}; the parameters have {wanted}")
    for path, leaf in jax.tree.leaves_with_path(mask):
        if not isinstance(leaf, bool | np.bool_):
            raise ValueError(f"the {name} must be True or False at {_name(path)}; got {leaf!r}")
    if some and not any(jax.tree.leaves(mask)):
        raise ValueError(
            f"the {name} is False everywhere, so that nothing would adapt; it has the paths"
            f" {', '.join(_name(path) for path, _ in jax.tree.leaves_with_path(mask))}"
        )


def check_floating(params: Params, mask: PyTree[bool], name: str = "mask") -> None:
    """Refuses an integer, a key or another leaf that has no derivative where the mask is True.

    Raises:
        ValueError: naming the leaf, its type, and the way out.
    """
    for (path, leaf), chosen in zip(
        jax.tree.leaves_with_path(params), jax.tree.leaves(mask), strict=True
    ):
        if chosen and not is_inexact(leaf):
            raise ValueError(
                f"only floating-point leaves can adapt; got {jnp.asarray(leaf).dtype} at"
                f" {_name(path)}: let the {name} be False there"
            )


def is_inexact(leaf: Any) -> bool:
    """Whether a leaf is a floating-point or complex number or array, and so has a derivative.

    >>> is_inexact(1.0), is_inexact(jnp.arange(3)), is_inexact(jax.random.key(0))
    (True, False, False)
    """
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def _name(path: tuple) -> str:
    return repr(jax.tree_util.keystr(path, simple=True, separator="/") or "the only leaf")
