"""Checks of options: one table of bounds, and refusals of options that nothing would read.

No experiment needs a value beyond an upper bound, and memory, time or a 32-bit counter could not
serve it; so a typing error ends in one line at once instead of an hour later.
"""

from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from math import isfinite
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

LARGEST = 3.4e38  # about the largest float32
COUNTER = 10**9  # meta-steps are counted in 32 bits
NUMBERS = 2**32  # float32 numbers in memory at once, at most: 16 GiB

# Options -> their smallest and largest value; options with integer bounds are integers.
RANGES: dict[str, tuple[float, float]] = {
    # JAX keeps 32 bits of a seed, so larger seeds would repeat the runs of these.
    "seed": (0, 2**31 - 1),
    "seeds": (1, 1000),
    # Optimisation; a learning rate that diverges ends the run soon, with a message.
    "inner_rate outer_rate": (0.0, LARGEST),
    "rate regularisation temperature": (1e-30, LARGEST),
    "momentum": (0.0, 0.999999),
    "decay dynamic_rates damping": (0.0, LARGEST),
    "factors": (1e-6, 1e6),
    "inner_steps eval_steps": (0, 10_000),
    "meta_steps multi_step first_order shared_steps": (0, COUNTER),
    "steps_per_call meta_batch chunk": (1, 100_000),
    "prefetch devices": (1, 10_000),
    "patience": (1, COUNTER),
    "save_seconds": (0.0, LARGEST),
    # Evaluations and episodes.
    "val_tasks": (0, 1_000_000),
    "eval_tasks": (2, 1_000_000),
    "goals": (2, 100_000),
    "ways train_ways": (2, 10_000),
    "shots train_shots shots_range queries train_queries": (1, 10_000),
    # Models.
    "context": (1, 10_000),
    "copies": (1, 20),
    "features width channels heads sequences": (1, 4096),
    "size": (1, 512),
    "std": (1e-6, 1e6),
    "layers": (1, 32),
    # Reinforcement learning.
    "trajectories eval_trajectories fvp_trajectories horizon budget": (1, 100_000),
    "arms": (2, 10_000),
    "radius": (1e-30, LARGEST),
    "cg_steps epochs": (1, 1000),
    "clip": (1e-6, LARGEST),
    "kl_coef exploration_coef": (0.0, LARGEST),
    "discount gae_lambda": (0.0, 1.0),
    # Architecture search.
    "children batch": (1, 100_000),
    "runs": (2, 10_000),
    "alphabets": (1, 1000),
    "side strides": (1, 28),
    "sizes": (1, 27),
    "filters": (1, 4096),
    "blocks": (1, 16),
    "nodes": (1, 64),
    "architectures": (3, 100_000),
    "retrainings trainings": (2, 1000),
    # Measurements.
    "repeats rounds": (1, 1000),
    "largest": (4, 20),
    "steps": (1, 10_000),
    "length tasks chunks step_tokens window dynamic_chunk": (1, 65_536),
    "port": (0, 65_535),
}
BOUNDS = {name: bounds for names, bounds in RANGES.items() for name in names.split()}


def check(options: Any, within: str = "") -> None:
    """Refuses options outside their bounds or not among their choices, and files as folders.

    Fields may be dataclasses too; `within` is then the prefix of their names in messages.

    Raises:
        ValueError: An option is refused; the message has its name, its value and a valid one.
    """
    for field in fields(options):
        name, value = within + field.name, getattr(options, field.name)
        if is_dataclass(value):
            check(value, f"{name}.")
            continue
        if isinstance(value, tuple):
            _check_several(name, value)
        choices = tuple(_choices(field.type))
        for one in value if isinstance(value, tuple) else (value,):
            if one is None and type(None) in get_args(field.type):
                continue
            if _takes_a_path(field.type):
                _check_path(name, one)
                continue
            if field.type in (bool, str) and type(one) is not field.type:
                words = "a string" if field.type is str else "true or false"
                raise ValueError(f"{name} must be {words}; got {one!r}")
            if one in choices:
                continue
            if choices and field.name not in BOUNDS:
                raise ValueError(f"{name} must be one of {', '.join(choices)}; got {one!r}")
            if field.name in BOUNDS:
                _check_number(name, one, *BOUNDS[field.name], choices)


def check_used(
    options: Any, names: tuple[str, ...], used: bool, by: str, before: Any = None
) -> None:
    """Refuses options that were changed and that nothing would read.

    Args:
        options: Dataclass of options.
        names: Names of the options to check.
        used: Whether something reads them.
        by: Reader of the options, for the message.
        before: Options before the change; None is the defaults of those fields that have one.

    Raises:
        ValueError: An option was changed; the message has its name and its value before.
    """
    for field in () if used else fields(options):
        default = field.default
        if before is not None:
            default = getattr(before, field.name)
        elif field.default_factory is not MISSING:
            default = field.default_factory()
        value = getattr(options, field.name)
        if field.name in names and default is not MISSING and value != default:
            raise ValueError(
                f"{field.name} is used only with {by}; leave it at {default!r}; got {value!r}"
            )


def check_size(numbers: int, what: str, fewer: str) -> None:
    """Refuses arrays of float32 numbers that no machine has the memory for.

    Raises:
        ValueError: There are too many numbers; the message describes the arrays, has their size
            and the largest one, and names the options that would have to be lower.
    """
    if numbers > NUMBERS:
        gib = 4 / 2**30
        raise ValueError(
            f"{what} would take about {gib * numbers:,.0f} GiB at once, and the limit is"
            f" {gib * NUMBERS:.0f} GiB; lower {fewer}"
        )


def _choices(hint: Any) -> Iterator[str]:
    """Yields the values of the literals in a type."""
    if get_origin(hint) is Literal:
        yield from get_args(hint)
        return
    for part in get_args(hint):
        yield from _choices(part)


def _takes_a_path(hint: Any) -> bool:
    return hint is Path or any(map(_takes_a_path, get_args(hint)))


def _check_number(name: str, value: Any, low: float, high: float, choices: tuple[str, ...]) -> None:
    whole = isinstance(low, int)
    others = "".join(f" or {choice}" for choice in choices)
    fits = issubclass(type(value), Integral if whole else Real) and type(value) is not bool
    if not fits or not (whole or isfinite(value)):
        words = "an integer" if whole else "a finite number"
        raise ValueError(f"{name} must be {words}{others}; got {value!r}")
    if value < low:
        raise ValueError(f"{name} must be >= {low}{others}; got {value}")
    if value > high:
        raise ValueError(f"{name} must be <= {high:,}{others}; got {value}")


def _check_several(name: str, values: tuple[Any, ...]) -> None:
    """Refuses an empty tuple, and repeated values other than files and the ends of a range."""
    if not values:
        raise ValueError(f"{name} must have at least one value; got none")
    twice = [one for place, one in enumerate(values) if one in values[:place]]
    if twice and not isinstance(twice[0], Path) and not name.endswith("_range"):
        raise ValueError(f"{name} must be different from each other; got {twice[0]!r} twice")


def _check_path(name: str, path: Any) -> None:
    """Refuses what is no path, and as a folder for results what cannot become one."""
    if not isinstance(path, Path):
        raise ValueError(f"{name} must be a pathlib.Path; got {path!r}")
    if name != "out":
        return
    if str(path).startswith("~"):
        raise ValueError(f"{name} begins with ~, which the shell did not expand; got {path}")
    if "\0" in str(path):
        raise ValueError(f"{name} must be a folder that can be made; got {str(path)!r}")
    try:
        there = next((part for part in (path, *path.parents) if part.exists()), None)
    except OSError as error:
        raise ValueError(f"{name} must be a folder that can be made: {error.strerror}") from error
    if there is not None and not there.is_dir():
        raise ValueError(f"{name} must be a folder, and {there} is a file; got {path}")
