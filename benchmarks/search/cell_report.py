"""Table and figure of language models with recurrent cells that were trained on a whole text."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from rich.box import SIMPLE_HEAD

from benchmarks.harness.files import save_figure
from benchmarks.harness.statistics import finite_or_none, mean_over_seeds, welch
from benchmarks.harness.summary import command_to_repeat
from benchmarks.harness.tables import interval, markdown_table, print_table, quantity

NAME = "recurrent_cells"
LABELS = {
    "reinforce": "found by REINFORCE",
    "ppo": "found by PPO",
    "evolution": "found by evolution",
    "random": "found by random search",
    "random-cell": "random cell",
    "lstm": "LSTM",
}
# The models with which the others are compared, and the heads of their columns.
REFERENCES = {"random": "minus random search", "lstm": "minus LSTM"}
HEAD = "parameters", "test", *REFERENCES.values(), "dynamic"


def statistics(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The perplexities of a model: means, intervals over seeds, and those of each seed.

    Args:
        lines: A line for each training of the model, in the order of the seeds.

    Returns:
        Means and intervals of `val`, after each epoch, of `test` and of `dynamic`; `each_seed` has
        the values of each seed, its cell, and the rate of dynamic evaluation.
    """
    names = [name for name in ("test", "dynamic") if name in lines[0]]
    means = {name: mean_over_seeds(np.array([[x[name]] for x in lines], float)) for name in names}
    by_epoch = np.array([line["val"] for line in lines], float).T[..., None]
    each = [name for name in ("tokens", "val", *names, "rate") if name in lines[0]]
    return means | {
        "val": [mean_over_seeds(values) for values in by_epoch],
        "each_seed": {name: [line[name] for line in lines] for name in each},
    }


def rows(summary: dict[str, Any]) -> list[list[str]]:
    """The label of each model, and its cells in the order of `HEAD`.

    Differences have Welch's intervals and two-sided p-values: models of one seed share its key, but
    neither the cell nor the parameters.
    """
    models, table = summary["models"], []
    for name, model in models.items():
        differences = [_difference(model, models.get(other)) for other in REFERENCES]
        dynamic = interval(model["dynamic"], 1, 1) if "dynamic" in model else ""
        test = interval(model["test"], 1, 1)
        table.append([LABELS[name], f"{model['parameters']:,}", test, *differences, dynamic])
    return table


def _difference(model: dict[str, Any], other: dict[str, Any] | None) -> str:
    if other is None or model is other:
        return ""
    test, reference = (np.array(one["each_seed"]["test"], float) for one in (model, other))
    if len(test) == 1:
        return interval({"mean": finite_or_none(test[0] - reference[0]), "ci95": None}, 1, 1)
    mean, ci95, p_value = map(finite_or_none, welch(test, reference))
    shown = interval({"mean": mean, "ci95": ci95}, 1, 1)
    return shown if p_value is None else f"{shown} (p = {p_value:.2g})"


def facts(summary: dict[str, Any]) -> list[str]:
    """The layers, the epochs, the seeds, the dropout and the learning rate of a comparison."""
    config = summary["config"]
    text = config["text"]
    counts = (config["layers"], "layer"), (text["epochs"], "epoch"), (summary["seeds"], "seed")
    rates = f"dropout {text['dropout']:g}", f"learning rate {text['rate']:g}"
    return [*(quantity(*count) for count in counts), *rates]


def show(summary: dict[str, Any]) -> None:
    """Prints the table of a comparison."""
    seconds = [f"{name} {value:g} s" for name, value in summary["seconds"].items()]
    caption = ", ".join([*facts(summary), *seconds, summary["device"]])
    title = "ptb words: perplexity of the test text (95% CI over seeds)"
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
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(StrMethodFormatter("{x:g}"))
    over = " (95% intervals)" if summary["seeds"] > 1 else ""
    axes.set_title(f"Penn Treebank{over}\n{', '.join(facts(summary))}", fontsize="medium")
    axes.grid(alpha=0.3, which="both")
    figure.legend(loc="outside lower center", ncols=2)
    return save_figure(figure, out / "epochs.png")


def markdown(summaries: Iterable[dict[str, Any]]) -> str:
    """The Markdown table of all comparisons, with a row for each model; empty without any."""
    latest = {command_to_repeat(x["command"]): x for x in summaries if x["benchmark"] == NAME}
    body = [
        [", ".join(facts(summary)), *row, f"`{command}`"]
        for command, summary in latest.items()
        for row in rows(summary)
    ]
    table = markdown_table(["training", "cell", *HEAD, "command"], body)
    return f"### Recurrent cells\n\n{table}" if body else ""
