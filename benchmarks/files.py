"""Files that are written whole or not at all, and refused in words where they cannot be read."""

import json
import math
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

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


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object of a file.

    Raises:
        ValueError: the file holds something else.
    """
    try:
        found = json.loads(path.read_text())
    except ValueError as error:  # no JSON, or no text
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold a JSON object; got {type(found).__name__}")
    return found


def read_lines(log: Path, keys: Collection[str]) -> list[dict[str, Any]]:
    """The JSON objects of a log, a line each; a last line that was cut off is left out.

    Args:
        log: the file; none is an empty log.
        keys: of every object.

    Raises:
        ValueError: another line is no such object, naming the line.
    """
    lines = log.read_text().splitlines() if log.exists() else []
    found = []
    for number, text in enumerate(lines, 1):
        try:
            line = json.loads(text)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise ValueError(
                f"line {number} of {log} is no JSON ({error}): restore it from a copy"
            ) from error
        if not isinstance(line, dict) or not set(keys) <= line.keys():
            raise ValueError(
                f"line {number} of {log} must be an object with {', '.join(keys)}; got {text[:80]}"
            )
        found.append(line)
    return found


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file; nothing in it is executed.

    Raises:
        ValueError: there is no such file, or it is none.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        # Opened here, since `np.load` leaves it open where it fails.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no .npz file of arrays: {error}") from error


def fitted(found: dict[str, Any], like: PyTree, source: object, *, cast: bool = False) -> PyTree:
    """The tree like another one whose leaves have been read from a file.

    Args:
        found: arrays by path.
        like: a tree of the same paths, shapes and types.
        source: the file, for the message.
        cast: the types may differ; the arrays get those of `like`.

    Raises:
        ValueError: paths, shapes or types differ, naming the leaves.
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
    leaves = [jnp.array(np.asarray(found[name], leaf.dtype)) for name, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)
