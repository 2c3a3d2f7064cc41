"""Memory and time of the meta-gradient, by its mode and the number of inner steps.

Compiles and times one meta-gradient in each mode, prints tables, and draws memory and time.

    python -m benchmarks.memory
    python -m benchmarks.memory --model transformer --steps 1 5 --text FILE --out FOLDER
    python -m benchmarks.memory --model reader --length 32 --steps 8 32 128

The modes are Hessian-vector products in reverse or forward mode, each with or without
rematerialisation, which give the same meta-gradient, and first-order MAML, with or without it, and
implicit MAML, which give others. The models are `conv4`, on glyphs, `transformer`, on a random
Markov chain or a text, and `reader`, a transformer with a sliding window that takes an inner step
on each chunk of a text.

Memory is what XLA allocates for the compiled program besides arguments, outputs and code. Times are
medians of runs in turn. A program that needs more memory than is free is compiled but not run.
Target: with rematerialisation, K inner steps need the memory of about 2 sqrt(K).
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD

import maml
from benchmarks.harness.command_line import launch
from benchmarks.harness.display import bar
from benchmarks.harness.files import save_figure, write_json
from benchmarks.harness.folders import options_as_json, script_folder
from benchmarks.harness.hardware import free_bytes, timed
from benchmarks.harness.summary import provenance
from benchmarks.harness.tables import print_table, quantity
from benchmarks.memory_problems import EXACT, MODES, Mode, Options, Setting, algorithm, problem

LINES = dict(zip(MODES, ("o-", "s-", "^--", "v--", "D:", "P:", "x:"), strict=True))
SIZES = "temp", "argument", "output", "generated_code"
RATIOS = {"memory_ratio": "temp_bytes", "time_ratio": "seconds"}


def modes_of(problem: Setting, options: Options) -> list[Mode]:
    """The modes of a problem; reading has no implicit meta-gradient."""
    return [mode for mode in options.modes if problem.start is None or mode != "implicit"]


def measure(problem: Setting, steps: int, options: Options, advance: Callable) -> list[dict]:
    """Measures every mode with a number of inner steps; `advance(text)` moves the progress bar.

    Returns:
        A row for each mode; None stands for programs not run, and for missing comparisons.

    Raises:
        FloatingPointError: A meta-gradient is not finite.
    """
    key = jax.random.key(1)
    sample = maml.batch_tasks(problem.sampler(steps), 1)
    arguments = problem.params, jax.jit(sample)(key), key
    modes = modes_of(problem, options)
    rows, programs, spent, grads = {}, {}, {}, {}
    for mode in modes:
        grad = partial(maml.meta_gradient, algorithm(problem, mode, steps, options).grad)
        programs[mode], seconds = timed(lambda f: jax.jit(f).lower(*arguments).compile(), grad)
        size = programs[mode].memory_analysis()
        sizes = {f"{kind}_bytes": getattr(size, f"{kind}_size_in_bytes") for kind in SIZES}
        rows[mode] = {"steps": steps, "mode": mode, **sizes, "compile_seconds": seconds}
        advance(f"compiled {mode}")
    for mode, program in programs.items():
        if rows[mode]["temp_bytes"] < free_bytes():
            spent[mode], grads[mode] = [], np.asarray(ravel_pytree(program(*arguments)[0])[0])
            if not np.isfinite(grads[mode]).all():
                raise FloatingPointError(
                    f"{mode}: the meta-gradient after {steps} inner steps is not finite; try a"
                    f" smaller --inner-rate than {options.rate}"
                )
        advance(f"compared {mode}")
    for _, (mode, program) in product(range(options.repeats), programs.items()):
        if mode in spent:
            spent[mode].append(timed(program, *arguments)[1])
        advance(f"timed {mode}")
    reverse, exact = rows.get("reverse", {}), [mode for mode in EXACT if mode in grads]
    for mode, row in rows.items():
        row["seconds"] = float(np.median(spent[mode])) if mode in spent else None
        row["error"] = None
        if mode in exact:
            distance = np.linalg.norm(grads[mode] - grads[exact[0]])
            row["error"] = float(distance / np.linalg.norm(grads[exact[0]]))
    for row, (ratio, of) in product(rows.values(), RATIOS.items()):
        row[ratio] = row[of] / reverse[of] if row[of] and reverse.get(of) else None
    return [*rows.values()]


def show(rows: Sequence[dict]) -> None:
    """Prints the table of a model."""
    others = (f"{kind} {max(row[f'{kind}_bytes'] for row in rows) / 1e6:.1f}" for kind in SIZES[1:])
    title = f"{rows[0]['model']}: one meta-gradient of one task"
    caption = f"MB not counted: {', '.join(others).replace('_', ' ')}"
    head = ("steps", "mode", "MB", "/ reverse", "compile s", "s", "/ reverse", "error")
    styles = {"memory_ratio": ".2g", "compile_seconds": ".1f", "seconds": ".2g"}
    styles |= {"time_ratio": ".2g", "error": ".0e"}
    table = []
    for row in rows:
        cells = ("-" if row[n] is None else f"{row[n]:{style}}" for n, style in styles.items())
        table.append((str(row["steps"]), row["mode"], f"{row['temp_bytes'] / 1e6:.1f}", *cells))
    style = {"box": SIMPLE_HEAD, "padding": (0, 1, 0, 0)}
    print_table(head, table, title, caption, left=("mode",), **style)


def draw(rows: Sequence[dict]) -> Figure:
    """Draws memory and time over the inner steps: a row for each model, a line for each mode."""
    lines = dict.fromkeys((row["model"], row["mode"]) for row in rows)
    models, ticks = [*dict.fromkeys(model for model, _ in lines)], {row["steps"] for row in rows}
    figure = Figure(figsize=(9, 3.5 * len(models) + 0.5), layout="constrained")
    numbers = {"temp_bytes": ("temporary memory, MB", 1e-6), "seconds": ("time, s", 1.0)}
    for pair, model in zip(figure.subplots(len(models), 2, squeeze=False), models, strict=True):
        for axes, (name, (words, scale)) in zip(pair, numbers.items(), strict=True):
            for line in (line for line in lines if line[0] == model):
                points = [r for r in rows if (r["model"], r["mode"]) == line]
                steps, values = np.array([[r["steps"], r[name]] for r in points], float).T
                axes.plot(steps, scale * values, LINES[line[1]], label=line[1], mfc="none")
            axes.set(xscale="log", yscale="log", xlabel="inner steps", ylabel=words, title=model)
            axes.set_xticks([*ticks], [str(tick) for tick in ticks])
            axes.set_xticks([], minor=True)
            axes.grid(alpha=0.3)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return figure


def main(options: Options) -> list[dict]:
    """Measures all programs and prints the tables; each measurement is written at once."""
    if options.out:
        script_folder("memory", options)
    problems = {model: problem(model, options) for model in options.model}
    # A text that is too short is refused before anything is measured.
    for model, steps in product(problems, options.steps):
        problems[model].sampler(steps)
    about = provenance() | {"options": options_as_json(options) | {"inner_rate": options.rate}}
    modes = sum(len(modes_of(problem, options)) for problem in problems.values())
    rows: list[dict] = []
    with bar(modes * len(options.steps) * (2 + options.repeats)) as move:
        for model, steps in product(problems, options.steps):
            advance = partial(move, 1, f"{model}, {quantity(steps, 'inner step')}")
            measured = measure(problems[model], steps, options, advance)
            rows += [{"model": model, **row} for row in measured]
            if options.out:
                write_json(options.out / "memory.json", {"rows": rows, **about})
                save_figure(draw(rows), options.out / "memory.png")
    for model in problems:
        show([row for row in rows if row["model"] == model])
    return rows


if __name__ == "__main__":
    launch(main, Options, __doc__, start=lambda cache: None)
