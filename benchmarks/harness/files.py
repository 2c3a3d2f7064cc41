"""Files that are written completely or not at all, and clear errors for unreadable ones.

The schema of a JSON file is a `Kind` of value, or is made of others: a dictionary is an object with
these names and perhaps more, where `str` stands for every name, of which there must be one; a list
is a list of values of one schema; a tuple is a choice; and None is null or a missing name.
"""

import fcntl
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

DEPTH = 32  # largest number of nested values
LARGEST = 1.7e308  # about the largest float64


@dataclass(frozen=True)
class Kind:
    """A kind of value: its description in messages, and a predicate of its values."""

    words: str
    holds: Callable[[Any], bool]


COUNT = Kind("an integer >= 0", lambda x: type(x) is int and x >= 0)
NUMBER = Kind("a finite number", lambda x: type(x) in (int, float) and abs(x) <= LARGEST)
ANY_NUMBER = Kind("a number", lambda x: type(x) is float or NUMBER.holds(x))
TEXT = Kind("a string", lambda x: isinstance(x, str))
TRUTH = Kind("true or false", lambda x: isinstance(x, bool))

MEAN = {"mean": (NUMBER, None), "ci95": (NUMBER, None)}
LINE = {"step": COUNT, "seconds": NUMBER}  # a line of a run's log


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Gives a temporary path, whose file replaces another one when it has been written.

    If writing fails, the earlier file stays. Two processes have two temporary files.
    """
    aside = path.with_name(f".part-{os.getpid()}-{path.name}")
    try:
        yield aside
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    aside.replace(path)


def write_text(path: Path, text: str) -> None:
    """Writes a text file, completely or not at all."""
    with atomic_write(path) as aside:
        aside.write_text(text)


def write_json(path: Path, value: Any) -> None:
    """Writes a value as JSON, completely or not at all."""
    write_text(path, as_json(value, indent=2) + "\n")


def append_line(log: Path, value: Any) -> None:
    """Adds a value to a file of JSON, one a line, which is made where it is missing."""
    with log.open("a") as file:
        file.write(as_json(value) + "\n")


def save_figure(figure: Figure, path: Path) -> Figure:
    """Writes a figure to a file, completely or not at all, and returns it."""
    with atomic_write(path) as aside:
        figure.savefig(aside, dpi=120)
    return figure


def as_json(value: Any, indent: int | None = None) -> str:
    """Formats a value as JSON, in which a number that is not finite is null.

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
    """Reads a text file.

    Raises:
        ValueError: The file is not text.
    """
    try:
        return path.read_text()
    except ValueError as error:
        raise ValueError(f"{path} is not a text file: {error}") from error


def read_object(path: Path, schema: dict[Any, Any]) -> dict[str, Any]:
    """Reads the JSON object of a file.

    Raises:
        ValueError: The file is not JSON, or does not match the schema.
    """
    return parse_json(read_text(path), schema, path)


def read_lines(log: Path, schema: dict[Any, Any]) -> list[dict[str, Any]]:
    """Reads the JSON objects of a log, one a line, without a last line that was cut off.

    A missing file is an empty log.

    Raises:
        ValueError: Another line does not match; the message names it.
    """
    lines = read_text(log).splitlines() if log.exists() else []
    objects = []
    for number, text in enumerate(lines, 1):
        try:
            objects.append(parse_json(text, schema, f"line {number} of {log}"))
        except ValueError as error:
            if number == len(lines) and isinstance(error.__cause__, json.JSONDecodeError):
                break
            raise
    return objects


def parse_json(text: str, schema: Any, source: object) -> Any:
    """Parses the JSON text of a file, which the source names in messages.

    Raises:
        ValueError: The text is not JSON, is nested too deeply, or does not match the schema.
    """
    try:
        value = json.loads(text)
        deep = not _is_shallow(value, DEPTH)
    except RecursionError:
        deep, value = True, None
    except ValueError as error:
        raise ValueError(f"{source} is not JSON: {error}") from error
    if deep:
        raise ValueError(f"{source} must have at most {DEPTH} nested levels; got more")
    return check_schema(value, schema, source)


def check_schema(value: Any, schema: Any, source: object) -> Any:
    """Returns the value, if it matches a schema.

    Raises:
        ValueError: The value does not match; the message names the first place.
    """
    if place := _mismatch(value, schema, ""):
        where, got, expected = place
        at = f" at {where!r}" if where else ""
        raise ValueError(f"{source}: got {_abbreviate(got)}{at}; expected {_describe(expected)}")
    return value


def _mismatch(value: Any, schema: Any, where: str) -> tuple[str, Any, Any] | None:
    """The first place that does not match: its path, its value, and the schema there."""
    if isinstance(schema, tuple):
        places = [_mismatch(value, choice, where) for choice in schema]
        if None in places:
            return None
        # If one choice matches to a deeper place, that place; otherwise all choices.
        deeper = [place for place in places if place and place[0] != where]
        return deeper[0] if deeper else (where, value, schema)
    fits = schema.holds(value) if isinstance(schema, Kind) else isinstance(value, type(schema))
    if not fits or (isinstance(schema, dict) and str in schema and not value):
        return where, value, schema
    parts: list[tuple[Any, Any, Any]] = []
    if isinstance(schema, list):
        parts = [(place, item, schema[0]) for place, item in enumerate(value)]
    elif isinstance(schema, dict) and str in schema:
        parts = [(name, item, schema[str]) for name, item in value.items()]
    elif isinstance(schema, dict):
        parts = [(name, value.get(name), kind) for name, kind in schema.items()]
    places = (_mismatch(item, kind, f"{where}/{name}".lstrip("/")) for name, item, kind in parts)
    return next((place for place in places if place), None)


def _is_shallow(value: Any, levels: int) -> bool:
    """Whether no value lies deeper than a number of levels."""
    values = [value]
    for _ in range(levels):
        values = [
            item
            for value in values
            if isinstance(value, dict | list)
            for item in (value.values() if isinstance(value, dict) else value)
        ]
    return not values


def _abbreviate(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _describe(schema: Any) -> str:
    if isinstance(schema, tuple):
        return " or ".join(map(_describe, schema))
    if isinstance(schema, Kind):
        return schema.words
    if isinstance(schema, dict):
        names = [name for name in schema if isinstance(name, str)]
        named = f" with {', '.join(names)}" if names else ""
        return f"an object{named}{' that is not empty' * (str in schema)}"
    return "null" if schema is None else "a list"


@contextmanager
def sole_writer(out: Path) -> Iterator[None]:
    """Refuses an existing folder that another process writes to, and keeps others from it.

    Each would delete what the other writes. The lock ends with the process, however it ends, and
    leaves no file. A file system without locks keeps no process out.

    Raises:
        ValueError: Another process writes to the folder.
    """
    lock = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise ValueError(
            f"another process writes to {out}; wait until it has ended, or name another --out"
        ) from error
    except OSError:
        pass
    try:
        yield
    finally:
        os.close(lock)
