"""Helpers of every figure: the lines of a run's log, and the file that a figure is saved to."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.harness.files import atomic_write, read_lines
from benchmarks.harness.schemas import COUNT


def read_log(out: Path, schema: dict[str, Any]) -> list[dict[str, Any]]:
    """Reads the `log.jsonl` of a run.

    Args:
        out: Folder of the run.
        schema: Schema of a line, besides its step.

    Returns:
        The lines.

    Raises:
        ValueError: As `read_lines`.
    """
    return read_lines(out / "log.jsonl", {"step": COUNT} | schema)


def save_figure(figure: Figure, path: Path) -> Figure:
    """Writes a figure to a file, completely or not at all, and returns it."""
    with atomic_write(path) as aside:
        figure.savefig(aside, dpi=120)
    return figure
