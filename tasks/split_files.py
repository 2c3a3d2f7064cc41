"""Splits of classes that are stored in files, as JSON or as CSV."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from tasks._checks import as_path
from tasks.characters import SPLITS, Split, check_splits, split

LARGEST_SPLIT = 2**24  # largest size of a split file in bytes; Omniglot's names have 50,000 bytes
COLUMNS = ("class", "split")


def read_split(path: Path, names: Sequence[str]) -> Split:
    """The split in a JSON or CSV file.

    JSON is `{"train": [names], "val": [names], "test": [names]}`. CSV has a row for each class,
    below a header with the columns `class` and `split`; its further columns are ignored:

        class,split
        cat,train
        dog,val
        owl,test

    Args:
        path: Path of the file, which is CSV if its name ends with .csv.
        names: Names of all classes of the data set.

    Returns:
        The indices into `names`, by "train", "val" and "test", in the order of the file.

    Raises:
        ValueError: the path is not a readable file of at most 16 MiB, its content is not such JSON
            or CSV in UTF-8, or `split` refuses the names; the message has the line of a CSV.
    """
    path = as_path(path, "the split file")
    try:
        text = _read(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read the split file {path}: {error}") from error
    try:
        if path.suffix.lower() == ".csv":
            splits = _parse_csv(text, names)
        else:
            splits = json.loads(text, object_pairs_hook=_refuse_repeats)
        check_splits(splits)
        return split(names, splits)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the split file {path} is refused: {error}") from error


def _read(path: Path) -> str:
    size = path.stat().st_size
    if size > LARGEST_SPLIT:
        raise ValueError(f"it has {size} bytes, more than {LARGEST_SPLIT}")
    if not path.is_file():
        raise ValueError("it is not a regular file")
    return path.read_text("utf-8-sig")  # spreadsheets write a byte order mark


def _refuse_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """The dictionary of a JSON object, which is refused if a key occurs twice."""
    splits = dict(pairs)
    if len(splits) < len(pairs):
        raise ValueError(f"one of the keys {', '.join(splits):.99} occurs twice")
    return splits


def _parse_csv(text: str, names: Sequence[str]) -> dict[str, list[str]]:
    """The names of the classes of each split, after a check of every line."""
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    known, seen = set(names), {}
    splits: dict[str, list[str]] = {part: [] for part in SPLITS}
    try:
        header = list(rows.fieldnames or ())
        if any(header.count(column) != 1 for column in COLUMNS):
            raise ValueError(
                f"its first line must have the columns {' and '.join(COLUMNS)} once, separated by a"
                f" comma; got {','.join(header)!r:.99}"
            )
        for row in rows:
            where = f"line {rows.line_num}"
            if None in row or None in row.values():
                raise ValueError(f"{where} must have {len(header)} values, as the first line has")
            name, part = row["class"], row["split"]
            if part not in splits:
                raise ValueError(f"{where}: a split must be {', '.join(SPLITS)}; got {part!r:.99}")
            if name not in known:
                raise ValueError(f"{where} names {name!r:.99}, which is not a class")
            if name in seen:
                raise ValueError(f"{where}: {name!r} is in {seen[name]} and again in {part!r}")
            seen[name] = f"{part!r} ({where})"
            splits[part].append(name)
    except csv.Error as error:
        raise ValueError(f"line {rows.reader.line_num}: {error}") from error
    return splits
