"""Tables that are read from files: NAS-Bench-201, NAS-Bench-Macro and MAML-Bench."""

import json
import struct
import zlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from tasks._checks import as_path
from tasks.architectures.tabular import Table, tabulate

EDGES, OPERATIONS = 6, 5  # NAS-Bench-201
LAYERS, BLOCKS, TRAININGS = 8, 3, 3  # NAS-Bench-Macro

DATASETS = "cifar10", "cifar100", "ImageNet16-120"  # NAS-Bench-201, in the order of the file
# Exceptions that may be raised when a corrupt or truncated archive is read.
DAMAGED = (
    BadZipFile,
    EOFError,
    KeyError,
    MemoryError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


def nasbench201(path: Path, dataset: str = "cifar10") -> Table:
    """The table of NAS-Bench-201, of cells of six edges, each with one of five operations.

    The reward is the accuracy on the validation set after 12 epochs, and the reported accuracy is
    that on the test set after 200 epochs.

    Args:
        path: Path of a NumPy archive of the operations `code[15625, 6]` of the edges 0-1, 0-2, 1-2,
            0-3, 1-3, 2-3 (0 none, 1 skip, 2 and 3 convolutions 1x1 and 3x3, 4 average pooling), and
            of the accuracies `val12[3, 15625]` and `test200[3, 15625]`, in percent.
        dataset: Name of a data set, one of `DATASETS`, which are the rows of the accuracies.

    Returns:
        The table, with accuracies as fractions of 1.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the data set is unknown, or the file is truncated or of another version.

    Dong, Yang: NAS-Bench-201, extending the scope of reproducible NAS (ICLR 2020).
    """
    if dataset not in DATASETS:
        raise ValueError(f"the data set must be one of {', '.join(DATASETS)}; got {dataset!r}")
    arrays = _archive(path, "NAS-Bench-201", ("code", "val12", "test200"))
    rows = OPERATIONS**EDGES
    expected = {"code": (rows, EDGES), "val12": (3, rows), "test200": (3, rows)}
    shapes = {name: array.shape for name, array in arrays.items()}
    if shapes != expected:
        raise ValueError(f"{path} is of another version: expected {expected}; got {shapes}")
    row = DATASETS.index(dataset)
    rewards, reported = (arrays[name][row] / 100 for name in ("val12", "test200"))
    return tabulate(str(path), (OPERATIONS,) * EDGES, arrays["code"], rewards, reported)


def nasbench_macro(path: Path) -> Table:
    """The table of NAS-Bench-Macro, of eight layers, each one of three blocks, trained three times.

    The reward is the accuracy on the test set of CIFAR-10 in the first training run, and the
    reported accuracy is the mean over the other two runs.

    Args:
        path: Path of the JSON file of the benchmark, with `test_acc` of each run, in percent, by
            code ("02012100").

    Returns:
        The table, with accuracies as fractions of 1.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is truncated or of another version.

    Su, Huang, Li, You, Wang, Qian, Zhang, Xu: Prioritized architecture sampling with Monte-Carlo
    tree search (CVPR 2021).
    """
    _check_file(path, "NAS-Bench-Macro")
    try:
        entries = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON, or is truncated: {error}") from error
    expected = (
        f"{BLOCKS**LAYERS} codes of {LAYERS} digits, each with {TRAININGS} numbers `test_acc`"
    )
    try:
        codes = np.array([[int(digit) for digit in code] for code in entries])
        accuracies = np.array([entry["test_acc"] for entry in entries.values()], float) / 100
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is of another version: expected {expected}; {error!r}") from error
    shapes = codes.shape, accuracies.shape
    if shapes != ((BLOCKS**LAYERS, LAYERS), (BLOCKS**LAYERS, TRAININGS)):
        raise ValueError(f"{path} is of another version: expected {expected}; got shapes {shapes}")
    rewards, reported = accuracies[:, 0], accuracies[:, 1:].mean(axis=1)
    return tabulate(str(path), (BLOCKS,) * LAYERS, codes, rewards, reported)


def maml_bench(path: Path) -> Table:
    """The table of all convolutional networks of two layers, meta-trained on Omniglot alphabets.

    The reward is the accuracy after adaptation on held-out classes in the first training run, and
    the reported accuracy is the mean on test classes over the other runs.

    Args:
        path: Path of the NumPy archive written by `benchmarks.maml_bench`, of `code[entry, token]`
            and `accuracy[entry, training, 2]`, on held-out and on test classes, as fractions of 1
            in half precision.

    Returns:
        The table, with accuracies as fractions of 1.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is truncated or of another version.
    """
    arrays = _archive(path, "MAML-Bench", ("code", "accuracy"))
    shapes = {name: array.shape for name, array in arrays.items()}
    entries = next(iter(shapes["code"]), 0)
    expected = "code[entry, token] and accuracy[entry, training > 1, 2]"
    if not (
        len(shapes["code"]) == 2
        and len(shapes["accuracy"]) == 3
        and shapes["accuracy"][::2] == (entries, 2)
        and shapes["accuracy"][1] > 1
        and entries
    ):
        raise ValueError(f"{path} is of another version: expected {expected}; got {shapes}")
    codes = arrays["code"].astype(int)
    held_out, test = np.moveaxis(arrays["accuracy"].astype(np.float32), -1, 0)
    choices = tuple((codes.max(axis=0) + 1).tolist())
    return tabulate(str(path), choices, codes, held_out[:, 0], test[:, 1:].mean(axis=1))


def _archive(path: Path, name: str, expected: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays of a NumPy archive, which must have the expected names."""
    _check_file(path, name)
    content = BytesIO(path.read_bytes())  # later errors are then not those of the disk
    try:
        with np.load(content, allow_pickle=False) as archive:
            names = sorted(archive.files)
            arrays = {name: archive[name] for name in expected} if names == sorted(expected) else {}
    except DAMAGED as error:
        raise ValueError(f"{path} is not a NumPy archive, or is truncated: {error}") from error
    dtypes = {name: array.dtype.str for name, array in arrays.items()}
    if not arrays or any(array.dtype.kind not in "iuf" for array in arrays.values()):
        raise ValueError(
            f"{path} is of another version: expected numbers {', '.join(expected)}; got"
            f" {dtypes or names}"
        )
    return arrays


def _check_file(path: Path, name: str) -> None:
    as_path(path, f"the file of {name}")
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file of {name} at {path}; pass the path of a copy")
