"""The figures of a run in reinforcement learning, written beside its summary."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Array, Float
from matplotlib.figure import Figure


def returns(out: Path, label: str, published: dict[str, float] | None = None) -> Figure:
    """What was gained before and after adaptation, over meta-training; `learning_curve.png`.

    Args:
        out: the folder of the run.
        label: of the axis.
        published: levels to compare with, by name.
    """
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines]
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name in ("before", "after"):
        seeds = np.array([line[name] for line in lines])
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
    titles: Sequence[str] = (),
) -> Figure:
    """Walks to some goals before and after each update, NaN where they have ended; `paths.png`.

    Args:
        out: the folder of the run.
        walks: where.
        goals: of each row.
        titles: of the columns (default: how many updates).
    """
    rows, columns = walks.shape[:2]
    titles = titles or [f"{n} updates" for n in range(columns)]
    figure = Figure(figsize=(2.2 * columns, 2.3 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for row, goal, updates in zip(grid, goals, np.asarray(walks), strict=True):
        for axes, trajectories in zip(row, updates, strict=True):
            for walk in trajectories:
                axes.plot(*walk.T, linewidth=0.8, alpha=0.7)
            axes.plot(0, 0, "ko", markersize=4)
            axes.plot(*goal, "*", color="tab:red", markersize=12, markeredgecolor="white")
            axes.set_aspect("equal")
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title)
    return saved(figure, out / "paths.png")


def saved(figure: Figure, path: Path) -> Figure:
    """Writes it."""
    figure.savefig(path, dpi=120)
    return figure
