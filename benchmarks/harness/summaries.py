"""Summaries of runs: results, options, machine and command, in `summary.json`."""

import sys
from pathlib import Path
from typing import Any

from benchmarks.harness import hardware
from benchmarks.harness.command_line import script_name
from benchmarks.harness.files import as_json, read_object, write_text
from benchmarks.harness.folders import RESULTS, options_as_json
from benchmarks.harness.options import Run
from benchmarks.harness.schemas import OPTIONS


def summarise_run(
    name: str,
    config: Run,
    out: Path,
    done: int,
    seconds: dict[str, float],
    results: dict[str, Any],
) -> dict[str, Any]:
    """Writes `summary.json`, and where the run is to be recorded, a line of results/*.jsonl.

    Args:
        name: Name of the benchmark.
        config: Options of the run.
        out: Folder of the run.
        done: Number of meta-steps that were taken.
        seconds: Seconds of each part of the run, `train` among them.
        results: Results with their `headline`, and the facts that a comparison needs.

    Returns:
        The summary.
    """
    tasks = done * config.meta_batch * config.seeds
    interrupted = done < config.meta_steps
    summary = {
        "preset": config.preset,
        **results,
        "seed": config.seed,
        "meta_steps": done,
        "interrupted": interrupted,
        **_origin(out, config),
        "seconds": seconds,
        "seconds_per_seed": round(seconds["train"] / config.seeds, 2),
        "tasks_per_second": round(tasks / max(seconds["train"], 1e-9), 1),
    }
    return write_summary(name, config, out, summary, record=config.record and not interrupted)


def _origin(out: Path, config: Run) -> dict[str, Any]:
    """The run that this one started from, and the options that changed on the way, if any."""
    history = read_object(out / "config.json", OPTIONS).get("history") or []
    origin: dict[str, Any] = {"history": history} if len(history) > 1 else {}
    return origin | ({"start_from": str(config.start_from)} if config.start_from else {})


def write_summary(
    name: str, config: Any, out: Path, results: dict[str, Any], *, record: bool
) -> dict[str, Any]:
    """Writes `summary.json`, with options, machine and command; on request also a recorded line.

    Args:
        name: Name of the benchmark.
        config: Options of the benchmark, a dataclass.
        out: Folder of the run.
        results: Results; `seconds`, those of each part of the run, are among them.
        record: Whether the summary is also added to results/*.jsonl.

    Returns:
        The summary.
    """
    seconds = {part: round(value, 2) for part, value in results["seconds"].items()}
    summary = {
        "benchmark": name,
        **results,
        "seconds": seconds,
        "device": hardware.device(),
        "versions": hardware.versions(),
        "config": options_as_json(config),
        "command": command(),
    }
    write_text(out / "summary.json", as_json(summary, indent=2) + "\n")
    if record:
        RESULTS.mkdir(exist_ok=True)
        with (RESULTS / f"{name}.jsonl").open("a") as file:
            file.write(as_json(summary) + "\n")
    return summary


def read_summary(run: Path, schema: dict[str, Any]) -> dict[str, Any]:
    """Reads the summary of a run.

    Args:
        run: Folder of the run.
        schema: Schema that the summary must match.

    Returns:
        The summary.

    Raises:
        ValueError: The folder has no summary, or one that does not match.
    """
    path = run / "summary.json"
    if not path.exists():
        raise ValueError(f"{run} has no summary.json, so it is not the folder of a finished run")
    return read_object(path, schema)


def headline(results: dict[str, Any], metric: str, when: int | str) -> dict[str, Any]:
    """The one number that others compare with: a metric after the number `when` of inner steps."""
    return {"metric": metric, "steps": when, **results[metric][str(when)]}


def command() -> str:
    """The command that started this process; a notebook and a test have no module to name."""
    script = script_name()
    return " ".join(["python -m", script, *sys.argv[1:]]) if script else "from Python"
