"""Tables and figures of texts that are read with and without adaptation."""

from collections.abc import Iterable, Sequence
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
    return f"{bits['mean'] * np.log(2):.3f} nats a word, perplexity {perplexity(bits)}"


def perplexity(bits: dict[str, Any]) -> str:
    """The perplexity of a mean of bits for each token, with the ends of its interval.

    >>> perplexity({"mean": 6.0, "ci95": 1.0})
    '64.0 (32.0 to 128.0)'
    """
    if bits["mean"] is None:
        return "diverged"
    mean, ci95 = bits["mean"], bits["ci95"] or 0.0
    with np.errstate(over="ignore"):
        middle, low, high = np.exp2([mean, mean - ci95, mean + ci95])
    return f"{middle:.1f} ({low:.1f} to {high:.1f})" if ci95 else f"{middle:.1f}"


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


def groups(summaries: Iterable[Summary]) -> dict[str, list[Summary]]:
    """The runs of `benchmarks.language`, by a name for their model and their passages."""
    found: dict[str, list[Summary]] = {}
    for run in summaries:
        if run["benchmark"] == "language":
            shape = "{dataset}-{level}-{model}-{layers}x{width}-{eval_steps}x{step_tokens}"
            name = shape.format(**run["config"])
            if run["config"]["dataset"] == "texts":
                name = f"{Path(run['config']['data']).stem}-{name}"
            found.setdefault(name, []).append(run)
    return found


def _title(run: Summary) -> str:
    """The texts and the model of a group, such as `ptb, 1,024 characters; lstm, 1 layer of 64`."""
    config = run["config"]
    length = quantity(config["eval_steps"] * config["step_tokens"], config["level"][:-1])
    layers = quantity(config["layers"], "layer")
    return f"{config['dataset']}, {length}; {config['model']}, {layers} of {config['width']}"


def markdown(summaries: Iterable[Summary]) -> str:
    """Markdown tables for each group: a row for each run, and differences from second order.

    The differences are paired by seed, with intervals and two-sided p-values (Student's t).
    """
    parts = ["### Language"]
    for runs in groups(summaries).values():
        parts += [f"**{_title(runs[0])}**", _table(runs)]
        parts += [table] if (table := _differences(runs)) else []
    return "\n\n".join(parts)


def _table(runs: Sequence[Summary]) -> str:
    """A row for each run, with perplexities for words and bits for characters."""
    unit = "perplexity" if runs[0]["config"]["level"] == "words" else "bits"
    head = ["preset", "meta-steps", "inner optimiser", f"{unit} with adaptation", "without"]
    head += ["gain, bits", "seeds", "minutes", "command"]
    return markdown_table(head, map(_row, runs))


def _differences(runs: Sequence[Summary]) -> str:
    """The bits of each run minus those of second-order meta-training; empty without such runs."""
    references = [run for run in runs if run["preset"] == REFERENCE and "each_seed" in run]
    less = f"bits minus those of {REFERENCE} after"
    head = [f"{less} {quantity(run['meta_steps'], 'meta-step')}" for run in references]
    body = []
    for run in runs:
        for name in ("bits_static", "bits") if _is_static(run) else ("bits",):
            cells = [_difference(run, name, other) for other in references]
            label = run["preset"] + ", without adaptation" if name == "bits_static" else _label(run)
            body += [[label, str(run["meta_steps"]), *cells]] if any(cells) else []
    return markdown_table(["preset", "meta-steps", *head], body) if body else ""


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
    learned = "learned rates, at first" if run["algorithm"] == "meta_sgd" else "rate"
    means = [run[name]["mean"] for name in ("bits", "bits_static")]
    words = config["level"] == "words"
    shown = [perplexity(mean) if words else interval(mean, 1, 3) for mean in means]
    minutes = f"{sum(run['seconds'].values()) / run['seeds'] / 60:.1f}"
    return [
        *(_label(run), training, f"{config['optimizer']}, {learned} {rates}", *shown),
        *(interval(run["gain"]["mean"], 1, 3), str(run["seeds"]), minutes),
        f"`{command_to_repeat(run['command'])}`",
    ]


def _difference(run: Summary, name: str, other: Summary) -> str:
    """The bits of a run minus those of another, empty if they differ in passages or seeds."""
    if run is other or any(run[fact] != other[fact] for fact in ("seed", "seeds", "tasks")):
        return ""
    ours, theirs = run["each_seed"][name]["mean"], other["each_seed"]["bits"]["mean"]
    differences = np.array(ours, float) - np.array(theirs, float)
    shown = interval(mean_over_seeds(differences[:, None]), 1, 3)
    _, p_value = np.asarray(stats.ttest_1samp(differences, 0))
    return f"{shown} (p = {p_value:.2g})" if np.isfinite(p_value) else shown


def compare(summaries: Iterable[Summary], out: Path) -> list[Figure]:
    """Draws bits without and with adaptation, and the gain, over the position in a text.

    Returns:
        A figure for each of `groups`, saved as `positions-NAME.png`.
    """
    return [
        _positions(runs, out / f"positions-{name}.png") for name, runs in groups(summaries).items()
    ]


def _positions(runs: Sequence[Summary], path: Path) -> Figure:
    level = runs[0]["config"]["level"]
    figure = Figure(figsize=(13, 4.8), layout="constrained")
    before, after, gains = figure.subplots(1, 3)
    for axes, name in ((before, "bits_static"), (after, "bits"), (gains, "gain")):
        for run in runs:
            trained = f", {quantity(run['meta_steps'], 'meta-step')}" if run["meta_steps"] else ""
            label = run["preset"] + trained
            _band(axes, run["config"]["step_tokens"], run[name], label, "-")
        axes.set(xlabel=f"{level} read before the chunk")
        axes.grid(alpha=0.3)
    after.sharey(before)
    before.set(ylabel=f"bits a {level[:-1]}", title="without adaptation")
    after.set(title="with adaptation")
    gains.set(ylabel="bits", title="gain by adaptation")
    gains.axhline(0, color="gray", linewidth=0.8)
    figure.legend(*before.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    over = "seeds" if all(run["seeds"] > 1 for run in runs) else "seeds, or texts of one seed"
    figure.suptitle(f"{_title(runs[0])}; 95% intervals over {over}")
    return save_figure(figure, path)


def _band(axes: Any, tokens: int, curve: dict[str, Any], label: str, style: str) -> None:
    steps = [when for when in curve if when != "mean"]
    mean, ci95 = (np.array([curve[when][n] for when in steps], float) for n in ("mean", "ci95"))
    places = tokens * np.array(steps, int)
    (line,) = axes.plot(places, mean, style, label=label)
    axes.fill_between(places, mean - ci95, mean + ci95, color=line.get_color(), alpha=0.2)
