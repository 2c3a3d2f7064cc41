"""The figures of a run in reinforcement learning, written beside its summary."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array, Float
from matplotlib.figure import Figure

from benchmarks.files import read_lines, whole
from benchmarks.schemas import COUNT, NUMBER


def returns(out: Path, label: str, published: dict[str, float] | None = None) -> Figure:
    """What was gained before and after adaptation, over meta-training; `learning_curve.png`.

    Args:
        out: the folder of the run.
        label: of the axis.
        published: levels to compare with, by name.
    """
    lines = read_log(out, {name: [(NUMBER, None)] for name in ("before", "after")})
    steps = [line["step"] for line in lines]
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name in ("before", "after"):
        seeds = np.array([line[name] for line in lines], float)
        (mean,) = axes.plot(steps, seeds.mean(axis=1), label=f"{name} adaptation")
        axes.plot(steps, seeds, color=mean.get_color(), alpha=0.3, linewidth=0.8)
    for name, level in (published or {}).items():
        axes.axhline(level, linestyle=":", color="gray")
        axes.annotate(name, (steps[0], level), va="bottom", fontsize="small", color="gray")
    axes.set(xlabel="meta-steps", ylabel=label)
    axes.grid(alpha=0.3)
    axes.legend(title=f"mean of {seeds.shape[1]} seeds, and each")
    return saved(figure, out / "learning_curve.png")


def paths(
    out: Path,
    walks: Float[Array, "goal update trajectory time 2"],
    goals: Float[Array, "goal 2"],
) -> Figure:
    """Walks to some goals before and after each update, NaN where they have ended; `paths.png`.

    Args:
        out: the folder of the run.
        walks: where.
        goals: of each row.
    """
    rows, columns = walks.shape[:2]
    figure = Figure(figsize=(2.2 * columns, 2.3 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for row, goal, updates in zip(grid, goals, np.asarray(walks), strict=True):
        for axes, trajectories in zip(row, updates, strict=True):
            for walk in trajectories:
                axes.plot(*walk.T, linewidth=0.8, alpha=0.7)
            axes.plot(0, 0, "ko", markersize=4)
            axes.plot(*goal, "*", color="tab:red", markersize=12, markeredgecolor="white")
            axes.set_aspect("equal")
    for updates, axes in enumerate(grid[0]):
        axes.set_title(f"{updates} updates")
    return saved(figure, out / "paths.png")


def read_log(out: Path, schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of a run's `log.jsonl`.

    Args:
        out: the folder of the run.
        schema: what a line must be, beside its step.

    Raises:
        ValueError: as `read_lines`.
    """
    return read_lines(out / "log.jsonl", {"step": COUNT} | schema)


def saved(figure: Figure, path: Path) -> Figure:
    """Writes it."""
    with whole(path) as aside:
        figure.savefig(aside, dpi=120)
    return figure
