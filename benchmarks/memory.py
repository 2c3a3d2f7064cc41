"""What the meta-gradient costs in memory and time, by how it is got and the number of inner steps.

    python -m benchmarks.memory
    python -m benchmarks.memory --model transformer --steps 1 5 --text FILE --out FOLDER

The ways are Hessian-vector products in reverse or forward mode, each with or without
rematerialisation, which give the same meta-gradient, and first-order and implicit MAML, which give
others. The models are `conv4`, on an episode of glyphs, and
`transformer`, a language model on a random Markov chain or on a text of yours.

Memory is what XLA allocates for the compiled program beside arguments, outputs and code. A program
is timed after a run in which its meta-gradient is compared, in turns with the others of as many
steps; medians are reported. What needs more memory than is free is compiled, not run.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Table

import maml
from benchmarks import omniglot
from benchmarks.harness import hardware
from benchmarks.harness.bounds import check, check_used
from benchmarks.harness.command_line import launch
from benchmarks.harness.files import write_text
from benchmarks.harness.folders import script_folder
from benchmarks.harness.plot import save_figure
from maml.types import LossFn, Params
from tasks.language import Transformer, next_token, passages, synthetic

Model = Literal["conv4", "transformer"]
Mode = Literal["reverse", "reverse-remat", "forward", "forward-remat", "first-order", "implicit"]
MODES = get_args(Mode)
EXACT = MODES[:4]
LINES = dict(zip(MODES, ("o-", "s-", "^--", "v--", "D:", "x:"), strict=True))
# The root keeps Adam's derivative finite where there is no gradient: at tokens that do not occur.
OPTIMIZERS = {"sgd": optax.sgd, "adam": partial(optax.adam, eps_root=1e-6)}
RATES = {"sgd": 0.05, "adam": 1e-3}
STRENGTH = 2.0  # of implicit MAML's pull
SIZES = ("temp", "argument", "output", "generated_code")
RATIOS = {"memory_ratio": "temp_bytes", "time_ratio": "seconds"}
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured."""

    model: tuple[Model, ...] = get_args(Model)
    """The models, in this order."""
    steps: tuple[int, ...] = (1, 5, 20, 100)
    """The numbers of inner steps."""
    modes: tuple[Mode, ...] = MODES
    """The ways to the meta-gradient."""
    repeats: int = 3
    """How often each is timed."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """The inner optimiser."""
    inner_rate: float | None = None
    """Its learning rate; None is 0.05 with SGD, 0.001 with Adam."""
    layers: int = 4
    """Of the transformer."""
    width: int = 128
    """Of the transformer."""
    heads: int = 4
    """Of each of its layers."""
    length: int = 128
    """Tokens that it reads of a passage."""
    sequences: int = 8
    """Passages of the support set, and of the query set."""
    text: Path | None = None
    """A text for the transformer to adapt to; None is a random Markov chain."""
    out: Path | None = None
    """Folder for memory.json and memory.png."""

    def __post_init__(self) -> None:
        check(self)
        reads = ("layers", "width", "heads", "length", "sequences", "text")
        check_used(self, reads, "transformer" in self.model, "model transformer")
        if not self.rate > 0:
            raise ValueError(f"inner_rate must be positive; got {self.rate}")
        if "implicit" in self.modes and self.optimizer == "sgd" and self.rate * STRENGTH >= 2:
            raise ValueError(f"implicit needs inner_rate < {2 / STRENGTH:g}; got {self.rate}")

    @property
    def rate(self) -> float:
        """The inner learning rate."""
        return RATES[self.optimizer] if self.inner_rate is None else self.inner_rate


class Problem(NamedTuple):
    """A model, its tasks, and where it adapts (None: everywhere)."""

    loss: LossFn
    params: Params
    sample: maml.Sampler
    mask: PyTree[bool] | None = None


def problem(model: Model, options: Options) -> Problem:
    """Conv4 on 5-way 1-shot glyphs, its batch-norm biases fixed, or the language model."""
    if model == "conv4":
        chosen = omniglot.experiment(omniglot.PRESETS["glyphs-5-way-1-shot"])
        params = chosen.initial()
        mask = maml.complement(maml.mask_by_path(params, "/norm"))
        return Problem(chosen.metric, params, chosen.samplers["train"], mask)
    counts = (options.sequences, options.sequences, options.length)
    text = options.text and options.text.read_bytes()
    sample = synthetic(*counts) if text is None else passages(text, *counts)
    sizes = {name: getattr(options, name) for name in ("layers", "width", "heads", "length")}
    network = Transformer(**sizes)
    params = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    return Problem(next_token(network), params, sample)


def algorithm(problem: Problem, mode: Mode, steps: int, options: Options) -> maml.Algorithm:
    """The way to the meta-gradient that the mode names."""
    loss, _, _, mask = problem
    inner = OPTIMIZERS[options.optimizer](options.rate)
    if mode == "implicit":
        return maml.imaml(loss, inner, steps, regularisation=STRENGTH, cg_steps=5)
    if mode == "first-order":
        return maml.fomaml(loss, inner, steps, mask=mask)
    return maml.maml(
        loss,
        inner,
        steps,
        mask=mask,
        hvp="forward" if "forward" in mode else "reverse",
        remat="remat" in mode,
    )


def free_bytes() -> int:
    """What the accelerator, or else this machine, has free."""
    if stats := jax.devices()[0].memory_stats():
        return stats["bytes_limit"] - stats["bytes_in_use"]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGESIZE")


def measure(
    problem: Problem, steps: int, options: Options, advance: Callable[..., object]
) -> list[Row]:
    """A row for every mode; None is what was not run, or has nothing to be compared with.

    Raises:
        FloatingPointError: a meta-gradient is not finite.
    """
    key = jax.random.key(1)
    arguments = problem.params, jax.jit(maml.batched(problem.sample, 1))(key), key
    rows, programs, spent, grads = {}, {}, {}, {}
    for mode in dict.fromkeys(options.modes):
        grad = partial(maml.meta_gradient, algorithm(problem, mode, steps, options).grad)
        start = time.perf_counter()
        programs[mode] = jax.jit(grad).lower(*arguments).compile()
        seconds, size = time.perf_counter() - start, programs[mode].memory_analysis()
        sizes = {f"{kind}_bytes": getattr(size, f"{kind}_size_in_bytes") for kind in SIZES}
        rows[mode] = {"steps": steps, "mode": mode, **sizes, "compile_seconds": seconds}
        advance(done=f"compiled {mode}")
    for mode, program in programs.items():
        if rows[mode]["temp_bytes"] < free_bytes():
            spent[mode], grads[mode] = [], np.asarray(ravel_pytree(program(*arguments)[0])[0])
            if not np.isfinite(grads[mode]).all():
                raise FloatingPointError(
                    f"{mode}: the meta-gradient after {steps} inner steps is not finite; try a"
                    f" smaller --inner-rate than {options.rate}"
                )
        advance(done=f"compared {mode}")
    for _ in range(options.repeats):
        for mode, program in programs.items():
            if mode in spent:
                start = time.perf_counter()
                jax.block_until_ready(program(*arguments))
                spent[mode].append(time.perf_counter() - start)
            advance(done=f"timed {mode}")
    reverse, exact = rows.get("reverse", {}), [mode for mode in EXACT if mode in grads]
    for mode, row in rows.items():
        row["seconds"] = float(np.median(spent[mode])) if mode in spent else None
        row["error"] = _distance(grads[mode], grads[exact[0]]) if mode in exact else None
    for row, (ratio, of) in product(rows.values(), RATIOS.items()):
        row[ratio] = row[of] / reverse[of] if row[of] and reverse.get(of) else None
    return [*rows.values()]


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def show(rows: Sequence[Row]) -> Table:
    """The table of one model."""
    title = f"{rows[0]['model']}: one meta-gradient of one task"
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in ("steps", "way", "MB", "of reverse", "compile s", "s", "of reverse", "error"):
        table.add_column(column, justify="left" if column == "way" else "right", no_wrap=True)
    for row in rows:
        names = ("memory_ratio", "compile_seconds", "seconds", "time_ratio", "error")
        styles = (".2g", ".1f", ".2g", ".2g", ".0e")
        pairs = zip((row[name] for name in names), styles, strict=True)
        cells = ("-" if number is None else f"{number:{style}}" for number, style in pairs)
        table.add_row(str(row["steps"]), row["mode"], f"{row['temp_bytes'] / 1e6:.1f}", *cells)
    apart = (f"{kind} {max(row[f'{kind}_bytes'] for row in rows) / 1e6:.1f}" for kind in SIZES[1:])
    table.caption = f"MB that are not counted: {', '.join(apart)}"
    return table


def draw(rows: Sequence[Row]) -> Figure:
    """Memory and time over the inner steps: a row of axes a model, a line a mode."""
    models, ticks = [*dict.fromkeys(row["model"] for row in rows)], {row["steps"] for row in rows}
    figure = Figure(figsize=(9, 3.5 * len(models) + 0.5), layout="constrained")
    for pair, model in zip(figure.subplots(len(models), 2, squeeze=False), models, strict=True):
        for axes, name in zip(pair, ("temp_bytes", "seconds"), strict=True):
            for mode in dict.fromkeys(row["mode"] for row in rows):
                line = [row for row in rows if (row["model"], row["mode"]) == (model, mode)]
                numbers = np.array([[row["steps"], row[name]] for row in line], float).T
                scale = 1e-6 if name == "temp_bytes" else 1
                axes.plot(numbers[0], scale * numbers[1], LINES[mode], label=mode, mfc="none")
            axes.set(xscale="log", yscale="log", xlabel="inner steps", title=model)
            axes.set_ylabel("temporary memory, MB" if name == "temp_bytes" else name)
            axes.set_xticks([*ticks], [str(tick) for tick in ticks])
            axes.set_xticks([], minor=True)
            axes.grid(alpha=0.3)
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=6)
    return figure


def main(options: Options) -> list[Row]:
    """Measures everything and prints the tables; what is measured is written as it comes."""
    if options.out:
        script_folder("memory", options)
    problems = {model: problem(model, options) for model in options.model}
    options_used = asdict(options) | {"inner_rate": options.rate}
    facts = {"device": hardware.device(), "versions": hardware.versions()}
    facts |= {"options": options_used}
    rows: list[Row] = []
    numbers = MofNCompleteColumn(), TimeElapsedColumn()
    columns = "{task.description}", BarColumn(16), *numbers, "{task.fields[done]}"
    with Progress(*columns, console=Console(stderr=True)) as progress:
        pieces = len({*options.modes}) * (2 + options.repeats)
        for model, steps in product(problems, options.steps):
            bar = progress.add_task(f"{model}, {steps} steps", total=pieces, done="")
            advance = partial(progress.update, bar, advance=1)
            measured = measure(problems[model], steps, options, advance)
            rows += [{"model": model, **row} for row in measured]
            if options.out:
                report = json.dumps({"rows": rows, **facts}, indent=2, default=str)
                write_text(options.out / "memory.json", report + "\n")
                save_figure(draw(rows), options.out / "memory.png")
    for model in problems:
        Console().print(show([row for row in rows if row["model"] == model]))
    return rows


if __name__ == "__main__":
    launch(main, Options, __doc__, start=lambda cache: None)
