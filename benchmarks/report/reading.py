"""Table and figure of texts that are read with and without adaptation."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.harness.files import save_figure
from benchmarks.harness.tables import print_table, quantity
from benchmarks.report.published import Summary
from benchmarks.report.tables import interval

COLUMNS = {"without": "bits_static", "with adaptation": "bits", "gain": "gain"}
LINES = {"bits_static": ("without adaptation", "--"), "bits": ("with adaptation", "-")}


def show(summary: Summary) -> None:
    """Prints the bits for each token in some places of a text, and their mean."""
    config = summary["config"]
    words = config["level"] == "words"
    last = config["eval_steps"] - 1
    rows = []
    for when in dict.fromkeys((*(str(last * part // 4) for part in range(5)), "mean")):
        place = "all" if when == "mean" else str(int(when) * config["step_tokens"])
        cells = [interval(summary[name][when], 1, 3) for name in COLUMNS.values()]
        rows.append([place, *cells])
    facts = [quantity(summary["meta_steps"], "meta-step"), quantity(summary["tasks"], "test text")]
    facts += [quantity(summary["seeds"], "seed"), f"{summary['parameters']:,} parameters"]
    facts += [f"{summary['adapted_parameters']:,} adapt, once in {config['step_tokens']} tokens"]
    facts += [f"factor of the inner rate {summary['factor']['mean']['mean']:g}"]
    facts += [f"{name} {value:g} s" for name, value in summary["seconds"].items()]
    title = f"{config['dataset']}, {summary['algorithm']}: bits a {config['level'][:-1]} (95% CI)"
    print_table(["tokens before", *COLUMNS], rows, title, ", ".join([*facts, summary["device"]]))
    if words:
        lines = {name: in_words(summary[metric]["mean"]) for metric, (name, _) in LINES.items()}
        print(", ".join(f"{name}: {text}" for name, text in lines.items()))


def in_words(bits: dict[str, Any]) -> str:
    """Nats and perplexity of a mean of bits for each word.

    >>> in_words({"mean": 6.0, "ci95": None})
    '4.159 nats a word, perplexity 64.0'
    """
    if bits["mean"] is None:
        return "diverged"
    return f"{bits['mean'] * np.log(2):.3f} nats a word, perplexity {2 ** bits['mean']:.1f}"


def draw(out: Path, summary: Summary) -> Figure:
    """Draws bits and gain over the position in a text, with intervals; saved as `reading.png`."""
    config = summary["config"]
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes, gains = figure.subplots(1, 2)
    for name, (label, style) in LINES.items():
        _band(axes, config["step_tokens"], summary[name], label, style)
    _band(gains, config["step_tokens"], summary["gain"], "without - with", "-")
    axes.set(ylabel=f"bits a {config['level'][:-1]}")
    gains.set(ylabel="gain by adaptation, bits")
    gains.axhline(0, color="gray", linewidth=0.8)
    axes.legend()
    for part in (axes, gains):
        part.set(xlabel=f"{config['level']} read before the chunk")
        part.grid(alpha=0.3)
    over = quantity(summary["seeds"], "seed") if summary["seeds"] > 1 else "test texts"
    figure.suptitle(f"{config['dataset']}, {summary['algorithm']}; 95% intervals over {over}")
    return save_figure(figure, out / "reading.png")


def _band(axes: Any, tokens: int, curve: dict[str, Any], label: str, style: str) -> None:
    steps = [when for when in curve if when != "mean"]
    mean, ci95 = (np.array([curve[when][n] for when in steps], float) for n in ("mean", "ci95"))
    places = tokens * np.array(steps, int)
    (line,) = axes.plot(places, mean, style, label=label)
    axes.fill_between(places, mean - ci95, mean + ci95, color=line.get_color(), alpha=0.2)
