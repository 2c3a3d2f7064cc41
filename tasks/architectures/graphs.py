"""NAS-Bench-Graph, a table of architectures in a package from PyPI.

Its pickles are read without NumPy's reconstructors, without the code of the package, and without
any other code that a pickle could call.
"""

import pickle
import struct
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from tasks._checks import as_path
from tasks.architectures.tabular import Table, tabulate

DATASETS = "cora", "citeseer", "pubmed", "cs", "physics", "photo", "computers", "arxiv", "proteins"
WIRINGS, OPERATIONS, LAYERS = 9, 9, 4


class _Float64:
    """Stand-in for `numpy.dtype("<f8")`, the only type of the tables."""

    def __init__(self, *description: Any) -> None:
        if description != ("f8", False, True):
            raise pickle.UnpicklingError(f"numbers must be float64; got dtype {description}")

    def __setstate__(self, state: tuple) -> None:
        if state[1] != "<":
            raise pickle.UnpicklingError(f"numbers must have byte order '<'; got {state[1]!r}")


def _number(dtype: _Float64, data: bytes) -> float:
    """Stand-in for `numpy.core.multiarray.scalar`."""
    return struct.unpack("<d", data)[0]


class Numbers(pickle.Unpickler):
    """An unpickler that reads only builtin containers and numbers, including NumPy's float64."""

    def find_class(self, module: str, name: str) -> Any:
        """One of the two stand-ins that a pickle may call.

        Raises:
            UnpicklingError: the pickle needs another function or class.
        """
        stands_for = {("numpy.core.multiarray", "scalar"): _number, ("numpy", "dtype"): _Float64}
        if (module, name) not in stands_for:
            raise pickle.UnpicklingError(f"it needs {module}.{name}, which is not allowed")
        return stands_for[module, name]


def find_tables() -> Path:
    """The folder of tables of the package `nas-bench-graph`, whose code is not run.

    Raises:
        FileNotFoundError: the package is not installed.
    """
    spec = find_spec("nas_bench_graph")
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            "the package nas-bench-graph is not installed: pip install 'maml-jax[graphs]'"
        )
    return Path(spec.origin).parent / "light"


def nasbench_graph(dataset: str = "cora", *, folder: Path | None = None) -> Table:
    """The table of NAS-Bench-Graph, of four layers of a graph network, wired in one of nine ways.

    The tokens are the wiring and the operation of each layer. If architectures differ only in the
    order of their layers, table and space have one of them, see `tabular.space_of_entries`. The
    reward is the accuracy on the validation set, and the reported accuracy is that on the test set.

    Args:
        dataset: Name of a data set, one of `DATASETS`; "proteins" has five of the operations.
        folder: Folder of the tables. None: that of the installed package.

    Returns:
        The table, with accuracies as fractions of 1.

    Raises:
        FileNotFoundError: the package is not installed, or lacks the file.
        ValueError: the data set is unknown, or the file is truncated or of another version.

    Qin, Zhang, Wang, Zhang, Zhu: NAS-Bench-Graph (NeurIPS 2022).
    """
    if dataset not in DATASETS:
        raise ValueError(f"the data set must be one of {', '.join(DATASETS)}; got {dataset!r}")
    folder = find_tables() if folder is None else as_path(folder, "the folder")
    path = folder / f"{dataset}.bench"
    expected = "entries with `valid_perf` and `perf` by code"
    try:
        with path.open("rb") as file:
            entries = Numbers(file).load()
        # A code is a decimal number whose digits are the wiring and the operations.
        codes = np.array([[int(digit) for digit in f"{code:0{1 + LAYERS}d}"] for code in entries])
        rewards, reported = (
            np.array([entry[name] for entry in entries.values()], float)
            for name in ("valid_perf", "perf")
        )
    except (EOFError, MemoryError, OverflowError, pickle.UnpicklingError, struct.error) as error:
        raise ValueError(f"{path} is not a table, or is truncated: {error}") from error
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is of another version: expected {expected}; {error!r}") from error
    return tabulate(str(path), (WIRINGS, *(OPERATIONS,) * LAYERS), codes, rewards, reported)
