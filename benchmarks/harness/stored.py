"""Arrays in files, .npz or of a checkpoint: their content, and whether it is what was written."""

import math
import os
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from textwrap import shorten
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from orbax.checkpoint import v1 as ocp

from benchmarks.harness.files import (
    ANY_NUMBER,
    COUNT,
    as_json,
    atomic_write,
    read_object,
    write_text,
)
from maml.tree import leaves_by_path
from tasks.cache_files import cached

SCORE = {"score": (ANY_NUMBER, None), "crc32": (COUNT, None)}  # metrics of a checkpoint
METRICS = Path("metrics") / "metrics"  # below the folder of a checkpoint
NOTHING_CHANGED = "nothing was changed: {}, or start a new run in another --out"
# Codes of TensorStore's errors that say nothing about the files themselves.
PASSING = "ABORTED|CANCELLED|DEADLINE|PERMISSION_DENIED|RESOURCE_EXHAUSTED|UNAUTHENT|UNAVAILABLE"


class DamagedError(ValueError):
    """Files of a checkpoint are missing, or do not hold what was written."""


def checkpoint_paths(folder: Path) -> list[Path]:
    """The paths of the checkpoints in a folder, in the order of their steps."""
    paths = folder.iterdir() if folder.exists() else ()
    named = (path for path in paths if path.name.isdecimal() and path.name == str(int(path.name)))
    return sorted(named, key=lambda path: int(path.name))


def latest(folder: Path) -> Path:
    """The path of the latest checkpoint in a folder.

    Raises:
        ValueError: There is no checkpoint.
    """
    if not (paths := checkpoint_paths(folder)):
        raise ValueError(f"there is no checkpoint in {folder}")
    return paths[-1]


def leaves(path: Path) -> dict[str, np.ndarray]:
    """Reads the arrays of a checkpoint by path, with the shapes and types that were written.

    They are compared with their checksum, unless that cannot be read.

    Raises:
        DamagedError: The files do not hold what was written.
        OSError: The files cannot be read now, whatever they hold.
    """
    try:
        expected = metrics(path).get("crc32")
    except DamagedError:  # metrics are not part of the state
        expected = None
    try:
        _read_all(path)
        written: Any = ocp.metadata(str(path.absolute())).metadata
        like = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), written)
        arrays = leaves_by_path(ocp.load(str(path.absolute()), like))
    except FileNotFoundError as error:
        raise DamagedError(f"the file {error.filename} is missing") from error
    except (OSError, MemoryError) as error:
        raise _unreadable(path, error) from error
    except Exception as error:  # any error that a damaged file leads to
        if re.search(PASSING, str(error)):
            raise _unreadable(path, error) from error
        raise DamagedError(first_line(error)) from error
    if expected not in (None, checksum(arrays)):
        raise DamagedError("its arrays do not have the checksum that was written with them")
    return arrays


def metrics(path: Path) -> dict[str, Any]:
    """Reads the score of a checkpoint, and the checksum of its arrays.

    Raises:
        DamagedError: The metrics are missing, or are not what was written.
        OSError: The metrics cannot be read now.
    """
    try:
        return read_object(path / METRICS, SCORE)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DamagedError("its metrics are missing") from error
    except OSError as error:
        raise _unreadable(path, error) from error
    except ValueError as error:
        raise DamagedError(f"its metrics are damaged: {error}") from error


def write_metrics(path: Path, arrays: dict[str, Any]) -> None:
    """Writes metrics in place of damaged ones, with the worst score."""
    (path / METRICS).parent.mkdir(exist_ok=True)
    write_text(path / METRICS, as_json({"score": None, "crc32": checksum(arrays)}))


def score(values: dict[str, Any]) -> float:
    """The score among the metrics of a checkpoint; minus infinity if it is not finite.

    >>> score({"score": 0.5}), score({"score": float("inf")}), score({"score": None})
    (0.5, -inf, -inf)
    """
    value = values["score"]
    return float(value) if value is not None and math.isfinite(value) else -math.inf


def checksum(arrays: dict[str, Any]) -> int:
    """The checksum of arrays by path; the files of large arrays have none of their own."""
    value = 0
    for _, leaf in sorted(arrays.items()):
        value = zlib.crc32(np.asarray(leaf).tobytes(), value)
    return value


def _read_all(path: Path) -> None:
    """Reads every file once, so that a failure of the disk is not taken for a damaged file."""

    def refuse(error: OSError) -> None:
        raise error

    for folder, _, names in os.walk(path, onerror=refuse):
        for name in names:
            (Path(folder) / name).read_bytes()


def _unreadable(path: Path, error: BaseException) -> OSError:
    cure = NOTHING_CHANGED.format("try again when its files can be read")
    return OSError(f"the checkpoint {path} cannot be read now: {first_line(error)}; {cure}")


def first_line(error: BaseException) -> str:
    """The first line of a message, without the details that TensorStore adds in brackets."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return shorten(line.partition(" [")[0], 300, placeholder=" ...")


def read_arrays(path: Path, *names: str) -> dict[str, np.ndarray]:
    """Reads the arrays of an .npz file, which must hold these names; nothing in it is executed.

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


def write_arrays(path: Path, **arrays: Any) -> None:
    """Writes arrays to a compressed .npz file, completely or not at all."""
    with atomic_write(path) as aside, aside.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def kept_arrays(path: Path | None, compute: Callable[[], dict[str, Any]]) -> dict[str, np.ndarray]:
    """The arrays that a file holds, or else those that are computed and written to it.

    A file that is damaged or cannot be written is reported, as in `tasks.cache_files.cached`.
    Without a path nothing is kept.
    """

    def build() -> dict[str, np.ndarray]:
        return jax.device_get(compute())

    def read(path: Path) -> dict[str, np.ndarray]:
        path.stat()  # raises FileNotFoundError if nothing is kept yet, which is no damage
        return read_arrays(path)

    def write(path: Path, arrays: dict[str, np.ndarray]) -> None:
        write_arrays(path, **arrays)

    return build() if path is None else cached(path, read, build, write)


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
