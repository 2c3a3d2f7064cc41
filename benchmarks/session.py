"""What a run has around it: a folder, a bar, Ctrl-C, and the command that started it."""

import json
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from rich import progress
from rich.console import Console

from benchmarks import hardware
from benchmarks.config import Run

RESULTS = Path("results")
FREE = (
    "resume",
    "record",
    "out",
    "cache",
    "save_seconds",
    "tensorboard",
)  # options that change no result
T = TypeVar("T")


def folder(name: str, config: Run) -> Path:
    """A new folder for a run, or the one it names, with the options in `config.json`.

    Raises:
        ValueError: it holds a run that is not to be resumed, or one of other options; or there is
            none to resume.
    """
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S-%f")
    out = config.out or RESULTS / "runs" / f"{name}-{config.preset}-{config.seed}-{stamp}"
    options, started = out / "config.json", (out / "log.jsonl").exists()
    wanted = {"benchmark": name} | plain(config)
    for free in FREE:
        del wanted[free]
    if started and not config.resume:
        raise ValueError(f"{out} holds a run; go on with --resume, or name another with --out")
    if config.resume and not (config.out and options.exists()):
        raise ValueError(f"there is no run to resume in {out}; --out names its folder")
    claim(out, wanted, started=config.resume)
    return out


def claim(out: Path, wanted: dict[str, Any], *, started: bool) -> None:
    """Writes the options of a folder to its `config.json`; one that was started has to have them.

    Raises:
        ValueError: it has others, saying which.
    """
    path = out / "config.json"
    found = json.loads(path.read_text()) if started else wanted
    different = [
        f"{key} {found.get(key)!r} there, {wanted.get(key)!r} here"
        for key in found | wanted
        if found.get(key) != wanted.get(key)
    ]
    if different:
        raise ValueError(f"{out} holds a run of other options: {'; '.join(different)}")
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(wanted, indent=2) + "\n")


def recovered(
    log: Path, wanted: Callable[[dict[str, Any]], bool] = lambda line: True
) -> list[dict[str, Any]]:
    """Lines of a log; those not wanted, and one that was cut off, are taken out of the file."""
    if not log.exists():
        return []
    lines = []
    for text in log.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    kept = [line for line in lines if wanted(line)]
    aside = log.with_suffix(".part")
    aside.write_text("".join(json.dumps(line) + "\n" for line in kept))
    aside.replace(log)
    return kept


def plain(config: Any) -> dict[str, Any]:
    """The options as JSON has them."""
    return json.loads(json.dumps(asdict(config), default=str))


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
        "seconds": seconds,
        "tasks_per_second": round(tasks / max(seconds["train"], 1e-9), 1),
    }
    return write(name, config, out, summary, record=config.record and not interrupted)


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
    (out / "summary.json").write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n")
    if record:
        RESULTS.mkdir(exist_ok=True)
        with (RESULTS / f"{name}.jsonl").open("a") as file:
            file.write(json.dumps(summary) + "\n")
    return summary


def ended(run: Path) -> dict[str, Any]:
    """The summary of a run's folder.

    Raises:
        ValueError: it has none.
    """
    path = run / "summary.json"
    if not path.exists():
        raise ValueError(f"{run} has no summary.json: it is no run that has ended")
    return json.loads(path.read_text())


def headline(found: dict[str, Any], metric: str, when: int | str) -> dict[str, Any]:
    """The one number of a result that others compare with, after which inner step it was got."""
    return {"metric": metric, "steps": when, **found[metric][str(when)]}


def command() -> str:
    """How this process was started; a notebook and a test have no module to name."""
    spec = sys.modules["__main__"].__spec__
    return " ".join(["python -m", spec.name, *sys.argv[1:]]) if spec else "from Python"


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Ctrl-C is noted instead of raised, so that no result is lost; a second one is raised."""
    noted: list[int] = []

    def note(number: int, frame: Any) -> None:
        noted.append(number)
        print("Interrupted: the call at work is finished first. Again to give up at once.")
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(noted)
    finally:
        signal.signal(signal.SIGINT, before)


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
