"""Tables of results beside published numbers, on the terminal, in the README and in the docs.

python -m benchmarks.report.tables      # writes the tables of the pages from results/*.jsonl

It also draws the figure that compares the runs of `benchmarks.language`.
"""

import argparse
import json
import re
from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain
from pathlib import Path

from benchmarks.harness.command_line import exit_with_message
from benchmarks.harness.files import write_text
from benchmarks.harness.folders import RESULTS
from benchmarks.harness.tables import markdown_table, print_table, quantity
from benchmarks.report import reading
from benchmarks.report.published import (
    Summary,
    key_of,
    not_run,
    published_values,
    task_title,
)
from benchmarks.report.rows import COLUMNS, METRICS, cell, group_by_seed, rows_of
from benchmarks.search import cell_report
from benchmarks.search import report as searches

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


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


def markdown(summaries: Iterable[Summary], benchmarks: Iterable[str] = METRICS) -> str:
    """A Markdown table for each benchmark, with a row for each group and published inner step.

    Below it is a sentence with the published numbers that have no result.
    """
    groups, parts = group_by_seed(summaries), []
    for benchmark in benchmarks:
        names = {"ours": METRICS[benchmark][2]}
        names |= {"inner steps": "counted"} if benchmark == "bandits" else {}
        of_it = [runs for runs in groups if runs[0]["benchmark"] == benchmark]
        rows = sorted(chain(*map(rows_of, of_it)), key=lambda row: _natural(row["task"]))
        present = {key_of(runs[0]) for runs in of_it}
        columns = [name for name in COLUMNS if any(row[name] for row in rows)]
        head = [names.get(name, name) for name in columns]
        body = ([row[name] for name in columns] for row in rows)
        parts += [f"### {benchmark.capitalize()}", *([markdown_table(head, body)] if rows else [])]
        parts += [sentence] if (sentence := not_run(benchmark, present)) else []
    return "\n\n".join(parts)


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
FIVE_SHOT = (
    "omniglot --preset one-step-20-way-5-shot --data data/omniglot --devices 1 --meta-steps 18000"
)
THREE_SEEDS = (
    "omniglot --preset short-5-way-1-shot --zero-head --data data/omniglot --val-tasks 0"
    " --steps-per-call 500 --eval-steps 5 --devices 1 --seeds 3"
)
HEADLINES = (
    (THREE_SEEDS, "3"),
    (PAPER, "3"),
    ("omniglot --preset short-5-way-5-shot --data data/omniglot --devices 1", "3"),
    ("omniglot --preset one-step-20-way-1-shot --data data/omniglot --devices 1", "1"),
    (FIVE_SHOT, "1"),
    (AUGMENTED, "1"),
    ("sinusoid --preset maml-paper-5-shot --val-tasks 0 --seeds 8", "1"),
    ("sinusoid --preset meta-sgd-paper-5-shot --val-tasks 0 --seeds 3", "1"),
    ("navigation --surrogate likelihood_ratio", "1"),
    ("navigation --surrogate likelihood_ratio", "3"),
)


def headlines(summaries: Iterable[Summary]) -> str:
    """The Markdown table of `HEADLINES`, without the commands."""
    groups = [list(rows_of(runs)) for runs in group_by_seed(summaries)]
    rows = {(row["command"], row["inner steps"]): row for group in groups for row in group}
    if len(rows) < sum(map(len, groups)):
        raise ValueError("two groups of runs have one command; which of them is the row?")
    head = ["task", "algorithm", "inner steps", "ours", "published", "unit", "seeds"]
    head.append("minutes of training")
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
