"""The summary of a run: what came out, by which options, on which machine, by which command."""

import sys
from pathlib import Path
from typing import Any

from benchmarks.harness import hardware
from benchmarks.harness.command_line import script_name
from benchmarks.harness.files import as_json, read_object, write_text
from benchmarks.harness.folders import RESULTS, plain
from benchmarks.harness.options import Run
from benchmarks.harness.schemas import OPTIONS


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
    tasks = done * config.meta_batch * config.seeds
    interrupted = done < config.meta_steps
    summary = {
        "preset": config.preset,
        **found,
        "seed": config.seed,
        "meta_steps": done,
        "interrupted": interrupted,
        **_origin(out, config),
        "seconds": seconds,
        "seconds_per_seed": round(seconds["train"] / config.seeds, 2),
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
