"""Tables and figures of texts that are read with and without adaptation."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from benchmarks.harness.files import save_figure
from benchmarks.harness.statistics import mean_over_seeds
from benchmarks.harness.summary import command_to_repeat
from benchmarks.harness.tables import interval, markdown_table, print_table, quantity
from benchmarks.report.published import Summary

REFERENCE = "ptb-second-order"  # the preset with which the others are compared
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


def language_runs(summaries: Iterable[Summary]) -> list[Summary]:
    """The runs of `benchmarks.language` among all results."""
    return [run for run in summaries if run["benchmark"] == "language"]


def markdown(summaries: Iterable[Summary]) -> str:
    """Markdown tables: a row for each run, and its bits minus those of second-order meta-training.

    The differences are paired by seed, with intervals and two-sided p-values (Student's t).
    """
    runs = language_runs(summaries)
    references = [run for run in runs if run["preset"] == REFERENCE and "each_seed" in run]
    parts = ["### Language"]
    head = [
        "texts",
        "preset",
        "meta-steps",
        "inner optimiser",
        "bits with adaptation",
        "without",
        "gain",
    ]
    body = [_row(run) for run in runs]
    parts += [markdown_table([*head, "seeds", "minutes", "command"], body)] if body else []
    less = f"bits minus those of {REFERENCE} after"
    head = [f"{less} {quantity(run['meta_steps'], 'meta-step')}" for run in references]
    body = []
    for run in runs:
        for name in ("bits_static", "bits") if _is_static(run) else ("bits",):
            cells = [_difference(run, name, other) for other in references]
            label = run["preset"] + ", without adaptation" if name == "bits_static" else _label(run)
            body += [[label, str(run["meta_steps"]), *cells]] if any(cells) else []
    parts += [markdown_table(["preset", "meta-steps", *head], body)] if body else []
    return "\n\n".join(parts)


def _is_static(run: Summary) -> bool:
    """Whether the model of a run was trained without adaptation in this run."""
    return run["algorithm"] == "pretrained" and "start_from" not in run


def _label(run: Summary) -> str:
    return run["preset"] + " (naive test-time training)" * _is_static(run)


def _row(run: Summary) -> list[str]:
    config, training = run["config"], str(run["meta_steps"])
    if "start_from" in run:
        training += f" from `{run['start_from']}`"
    used = run.get("each_seed", run)["factor"]["mean"]
    factors = sorted(set(used if isinstance(used, list) else [used["mean"]]))
    rates = " and ".join(f"{config['inner_rate'] * factor:g}" for factor in factors)
    bits = [interval(run[name]["mean"], 1, 3) for name in ("bits", "bits_static", "gain")]
    minutes = f"{sum(run['seconds'].values()) / run['seeds'] / 60:.1f}"
    return [
        *(f"{config['dataset']} {config['level']}", _label(run), training),
        *(f"{config['optimizer']}, rate {rates}", *bits, str(run["seeds"]), minutes),
        f"`{command_to_repeat(run['command'])}`",
    ]


def _difference(run: Summary, name: str, other: Summary) -> str:
    """The bits of a run minus those of another, empty if they differ in texts or seeds."""
    alike = all(run["config"][option] == other["config"][option] for option in ("dataset", "level"))
    alike = alike and all(run[fact] == other[fact] for fact in ("seed", "seeds", "tasks"))
    if run is other or not alike:
        return ""
    ours, theirs = run["each_seed"][name]["mean"], other["each_seed"]["bits"]["mean"]
    differences = np.array(ours, float) - np.array(theirs, float)
    _, p_value = stats.ttest_1samp(differences, 0)
    return f"{interval(mean_over_seeds(differences[:, None]), 1, 3)} (p = {p_value:.2g})"


def compare(summaries: Iterable[Summary], out: Path) -> Figure:
    """Draws bits with adaptation and gain over the position in a text; saved as `positions.png`."""
    runs = language_runs(summaries)
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("bits", "gain"), strict=True):
        for run in runs:
            trained = f", {quantity(run['meta_steps'], 'meta-step')}" if run["meta_steps"] else ""
            label = run["preset"] + trained
            _band(axes, run["config"]["step_tokens"], run[name], label, "-")
        axes.set(xlabel=f"{runs[0]['config']['level']} read before the chunk")
        axes.grid(alpha=0.3)
    bits, gains = figure.axes
    bits.set(ylabel=f"bits a {runs[0]['config']['level'][:-1]}, with adaptation")
    gains.set(ylabel="gain by adaptation, bits")
    gains.axhline(0, color="gray", linewidth=0.8)
    bits.legend(fontsize="small")
    figure.suptitle(f"{runs[0]['config']['dataset']}; 95% intervals over seeds")
    return save_figure(figure, out / "positions.png")


def _band(axes: Any, tokens: int, curve: dict[str, Any], label: str, style: str) -> None:
    steps = [when for when in curve if when != "mean"]
    mean, ci95 = (np.array([curve[when][n] for when in steps], float) for n in ("mean", "ci95"))
    places = tokens * np.array(steps, int)
    (line,) = axes.plot(places, mean, style, label=label)
    axes.fill_between(places, mean - ci95, mean + ci95, color=line.get_color(), alpha=0.2)
