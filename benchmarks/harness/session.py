"""What a run has around it: a summary, a bar, Ctrl-C, and the command that started it."""

import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from rich import progress
from rich.console import Console

from benchmarks.harness import hardware
from benchmarks.harness.command_line import script_name
from benchmarks.harness.files import as_json, read_object, write_text
from benchmarks.harness.folders import RESULTS, plain
from benchmarks.harness.options import Run
from benchmarks.harness.schemas import OPTIONS

T = TypeVar("T")


def summarise(
    name: str,
    config: Run,
    out: Path,
    done: int,
    seconds: dict[str, float],
    found: dict[str, Any],
) -> dict[str, Any]:
    """Writes `summary.json`, and where the run is to be recorded, a line of results/*.jsonl.

    Args:
        name: of the benchmark.
        config: of the run.
        out: its folder.
        done: meta-steps that were taken.
        seconds: what took how long; `train` is among it.
        found: what came out, with its `headline`, and what has to be known to compare it.
    """
    tasks = done * config.meta_batch * found.get("seeds", 1)
    interrupted = done < config.meta_steps
    summary = {
        "preset": config.preset,
        **found,
        "seed": config.seed,
        "meta_steps": done,
        "interrupted": interrupted,
        **_origin(out, config),
        "seconds": seconds,
        "tasks_per_second": round(tasks / max(seconds["train"], 1e-9), 1),
    }
    return write(name, config, out, summary, record=config.record and not interrupted)


def _origin(out: Path, config: Run) -> dict[str, Any]:
    """What a run started from, and which options changed at which step, if any."""
    history = read_object(out / "config.json", OPTIONS).get("history") or []
    origin: dict[str, Any] = {"history": history} if len(history) > 1 else {}
    return origin | ({"start_from": str(config.start_from)} if config.start_from else {})


def write(
    name: str, config: Any, out: Path, found: dict[str, Any], *, record: bool
) -> dict[str, Any]:
    """Writes `summary.json`, and a line of results/*.jsonl if asked for, with what it was got by.

    Args:
        name: of the benchmark.
        config: its options, a dataclass.
        out: the folder.
        found: what came out; `seconds`, what took how long, is among it.
        record: add the line.
    """
    seconds = {name: round(value, 2) for name, value in found["seconds"].items()}
    summary = {
        "benchmark": name,
        **found,
        "seconds": seconds,
        "device": hardware.device(),
        "versions": hardware.versions(),
        "config": plain(config),
        "command": command(),
    }
    write_text(out / "summary.json", as_json(summary, indent=2) + "\n")
    if record:
        RESULTS.mkdir(exist_ok=True)
        with (RESULTS / f"{name}.jsonl").open("a") as file:
            file.write(as_json(summary) + "\n")
    return summary


def ended(run: Path, schema: dict[str, Any]) -> dict[str, Any]:
    """The summary of a run's folder.

    Args:
        run: the folder.
        schema: what the summary must be.

    Raises:
        ValueError: it has none, or something else.
    """
    path = run / "summary.json"
    if not path.exists():
        raise ValueError(f"{run} has no summary.json: it is no run that has ended")
    return read_object(path, schema)


def headline(found: dict[str, Any], metric: str, when: int | str) -> dict[str, Any]:
    """The one number of a result that others compare with, after which inner step it was got."""
    return {"metric": metric, "steps": when, **found[metric][str(when)]}


def command() -> str:
    """How this process was started; a notebook and a test have no module to name."""
    script = script_name()
    return " ".join(["python -m", script, *sys.argv[1:]]) if script else "from Python"


@contextmanager
def interruptible() -> Iterator[Callable[[], signal.Signals | None]]:
    """Ctrl-C and SIGTERM are noted instead of raised, so that nothing is lost; not a second time.

    Gives what says which of them came.
    """
    noted: list[signal.Signals] = []

    def note(number: int, frame: Any) -> None:
        noted.append(signal.Signals(number))
        print("Interrupted: the call at work is finished first. Again to give up at once.")
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
    """The items one by one, under a bar with the time left."""
    return progress.track(
        items, about, console=Console(stderr=True), transient=True, disable=not shown
    )


@contextmanager
def progress_bar(config: Run, done: int = 0) -> Iterator[Callable[[float, str], None]]:
    """A bar with meta-steps/s, tasks/s, time left and the latest metric."""
    every = config.steps_per_call
    with bar(config.meta_steps, done) as move:

        def advance(seconds: float, latest: str) -> None:
            rate = every / seconds
            speed = f"{rate:.3g} meta-steps/s, {rate * config.meta_batch:.0f} tasks/s"
            move(every, speed, latest)

        yield advance


@contextmanager
def bar(total: int, done: int = 0) -> Iterator[Callable[[int, str, str], None]]:
    """A bar with the time left; `move(how many, speed, latest)` is called with each advance."""
    columns = (
        progress.BarColumn(bar_width=16),
        progress.MofNCompleteColumn(),
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
