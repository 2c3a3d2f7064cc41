"""Compares several runs: the options that differ, the results and the learning curves.

    python -m benchmarks.report RUN RUN ... --out DIR

A run is a folder that a benchmark has written. The table is printed; DIR gets `report.md` and
`curves.png`.
"""

from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import tyro
from matplotlib.figure import Figure

from benchmarks.harness.bounds import check
from benchmarks.harness.command_line import launch
from benchmarks.harness.files import COUNT, MEAN, TEXT, check_schema, save_figure, write_text
from benchmarks.harness.folders import NO_EFFECT, script_folder
from benchmarks.harness.renamed import config_of_today
from benchmarks.harness.summary import read_summary
from benchmarks.harness.tables import markdown_table, print_table
from benchmarks.report.figures import read_log
from benchmarks.report.published import Summary, published_values, task_title
from benchmarks.report.rows import METRICS, cell

TASK = {"dataset": (TEXT, None), "model": (TEXT, None)}  # options of a run that tables read
BANDITS = {"problem": TEXT, "budget": COUNT, "arms": COUNT}
SUMMARY = {"benchmark": TEXT, "algorithm": TEXT, "command": TEXT, "config": TASK}


@dataclass(frozen=True, kw_only=True)
class Report:
    """Options of the report."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of the runs, all of one benchmark."""
    out: Path | None = None
    """Folder of the report; None is a new one under results/runs."""

    def __post_init__(self) -> None:
        check(self)


def read_summaries(runs: tuple[Path, ...]) -> list[Summary]:
    """Reads the summaries of runs.

    Raises:
        ValueError: A folder is not that of a finished run of a benchmark with a table, or the runs
            are of several benchmarks.
    """
    summaries = [read_summary(run, SUMMARY) for run in runs]
    names = sorted({summary["benchmark"] for summary in summaries})
    if len(names) != 1 or names[0] not in METRICS:
        raise ValueError(
            f"runs must be of one of {', '.join(METRICS)}; got {', '.join(names) or 'none'}"
        )
    schema = {METRICS[names[0]][0]: {str: MEAN}, "config": BANDITS if names[0] == "bandits" else {}}
    for run, summary in zip(runs, summaries, strict=True):
        check_schema(summary, schema, run / "summary.json")
    return summaries


def labels(summaries: list[Summary]) -> list[str]:
    """The labels of runs: the options that differ, or else their place."""
    configs = [config_of_today(summary["config"]) for summary in summaries]
    options = [{k: v for k, v in config.items() if k not in NO_EFFECT} for config in configs]
    differ = [k for k in options[0] if len({str(o.get(k)) for o in options}) > 1]
    names = [", ".join(f"{k} {o.get(k)}" for k in differ) for o in options]
    return [name or f"run {place}" for place, name in enumerate(names, 1)]


def rows(summaries: list[Summary]) -> list[list[str]]:
    """The header of the table, and a row for each inner step that a run reports."""
    metric = METRICS[summaries[0]["benchmark"]][0]
    steps = list(dict.fromkeys(step for s in summaries for step in s[metric]))
    table = [["inner steps", *labels(summaries), "published"]]
    for step in steps:
        cells = [cell([s], step) if step in s[metric] else "" for s in summaries]
        values = {published_values(s).get(step, "") for s in summaries}
        table.append([step, *cells, values.pop() if len(values) == 1 else ""])
    return table


def curves(runs: tuple[Path, ...], summaries: list[Summary], out: Path) -> Figure:
    """Draws the metric over meta-training, on validation or else training tasks; `curves.png`."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes, (metric, scale, unit, _) = figure.subplots(), METRICS[summaries[0]["benchmark"]]
    for run, label in zip(runs, labels(summaries), strict=True):
        lines = read_log(run, (metric, "after"), metric)
        if not all({"val", metric, "after"} & line.keys() for line in lines):
            raise ValueError(
                f"every line of {run / 'log.jsonl'} must have {metric}; got one without"
            )
        points = [scale * _mean_of_line(line, metric) for line in lines]
        axes.plot([line["step"] for line in lines], points, label=fill(label, 80))
    axes.set(xlabel="meta-steps", ylabel=unit)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize="small")
    return save_figure(figure, out / "curves.png")


def _mean_of_line(line: dict[str, Any], metric: str) -> float:
    """The mean over seeds of a line of a log."""
    if line.get("val"):
        curve = line["val"][metric]
        values = curve[[*curve][-1]]["mean"]
    else:
        values = line[metric] if metric in line else line["after"]
    return float(np.mean(np.array(values, float)))  # None is NaN


def main(options: Report) -> list[list[str]]:
    """Prints the table, and writes the report and its figure."""
    summaries = read_summaries(options.runs)
    head, *body = table = rows(summaries)
    tasks = dict.fromkeys(map(task_title, summaries))
    title = f"{', '.join(tasks)}: {METRICS[summaries[0]['benchmark']][2]} (95% CI)"
    print_table(head, body, title, left=head)
    out = script_folder("report", options)
    named = zip(labels(summaries), summaries, strict=True)
    commands = "\n".join(f"* {name}: `{summary['command']}`" for name, summary in named)
    parts = f"# {title}", markdown_table(head, body), commands, "![curves](curves.png)\n"
    write_text(out / "report.md", "\n\n".join(parts))
    curves(options.runs, summaries, out)
    print(f"report: {out / 'report.md'}")
    return table


if __name__ == "__main__":
    launch(main, Report, __doc__, start=lambda cache: None)
