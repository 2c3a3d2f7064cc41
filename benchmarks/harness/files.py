"""Files that are written whole or not at all, and refused in words where they cannot be read."""

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

from benchmarks.harness.schemas import parsed
from maml.tree import by_path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path beside another one, whose file takes that one's place when it is written to its end.

    Where the writing fails, the file that was there before stays.
    """
    aside = path.with_name(f".part-{path.name}")
    try:
        yield aside
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    aside.replace(path)


def write_text(path: Path, text: str) -> None:
    """Replaces a file by a text."""
    with whole(path) as aside:
        aside.write_text(text)


def as_json(value: Any, indent: int | None = None) -> str:
    """JSON, in which a number that is not finite is null.

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
    """The text of a file.

    Raises:
        ValueError: it is no text.
    """
    try:
        return path.read_text()
    except ValueError as error:
        raise ValueError(f"{path} is no text: {error}") from error


def read_object(path: Path, schema: dict[Any, Any]) -> dict[str, Any]:
    """The JSON object of a file.

    Args:
        path: the file.
        schema: what the object must be, as in `benchmarks.schemas`.

    Raises:
        ValueError: the file holds something else.
    """
    return parsed(read_text(path), schema, path)


def read_lines(log: Path, schema: dict[Any, Any]) -> list[dict[str, Any]]:
    """The JSON objects of a log, a line each; a last line that was cut off is left out.

    Args:
        log: the file; none is an empty log.
        schema: what every object must be.

    Raises:
        ValueError: another line is no such object, naming the line.
    """
    lines = read_text(log).splitlines() if log.exists() else []
    found = []
    for number, text in enumerate(lines, 1):
        try:
            found.append(parsed(text, schema, f"line {number} of {log}"))
        except ValueError as error:
            if number == len(lines) and isinstance(error.__cause__, json.JSONDecodeError):
                break
            raise
    return found


def read_arrays(path: Path, *names: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz file; nothing in it is executed.

    Args:
        path: the file.
        names: some that must be among them.

    Raises:
        ValueError: there is no such file, it is none, or it lacks one of the names.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        # Opened here, since `np.load` leaves it open where it fails.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except OSError:
        raise
    except Exception as error:  # whatever other files lead to
        raise ValueError(f"{path} is no .npz file of arrays: {error}") from error
    if missing := set(names) - set(found):
        raise ValueError(f"{path} holds no {min(missing)}; got {', '.join(found) or 'nothing'}")
    return found


def fitted(found: dict[str, Any], like: PyTree, source: object, *, cast: bool = False) -> PyTree:
    """The tree like another one whose leaves have been read from a file.

    Args:
        found: arrays by path.
        like: a tree of the same paths, shapes and types.
        source: the file, for the message.
        cast: the types may differ within a kind, of floats say; the arrays, of finite numbers, get
            those of `like`.

    Raises:
        ValueError: paths, shapes or types differ, naming the leaves, or a number is not finite.
    """

    def described(leaf: Any) -> str:
        if leaf is None:
            return "nothing"
        shape = str(tuple(leaf.shape))
        return shape if cast else f"{leaf.dtype}{shape}"

    wanted = by_path(like)
    pairs = {name: (found.get(name), wanted.get(name)) for name in sorted(wanted | found)}
    texts = {name: tuple(map(described, pair)) for name, pair in pairs.items()}
    differ = [
        f"has {there} at {name!r}; wanted {here}"
        for name, (there, here) in texts.items()
        if there != here
    ]
    if differ:
        more = [f"differs at {len(differ) - 3} leaves more"] if len(differ) > 3 else []
        raise ValueError(f"{source} {', and '.join(differ[:3] + more)}")
    arrays = {name: np.asarray(found[name]) for name in wanted}
    if cast:
        for name, leaf in wanted.items():
            arrays[name] = _cast(arrays[name], leaf.dtype, f"{source} at {name!r}")
    leaves = [jnp.array(np.asarray(arrays[name], leaf.dtype)) for name, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _cast(found: np.ndarray, dtype: np.dtype, source: str) -> np.ndarray:
    """The array in another type of its kind: floats are rounded, and nothing else is changed.

    Raises:
        ValueError: it is of another kind, or its numbers are not finite or too large.
    """
    kinds = (jnp.bool_, jnp.integer, jnp.floating, jnp.complexfloating)
    kind = next((k for k in kinds if jnp.issubdtype(dtype, k)), None)
    if kind is None or not jnp.issubdtype(found.dtype, kind):
        raise ValueError(f"{source}: got {found.dtype}; wanted {dtype}")
    with np.errstate(over="ignore", invalid="ignore"):
        cast = found.astype(dtype)
    lost = ~np.isfinite(cast) if jnp.issubdtype(dtype, jnp.inexact) else cast != found
    if lost.any():
        raise ValueError(f"{source}: got {found[lost][0]}; wanted finite numbers of {dtype}")
    return cast
