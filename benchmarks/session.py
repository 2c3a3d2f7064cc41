"""What a run has around it: a folder, a bar, Ctrl-C, and the command that started it."""

import json
import signal
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from rich import progress
from rich.console import Console

from benchmarks import hardware
from benchmarks.config import Run
from benchmarks.files import as_json, read_lines, read_object, write_text
from benchmarks.stored import steps

RESULTS = Path("results")
FREE = (
    "resume",
    "record",
    "out",
    "cache",
    "save_seconds",
    "tensorboard",
)  # options that change no result
LATER = "meta_steps", "outer_rate"  # options that may change when a run goes on
T = TypeVar("T")


def folder(name: str, config: Run) -> Path:
    """A new folder for a run, or the one it names, with the options in `config.json`.

    Raises:
        ValueError: it holds a run that is not to be resumed, or one of other options; or there is
            none to resume.
    """
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S-%f")
    out = config.out or RESULTS / "runs" / f"{name}-{config.preset}-{config.seed}-{stamp}"
    wanted = lasting(name, config)
    if config.resume:
        if not (config.out and (out / "config.json").exists()):
            raise ValueError(f"there is no run to resume in {out}; --out names its folder")
        before = _agreeing(out, wanted, but=LATER)["meta_steps"]
        if config.spanning and before != config.meta_steps:
            raise ValueError(
                f"{config.spanning} spans the {before} meta-steps of {out}, so they cannot become"
                f" {config.meta_steps}; --start-from {out} starts a new run from what it learned"
            )
        return out
    if any((out / made).exists() for made in ("log.jsonl", "summary.json")) or steps(
        out / "checkpoints"
    ):
        raise ValueError(f"{out} holds a run; go on with --resume, or name another with --out")
    claim(out, wanted)
    return out


def claim(out: Path, wanted: dict[str, Any]) -> None:
    """Writes the options of a folder to its `config.json`; if it has one, it has to be the same.

    Raises:
        ValueError: it has other options, saying which, or it is the working directory.
    """
    if out == Path():
        raise ValueError("results need a folder of their own; got the working directory as --out")
    if (out / "config.json").exists():
        _agreeing(out, wanted)
        return
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "config.json", as_json(wanted, indent=2) + "\n")


def _agreeing(out: Path, wanted: dict[str, Any], but: Collection[str] = ()) -> dict[str, Any]:
    """The options in a folder's `config.json`, which are those that are wanted, but for some.

    Raises:
        ValueError: others differ, saying which.
    """
    found = read_object(out / "config.json")
    if not found.keys() & wanted.keys():
        raise ValueError(f"{out / 'config.json'} holds no options of such a run")
    different = [
        f"{key} {found.get(key)!r} there, {wanted.get(key)!r} here"
        for key in found | wanted
        if key not in {*but, "history"} and found.get(key) != wanted.get(key)
    ]
    if different:
        raise ValueError(f"{out} holds a run of other options: {'; '.join(different)}")
    return found


def goes_on(out: Path, config: Run, done: int) -> None:
    """Notes in `config.json` which options hold from a meta-step on, if they are others now.

    Its `history` has the options at the start, and later what changed, at which step.
    """
    found = read_object(out / "config.json")
    first = {"step": 0} | {name: found[name] for name in LATER}
    # What was to hold from a later step on never did, or is undone.
    history = [entry for entry in found.get("history", [first]) if entry["step"] < done]
    holding = {name: value for entry in history for name, value in entry.items()}
    changed = {n: getattr(config, n) for n in LATER if getattr(config, n) != holding.get(n)}
    if done and changed:
        words = (f"{name} is {value}, not {holding[name]}" for name, value in changed.items())
        print(f"From meta-step {done} on, {', '.join(words)}.")
    history += [{"step": done} | changed] if changed else []
    now = found | {name: getattr(config, name) for name in LATER}
    now.pop("history", None)
    now |= {"history": history} if len(history) > 1 else {}
    if now != found:
        write_text(out / "config.json", as_json(now, indent=2) + "\n")


def recovered(
    log: Path, keys: Collection[str], wanted: Callable[[dict[str, Any]], bool] = lambda line: True
) -> list[dict[str, Any]]:
    """Lines of a log; those not wanted, and one that was cut off, are taken out of the file.

    Args:
        log: the file; none is an empty log.
        keys: of every line.
        wanted: whether a line is to stay.

    Raises:
        ValueError: as `read_lines`; then nothing is taken out.
    """
    lines = [line for line in read_lines(log, keys) if wanted(line)]
    text = "".join(as_json(line) + "\n" for line in lines)
    if log.exists() and log.read_text() != text:
        write_text(log, text)
    return lines


def lasting(name: str, config: Run) -> dict[str, Any]:
    """The options that change the results of a run, and the name of its benchmark."""
    options = {"benchmark": name} | plain(config)
    return {option: value for option, value in options.items() if option not in FREE}


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
        **_origin(out, config),
        "seconds": seconds,
        "tasks_per_second": round(tasks / max(seconds["train"], 1e-9), 1),
    }
    return write(name, config, out, summary, record=config.record and not interrupted)


def _origin(out: Path, config: Run) -> dict[str, Any]:
    """What a run started from, and which options changed at which step, if any."""
    history = read_object(out / "config.json").get("history", [])
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


def ended(run: Path) -> dict[str, Any]:
    """The summary of a run's folder.

    Raises:
        ValueError: it has none.
    """
    path = run / "summary.json"
    if not path.exists():
        raise ValueError(f"{run} has no summary.json: it is no run that has ended")
    return read_object(path)


def headline(found: dict[str, Any], metric: str, when: int | str) -> dict[str, Any]:
    """The one number of a result that others compare with, after which inner step it was got."""
    return {"metric": metric, "steps": when, **found[metric][str(when)]}


def command() -> str:
    """How this process was started; a notebook and a test have no module to name."""
    spec = sys.modules["__main__"].__spec__
    return " ".join(["python -m", spec.name, *sys.argv[1:]]) if spec else "from Python"


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
