"""Tables of architecture searches, on the terminal and in the docs."""

from collections.abc import Iterable
from math import isfinite
from pathlib import Path

from rich import box

from benchmarks.harness.summary import command_to_repeat
from benchmarks.harness.tables import markdown_table, print_table
from benchmarks.report.published import Summary

DOCS = Path("docs/architecture-search.md")
HEAD = "best ± SD", "top 5", "top 25", "last 5th", "p"
NOTE = (
    "best: reported {} of the child with the best reward, mean ± standard deviation over"
    " runs; top 5, top 25, last 5th: mean {} of the best 5, the best 25 and the last fifth of"
    " the children; p: p-value of the best being no better than with random"
)
MEASURES = {"%": ("accuracy", "reward"), "perplexity": ("perplexity", "reward, as a perplexity,")}


def rows(summary: Summary) -> dict[str, tuple[str, ...]]:
    """The cells of each strategy's row, in the order of `HEAD`."""
    cells, p_values = {}, summary["p_over_random"]
    for name, best in summary["best"].items():
        means = (summary[key][name] for key in ("top5", "top25", "mean_last_fifth"))
        cells[name] = (
            f"{_number(best['mean'])} ± {_number(best['std'])}",
            *map(_number, means),
            "" if name == "random" else _p_value(p_values[name]),
        )
    return cells


def _number(value: float | None) -> str:
    return "not finite" if value is None or not isfinite(value) else f"{value:.2f}"


def _p_value(p: float | None) -> str:
    if p is None or not isfinite(p):
        return _number(p)
    return f"{p:.1e}" if p > 1e-9 else "< 1e-9"


def strategy_label(name: str, summary: Summary) -> str:
    """The name of a strategy, and the number of its broken rewards, if there are any."""
    count = summary["broken"][name]
    return f"{name} ({count} broken)" if count else name


def task_title(summary: Summary) -> str:
    """The search space and the data set of a comparison, and a unit that is not percent."""
    shared = ", shared weights" if summary.get("config", {}).get("shared_steps") else ""
    unit = "" if summary["unit"] == "%" else f", {summary['unit']}"
    return f"{summary['space']} {summary['dataset']}{shared}{unit}"


def show(summary: Summary) -> None:
    """Prints the table of a comparison."""
    body = [(strategy_label(name, summary), *cells) for name, cells in rows(summary).items()]
    optimum = f"; best of the table: {summary['optimum']:.2f}" if "optimum" in summary else ""
    lost = sum(summary["broken"].values())
    verbs = ("reward was", "counts") if lost == 1 else ("rewards were", "count")
    broken = f"; {lost} {verbs[0]} not finite and {verbs[1]} as the worst" if lost else ""
    caption = (
        f"{summary['runs']} runs of {summary['children']} children;"
        f" {NOTE.format(*MEASURES[summary['unit']])}{optimum};"
        f" {sum(summary['seconds'].values()):.1f} s, {summary['device']}{broken}"
    )
    percent = ", %" if summary["unit"] == "%" else ""
    title = f"{task_title(summary)}{percent}"
    print_table(("strategy", *HEAD), body, title, caption, box=box.SIMPLE)


def markdown(summaries: Iterable[Summary]) -> str:
    """The Markdown table of comparisons, with a row for each one and strategy."""
    head = ("table", "children x runs", "policy", "strategy", *HEAD, "seconds", "command")
    lines = []
    for summary in summaries:
        if summary["benchmark"] != "architecture_search":
            continue
        for name, cells in rows(summary).items():
            how = summary["policy"] if name in ("reinforce", "ppo") else ""
            size = f"{summary['children']} x {summary['runs']}"
            before = task_title(summary), size, how, strategy_label(name, summary)
            after = f"{summary['seconds'][name]:.1f}", f"`{command_to_repeat(summary['command'])}`"
            lines.append((*before, *cells, *after))
    return markdown_table(head, lines)
