"""Speed of the meta-gradient by layout of the tasks on devices, and its growth.

Prints a table of tasks per second by devices and chunk, then the seconds of Conv4's meta-gradient
over tasks, inner steps, ways and width, of which one is changed at a time.

    python -m benchmarks.scaling     # ten minutes on two cores
    python -m benchmarks.scaling --tasks 1 4 16 64 256 1024 4096 --devices 1    # one GPU

The latter has the layout that the benchmarks choose on a GPU: all tasks at once.
Tasks are glyphs and sinusoids, which need no data.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

import maml
from benchmarks.harness import hardware
from benchmarks.harness.bounds import check
from benchmarks.harness.command_line import launch
from benchmarks.harness.display import track
from benchmarks.harness.files import save_figure, write_json
from benchmarks.harness.folders import script_folder
from benchmarks.harness.summary import provenance
from benchmarks.harness.tables import print_table
from maml.episodes import few_shot
from maml.types import Params
from tasks import glyphs
from tasks.batch_norm import flax_loss
from tasks.models import MLP, Conv4, FullyConnected
from tasks.sinusoid import few_points


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the measurement."""

    models: tuple[str, ...] = ("conv4", "fully-connected", "sinusoid")
    """Models of the table of layouts."""
    devices: tuple[int, ...] = (1, 2)
    """Numbers of devices in the table of layouts."""
    chunks: tuple[int | Literal["all"], ...] = (1, 4, 16, "all")
    """Numbers of tasks that a device maps at once in the table of layouts."""
    tasks: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128)
    """Numbers of tasks of Conv4's meta-gradient."""
    steps: tuple[int, ...] = (1, 2, 5, 10)
    """Numbers of inner steps of Conv4's meta-gradient."""
    ways: tuple[int, ...] = (5, 10, 20)
    """Numbers of classes in an episode of Conv4's meta-gradient."""
    width: tuple[int, ...] = (16, 32, 64, 128)
    """Numbers of channels of Conv4."""
    repeats: int = 5
    """Number of timed runs of each meta-gradient."""
    out: Path | None = None
    """Folder of scaling.json and scaling.png; None writes no files."""

    def __post_init__(self) -> None:
        check(self)
        unknown = set(self.models) - set(MODELS)
        if unknown:
            raise ValueError(f"models must be among {', '.join(MODELS)}; got {', '.join(unknown)}")
        if max(self.ways) > (classes := len(glyphs.load().images)):
            raise ValueError(f"ways must be <= {classes}, the classes of glyphs; got {self.ways}")


class Setting(NamedTuple):
    """A meta-gradient to time: algorithm, parameters, sampler, and whether a task is heavy."""

    algorithm: maml.Algorithm
    params: Params
    sample: maml.Sampler
    heavy: bool


def characters(model: Callable, *, steps: int = 1, ways: int = 5, **options: int) -> Setting:
    """1-shot classification of glyphs, with the mode that the benchmarks choose."""
    sample = few_shot(glyphs.load().images, ways, 1, 1, rotate=True)
    network = model(ways=ways, **options)
    params = network.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    loss, rate = flax_loss(network, "transductive"), 2.0 if steps == 1 else 0.1
    return Setting(maml.maml(loss, optax.sgd(rate), steps, hvp="forward"), params, sample, True)


def waves() -> Setting:
    """Sinusoid regression, as in the paper."""
    params = MLP().init(jax.random.key(0), jnp.zeros((1, 1)))
    algorithm = maml.maml(
        maml.regression(lambda p, x: jnp.asarray(MLP().apply(p, x))), optax.sgd(1e-3), 1
    )
    return Setting(algorithm, params, few_points(10, 10), False)


MODELS = {
    "conv4": partial(characters, Conv4),
    "fully-connected": partial(characters, FullyConnected),
    "sinusoid": waves,
}


def seconds(problem: Setting, tasks: int, layout: hardware.Layout, repeats: int) -> float:
    """The median seconds of a compiled meta-gradient, after one run that is not counted."""
    key = jax.random.key(0)
    episodes = jax.jit(maml.batch_tasks(problem.sample, tasks))(key)
    gradient = partial(maml.meta_gradient, problem.algorithm.grad, **layout._asdict())
    call = partial(hardware.timed, jax.jit(gradient), problem.params, episodes, key)
    spent = [call()[1] for _ in range(repeats + 1)]
    return float(np.median(spent[1:]))


def layouts(options: Options, tasks: int = 32) -> list[dict]:
    """The tasks per second of every model in every layout that divides the tasks."""
    cases: list[tuple[str, int, hardware.Chunk]] = [
        (name, devices, chunk)
        for name in options.models
        for devices in options.devices
        for chunk in options.chunks
        if devices <= jax.device_count() and (chunk == "all" or tasks // devices % chunk == 0)
    ]
    have = "is" if jax.device_count() == 1 else "are"
    for devices in (n for n in options.devices if n > jax.device_count()):
        print(f"{devices} devices: not run; there {have} {jax.device_count()}")
    rows = []
    for name, devices, chunk in track(cases, "layouts"):
        problem = MODELS[name]()
        layout = hardware.layout(tasks, heavy=problem.heavy, devices=devices, chunk=chunk)
        rate = tasks / seconds(problem, tasks, layout, options.repeats)
        rows.append({"model": name, "devices": devices, "chunk": chunk, "tasks_per_second": rate})
    return rows


def growth(options: Options) -> dict[str, dict[int, float]]:
    """The seconds of Conv4's meta-gradient of 32 tasks, with one number changed at a time."""
    swept = {name: getattr(options, name) for name in ("tasks", "steps", "ways", "width")}
    curves: dict[str, dict[int, float]] = {name: {} for name in swept}
    cases = [(name, value) for name, values in swept.items() for value in values]
    for name, value in track(cases, "growth"):
        change = {} if name == "tasks" else {"features" if name == "width" else name: value}
        tasks = value if name == "tasks" else 32
        layout = hardware.layout(tasks, heavy=True)
        problem = characters(Conv4, **change)
        curves[name][value] = seconds(problem, tasks, layout, options.repeats)
    return curves


def show(rows: Sequence[dict], models: Sequence[str]) -> None:
    """Prints the table of layouts, with the fastest of each model in bold."""
    ascending = sorted(rows, key=lambda row: row["tasks_per_second"])
    best = {row["model"]: row["tasks_per_second"] for row in ascending}
    table: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        rate, layout = row["tasks_per_second"], (str(row["devices"]), str(row["chunk"]))
        cell = f"[bold]{rate:,.0f}[/bold]" if rate == best[row["model"]] else f"{rate:,.0f}"
        table.setdefault(layout, [*layout]).append(cell)
    title = "tasks/s, one meta-gradient of 32 tasks, one inner step, second order"
    print_table(("devices", "tasks at a time", *models), table.values(), title)


def figure(curves: dict[str, dict[int, float]]) -> Figure:
    """Draws seconds over tasks, inner steps, ways and width, on logarithmic axes."""
    drawing = Figure(figsize=(11, 2.9), layout="constrained")
    labels = {"tasks": "tasks", "steps": "inner steps", "ways": "ways", "width": "channels"}
    for axes, (name, values) in zip(drawing.subplots(1, 4), curves.items(), strict=True):
        axes.plot(list(values), list(values.values()), "o-")
        axes.set(xscale="log", yscale="log", xlabel=labels[name])
        axes.set_xticks(list(values), map(str, values))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.grid(alpha=0.3)
    drawing.axes[0].set_ylabel("time of a meta-gradient, s")
    return drawing


def main(options: Options) -> None:
    """Measures, prints the results, and writes them with a figure of the growth."""
    if options.out:
        script_folder("scaling", options)
    rows = layouts(options)
    show(rows, options.models)
    curves = growth(options)
    for name, values in curves.items():
        print(name, {value: round(spent, 4) for value, spent in values.items()})
    if options.out:
        contents = {"layouts": rows, "growth": curves, **provenance()}
        write_json(options.out / "scaling.json", contents)
        save_figure(figure(curves), options.out / "scaling.png")


if __name__ == "__main__":
    launch(main, Options, __doc__)
