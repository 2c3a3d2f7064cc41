"""Files that are written completely or not at all, and clear errors for unreadable ones."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from benchmarks.harness.schemas import parse_json
from maml.tree import leaves_by_path


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Gives a temporary path, whose file replaces another one when it has been written.

    If writing fails, the earlier file stays.
    """
    aside = path.with_name(f".part-{path.name}")
    try:
        yield aside
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    aside.replace(path)


def write_text(path: Path, text: str) -> None:
    """Writes a text file, completely or not at all."""
    with atomic_write(path) as aside:
        aside.write_text(text)


def as_json(value: Any, indent: int | None = None) -> str:
    """Formats a value as JSON, in which a number that is not finite is null.

    >>> as_json({"loss": float("nan"), "after": [1.0, float("inf")]})
    '{"loss": null, "after": [1.0, null]}'
    """
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_text(path: Path) -> str:
    """Reads a text file.

    Raises:
        ValueError: The file is not text.
    """
    try:
        return path.read_text()
    except ValueError as error:
        raise ValueError(f"{path} is not a text file: {error}") from error


def read_object(path: Path, schema: dict[Any, Any]) -> dict[str, Any]:
    """Reads the JSON object of a file.

    Args:
        path: Path of the file.
        schema: Schema that the object must match, as in `benchmarks.harness.schemas`.

    Returns:
        The object.

    Raises:
        ValueError: The file is not JSON, or does not match the schema.
    """
    return parse_json(read_text(path), schema, path)


def read_lines(log: Path, schema: dict[Any, Any]) -> list[dict[str, Any]]:
    """Reads the JSON objects of a log, one a line, without a last line that was cut off.

    Args:
        log: File of the log; a missing one is an empty log.
        schema: Schema that every object must match.

    Returns:
        The objects.

    Raises:
        ValueError: Another line does not match; the message names it.
    """
    lines = read_text(log).splitlines() if log.exists() else []
    objects = []
    for number, text in enumerate(lines, 1):
        try:
            objects.append(parse_json(text, schema, f"line {number} of {log}"))
        except ValueError as error:
            if number == len(lines) and isinstance(error.__cause__, json.JSONDecodeError):
                break
            raise
    return objects


def read_arrays(path: Path, *names: str) -> dict[str, np.ndarray]:
    """Reads the arrays of an .npz file; nothing in it is executed.

    Args:
        path: Path of the file.
        names: Names of arrays that the file must hold.

    Returns:
        The arrays by name.

    Raises:
        ValueError: There is no such file, it is not an .npz file, or it lacks one of the names.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        # Opened here, since `np.load` leaves it open where it fails.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            loaded = {name: arrays[name] for name in arrays.files}
    except OSError:
        raise
    except Exception as error:  # any error that the content of a file leads to
        raise ValueError(f"{path} is not an .npz file of arrays: {error}") from error
    if missing := set(names) - set(loaded):
        raise ValueError(f"{path} holds no {min(missing)}; got {', '.join(loaded) or 'nothing'}")
    return loaded


def tree_from_arrays(
    loaded: dict[str, Any], like: PyTree, source: object, *, cast: bool = False
) -> PyTree:
    """Builds a tree from arrays that were read from a file.

    Args:
        loaded: Arrays by path.
        like: Tree of the same paths, shapes and types.
        source: Name of the file, for messages.
        cast: Whether arrays of finite numbers are cast to the types of `like`, within a kind such
            as floats.

    Returns:
        The tree, with the structure of `like`.

    Raises:
        ValueError: Paths, shapes or types differ, or a number to cast is not finite; the message
            names the leaves.
    """

    def describe(leaf: Any) -> str:
        if leaf is None:
            return "nothing"
        shape = str(tuple(leaf.shape))
        return shape if cast else f"{leaf.dtype}{shape}"

    expected = leaves_by_path(like)
    pairs = {name: (loaded.get(name), expected.get(name)) for name in sorted(expected | loaded)}
    texts = {name: tuple(map(describe, pair)) for name, pair in pairs.items()}
    differ = [
        f"has {there} at {name!r}; expected {here}"
        for name, (there, here) in texts.items()
        if there != here
    ]
    if differ:
        more = [f"differs at {len(differ) - 3} more leaves"] if len(differ) > 3 else []
        raise ValueError(f"{source} {', and '.join(differ[:3] + more)}")
    arrays = {name: np.asarray(loaded[name]) for name in expected}
    if cast:
        for name, leaf in expected.items():
            arrays[name] = _cast(arrays[name], leaf.dtype, f"{source} at {name!r}")
    leaves = [jnp.array(np.asarray(arrays[name], leaf.dtype)) for name, leaf in expected.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _cast(array: np.ndarray, dtype: np.dtype, source: str) -> np.ndarray:
    """Casts an array to another type of its kind: floats are rounded, and nothing else changes.

    Raises:
        ValueError: The array is of another kind, or its numbers are not finite or too large.
    """
    kinds = (jnp.bool_, jnp.integer, jnp.floating, jnp.complexfloating)
    kind = next((k for k in kinds if jnp.issubdtype(dtype, k)), None)
    if kind is None or not jnp.issubdtype(array.dtype, kind):
        raise ValueError(f"{source}: got {array.dtype}; expected {dtype}")
    with np.errstate(over="ignore", invalid="ignore"):
        cast = array.astype(dtype)
    lost = ~np.isfinite(cast) if jnp.issubdtype(dtype, jnp.inexact) else cast != array
    if lost.any():
        raise ValueError(f"{source}: got {array[lost][0]}; expected finite numbers of {dtype}")
    return cast
