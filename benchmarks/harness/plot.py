"""What every figure of a run is made with: the lines of its log, and the file it is saved to."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.harness.files import read_lines, whole
from benchmarks.harness.schemas import COUNT


def read_log(out: Path, schema: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the lines of a run's `log.jsonl`.

    Args:
        out: Folder of the run.
        schema: Schema of a line, beside its step.

    Raises:
        ValueError: as `read_lines`.
    """
    return read_lines(out / "log.jsonl", {"step": COUNT} | schema)


def save_figure(figure: Figure, path: Path) -> Figure:
    """Writes a figure to a file, whole or not at all, and returns it."""
    with whole(path) as aside:
        figure.savefig(aside, dpi=120)
    return figure
