"""What a run shows while it goes on: progress bars, and the scalars of TensorBoard; and Ctrl-C."""

import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from rich import progress
from rich.console import Console

T = TypeVar("T")


@contextmanager
def defer_interrupts() -> Iterator[Callable[[], signal.Signals | None]]:
    """Within it, the first Ctrl-C or SIGTERM is only noted, so that no result is lost.

    Yields a function that returns the signal that came, or None. A second one ends the process.
    """
    noted: list[signal.Signals] = []

    def note(number: int, frame: Any) -> None:
        noted.append(signal.Signals(number))
        print("Interrupted: the call in progress is finished first. Ctrl-C again stops at once.")
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: noted[0] if noted else None
    finally:
        restore()


def track(items: Sequence[T], about: str, *, shown: bool = True) -> Iterable[T]:
    """Yields the items one by one, under a progress bar with the time left."""
    return progress.track(
        items, about, console=Console(stderr=True), transient=True, disable=not shown
    )


@contextmanager
def bar(total: int, done: int = 0) -> Iterator[Callable[[int, str, str], None]]:
    """Shows a bar with the time left; yields `move(count, speed, latest)`."""
    columns = (
        progress.BarColumn(bar_width=16),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("{task.fields[speed]}"),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[latest]}"),
    )
    console = Console(stderr=True)
    # In a notebook the refreshing thread does not reach the widget: every update refreshes it.
    with progress.Progress(*columns, console=console, auto_refresh=not console.is_jupyter) as shown:
        task = shown.add_task("", total=total, completed=done, speed="compiling", latest="")
        yield lambda count, speed, latest: shown.update(
            task, advance=count, speed=speed, latest=latest, refresh=True
        )


def check_tensorboard() -> None:
    """Refuses to start without tensorboardX.

    Raises:
        ValueError: The package is missing; the message names the extra that has it.
    """
    if find_spec("tensorboardX") is None:
        raise ValueError("--tensorboard needs tensorboardX: pip install 'maml-jax[tensorboard]'")


@contextmanager
def scalar_writer(
    folder: Path, done: int, *, enabled: bool
) -> Iterator[Callable[[dict[str, Any], int], None]]:
    """Gives `write(line of the log, step)`; scalars of steps beyond `done` are deleted."""
    if not enabled:
        yield lambda line, step: None
        return
    from tensorboardX import SummaryWriter

    with SummaryWriter(str(folder), purge_step=done + 1) as writer:

        def write(line: dict[str, Any], step: int) -> None:
            for name, value in flatten(line).items():
                writer.add_scalar(name, value, step)

        yield write


def flatten(line: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Flattens nested dictionaries and lists to numbers by path.

    >>> flatten({"loss": 1.0, "val": {"mse": {"1": 2.0}}, "after": [3.0, 4.0]})
    {'loss': 1.0, 'val/mse/1': 2.0, 'after/0': 3.0, 'after/1': 4.0}
    >>> flatten({"loss": [1.0]})
    {'loss': 1.0}
    """
    numbers = {}
    for name, value in line.items():
        if isinstance(value, list):
            seeds = {str(place): number for place, number in enumerate(value)}
            value = seeds if len(value) > 1 else value[0]
        if isinstance(value, dict):
            numbers |= flatten(value, f"{prefix}{name}/")
        elif value is not None:
            numbers[f"{prefix}{name}"] = value
    return numbers
