"""The files of a checkpoint: their content, and whether it is what was written."""

import math
import os
import re
import zlib
from pathlib import Path
from textwrap import shorten
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from benchmarks.harness.files import as_json, read_object, write_text
from benchmarks.harness.schemas import SCORE
from maml.tree import leaves_by_path

METRICS = Path("metrics") / "metrics"  # below the folder of a checkpoint
CURE = "nothing was changed: {}, or start a new run in another --out"
# Codes of TensorStore's errors that say nothing about the files themselves.
PASSING = "ABORTED|CANCELLED|DEADLINE|PERMISSION_DENIED|RESOURCE_EXHAUSTED|UNAUTHENT|UNAVAILABLE"


class DamagedError(ValueError):
    """Files of a checkpoint are missing, or do not hold what was written."""


def steps(folder: Path) -> list[Path]:
    """The paths of the checkpoints in a folder, in the order of their steps."""
    paths = folder.iterdir() if folder.exists() else ()
    named = (path for path in paths if path.name.isdecimal() and path.name == str(int(path.name)))
    return sorted(named, key=lambda path: int(path.name))


def latest(folder: Path) -> Path:
    """The path of the latest checkpoint in a folder.

    Raises:
        ValueError: There is no checkpoint.
    """
    if not (paths := steps(folder)):
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
        raise DamagedError(_first_line(error)) from error
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


def mend_metrics(path: Path, arrays: dict[str, Any]) -> None:
    """Replaces damaged metrics, with the worst score; they are not part of the state."""
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
    cure = CURE.format("try again when its files can be read")
    return OSError(f"the checkpoint {path} cannot be read now: {_first_line(error)}; {cure}")


def _first_line(error: BaseException) -> str:
    """The first line of a message, without the details that TensorStore adds in brackets."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return shorten(line.partition(" [")[0], 300, placeholder=" ...")
