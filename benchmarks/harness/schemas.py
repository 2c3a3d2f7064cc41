"""What a JSON file must hold: of each kind of file the names, and what is under them.

A schema is a kind of value. A dictionary is an object: its names are wanted, others may be there,
and `str` stands for every name, of one at least. A list is a list of its one kind, a tuple is a
choice, and None is null or a name that is not there.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

DEPTH = 32  # of values within each other, beyond which no file of ours goes
LARGEST = 1.7e308  # of float64


@dataclass(frozen=True)
class Kind:
    """A kind of value: what it is called, and whether a value is of it."""

    words: str
    holds: Callable[[Any], bool]


COUNT = Kind("an integer >= 0", lambda x: type(x) is int and x >= 0)
NUMBER = Kind("a finite number", lambda x: type(x) in (int, float) and abs(x) <= LARGEST)
ANY_NUMBER = Kind("a number", lambda x: type(x) is float or NUMBER.holds(x))
TEXT = Kind("a text", lambda x: isinstance(x, str))
TRUTH = Kind("true or false", lambda x: isinstance(x, bool))

MEAN = {"mean": (NUMBER, None), "ci95": (NUMBER, None)}
VALUES = (NUMBER, [(NUMBER, None)], None)  # of one run, or of several seeds
CHANGES = [{"step": COUNT, "meta_steps": (COUNT, None), "outer_rate": (NUMBER, None)}]
OPTIONS = {"meta_steps": COUNT, "outer_rate": NUMBER, "history": (CHANGES, None)}  # of a run
LINE = {"step": COUNT, "seconds": NUMBER}  # of a run's log
SCORE = {"score": (ANY_NUMBER, None), "crc32": (COUNT, None)}  # of a checkpoint
CHILD = {
    "run": COUNT,
    "strategy": TEXT,
    "number": COUNT,
    "tokens": [COUNT],
    "reward": (NUMBER, None),
    "seconds": NUMBER,
}  # a line of a search's children
TASK = {"dataset": (TEXT, None), "model": (TEXT, None)}  # what tables read of a run's options
BANDITS = {"problem": TEXT, "budget": COUNT, "arms": COUNT}
SUMMARY = {"benchmark": TEXT, "algorithm": TEXT, "command": TEXT, "config": TASK}  # of a table
TRAINED = {"meta_steps": COUNT, "config": {}}  # a summary whose weights are to be written
FINISHED = {"mean": (NUMBER, None), "interrupted": TRUTH, "seconds": {"train": NUMBER}}


def curve_of(metric: str) -> dict[str, Any]:
    """The schema of a line of a log that may have a validation's curve of a metric."""
    return {"val": ({metric: {str: MEAN}}, None)}


def parsed(text: str, schema: Any, source: object) -> Any:
    """The value of a JSON text.

    Args:
        text: of a file.
        schema: what it must be.
        source: the file, for the message.

    Raises:
        ValueError: it is no JSON, is nested too deeply, or is something else.
    """
    try:
        found = json.loads(text)
        deep = not _within(found, DEPTH)
    except RecursionError:
        deep, found = True, None
    except ValueError as error:
        raise ValueError(f"{source} is no JSON: {error}") from error
    if deep:
        raise ValueError(f"{source} is nested too deeply; wanted at most {DEPTH} levels")
    return fitting(found, schema, source)


def fitting(found: Any, schema: Any, source: object) -> Any:
    """The value itself, if it is what a schema wants.

    Raises:
        ValueError: naming the first place where it is not.
    """
    if place := _misfit(found, schema, ""):
        where, got, wanted = place
        at = f" at {where!r}" if where else ""
        raise ValueError(f"{source}: got {_shown(got)}{at}; wanted {_words(wanted)}")
    return found


def _misfit(found: Any, schema: Any, where: str) -> tuple[str, Any, Any] | None:
    """The first place that does not fit: its path, what is there, what is wanted."""
    if isinstance(schema, tuple):
        places = [_misfit(found, choice, where) for choice in schema]
        if None in places:
            return None
        # Of the one choice that goes deeper, the place; of several, what was to be chosen from.
        deeper = [place for place in places if place and place[0] != where]
        return deeper[0] if deeper else (where, found, schema)
    fits = schema.holds(found) if isinstance(schema, Kind) else isinstance(found, type(schema))
    if not fits or (isinstance(schema, dict) and str in schema and not found):
        return where, found, schema
    parts: list[tuple[Any, Any, Any]] = []
    if isinstance(schema, list):
        parts = [(place, item, schema[0]) for place, item in enumerate(found)]
    elif isinstance(schema, dict) and str in schema:
        parts = [(name, item, schema[str]) for name, item in found.items()]
    elif isinstance(schema, dict):
        parts = [(name, found.get(name), kind) for name, kind in schema.items()]
    misfits = (_misfit(item, kind, f"{where}/{name}".lstrip("/")) for name, item, kind in parts)
    return next((place for place in misfits if place), None)


def _within(found: Any, levels: int) -> bool:
    """Whether no value lies deeper."""
    values = [found]
    for _ in range(levels):
        values = [
            item
            for value in values
            if isinstance(value, dict | list)
            for item in (value.values() if isinstance(value, dict) else value)
        ]
    return not values


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _words(schema: Any) -> str:
    if isinstance(schema, tuple):
        return " or ".join(map(_words, schema))
    if isinstance(schema, Kind):
        return schema.words
    if isinstance(schema, dict):
        names = [name for name in schema if isinstance(name, str)]
        named = f" with {', '.join(names)}" if names else ""
        return f"an object{named}{' that is not empty' * (str in schema)}"
    return "null" if schema is None else "a list"
