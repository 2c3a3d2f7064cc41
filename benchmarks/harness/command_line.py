"""From the command line to options, and from a refusal to one line on the terminal."""

import argparse
import io
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from itertools import pairwise
from typing import Any, TypeVar
from zipfile import BadZipFile

import jax
import tyro

from benchmarks.harness import hardware
from benchmarks.harness.bounds import check_used

D = TypeVar("D")


def parsed(
    kind: type[D],
    description: str | None,
    argv: Sequence[str] | None = None,
    default: D | None = None,
) -> D:
    """The options on the command line.

    Args:
        kind: their dataclass.
        description: printed by `--help`.
        argv: the command line; None is the process's own.
        default: the values of options that are not given; None is the dataclass's own.

    Raises:
        ValueError: an option is given an empty value, or refused by the dataclass.
        SystemExit: with status 2, what is given cannot be read; with 0, help was asked for.
    """
    argv = sys.argv[1:] if argv is None else argv
    for option, value in pairwise(("", *argv)):
        if value == "" or (value.startswith("--") and value.endswith("=")):
            raise ValueError(f"{value.rstrip('=') or option} is given an empty value; leave it out")
    options: dict[str, Any] = {} if default is None else {"default": default}
    options |= {"prog": f"python -m {script}"} if (script := script_name()) else {}
    with redirect_stderr(io.StringIO()) as said:
        try:
            return tyro.cli(kind, description=description, args=argv, **options)
        except SystemExit as end:
            refusal, status = end.__context__, end
    if isinstance(refusal, ValueError):  # of the dataclass, in whole and without a box
        raise refusal
    print(_unboxed(said.getvalue()), file=sys.stderr)
    raise status


def script_name() -> str | None:
    """Returns the name of the module that `python -m` runs; None in a notebook and in a test."""
    spec = sys.modules["__main__"].__spec__
    return spec.name.removesuffix(".__main__") if spec else None


def _unboxed(said: str) -> str:
    """The message alone of the box that tyro draws, in one line."""
    pieces = re.split(r"[─╭╮╰╯]+|-{3,}", said.replace("│", " "))
    lines = [" ".join(piece.split()) for piece in pieces if piece.strip()]
    return lines[1] if len(lines) > 1 else said


def configure(
    presets: Mapping[str, D], description: str | None, argv: Sequence[str] | None = None
) -> D:
    """The preset that `--preset` names (default: the first), changed by the other options.

    Args:
        presets: by name.
        description: printed by `--help`.
        argv: the command line; None is the process's own.

    Raises:
        ValueError: there is no such preset, an option is changed that nothing reads, or as
            `parsed`.
        SystemExit: as `parsed`.
    """
    parser = argparse.ArgumentParser(
        add_help=False, allow_abbrev=False, usage=argparse.SUPPRESS, prog="options"
    )
    parser.add_argument("--preset", default=next(iter(presets)))
    name = parser.parse_known_args(argv)[0].preset
    if name not in presets:
        raise ValueError(f"no preset {name!r}; there are {', '.join(presets)}")
    words = f"{description}\n\nPresets: {', '.join(presets)}."
    config = parsed(type(presets[name]), words, argv, presets[name])
    for names, by in getattr(config, "unread", ()):
        check_used(config, names, False, by, presets[name])
    return config


@contextmanager
def exit_with_message() -> Iterator[None]:
    """What a script refuses, it refuses in one line."""
    try:
        yield
    except (ValueError, OSError, FloatingPointError, BadZipFile) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    except KeyboardInterrupt as error:
        raise SystemExit("Interrupted.") from error


def launch(
    main: Callable[[D], Any],
    options: Mapping[str, D] | type[D],
    description: str | None,
    argv: Sequence[str] | None = None,
    *,
    start: Callable[..., None] = hardware.start,
) -> None:
    """Runs a script from the command line; what it refuses, it refuses in one line.

    Args:
        main: what is run, with the options.
        options: presets by name, or a dataclass.
        description: printed by `--help`.
        argv: the command line; None is the process's own.
        start: called between, if the options can be meant.

    Raises:
        SystemExit: with status 2, the options cannot be meant; with 1, what they ask for cannot be.
    """
    try:
        if isinstance(options, Mapping):
            config = configure(options, description, argv)
        else:
            config = parsed(options, description, argv)
    except ValueError as error:
        print(f"ValueError: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    try:
        with exit_with_message():
            start(cache=getattr(config, "cache", True))
            main(config)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        knobs = "--chunk 1 (tasks at a time) and --remat need less"
        raise SystemExit(f"The device is out of memory: {knobs}.\n{error}") from error
