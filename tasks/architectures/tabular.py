"""Tables of the accuracies of all architectures of a space, so that a reward costs microseconds.

The reward of an architecture comes from a short or single training run. The accuracy reported for
the best architecture comes from another run, so that it has no selection bias. Accuracies are
fractions of 1.
"""

import json
import struct
import zlib
from collections.abc import Sequence
from io import BytesIO
from math import prod
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Scalar

from maml._leaves import is_real
from maml.search import Space
from maml.search.space import Options, Position, Tokens, check_row, in_range
from tasks._checks import as_path

DATASETS = "cifar10", "cifar100", "ImageNet16-120"  # NAS-Bench-201, in the order of the file
EDGES, OPERATIONS = 6, 5
LAYERS, BLOCKS, TRAININGS = 8, 3, 3  # NAS-Bench-Macro
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


class Table(NamedTuple):
    """The accuracies of the architectures of a space, NaN for architectures not in the table.

    Attributes:
        space: Search space of the architectures in the table.
        rewards: Rewards of a search, `[*choices]`.
        reported: Accuracies to report for the best architecture of a search, `[*choices]`.
    """

    space: Space
    rewards: Float[Array, "*choice"]
    reported: Float[Array, "*choice"]


def lookup(values: Float[Array, "*choice"], tokens: Tokens) -> Scalar:
    """The entry of an architecture, NaN for tokens outside the table.

    >>> lookup(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([1, 0])).item()
    3.0
    """
    if not is_real(values):
        raise ValueError(f"values must be an array of real numbers; got {values!r}")
    check_row(tokens, values.ndim)
    return jnp.where(in_range(tokens, values.shape), values[tuple(tokens)], jnp.nan)


def space_of_entries(present: np.ndarray) -> Space:
    """The search space of the architectures in a table.

    An option of a token is allowed if the table has an architecture that starts with these tokens.

    Args:
        present: Mask of the architectures in the table, `[*choices]`.

    Returns:
        The space, whose constraint `allowed` is a lookup.

    Raises:
        ValueError: the table has no architecture.

    >>> space = space_of_entries(np.array([[True, False], [False, True]]))
    >>> space.options(jnp.array([1, 0]), jnp.array(1)).tolist()
    [False, True]
    """
    if getattr(present, "dtype", None) != np.bool_:
        raise ValueError(f"present must be an array of bools; got {present!r}")
    if not present.any():
        raise ValueError("a space needs at least one architecture; the table has none")
    choices = present.shape
    widest, steps = max(choices), range(len(choices))
    starts = [present.any(axis=tuple(steps[step + 1 :])) for step in steps]
    rows = [start.reshape(-1, size) for start, size in zip(starts, choices, strict=True)]
    table = np.concatenate([np.pad(row, ((0, 0), (0, widest - row.shape[1]))) for row in rows])
    # The row of a prefix comes after those of all shorter prefixes, ordered by its value.
    first = np.cumsum([0, *map(len, rows[:-1])])
    weights = np.array([[prod(choices[i + 1 : t]) if i < t else 0 for i in steps] for t in steps])

    def allowed(tokens: Tokens, position: Position) -> Options:
        row = jnp.array(first)[position] + jnp.array(weights)[position] @ tokens
        return jnp.array(table)[row]

    return Space(choices, allowed)


def tabulate(
    source: str,
    choices: Sequence[int],
    codes: np.ndarray,
    rewards: np.ndarray,
    reported: np.ndarray,
) -> Table:
    """A table made from entries in any order.

    Args:
        source: Origin of the entries, for error messages.
        choices: Number of options of each token.
        codes: Tokens of each entry, `[entry, token]`.
        rewards: Rewards, fractions of 1, `[entry]`.
        reported: Accuracies to report, fractions of 1, `[entry]`.

    Returns:
        The table, NaN for architectures without an entry.

    Raises:
        ValueError: there are no entries, or the arrays have different lengths; a code is not an
            integer, is outside the options or occurs twice; an accuracy is outside [0, 1].
    """
    choices = tuple(choices)
    if not len(codes) or codes.shape != (len(codes), len(choices)) or codes.dtype.kind not in "iu":
        expected = f"integers of shape [entry, {len(choices)}]"
        raise ValueError(
            f"{source}: codes must be {expected}; got {codes.dtype}{list(codes.shape)}"
        )
    if not rewards.shape == reported.shape == (len(codes),):
        raise ValueError(
            f"{source}: each of {len(codes)} codes needs two accuracies; got"
            f" {rewards.shape} and {reported.shape}"
        )
    if codes.min() < 0 or (codes >= choices).any():
        raise ValueError(f"{source}: a code is outside the {choices} options of the tokens")
    if len(np.unique(codes, axis=0)) < len(codes):
        raise ValueError(f"{source}: an architecture occurs twice")
    values = np.stack([rewards, reported]).astype(np.float32)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"{source}: an accuracy is not between 0 and 1")
    filled = np.full((2, *choices), np.nan, np.float32)
    filled[:, *codes.T] = values
    present = np.isfinite(filled[0])
    space = Space(choices) if present.all() else space_of_entries(present)
    return Table(space, jnp.asarray(filled[0]), jnp.asarray(filled[1]))


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
