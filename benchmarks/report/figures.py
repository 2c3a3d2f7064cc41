"""Figures of a run, which are written beside its summary."""

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import maml
from benchmarks.harness.files import COUNT, MEAN, NUMBER, read_lines, save_figure
from benchmarks.harness.supervised import Experiment
from benchmarks.harness.tables import quantity
from maml.types import MetaParams, Params
from tasks.sinusoid import INPUT, Wave, points

MOST_COLUMNS = 10  # most images in a row of a figure of classified images


def learning_curve(
    out: Path,
    names: dict[str, str],
    label: str,
    *,
    title: str,
    validated: str | None = None,
    scale: float = 1.0,
    levels: dict[str, float] | None = None,
) -> Figure:
    """Draws numbers of `log.jsonl` over meta-training; saved as `learning_curve.png`.

    Args:
        out: Folder of the run.
        names: Label of the curve for each number of the log that is drawn.
        label: Label of the vertical axis, with the unit.
        title: Title of the figure.
        validated: Metric of the validation tasks that is drawn too, before and after adaptation.
        scale: Factor from the log's unit to that of the axis.
        levels: Published values, drawn as horizontal lines, by name.

    Returns:
        The figure.
    """
    lines = read_log(out, names, validated)
    steps = [line["step"] for line in lines]
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, words in names.items():
        # None is NaN.
        values = np.array([np.ravel(np.array(line.get(name), float)) for line in lines])
        draw_band(axes, steps, scale * values, words)
    curves = [line["val"][validated] for line in lines if line.get("val")] if validated else []
    for step in dict.fromkeys(("0", [*curves[0]][-1])) if curves else ():
        mean, ci95 = (
            scale * np.array([curve[step][name] for curve in curves], float)
            for name in ("mean", "ci95")
        )
        words = f"validation tasks, {quantity(int(step), 'inner step')}"
        (line,) = axes.plot(steps, mean, label=words)
        axes.fill_between(steps, mean - ci95, mean + ci95, color=line.get_color(), alpha=0.2)
    for name, level in (levels or {}).items():
        axes.axhline(level, linestyle=":", color="gray")
        axes.annotate(name, (steps[0], level), va="bottom", fontsize="small", color="gray")
    axes.set(xlabel="meta-steps", ylabel=label, title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    return save_figure(figure, out / "learning_curve.png")


def read_log(out: Path, names: Iterable[str], validated: str | None = None) -> list[dict[str, Any]]:
    """Reads the lines of a run's `log.jsonl`, which may have numbers of these names.

    They may also have a curve of the metric `validated` on validation tasks.

    Raises:
        ValueError: As `read_lines`.
    """
    schema: dict[str, Any] = {"step": COUNT}
    schema |= dict.fromkeys(names, (NUMBER, [(NUMBER, None)], None))
    schema |= {"val": ({validated: {str: MEAN}}, None)} if validated else {}
    return read_lines(out / "log.jsonl", schema)


def draw_band(axes: Axes, x: list[int], values: Float[np.ndarray, "x seed"], label: str) -> None:
    """Draws the mean over seeds, and each of several seeds as a thin line."""
    (mean,) = axes.plot(x, values.mean(axis=1), label=label)
    if (seeds := values.shape[1]) > 1:
        mean.set_label(f"{label} (mean of {seeds} seeds, and each)")
        axes.plot(x, values, color=mean.get_color(), alpha=0.3, linewidth=0.8)


def paths(
    out: Path, walks: Float[Array, "goal step trajectory time 2"], goals: Float[Array, "goal 2"]
) -> Figure:
    """Draws walks to goals before adaptation and after each inner step; saved as `paths.png`."""
    rows, columns = walks.shape[:2]
    figure = Figure(figsize=(2.2 * columns, 2.3 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for row, goal, steps in zip(grid, goals, np.asarray(walks), strict=True):
        for axes, trajectories in zip(row, steps, strict=True):
            for walk in trajectories:
                axes.plot(*walk.T, linewidth=0.8, alpha=0.7)
            axes.plot(0, 0, "ko", markersize=4)
            axes.plot(*goal, "*", color="tab:red", markersize=12, markeredgecolor="white")
            axes.set_aspect("equal")
    for steps, axes in enumerate(grid[0]):
        axes.set_title(quantity(steps, "inner step"))
    return save_figure(figure, out / "paths.png")


def fits(out: Path, experiment: Experiment, meta_params: MetaParams) -> Figure:
    """Draws test waves and fits after 0, 1 and 10 steps, as figure 2 of the paper; `fits.png`."""
    waves = [Wave(jnp.array(4.0), jnp.array(0.5)), Wave(jnp.array(1.0), jnp.array(2.5))]
    x = jnp.linspace(*INPUT, 200)
    figure = Figure(figsize=(9, 6), layout="constrained")
    path_of = jax.jit(partial(_predictions, experiment, steps=10))
    grid = figure.subplots(2, 2, sharex=True, sharey="row")
    for row, wave in zip(grid, waves, strict=True):
        supports = {"half of the range": jnp.linspace(0.5, 4.5, 10), "5 points": x[20::40]}
        for axes, (name, support) in zip(row, supports.items(), strict=True):
            path = path_of(meta_params, points(wave, support), x[:, None])
            axes.plot(x, wave(x), color="tab:red", label="truth")
            for step, style in ((0, ":"), (1, "--"), (10, "-")):
                words = quantity(step, "inner step")
                axes.plot(x, path[step, :, 0], style, color="tab:green", label=words)
            axes.plot(support, wave(support), "^", color="tab:purple", label="support")
            axes.set_title(f"amplitude {wave.amplitude:g}, phase {wave.phase:g}, {name}")
        row[0].set_ylabel("y")
    for axes in grid[-1]:
        axes.set_xlabel("x")
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=5)
    return save_figure(figure, out / "fits.png")


def episodes(out: Path, experiment: Experiment, meta_params: MetaParams, steps: int) -> Figure:
    """Draws test episodes, with the predicted classes of the queries; saved as `episodes.png`."""
    path_of = jax.jit(partial(_predictions, experiment, steps=steps))
    figure = Figure(figsize=(9, 6), layout="constrained")
    for number, part in enumerate(np.array(figure.subfigures(2, 2)).flat):
        episode = experiment.samplers["test"](jax.random.key(number))
        (support, support_labels), (query, labels) = episode
        predicted = path_of(meta_params, episode.support, query)[steps].argmax(-1)
        shown = np.linspace(0, len(labels) - 1, min(5, len(labels))).round().astype(int)
        grid = part.subplots(2, len(shown), squeeze=False)
        for column, place in enumerate(shown):
            first = int(np.argmax(support_labels == labels[place]))
            right = predicted[place] == labels[place]
            _draw(grid[0, column], support[first], f"class {labels[place]}", "black")
            color = "tab:green" if right else "tab:red"
            _draw(grid[1, column], query.inputs[place], f"predicted {predicted[place]}", color)
        part.suptitle(f"support above, query below: {np.mean(predicted == labels):.0%} correct")
    return save_figure(figure, out / "episodes.png")


def classified(
    out: Path,
    support: Mapping[str, Iterable[np.ndarray]],
    queries: list[np.ndarray],
    probabilities: Float[np.ndarray, "query class"],
) -> Figure:
    """Draws images by class above, and queries with their classes below; saved as `classified.png`.

    Args:
        out: Folder of the figure.
        support: Images of the support set by class, `[height, width, channel]` from 0 to 1.
        queries: Images of the query set.
        probabilities: Probabilities of the classes for each query.

    Returns:
        The figure.
    """
    names = list(support)
    shown = [(name, image, "black") for name, images in support.items() for image in images]
    answers = [(f"{names[p.argmax()]} {p.max():.0%}", "tab:blue") for p in probabilities]
    parts = shown, [(text, q, color) for q, (text, color) in zip(queries, answers, strict=True)]
    columns = min(MOST_COLUMNS, max(map(len, parts)))
    heights = [-(-len(part) // columns) for part in parts]
    figure = Figure(figsize=(1.3 * columns + 0.5, 1.6 * sum(heights) + 1), layout="constrained")
    areas = np.array(figure.subfigures(2, 1, height_ratios=heights)).flat
    titles = "support", "query, with the most likely class"
    for area, part, rows, title in zip(areas, parts, heights, titles, strict=True):
        area.suptitle(title)
        grid = list(area.subplots(rows, columns, squeeze=False).flat)
        for axes, (text, image, color) in zip(grid, part, strict=False):
            _draw(axes, image, text, color)
        for axes in grid[len(part) :]:
            axes.axis("off")
    return save_figure(figure, out / "classified.png")


def _predictions(
    experiment: Experiment, meta_params: MetaParams, support: Any, inputs: Any, *, steps: int
) -> jax.Array:
    """The outputs `[step, ...]` for inputs after 0 to `steps` inner steps on a support set."""

    def predict(params: Params) -> jax.Array:
        return experiment.predict(params, inputs)

    inner = experiment.algorithm.learner(meta_params)
    return maml.adapt(inner, support, jax.random.key(0), steps, probe=predict)[1]


def _draw(axes: Axes, image: np.ndarray | jax.Array, title: str, color: str) -> None:
    pixels = np.asarray(image)
    if pixels.shape[-1] == 1:  # ink is 1
        axes.imshow(1 - pixels[..., 0], cmap="gray", vmin=0, vmax=1)
    else:  # normalised; the range of the image is that of the picture
        axes.imshow((pixels - pixels.min()) / max(np.ptp(pixels), 1e-6))
    axes.set_title(title, color=color, fontsize="small")
    axes.set(xticks=[], yticks=[])
