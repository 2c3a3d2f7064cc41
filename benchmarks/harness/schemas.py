"""Schemas of JSON files: the names in each kind of file, and the values under them.

A schema is a `Kind` of value, or is made of others: a dictionary is an object with these names and
perhaps more, where `str` stands for every name, of which there must be one; a list is a list of
values of one schema; a tuple is a choice; and None is null or a missing name.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
VALUES = (NUMBER, [(NUMBER, None)], None)  # values of one seed, or of several
CHANGES = [{"step": COUNT, "meta_steps": (COUNT, None), "outer_rate": (NUMBER, None)}]
OPTIONS = {"meta_steps": COUNT, "outer_rate": NUMBER, "history": (CHANGES, None)}  # of a run
LINE = {"step": COUNT, "seconds": NUMBER}  # a line of a run's log
SCORE = {"score": (ANY_NUMBER, None), "crc32": (COUNT, None)}  # metrics of a checkpoint
CHILD = {
    "run": COUNT,
    "strategy": TEXT,
    "number": COUNT,
    "tokens": [COUNT],
    "reward": (NUMBER, None),
    "seconds": NUMBER,
}  # a line of the log of a search's child networks
TASK = {"dataset": (TEXT, None), "model": (TEXT, None)}  # options of a run that tables read
BANDITS = {"problem": TEXT, "budget": COUNT, "arms": COUNT}
SUMMARY = {"benchmark": TEXT, "algorithm": TEXT, "command": TEXT, "config": TASK}  # in tables
TRAINED = {"meta_steps": COUNT, "config": {}}  # a summary whose weights are written to a file
FINISHED = {"mean": (NUMBER, None), "interrupted": TRUTH, "seconds": {"train": NUMBER}}


def curve_schema(metric: str) -> dict[str, Any]:
    """The schema of a line of a log that may have the curve of a metric on validation tasks."""
    return {"val": ({metric: {str: MEAN}}, None)}


def parse_json(text: str, schema: Any, source: object) -> Any:
    """Parses a JSON text.

    Args:
        text: Text of a file.
        schema: Schema that the value must match.
        source: Name of the file, for messages.

    Returns:
        The value.

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
