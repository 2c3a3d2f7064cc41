"""NAS-Bench-Graph, a table of architectures that a package from PyPI contains.

Its pickles are read without NumPy's reconstructors, without the package's own code, and without
anything else that a pickle could call.
"""

import pickle
import struct
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from tasks.architectures.tabular import Table, tabulate

DATASETS = "cora", "citeseer", "pubmed", "cs", "physics", "photo", "computers", "arxiv", "proteins"
WIRINGS, OPERATIONS, LAYERS = 9, 9, 4


class _Float64:
    """Stand-in for `numpy.dtype("<f8")`, the only type of the tables."""

    def __init__(self, *description: Any) -> None:
        if description != ("f8", False, True):
            raise pickle.UnpicklingError(f"a number of dtype {description}; wanted float64")

    def __setstate__(self, state: tuple) -> None:
        if state[1] != "<":
            raise pickle.UnpicklingError(f"a number of byte order {state[1]!r}; wanted '<'")


def _number(dtype: _Float64, data: bytes) -> float:
    return struct.unpack("<d", data)[0]


class Numbers(pickle.Unpickler):
    """Unpickler of builtin containers and numbers, NumPy's float64 among them, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """One of the two stand-ins that a pickle may call.

        Raises:
            UnpicklingError: the pickle asks for something else.
        """
        stands_for = {("numpy.core.multiarray", "scalar"): _number, ("numpy", "dtype"): _Float64}
        if (module, name) not in stands_for:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not allowed")
        return stands_for[module, name]


def installed() -> Path:
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
    """The table of NAS-Bench-Graph: four layers of a graph network, wired in one of nine ways.

    The tokens are the wiring and the operation of each layer. Of architectures that differ only in
    the order of their layers, the table and the space have one: see `only`. The reward is the
    accuracy on the validation set, and the reported number is the accuracy on the test set.

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
        raise ValueError(f"no data set {dataset!r}; there are {', '.join(DATASETS)}")
    path = (folder or installed()) / f"{dataset}.bench"
    wanted = "entries with `valid_perf` and `perf` by code"
    try:
        with path.open("rb") as file:
            found = Numbers(file).load()
        # A code is a decimal number, whose digits are the wiring and the operations.
        codes = np.array([[int(digit) for digit in f"{code:0{1 + LAYERS}d}"] for code in found])
        rewards, reported = (
            np.array([entry[name] for entry in found.values()], float)
            for name in ("valid_perf", "perf")
        )
    except (EOFError, MemoryError, OverflowError, pickle.UnpicklingError, struct.error) as error:
        raise ValueError(f"{path} is no table, or was cut off: {error}") from error
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is of another version: wanted {wanted}; {error!r}") from error
    return tabulate(str(path), (WIRINGS, *(OPERATIONS,) * LAYERS), codes, rewards, reported)
