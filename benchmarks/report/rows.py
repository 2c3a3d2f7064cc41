"""The rows of the tables of results: groups of runs that differ in their seeds, and their cells."""

import re
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np

from benchmarks.harness.folders import NO_EFFECT
from benchmarks.harness.renamed import config_of_today, preset_of_today
from benchmarks.harness.statistics import mean_over_seeds, split_seeds
from benchmarks.harness.summary import command_to_repeat
from benchmarks.harness.tables import interval, quantity
from benchmarks.report.published import (
    Summary,
    published_values,
    task_title,
)

# benchmark -> metric, scale, unit, decimals
METRICS = {
    "omniglot": ("accuracy", 100, "accuracy, %", 2),
    "images": ("accuracy", 100, "accuracy, %", 2),
    "sinusoid": ("mse", 1, "mean squared error", 3),
    "navigation": ("returns", 1, "return", 2),
    "bandits": ("reward", 1, "reward", 3),
}
# Algorithms without inner steps in meta-training, some of which adapt in the evaluation alone.
WITHOUT_STEPS = ("protonet", "r2d2", "rl2", "pretrained", "oracle", "random")
# The columns of the tables of all results; those that are empty are left out.
COLUMNS = (
    *("task", "algorithm", "preset", "inner steps", "ours", "inductive", "best checkpoint"),
    *("published", "seeds", "setting", "minutes of training", "minutes in all", "command"),
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


def rows_of(runs: Sequence[Summary]) -> Iterable[dict[str, str]]:
    """Yields the rows of a group of runs: for each published inner step or episode that it has."""
    first = runs[0]
    metric = METRICS[first["benchmark"]][0]
    expected = published_values(first)
    last = min(first["config"]["inner_steps"], len(first[metric]) - 1)
    seeds = str(max(first.get("seeds", 1), len(runs)))
    training = _minutes(runs, ("compile", "train")) if "train" in first["seconds"] else ""
    command = re.sub(r" --seed \S+", "", command_to_repeat(first["command"]))
    if len(runs) > 1:  # one command trains all of these seeds
        command = re.sub(r" --seeds \S+", "", command) + f" --seeds {seeds}"
    if start := min(run["seed"] for run in runs):
        command += f" --seed {start}"
    others = ", ".join(f"{value} (inner steps: {n})" for n, value in expected.items())
    steps = [step for step in expected if step in first[metric]] or [str(last)]
    if (first["benchmark"], first["algorithm"]) == ("navigation", "rl2"):
        steps = list(first[metric])  # its episodes
    for step in steps:
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
        values += [inductive, best, expected.get(step, others), seeds, _setting(first, step)]
        values += [training, _minutes(runs), f"`{command}`"]
        yield dict(zip(COLUMNS, values, strict=True))


def _minutes(runs: Sequence[Summary], parts: Sequence[str] | None = None) -> str:
    """Minutes of some parts of a run, or of all, on average for one seed."""
    # A command that trains several seeds records the seconds of them all.
    seconds = [
        sum(run["seconds"].get(part, 0) for part in parts or run["seconds"])
        / (run["config"].get("seeds") or 1)
        for run in runs
    ]
    return f"{np.mean(seconds) / 60:.1f}"


def _setting(run: Summary, step: str) -> str:
    """What the row of a run compares: its training and its evaluation after an inner step."""
    options = config_of_today(run["config"])
    tasks = quantity(options["meta_batch"], "task")
    facts = [f"{run['meta_steps']:,} meta-steps of {tasks}" if run["meta_steps"] else "untrained"]
    steps = options["inner_steps"]
    if run["algorithm"] not in WITHOUT_STEPS and str(steps) != step:
        facts.append(f"{quantity(steps, 'inner step')} in training")
    if first_order := options.get("first_order"):
        facts.append(f"the first {first_order:,} meta-steps of first order")
    if options.get("cosine"):
        facts.append("cosine schedule")
    trained = {"ways": "classes", "queries": "queries of each class"}
    for name, words in trained.items():
        if options.get(f"train_{name}") not in (None, options.get(name)):
            facts.append(f"{options[f'train_{name}']} {words} in training")
    if (points := options.get("train_shots", options.get("shots"))) != options.get("shots"):
        facts.append(f"{points} support points in training")
    if options.get("shots_range"):
        facts.append("{} to {} shots in training".format(*options["shots_range"]))
    if options.get("augment"):
        of_set = {"support": "support ", "query": "query "}.get(options["augment_set"], "")
        facts.append(f"augmented {of_set}images")
    if (model := options.get("model", "conv4")) != "conv4":
        facts.append(f"{model} with {run['parameters']:,} parameters, the head's among them")
    if options.get("zero_head"):
        facts.append("a head that starts at zero")
    if run["benchmark"] == "navigation" and run["algorithm"] == "rl2":
        facts.append("episodes of a trial instead of inner steps")
    if "surrogate" in options:
        facts += _rl_setting(options)
    facts.append(f"{run['tasks']:,} test tasks")
    if run["batch_norm"] != "none":
        facts[-1] += f" of {run['query_size']} queries, {run['batch_norm']} batch norm"
    facts += [] if "cpu" in run["device"] else [f"on {run['device']}"]
    return ", ".join(facts)


def _rl_setting(options: dict[str, Any]) -> list[str]:
    """The options of reinforcement learning that differ between the rows of one algorithm."""
    words = []
    if options["algorithm"] == "maml":
        words += [options["surrogate"].replace("_", " "), f"GAE lambda {options['gae_lambda']:g}"]
    if (trajectories := options.get("trajectories", 20)) != 20:
        words.append(f"{trajectories} trajectories of each task")
    words += ["outer Adam"] * (options["outer"] == "adam")
    words += ["tanh units"] * (options.get("activation") == "tanh")
    return words
