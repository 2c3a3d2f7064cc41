"""Table and figure of language models with recurrent cells that were trained on a whole text."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.box import SIMPLE_HEAD

from benchmarks.harness.files import save_figure
from benchmarks.harness.statistics import mean_over_seeds
from benchmarks.harness.summary import command_to_repeat
from benchmarks.harness.tables import interval, markdown_table, print_table, quantity

LABELS = {
    "reinforce": "REINFORCE",
    "ppo": "PPO",
    "evolution": "evolution",
    "random": "random search",
    "drawn": "random cells",
    "lstm": "LSTM",
}
HEAD = "parameters", "validation", "test", "minus LSTM", "dynamic"


def statistics(
    lines: Sequence[dict[str, Any]], results: Sequence[dict[str, float]]
) -> dict[str, Any]:
    """The perplexities of a model: means, intervals over seeds, and those of each seed.

    Args:
        lines: Lines of the log of this model.
        results: Results of each seed, as `retraining.measure` gives them.

    Returns:
        Means and intervals of `val`, after each epoch, and of `test` and `dynamic`; `each_seed` has
        the values of each seed.
    """
    epochs = max(line["epoch"] for line in lines)
    ordered = sorted(lines, key=lambda line: (line["seed"], line["epoch"]))
    val = np.array([line["val"] for line in ordered], float).reshape(-1, epochs)
    each = {name: [result[name] for result in results] for name in results[0]}
    means = {name: mean_over_seeds(np.array(each[name])[:, None]) for name in each}
    by_epoch = [mean_over_seeds(column[:, None]) for column in val.T]
    return means | {"val": by_epoch, "each_seed": each | {"val": val[:, -1].tolist()}}


def cells(model: dict[str, Any], lstm: dict[str, Any] | None) -> list[str]:
    """The cells of a model's row, in the order of `HEAD`; the difference is paired by seed."""
    difference = ""
    if lstm is not None and lstm is not model:
        pair = (np.array(one["each_seed"]["test"], float) for one in (model, lstm))
        difference = interval(mean_over_seeds(np.subtract(*pair)[:, None]), 1, 1)
    numbers = [interval(value, 1, 1) for value in (model["val"][-1], model["test"])]
    dynamic = interval(model["dynamic"], 1, 1) if "dynamic" in model else ""
    return [f"{model['parameters']:,}", *numbers, difference, dynamic]


def rows(summary: dict[str, Any]) -> list[list[str]]:
    """The label and the cells of each model."""
    models = summary["models"]
    return [[LABELS[name], *cells(model, models.get("lstm"))] for name, model in models.items()]


def facts(summary: dict[str, Any]) -> list[str]:
    """The layers, the epochs, the dropout and the seeds of a comparison."""
    config = summary["config"]
    text = config["text"]
    counts = (config["layers"], "layer"), (text["epochs"], "epoch"), (summary["seeds"], "seed")
    return [*(quantity(*count) for count in counts), f"dropout {text['dropout']:g}"]


def show(summary: dict[str, Any]) -> None:
    """Prints the table of a comparison."""
    seconds = [f"{name} {value:g} s" for name, value in summary["seconds"].items()]
    caption = ", ".join([*facts(summary), *seconds, summary["device"]])
    title = "ptb words: perplexity (95% CI over seeds)"
    style = {"box": SIMPLE_HEAD, "padding": (0, 1, 0, 0)}
    print_table(["cell", *HEAD], rows(summary), title, caption, left=("cell",), **style)


def draw(out: Path, summary: dict[str, Any]) -> Figure:
    """Draws the perplexity on validation text after each epoch; saved as `epochs.png`."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, model in summary["models"].items():
        pairs = [[value["mean"], value["ci95"]] for value in model["val"]]
        mean, ci95 = np.array(pairs, float).T
        epochs = np.arange(1, len(mean) + 1)
        (line,) = axes.plot(epochs, mean, "o-", label=LABELS[name])
        axes.fill_between(epochs, mean - ci95, mean + ci95, color=line.get_color(), alpha=0.2)
    axes.set(xlabel="epochs", ylabel="perplexity on validation text", yscale="log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(f"Penn Treebank; {', '.join(facts(summary))}; 95% intervals", fontsize="medium")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    return save_figure(figure, out / "epochs.png")


def markdown(summaries: Iterable[dict[str, Any]]) -> str:
    """The Markdown table of all comparisons, with a row for each model; empty without any."""
    body = [
        [", ".join(facts(summary)), *row, f"`{command_to_repeat(summary['command'])}`"]
        for summary in summaries
        if summary["benchmark"] == "recurrent_cells"
        for row in rows(summary)
    ]
    table = markdown_table(["training", "cell", *HEAD, "command"], body)
    return f"### Recurrent cells\n\n{table}" if body else ""
