"""Results beside the published numbers: on the terminal, and in the README.

python -m benchmarks.tables      # writes the tables of the README and the docs from results/*.jsonl
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import search_tables
from benchmarks.session import RESULTS

README = Path("README.md")
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"

# metric, scale, unit, decimals
METRICS = {
    "sinusoid": ("mse", 1, "MSE", 2),
    "omniglot": ("accuracy", 100, "accuracy, %", 2),
    "navigation": ("returns", 1, "return", 2),
    "bandits": ("reward", 1, "reward", 3),
}

# What MAML's paper prints: task, algorithm and model -> inner step -> value. With 10 shots it has
# only a curve (figure 3), and the values are read off it.
NAVIGATION = "-40.41 ± 4.1", "-11.68 ± 2.2", "-3.33 ± 0.6", "-3.23 ± 0.6", "-3.35 ± 0.6"
PUBLISHED: dict[tuple[str, str, str], dict[str, str]] = {
    ("sinusoid 5-shot", "maml", ""): {"1": "0.67", "5": "0.38", "10": "0.35"},
    ("sinusoid 10-shot", "maml", ""): {"1": "0.4 ± 0.1 (curve)", "9": "0.2 ± 0.1 (curve)"},
    ("sinusoid 5-shot", "pretrained", ""): {"1": "2.41", "5": "2.23", "10": "2.19"},
    ("omniglot 5-way 1-shot", "maml", "conv4"): {"3": "98.7 ± 0.4"},
    ("omniglot 5-way 5-shot", "maml", "conv4"): {"3": "99.9 ± 0.1"},
    ("omniglot 20-way 1-shot", "maml", "conv4"): {"5": "95.8 ± 0.3"},
    ("omniglot 20-way 5-shot", "maml", "conv4"): {"5": "98.9 ± 0.2"},
    ("omniglot 5-way 1-shot", "maml", "fully-connected"): {"3": "89.7 ± 1.1"},
    ("omniglot 5-way 5-shot", "maml", "fully-connected"): {"3": "97.5 ± 0.6"},
    ("navigation", "maml", ""): dict(zip("01234", NAVIGATION, strict=True)),
    ("navigation", "pretrained", ""): {"0": "-40.81", "1": "-19.73", "2": "-11.72", "3": "-8.47"},
    ("navigation", "random", ""): {"0": "-82.66", "1": "-57.96", "2": "-53.84", "3": "-46.81"},
    ("navigation", "oracle", ""): {"0": "-2.29 ± 0.1"},
}
# SNAIL's table of MAML, and that of RL2 (Duan et al. 2016); budget and arms, then who.
BANDITS = {
    (10, 5): ("6.5 ± 0.1", "6.7"),
    (10, 10): ("6.6 ± 0.1", "6.7"),
    (10, 50): ("6.6 ± 0.1", "6.8"),
    (100, 5): ("67.1 ± 1.1", "78.7"),
    (100, 10): ("70.1 ± 0.6", "83.5"),
    (100, 50): ("70.3 ± 0.4", "84.9"),
    (500, 5): ("too expensive", "401.5"),
    (500, 10): ("too expensive", "432.5"),
    (500, 50): ("too expensive", "438.9"),
}
MDPS = {
    10: ("0.563", "0.752"),
    25: ("0.591", "0.859"),
    50: ("too expensive", "0.902"),
    75: ("too expensive", "0.918"),
    100: ("too expensive", "0.922"),
}
Summary = dict[str, Any]


def task_of(summary: Summary) -> str:
    """What was asked: `omniglot 5-way 1-shot`."""
    config = summary["config"]
    name = config.get("dataset", summary["benchmark"])
    ways, shots = (
        f" {config[key]}-{word}" if key in config else ""
        for key, word in (("ways", "way"), ("shots", "shot"))
    )
    return f"{name}{' corners' if config.get('corners') else ''}{ways}{shots}"


def published(summary: Summary) -> dict[str, str]:
    """What the paper prints for this task, algorithm and model, by inner step."""
    config = summary["config"]
    if summary["benchmark"] == "bandits":
        budget, place = config["budget"], int(summary["algorithm"] == "rl2")
        bandit = config["problem"] == "bandit"
        cells = BANDITS.get((budget, config["arms"])) if bandit else MDPS.get(budget)
        return dict.fromkeys(("total", "at the last rate"), cells[place]) if cells else {}
    model = config.get("model", "")
    return PUBLISHED.get((task_of(summary), summary["algorithm"], model), {})


def cell(summary: Summary, step: str) -> str:
    """The mean and confidence interval after an inner step, in the unit of the table."""
    metric, scale, _, decimals = METRICS[summary["benchmark"]]
    value = summary[metric][step]
    if value["mean"] is None:
        return "diverged"
    numbers = (value["mean"], value["ci95"])
    # One seed has no interval.
    return " ± ".join(f"{scale * x:.{decimals}f}" for x in numbers if x is not None)


def show(summary: Summary) -> None:
    """Prints the table of one run, with what has to be known to compare it."""
    metric, _, unit, _ = METRICS[summary["benchmark"]]
    theirs = published(summary)
    table = Table(title=f"{task_of(summary)}, {summary['algorithm']}: {unit} (95% CI)")
    for column in ("inner steps", "ours", "published"):
        table.add_column(column, justify="right")
    for step in summary[metric]:
        table.add_row(step, cell(summary, step), theirs.get(step, ""))
    seconds = ", ".join(f"{name} {value:g} s" for name, value in summary["seconds"].items())
    table.caption = (
        f"{summary['meta_steps']} meta-steps, {summary['tasks']} test tasks,"
        f" batch norm {summary['batch_norm']}, {summary['query_size']} query points a task,"
        f" {seconds}, {summary['device']}"
    )
    Console().print(table)


def recorded(folder: Path = RESULTS) -> list[Summary]:
    """Every result line that is committed, oldest first."""
    files = sorted(folder.glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def markdown(summaries: Iterable[Summary]) -> str:
    """A row for each run and each inner step that has a published number."""
    head = (
        *("task", "preset", "algorithm", "inner steps", "ours", "published", "meta-steps"),
        *("batch norm", "query", "test tasks", "seed", "minutes", "device", "command"),
    )
    rows = [head, ("---",) * len(head)]
    for summary in summaries:
        if summary["benchmark"] not in METRICS:
            continue
        theirs = published(summary)
        found = summary[METRICS[summary["benchmark"]][0]]
        reported = [step for step in theirs if step in found]
        for step in reported or [str(summary["config"]["inner_steps"])]:
            rows.append(
                (
                    *(task_of(summary), summary["preset"], summary["algorithm"], step),
                    *(cell(summary, step), theirs.get(step, "none"), summary["meta_steps"]),
                    *(summary["batch_norm"], summary["query_size"], summary["tasks"]),
                    *(summary["seed"], f"{sum(summary['seconds'].values()) / 60:.1f}"),
                    *(summary["device"], f"`{summary['command']}`"),
                )
            )
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def with_table(text: str, table: str) -> str:
    """The text with this table between the two marks."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{table}\n{END}{tail}"


if __name__ == "__main__":
    for path, write in ((README, markdown), (search_tables.DOCS, search_tables.markdown)):
        path.write_text(with_table(path.read_text(), write(recorded())))
