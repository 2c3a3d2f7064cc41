"""From the command line to options, and from a refusal to one line on the terminal."""

import argparse
import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, fields, replace
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar
from zipfile import BadZipFile

import jax
import tyro
from docstring_parser import parse_from_object

from benchmarks.harness import hardware
from benchmarks.harness.bounds import check_used
from benchmarks.harness.files import COUNT, read_object
from benchmarks.harness.options import RunOptions
from benchmarks.harness.renamed import preset_of_today

D = TypeVar("D")
R = TypeVar("R", bound=RunOptions)


def launch(
    main: Callable[[Any], Any],
    options: Mapping[str, Any] | type,
    description: str | None,
    argv: Sequence[str] | None = None,
    *,
    start: Callable[..., None] = hardware.start,
) -> None:
    """Runs a script from the command line; whatever it refuses ends it with one line.

    Args:
        main: Function that is run with the options.
        options: Presets by name, or a dataclass.
        description: Text of `--help`.
        argv: Words of the command line; None stands for those of the process.
        start: Function that prepares the machine; called once the options are accepted.

    Raises:
        SystemExit: with status 2, the options are refused; with 1, what they ask for failed.
    """
    try:
        if isinstance(options, Mapping):
            config = configure(options, description, argv)
        else:
            config = parse(options, description, argv)
    except ValueError as error:
        print(f"ValueError: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    except BrokenPipeError as error:  # of `--help | head`, which stops reading before the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        raise SystemExit(1) from error
    try:
        with exit_with_message():
            if isinstance(options, Mapping):
                print("Loading the data and making the initial parameters.", file=sys.stderr)
            start(cache=getattr(config, "cache", True))
            result = main(config)
        if folder := getattr(result, "out", None):
            print(f"Results and figures: {folder}")
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        knobs = "--chunk 1 (tasks at a time) and --remat need less"
        raise SystemExit(f"The device is out of memory: {knobs}.\n{error}") from error


def configure(
    presets: Mapping[str, R], description: str | None, argv: Sequence[str] | None = None
) -> R:
    """The preset that `--preset` names (default: the first), changed by the other options.

    With another number of meta-steps, the number in one jitted call follows, unless it is given; a
    run that is resumed has those with which it began.
    The text of `--help` is the description and a line for each preset.

    Raises:
        ValueError: there is no such preset, an option is changed that nothing reads, or as
            `parse`.
        SystemExit: as `parse`.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        add_help=False, allow_abbrev=False, usage=argparse.SUPPRESS, prog="options"
    )
    parser.add_argument("--preset", default=next(iter(presets)))
    for option in ("--meta-steps", "--steps-per-call", "--out"):
        parser.add_argument(option, nargs="?")
    parser.add_argument("--resume", action="store_true")
    asked = parser.parse_known_args(argv)[0]
    name = preset_of_today(asked.preset)
    if name not in presets:
        hint = nearest(asked.preset, presets)
        raise ValueError(f"no preset {asked.preset!r}{hint}; there are {', '.join(presets)}")
    default = preset = presets[name]
    meta_steps = asked.meta_steps or ""
    if asked.steps_per_call is None and asked.resume and asked.out:
        default = with_steps_of_run(preset, Path(asked.out) / "config.json")
    elif asked.steps_per_call is None and meta_steps.isdecimal():
        default = with_meta_steps(preset, int(meta_steps))
    words = (
        f"{description}\n\nPresets, and how they differ from the first:\n\n{preset_lines(presets)}"
    )
    config = parse(type(preset), words, argv, default)
    for names, by in config.unread_options:
        check_used(config, names, False, by, preset)
    return config


def parse(
    kind: type[D],
    description: str | None,
    argv: Sequence[str] | None = None,
    default: D | None = None,
) -> D:
    """The options on the command line; those that are not given are as in `default`, if any.

    Raises:
        ValueError: an option is given an empty value, or is refused by the dataclass.
        SystemExit: with status 2, the words cannot be read; with 0, help was asked for.
    """
    argv = sys.argv[1:] if argv is None else argv
    for option, value in pairwise(("", *argv)):
        if value == "" or (value.startswith("--") and value.endswith("=")):
            raise ValueError(f"{value.rstrip('=') or option} is given an empty value; leave it out")
    if {"-h", "--help"} & {*argv}:
        unwrap_docstrings(kind)
    options: dict[str, Any] = {} if default is None else {"default": default}
    options |= {"prog": f"python -m {script}"} if (script := hardware.script_name()) else {}
    with redirect_stderr(io.StringIO()) as printed:
        try:
            return tyro.cli(kind, description=description, args=argv, **options)
        except SystemExit as end:
            refusal, status = end.__context__, end
    if isinstance(refusal, ValueError):  # of the dataclass, in whole and without a box
        raise refusal
    message = _unboxed(printed.getvalue())
    if unknown := re.match(r"Unrecognized options: --([\w-]+)", message):
        names = [field.name.replace("_", "-") for field in fields(kind)]  # pyright: ignore
        message += nearest(unknown[1], names, "--")
    print(message, file=sys.stderr)
    raise status


def unwrap_docstrings(kind: type) -> None:
    """Makes each docstring of an option one line of help, of which tyro would keep the breaks."""
    documented = [p for base in kind.__mro__[-2::-1] for p in parse_from_object(base).params]
    texts = {p.arg_name: " ".join((p.description or "").split()) for p in documented}
    for field in fields(kind):
        field.metadata = MappingProxyType({"help": texts.get(field.name)})


def with_steps_of_run(preset: R, file: Path) -> R:
    """The preset with the meta-steps of a run and the number in its calls, from its `config.json`.

    Without such a file it is the preset itself.
    """
    schema = dict.fromkeys(("meta_steps", "steps_per_call"), (COUNT, None))
    stored = read_object(file, schema) if file.exists() else {}
    return replace(preset, **{name: stored[name] for name in schema if stored.get(name)})


def with_meta_steps(preset: R, meta_steps: int) -> R:
    """The preset with another number of meta-steps, and the most in a call that divide it.

    Where these would be few, it is the preset itself, and `parse` refuses the number of meta-steps.
    """
    if not 0 < meta_steps <= 10**9:
        return preset
    most = min(preset.steps_per_call, meta_steps)
    every = next(number for number in range(most, 0, -1) if meta_steps % number == 0)
    if 20 * every < most:  # calls as short as that would take longer than what they do
        return preset
    return replace(preset, meta_steps=meta_steps, steps_per_call=every)


def preset_lines(presets: Mapping[str, RunOptions]) -> str:
    """A line for each preset, with the options in which it differs from the first."""
    first, *others = map(asdict, presets.values())
    texts = [f"- {first['preset']}: the default"]
    for other in others:
        changed = (name for name in other if other[name] != first[name] and name != "preset")
        texts.append(f"- {other['preset']}: {' '.join(as_words(n, other[n]) for n in changed)}")
    return "\n".join(texts)


def as_words(name: str, value: Any) -> str:
    """An option as it is written on the command line.

    >>> as_words("inner_rate", 0.1), as_words("cosine", True), as_words("rotate", False)
    ('--inner-rate 0.1', '--cosine', '--no-rotate')
    >>> as_words("factors", (0.1, 1.0))
    '--factors 0.1 1.0'
    """
    option = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{option}" if value else f"--no-{option}"
    words = map(str, value) if isinstance(value, tuple) else [str(value)]
    return " ".join([f"--{option}", *words])


def nearest(name: str, names: Iterable[str], before: str = "") -> str:
    """Words that suggest the name most like one that does not exist, if any is like it.

    >>> nearest("glyph", ["glyphs", "omniglot"])
    ' (did you mean glyphs?)'
    >>> nearest("mini", ["glyphs", "omniglot"])
    ''
    """
    similar = get_close_matches(name, names, 1)
    return f" (did you mean {before}{similar[0]}?)" if similar else ""


@contextmanager
def exit_with_message() -> Iterator[None]:
    """Within it, what is refused ends the script with one line."""
    try:
        yield
    except (ValueError, OSError, FloatingPointError, BadZipFile) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    except KeyboardInterrupt as error:
        raise SystemExit("Interrupted.") from error


def _unboxed(printed: str) -> str:
    """The message alone of the box that tyro draws, in one line."""
    pieces = re.split(r"[─╭╮╰╯]+|-{3,}", printed.replace("│", " "))
    texts = [" ".join(piece.split()) for piece in pieces if piece.strip()]
    return texts[1] if len(texts) > 1 else printed
