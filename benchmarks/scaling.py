"""Which layout of the tasks is fastest, and how the cost of a meta-gradient grows.

    python -m benchmarks.scaling     # ten minutes on two cores
    python -m benchmarks.scaling --tasks 1 4 16 64 256 1024 4096 --devices 1    # one GPU

First a table, tasks/s of each model by devices and chunk; then the seconds of Conv4's meta-gradient
in the layout that the benchmarks choose against tasks, inner steps, ways and width, one changed at
a time. Tasks are glyphs and sinusoids, so no data is needed.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from rich.console import Console
from rich.progress import track
from rich.table import Table

import maml
from benchmarks.harness import hardware
from benchmarks.harness.bounds import check
from benchmarks.harness.command_line import launch
from benchmarks.harness.files import as_json, write_text
from benchmarks.harness.folders import script_folder
from benchmarks.harness.plot import save_figure
from maml.sampling import few_shot
from maml.types import Params
from tasks import glyphs
from tasks.batch_norm import few_shot_loss
from tasks.models import MLP, Conv4, FullyConnected
from tasks.sinusoid import few_points


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured."""

    models: tuple[str, ...] = ("conv4", "fully-connected", "sinusoid")
    """Of the table of layouts."""
    devices: tuple[int, ...] = (1, 2)
    """Numbers of devices of the table."""
    chunks: tuple[int, ...] = (1, 4, 16, 0)
    """Tasks that a device maps at once, 0 for all."""
    tasks: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128)
    """Numbers of tasks of Conv4's meta-gradient."""
    steps: tuple[int, ...] = (1, 2, 5, 10)
    """Numbers of its inner steps."""
    ways: tuple[int, ...] = (5, 10, 20)
    """Numbers of classes of its episodes."""
    width: tuple[int, ...] = (16, 32, 64, 128)
    """Numbers of its channels."""
    repeats: int = 5
    """How often each meta-gradient is timed."""
    out: Path | None = None
    """Folder for scaling.json and scaling.png."""

    def __post_init__(self) -> None:
        check(self)
        unknown = set(self.models) - set(MODELS)
        if unknown:
            raise ValueError(f"the models are {', '.join(MODELS)}; got {', '.join(unknown)}")
        if max(self.ways) > (classes := len(glyphs.load().images)):
            raise ValueError(f"ways must be <= {classes}, the classes of glyphs; got {self.ways}")


class Problem(NamedTuple):
    """A meta-gradient to time: its algorithm, where, and the sampler of one task."""

    algorithm: maml.Algorithm
    params: Params
    sample: maml.Sampler
    heavy: bool


def characters(model: Callable, *, steps: int = 1, ways: int = 5, **options: int) -> Problem:
    """1-shot classification of glyphs, with the memory mode that the benchmarks choose."""
    sample = few_shot(glyphs.load().images, ways, 1, 1, rotate=True)
    network = model(ways=ways, **options)
    params = network.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    loss, rate = few_shot_loss(network, "transductive"), 2.0 if steps == 1 else 0.1
    return Problem(maml.maml(loss, optax.sgd(rate), steps, hvp="forward"), params, sample, True)


def waves() -> Problem:
    """The paper's sinusoid regression."""
    params = MLP().init(jax.random.key(0), jnp.zeros((1, 1)))
    algorithm = maml.maml(
        maml.regression(lambda p, x: jnp.asarray(MLP().apply(p, x))), optax.sgd(1e-3), 1
    )
    return Problem(algorithm, params, few_points(10, 10), False)


MODELS = {
    "conv4": partial(characters, Conv4),
    "fully-connected": partial(characters, FullyConnected),
    "sinusoid": waves,
}


def seconds(problem: Problem, tasks: int, layout: hardware.Layout, repeats: int) -> float:
    """Median of a compiled meta-gradient, after one that is not counted."""
    key = jax.random.key(0)
    episodes = jax.jit(maml.batched(problem.sample, tasks))(key)
    gradient = partial(maml.meta_gradient, problem.algorithm.grad, **layout._asdict())
    compiled, spent = jax.jit(gradient), []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(compiled(problem.params, episodes, key))
        spent.append(time.perf_counter() - start)
    return float(np.median(spent[1:]))


def layouts(options: Options, tasks: int = 32) -> list[dict]:
    """Tasks/s of every model in every layout that divides the tasks."""
    cases = [
        (name, devices, chunk)
        for name in options.models
        for devices in options.devices
        for chunk in options.chunks
        if devices <= jax.device_count() and tasks // devices % (chunk or 1) == 0
    ]
    for devices in (n for n in options.devices if n > jax.device_count()):
        print(f"{devices} devices: not run, there are {jax.device_count()}")
    rows = []
    for name, devices, chunk in track(cases, "layouts", console=Console(stderr=True)):
        problem = MODELS[name]()
        layout = hardware.layout(tasks, heavy=problem.heavy, devices=devices, chunk=chunk)
        rate = tasks / seconds(problem, tasks, layout, options.repeats)
        rows.append({"model": name, "devices": devices, "chunk": chunk, "tasks_per_second": rate})
    return rows


def growth(options: Options) -> dict[str, dict[int, float]]:
    """Seconds of Conv4's meta-gradient of 32 tasks, with one thing changed."""
    swept = {"tasks": options.tasks, "steps": options.steps, "ways": options.ways}
    swept["width"] = options.width
    found: dict[str, dict[int, float]] = {name: {} for name in swept}
    cases = [(name, value) for name, values in swept.items() for value in values]
    for name, value in track(cases, "growth", console=Console(stderr=True)):
        change = {} if name == "tasks" else {"features" if name == "width" else name: value}
        tasks = value if name == "tasks" else 32
        layout = hardware.layout(tasks, heavy=True, devices=None, chunk=None)
        problem = characters(Conv4, **change)
        found[name][value] = seconds(problem, tasks, layout, options.repeats)
    return found


def show(rows: Sequence[dict], options: Options) -> None:
    """The table of layouts; the fastest of each model is bold."""
    table = Table(title="tasks/s, one meta-gradient of 32 tasks, one inner step, second order")
    for column in ("devices", "tasks at a time", *options.models):
        table.add_column(column, justify="right")
    rates = {(r["devices"], r["chunk"], r["model"]): r["tasks_per_second"] for r in rows}
    best = {name: max((rates[k] for k in rates if k[2] == name), default=0) for name in MODELS}
    for devices, chunk in dict.fromkeys((r["devices"], r["chunk"]) for r in rows):
        values = [rates.get((devices, chunk, name), math.nan) for name in options.models]
        cells = [
            f"[bold]{value:,.0f}[/bold]" if value == best[name] else f"{value:,.0f}"
            for name, value in zip(options.models, values, strict=True)
        ]
        table.add_row(str(devices), str(chunk or "all"), *cells)
    Console().print(table)


def figure(found: dict[str, dict[int, float]]) -> Figure:
    """Seconds against tasks, inner steps, ways and width, log-log."""
    drawing = Figure(figsize=(11, 2.9), layout="constrained")
    labels = {"tasks": "tasks", "steps": "inner steps", "ways": "ways", "width": "channels"}
    for axes, (name, values) in zip(drawing.subplots(1, 4), found.items(), strict=True):
        axes.plot(list(values), list(values.values()), "o-")
        axes.set(xscale="log", yscale="log", xlabel=labels[name])
        axes.set_xticks(list(values), map(str, values))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.grid(alpha=0.3)
    drawing.axes[0].set_ylabel("seconds a meta-gradient")
    return drawing


def main(options: Options) -> None:
    """Measures, prints, and writes what was found."""
    if options.out:
        script_folder("scaling", options)
    rows = layouts(options)
    show(rows, options)
    found = growth(options)
    for name, values in found.items():
        print(name, {value: round(spent, 4) for value, spent in values.items()})
    if options.out:
        contents = {"layouts": rows, "growth": found, "device": hardware.device()}
        contents |= {"versions": hardware.versions()}
        write_text(options.out / "scaling.json", as_json(contents, indent=2) + "\n")
        save_figure(figure(found), options.out / "scaling.png")


if __name__ == "__main__":
    launch(main, Options, __doc__)
