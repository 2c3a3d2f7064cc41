"""The summary of a run: its results with options, machine and command, and recorded lines."""

import re
import sys
from pathlib import Path
from typing import Any

from benchmarks.harness import folders, hardware
from benchmarks.harness.files import append_line, read_object, write_json
from benchmarks.harness.folders import options_as_json
from benchmarks.harness.renamed import preset_of_today


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
    summary = {"benchmark": name, **results, "seconds": seconds, **provenance()}
    summary |= {"config": options_as_json(config)}
    write_json(out / "summary.json", summary)
    if record:
        folders.RESULTS.mkdir(exist_ok=True)
        append_line(folders.RESULTS / f"{name}.jsonl", summary)
    return summary


def read_summary(run: Path, schema: dict[str, Any]) -> dict[str, Any]:
    """Reads the summary of a run.

    Raises:
        ValueError: The folder has no summary, or one that does not match the schema.
    """
    path = run / "summary.json"
    if not path.exists():
        raise ValueError(f"{run} has no summary.json, so it is not the folder of a finished run")
    return read_object(path, schema)


def provenance() -> dict[str, Any]:
    """The devices, the versions and the command of this process.

    A notebook and a test have no module to name.
    """
    script = hardware.script_name()
    command = " ".join(["python -m", script, *sys.argv[1:]]) if script else "from Python"
    return {"device": hardware.device(), "versions": hardware.versions(), "command": command}


def command_to_repeat(command: str) -> str:
    """A recorded command with today's preset, without the options of its folder and its recording.

    >>> command_to_repeat("python -m benchmarks.demo --quick --out results/demo --record")
    'python -m benchmarks.demo --quick'
    """
    command = re.sub(r" --out[ =]\S+| --(record|resume)", "", command)
    return re.sub(r"(?<=--preset[ =])\S+", lambda name: preset_of_today(name[0]), command)
