"""Several runs side by side: their options that differ, their results, their curves.

    python -m benchmarks.report RUN RUN ... --out DIR

A run is a folder that a benchmark wrote. DIR gets `report.md` and `curves.png`; the table is
printed as well.
"""

from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import tyro
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from benchmarks.harness.bounds import check
from benchmarks.harness.command_line import launch
from benchmarks.harness.files import write_text
from benchmarks.harness.folders import FREE, script_folder
from benchmarks.harness.plot import read_log, save_figure
from benchmarks.harness.schemas import BANDITS, MEAN, SUMMARY, VALUES, check_schema, curve_schema
from benchmarks.harness.summaries import read_summary
from benchmarks.report.published import Summary, published_values, task_title
from benchmarks.report.tables import METRICS, cell


@dataclass(frozen=True, kw_only=True)
class Report:
    """Options of the report."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs of one benchmark."""
    out: Path | None = None
    """Where the report is written; None is a new folder under results/runs."""

    def __post_init__(self) -> None:
        check(self)


def read_summaries(runs: tuple[Path, ...]) -> list[Summary]:
    """The summaries of some runs.

    Raises:
        ValueError: a folder is no finished run of a benchmark with a table, or they are of several.
    """
    summaries = [read_summary(run, SUMMARY) for run in runs]
    names = sorted({summary["benchmark"] for summary in summaries})
    if len(names) != 1 or names[0] not in METRICS:
        raise ValueError(
            f"a report is of runs of one of {', '.join(METRICS)}; got {', '.join(names) or 'none'}"
        )
    own = {METRICS[names[0]][0]: {str: MEAN}, "config": BANDITS if names[0] == "bandits" else {}}
    for run, summary in zip(runs, summaries, strict=True):
        check_schema(summary, own, run / "summary.json")
    return summaries


def labels(summaries: list[Summary]) -> list[str]:
    """What tells the runs apart: the options that differ, or their place."""
    options = [{k: v for k, v in s["config"].items() if k not in FREE} for s in summaries]
    differ = [k for k in options[0] if len({str(o.get(k)) for o in options}) > 1]
    found = [", ".join(f"{k} {o.get(k)}" for k in differ) for o in options]
    return [name or f"run {place}" for place, name in enumerate(found, 1)]


def rows(summaries: list[Summary]) -> list[list[str]]:
    """A head, and a row for each inner step that a run reports."""
    metric = METRICS[summaries[0]["benchmark"]][0]
    steps = list(dict.fromkeys(step for s in summaries for step in s[metric]))
    table = [["after", *labels(summaries), "published"]]
    for step in steps:
        cells = [cell([s], step) if step in s[metric] else "" for s in summaries]
        theirs = {published_values(s).get(step, "") for s in summaries}
        table.append([step, *cells, theirs.pop() if len(theirs) == 1 else ""])
    return table


def curves(runs: tuple[Path, ...], summaries: list[Summary], out: Path) -> Figure:
    """What was validated, or else trained on, over meta-training; `curves.png`."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes, (metric, scale, unit, _) = figure.subplots(), METRICS[summaries[0]["benchmark"]]
    for run, label in zip(runs, labels(summaries), strict=True):
        lines = read_log(run, curve_schema(metric) | dict.fromkeys((metric, "after"), VALUES))
        if not all({"val", metric, "after"} & line.keys() for line in lines):
            raise ValueError(f"{run / 'log.jsonl'} has a line without {metric}; wanted it in all")
        points = [scale * _mean_of_line(line, metric) for line in lines]
        axes.plot([line["step"] for line in lines], points, label=fill(label, 80))
    axes.set(xlabel="meta-steps", ylabel=unit)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize="small")
    return save_figure(figure, out / "curves.png")


def _mean_of_line(line: dict[str, Any], metric: str) -> float:
    if line.get("val"):
        curve = line["val"][metric]
        shown = curve[[*curve][-1]]["mean"]
    else:
        shown = line[metric] if metric in line else line["after"]
    return float(np.mean(np.array(shown, float)))  # None is no number


def main(options: Report) -> list[list[str]]:
    """Prints the table and writes both files."""
    summaries = read_summaries(options.runs)
    table, tasks = rows(summaries), dict.fromkeys(map(task_title, summaries))
    title = f"{', '.join(tasks)}: {METRICS[summaries[0]['benchmark']][2]} (95% CI)"
    shown = Table(*table[0], title=title)
    for row in table[1:]:
        shown.add_row(*row)
    Console().print(shown)
    out = script_folder("report", options)
    head, *body = [f"| {' | '.join(row)} |" for row in table]
    lines = [f"# {title}", "", head, "| " + "--- | " * len(table[0]), *body, ""]
    named = zip(labels(summaries), summaries, strict=True)
    lines += [f"* {name}: `{summary['command']}`" for name, summary in named]
    text = "\n".join([*lines, "", "![curves](curves.png)", ""])
    write_text(out / "report.md", text)
    curves(options.runs, summaries, out)
    print(f"report: {out / 'report.md'}")
    return table


if __name__ == "__main__":
    launch(main, Report, __doc__, start=lambda cache: None)
