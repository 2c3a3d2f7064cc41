"""What the files of a checkpoint hold, and whether it is what was written."""

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
from maml.tree import by_path

METRICS = Path("metrics") / "metrics"  # of a checkpoint
CURE = "nothing was changed: {}, or start a new run in another --out"
# Codes of TensorStore's errors that say nothing about the files themselves.
PASSING = "ABORTED|CANCELLED|DEADLINE|PERMISSION_DENIED|RESOURCE_EXHAUSTED|UNAUTHENT|UNAVAILABLE"


class DamagedError(ValueError):
    """Files of a checkpoint are missing, or are not what was written."""


def steps(folder: Path) -> list[Path]:
    """The checkpoints of a folder, the latest last."""
    paths = folder.iterdir() if folder.exists() else ()
    named = (path for path in paths if path.name.isdecimal() and path.name == str(int(path.name)))
    return sorted(named, key=lambda path: int(path.name))


def latest(folder: Path) -> Path:
    """The latest checkpoint of a folder.

    Raises:
        ValueError: there is none.
    """
    if not (paths := steps(folder)):
        raise ValueError(f"there is no checkpoint in {folder}")
    return paths[-1]


def leaves(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint by path, with the shapes and types that were written.

    They are compared with their checksum, unless that cannot be read.

    Raises:
        DamagedError: its files are not what was written.
        OSError: its files cannot be read now, whatever they hold.
    """
    try:
        said = metrics(path).get("crc32")
    except DamagedError:  # they are no state
        said = None
    try:
        _read_all(path)
        written: Any = ocp.metadata(str(path.absolute())).metadata
        like = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), written)
        found = by_path(ocp.load(str(path.absolute()), like))
    except FileNotFoundError as error:
        raise DamagedError(f"a file is missing, {error.filename}") from error
    except (OSError, MemoryError) as error:
        raise _unreadable(path, error) from error
    except Exception as error:  # whatever a damaged file leads to
        if re.search(PASSING, str(error)):
            raise _unreadable(path, error) from error
        raise DamagedError(_first_line(error)) from error
    if said not in (None, checksum(found)):
        raise DamagedError("its arrays are not those whose checksum was written with them")
    return found


def metrics(path: Path) -> dict[str, Any]:
    """The score of a checkpoint, and the checksum of its arrays.

    Raises:
        DamagedError: they are not what was written.
        OSError: they cannot be read now.
    """
    try:
        return read_object(path / METRICS, SCORE)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DamagedError("its metrics are missing") from error
    except OSError as error:
        raise _unreadable(path, error) from error
    except ValueError as error:
        raise DamagedError(f"its metrics are damaged, {error}") from error


def mend_metrics(path: Path, arrays: dict[str, Any]) -> None:
    """Writes metrics anew, with the worst score: they are no state."""
    (path / METRICS).parent.mkdir(exist_ok=True)
    write_text(path / METRICS, as_json({"score": None, "crc32": checksum(arrays)}))


def score(found: dict[str, Any]) -> float:
    """The score among the metrics of a checkpoint, minus infinity if it is not finite.

    >>> score({"score": 0.5}), score({"score": float("inf")}), score({"score": None})
    (0.5, -inf, -inf)
    """
    value = found["score"]
    return float(value) if value is not None and math.isfinite(value) else -math.inf


def checksum(arrays: dict[str, Any]) -> int:
    """The checksum of arrays by path: the files of large arrays have none of their own."""
    value = 0
    for _, leaf in sorted(arrays.items()):
        value = zlib.crc32(np.asarray(leaf).tobytes(), value)
    return value


def _read_all(path: Path) -> None:
    """Reads every file once: what the machine cannot read is not what is damaged."""

    def refuse(error: OSError) -> None:
        raise error

    for folder, _, names in os.walk(path, onerror=refuse):
        for name in names:
            (Path(folder) / name).read_bytes()


def _unreadable(path: Path, error: BaseException) -> OSError:
    cure = CURE.format("try again when its files can be read")
    return OSError(f"the checkpoint {path} cannot be read now: {_first_line(error)}; {cure}")


def _first_line(error: BaseException) -> str:
    """What is said, without what TensorStore adds in brackets."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return shorten(line.partition(" [")[0], 300, placeholder=" ...")
