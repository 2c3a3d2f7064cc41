"""The terminal of a run: progress bars, and Ctrl-C."""

import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from rich import progress
from rich.console import Console

from benchmarks.harness.options import Run

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
def progress_bar(config: Run, done: int = 0) -> Iterator[Callable[[float, str], None]]:
    """Shows a bar with meta-steps/s, tasks/s, time left and the latest metric."""
    every = config.steps_per_call
    with bar(config.meta_steps, done) as move:

        def advance(seconds: float, latest: str) -> None:
            rate = every / seconds
            speed = f"{rate:.3g} meta-steps/s, {rate * config.meta_batch:.0f} tasks/s"
            move(every, speed, latest)

        yield advance


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
