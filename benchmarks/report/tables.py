"""Tables of results beside published numbers, on the terminal, in the README and in the docs.

python -m benchmarks.report.tables      # writes the tables of the pages from results/*.jsonl

It also draws the figure that compares the runs of `benchmarks.language`.
"""

import argparse
import json
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.command_line import exit_with_message
from benchmarks.harness.files import write_text
from benchmarks.harness.folders import NO_EFFECT, RESULTS
from benchmarks.harness.options import preset_of_today
from benchmarks.harness.statistics import mean_over_seeds, split_seeds
from benchmarks.harness.summary import command_to_repeat
from benchmarks.harness.tables import interval, markdown_table, print_table, quantity
from benchmarks.report import reading
from benchmarks.report.published import (
    Summary,
    config_of_today,
    not_run,
    published_values,
    task_title,
)
from benchmarks.search import cell_report
from benchmarks.search import report as searches

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"

# benchmark -> metric, scale, unit, decimals
METRICS = {
    "omniglot": ("accuracy", 100, "accuracy, %", 2),
    "images": ("accuracy", 100, "accuracy, %", 2),
    "sinusoid": ("mse", 1, "mean squared error", 3),
    "navigation": ("returns", 1, "return", 2),
    "bandits": ("reward", 1, "reward", 3),
}
# The columns of the tables of all results; those that are empty are left out.
COLUMNS = (
    *("task", "algorithm", "preset", "inner steps", "ours", "inductive", "best checkpoint"),
    *("published", "seeds", "setting", "minutes", "command"),
)


def cell(runs: Sequence[Summary], step: str, metric: str | None = None) -> str:
    """The mean and 95% confidence interval after an inner step, in the unit of the table.

    The interval of one run is the one that it reports; that of several is over their seeds. A
    `metric` of None is that of the benchmark.
    """
    default, scale, _, decimals = METRICS[runs[0]["benchmark"]]
    values = [run[metric or default][step] for run in runs]
    if len(runs) > 1:  # None is NaN
        values = [mean_over_seeds(np.array([[value["mean"]] for value in values], float))]
    return interval(values[0], scale, decimals)


def show(summary: Summary) -> None:
    """Prints the table of a run, with the facts that a comparison needs."""
    metric, _, unit, _ = METRICS[summary["benchmark"]]
    expected = published_values(summary)
    also = [name for name in summary if name.startswith(f"{metric}_")]
    best = ["best checkpoint"] if "best" in summary else []
    rows = []
    for step in summary[metric]:
        row = [step, *(cell([summary], step, name) for name in (metric, *also))]
        row += [cell([summary | summary["best"]], step)] if best else []
        rows.append([*row, expected.get(step, "")])
    facts = [quantity(summary["meta_steps"], "meta-step"), quantity(summary["tasks"], "test task")]
    facts += [quantity(seeds, "seed")] if (seeds := summary.get("seeds")) else []
    facts += [f"{norm} batch norm"] if (norm := summary["batch_norm"]) != "none" else []
    if summary["benchmark"] in ("omniglot", "images", "sinusoid"):
        facts.append(f"{quantity(summary['query_size'], 'query point')} per task")
    facts += [f"{name} {value:g} s" for name, value in summary["seconds"].items()]
    title = f"{task_title(summary)}, {summary['algorithm']}: {unit} (95% CI)"
    head = ["inner steps", "ours", *also, *best, "published"]
    print_table(head, rows, title, ", ".join([*facts, summary["device"]]))


def read_results(folder: Path = RESULTS) -> list[Summary]:
    """Reads every recorded result, oldest first."""
    files = sorted(folder.glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def group_by_seed(summaries: Iterable[Summary]) -> list[list[Summary]]:
    """Groups runs that differ in their seeds alone; of several runs of one seed, the latest counts.

    A run may lack options that did not exist when it was recorded.
    """
    groups: list[tuple[dict[str, Any], dict[int, Summary]]] = []  # options, and runs by seed
    known = (summary for summary in summaries if summary["benchmark"] in METRICS)
    free = {*NO_EFFECT, "seed", "seeds", "steps_per_call", "devices"}
    for summary in chain.from_iterable(map(split_seeds, known)):
        config = config_of_today(summary["config"])
        options = {name: value for name, value in config.items() if name not in free}
        options |= {name: summary[name] for name in ("benchmark", "algorithm")}
        # A resumed run with other meta-steps has the same result as one with these from the start.
        changes = summary.get("history", ())[1:]
        options["rates"] = [entry for entry in changes if "outer_rate" in entry]
        options["trains"] = "train" in summary["seconds"]  # or evaluates trained weights
        alike = (
            (others, runs)
            for others, runs in groups
            if others.items() <= options.items() or options.items() <= others.items()
        )
        if (group := next(alike, None)) is None:
            groups.append(group := ({}, {}))
        group[0].update(options)
        group[1][summary["seed"]] = summary
    every = [[*runs.values()] for _, runs in groups]
    # A line of several seeds whose own means were not recorded does not count as one of them.
    return [[run for run in runs if run.get("seeds", 1) == 1] or runs for runs in every]


def markdown(summaries: Iterable[Summary], benchmarks: Iterable[str] = METRICS) -> str:
    """A Markdown table for each benchmark, with a row for each group and published inner step.

    Below it is a sentence with the published numbers that have no result.
    """
    groups, parts = group_by_seed(summaries), []
    for benchmark in benchmarks:
        names = {"ours": METRICS[benchmark][2]}
        names |= {"inner steps": "counted"} if benchmark == "bandits" else {}
        rows = [row for runs in groups if runs[0]["benchmark"] == benchmark for row in _rows(runs)]
        rows.sort(key=lambda row: _natural(row["task"]))
        present = {(row["task"], row["algorithm"]) for row in rows}
        columns = [name for name in COLUMNS if any(row[name] for row in rows)]
        head = [names.get(name, name) for name in columns]
        body = ([row[name] for name in columns] for row in rows)
        parts += [f"### {benchmark.capitalize()}", *([markdown_table(head, body)] if rows else [])]
        parts += [sentence] if (sentence := not_run(benchmark, present)) else []
    return "\n\n".join(parts)


def _rows(runs: Sequence[Summary]) -> Iterable[dict[str, str]]:
    """Yields the rows of a group of runs, one for each published inner step that it has."""
    first = runs[0]
    metric = METRICS[first["benchmark"]][0]
    expected = published_values(first)
    last = min(first["config"]["inner_steps"], len(first[metric]) - 1)
    seeds = str(max(first.get("seeds", 1), len(runs)))
    # A command that trains several seeds records the seconds of them all.
    seconds = [sum(run["seconds"].values()) / (run["config"].get("seeds") or 1) for run in runs]
    minutes = f"{np.mean(seconds) / 60:.1f}"
    command = re.sub(r" --seed \S+", "", command_to_repeat(first["command"]))
    setting = f"{first['meta_steps']} meta-steps, {first['tasks']} test tasks"
    if first["batch_norm"] != "none":
        setting += f" of {first['query_size']} queries, {first['batch_norm']} batch norm"
    if (model := first["config"].get("model", "conv4")) != "conv4":
        setting += f", {model} with {first['parameters']} parameters, the head's among them"
    of_set = {"support": "support ", "query": "query "}.get(first["config"].get("augment_set"), "")
    words = {"augment": f"augmented {of_set}images", "zero_head": "a head that starts at zero"}
    setting += "".join(f", {text}" for name, text in words.items() if first["config"].get(name))
    options = config_of_today(first["config"])
    if (trained := options.get("train_shots", options.get("shots"))) != options.get("shots"):
        setting += f", {trained} support points in meta-training"
    if "surrogate" in options:
        setting += _rl_setting(options)
    setting += "" if "cpu" in first["device"] else f", on {first['device']}"
    others = ", ".join(f"{value} (inner steps: {n})" for n, value in expected.items())
    for step in [step for step in expected if step in first[metric]] or [str(last)]:
        inductive, best = "", ""
        if f"{metric}_inductive" in first:
            inductive = cell(runs, step, f"{metric}_inductive")
            best = cell([run | run.get("best", {}) for run in runs], step)
        values = [
            task_title(first),
            first["algorithm"],
            preset_of_today(first["preset"]),
            step,
            cell(runs, step),
        ]
        values += [inductive, best, expected.get(step, others), seeds, setting, minutes]
        yield dict(zip(COLUMNS, [*values, f"`{command}`"], strict=True))


def _rl_setting(options: dict[str, Any]) -> str:
    """The options of reinforcement learning that differ between the rows of one algorithm."""
    words = []
    if options["algorithm"] == "maml":
        words += [options["surrogate"].replace("_", " "), f"GAE lambda {options['gae_lambda']:g}"]
    if options["algorithm"] in ("maml", "pretrained", "oracle"):
        few = options.get("trajectories", 20) != 20
        each = f" of {options['trajectories']} trajectories" if few else ""
        words.append(f"meta-batches of {options['meta_batch']} tasks{each}")
    words += ["outer Adam"] * (options["outer"] == "adam")
    words += ["tanh units"] * (options.get("activation") == "tanh")
    return "".join(f", {text}" for text in words)


def _natural(text: str) -> list[tuple[int, str]]:
    """A key that sorts the numbers in texts as numbers: 5-way is before 20-way."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", text)]


def insert_tables(page: str, tables: str) -> str:
    """Replaces the tables between the two marks of a page.

    Raises:
        ValueError: The page lacks a mark, so other text would be overwritten.
    """
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"a page needs the marks {BEGIN} and, after it, {END}")
    return f"{head}{BEGIN}\n{tables}\n{END}{tail}"


# The rows of the README: command and inner steps, as in the table of all results.
PAPER = (
    "omniglot --preset maml-paper-5-way-1-shot --data data/omniglot --steps-per-call 1000"
    " --prefetch 10 --val-tasks 200 --eval-steps 3"
)
AUGMENTED = (
    "omniglot --preset prototypes-20-way-1-shot --data data/omniglot --devices 1 --val-tasks 200"
    " --augment --train-ways 60 --meta-batch 1 --meta-steps 30000 --steps-per-call 500"
)
HEADLINES = (
    (PAPER, "3"),
    ("omniglot --preset short-5-way-5-shot --data data/omniglot --devices 1", "3"),
    ("omniglot --preset one-step-20-way-1-shot --data data/omniglot --devices 1", "1"),
    (AUGMENTED, "1"),
    (
        "sinusoid --preset maml-paper-5-shot --train-shots 5 --seeds 8 --val-tasks 0 --devices 1",
        "1",
    ),
    ("sinusoid --preset meta-sgd-paper-5-shot --val-tasks 0", "1"),
    ("navigation --surrogate likelihood_ratio", "1"),
    ("navigation --surrogate likelihood_ratio", "3"),
)


def headlines(summaries: Iterable[Summary]) -> str:
    """The Markdown table of `HEADLINES`, without the commands."""
    groups = [list(_rows(runs)) for runs in group_by_seed(summaries)]
    rows = {(row["command"], row["inner steps"]): row for group in groups for row in group}
    if len(rows) < sum(map(len, groups)):
        raise ValueError("two groups of runs have one command; which of them is the row?")
    head = ["task", "algorithm", "inner steps", "ours", "published", "unit", "seeds", "minutes"]
    lines = []
    for command, step in HEADLINES:
        row = rows[f"`python -m benchmarks.{command}`", step]
        row |= {"unit": METRICS[command.split()[0]][2]}
        lines.append([row[name] for name in head])
    return markdown_table(head, lines)


def all_results(summaries: Iterable[Summary]) -> str:
    """The tables of the page of results."""
    named = ("omniglot", "images", "sinusoid", "navigation")
    return "\n\n".join(
        [markdown(summaries, named), reading.markdown(summaries), cell_report.markdown(summaries)]
    ).rstrip()


# The function that makes the tables of each page from all recorded results.
PAGES: dict[Path, Callable[[Iterable[Summary]], str]] = {
    Path("README.md"): headlines,
    Path("docs/results.md"): all_results,
    Path("docs/reinforcement-learning.md"): partial(markdown, benchmarks=("bandits",)),
    searches.DOCS: searches.markdown,
}

if __name__ == "__main__":
    shape = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(description=__doc__, formatter_class=shape).parse_args()
    with exit_with_message():
        results = read_results()
        for page, tables in PAGES.items():
            write_text(page, insert_tables(page.read_text(), tables(results)))
        reading.compare(results, RESULTS / "language")
