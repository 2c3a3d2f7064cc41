"""Does a policy gradient find better architectures than chance? Four strategies, hundreds of runs.

    python -m benchmarks.architecture_search --space nasbench201 --table FILE --dataset cifar100
    python -m benchmarks.architecture_search --space nasbench201 --table FILE --children 500
    python -m benchmarks.architecture_search --space macro-table --table FILE --children 300
    python -m benchmarks.architecture_search --space graphs --dataset cora     # needs no file
    python -m benchmarks.architecture_search --space maml-bench                # nor does this
    python -m benchmarks.architecture_search --space macro --data FOLDER --children 200
    python -m benchmarks.architecture_search --space cells --data FOLDER --shared-steps 2000

A table takes half a minute on two cores; the last two train their children. A search is rewarded
by a short training; of its best child by reward, another training is reported. NASNet's figure is
drawn too: the mean of the best 5 and 25 rewards over the number of children.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optax
from scipy import stats

from benchmarks.harness.bounds import check_size, check_used
from benchmarks.harness.command_line import launch
from benchmarks.harness.folders import new_folder, script_folder
from benchmarks.harness.statistics import not_finite
from benchmarks.harness.summaries import write_summary
from benchmarks.search import children, drawing, figures, live, tables, tabulated
from benchmarks.search.children import Children
from benchmarks.search.figures import mean_of_top, replace_broken
from benchmarks.search.live import Outcome
from maml.search import (
    Space,
    Strategy,
    evolution,
    factorised,
    lstm,
    ppo,
    random,
    reinforce,
)

NAMES = "random", "evolution", "reinforce", "ppo"
TOKENS = 16  # of a child, about


@dataclass(frozen=True, kw_only=True)
class Search(Children):
    """Options of the benchmark."""

    space: Literal["nasbench201", "macro-table", "graphs", "maml-bench", "macro", "cells"] = (
        "nasbench201"
    )
    """What is searched: a file of yours (the first two), the table of the package nas-bench-graph,
    ours, or by training each child, the convolutional space of 2016 or that of cells."""
    table: Path | None = None
    """The file, where the space needs one."""
    dataset: str | None = None
    """Of the table, where it has several, or omniglot or glyphs; None is the first."""
    children: int = 100
    """Architectures that a search is rewarded for."""
    runs: int | None = None
    """Searches of each strategy; None is 500 of a table, in one program, and 3 that train."""
    strategies: tuple[Literal["random", "evolution", "reinforce", "ppo"], ...] = NAMES
    """Those that search; random, which the others are compared with, is one of them."""
    executor: Literal["devices", "ray"] = "devices"
    """Who trains the children: the devices at hand, or Ray."""
    policy: Literal["factorised", "lstm"] = "factorised"
    """Of REINFORCE and PPO."""
    rate: float | None = None
    """Of their Adam; None is 0.05 for the factorised policy and 0.001 for the other."""
    batch: int = 10
    """Children between two updates of PPO, which divide the children."""
    seed: int = 0
    """Of all the searches."""
    cache: bool = True
    """Keep compiled programs in the user's cache directory, and take them from there."""
    out: Path | None = None
    """Folder of the results; None is a new one under results/runs."""
    record: bool = False
    """Add the summary to results/*.jsonl, from which the tables are made."""

    def __post_init__(self) -> None:
        self.check_options(self.space, self.dataset)
        if self.children < (least := max(figures.TOPS)):
            raise ValueError(f"children must be >= {least}; got {self.children}")
        if self.children % self.batch:
            raise ValueError(f"the batch must divide {self.children} children; got {self.batch}")
        if self.executor == "ray" and find_spec("ray") is None:
            raise ValueError("--executor ray needs Ray; pip install 'maml-jax[ray]'")
        if "random" not in self.strategies:
            raise ValueError(f"random is what others are compared with; got {self.strategies}")
        if self.space == "graphs" and self.table is not None:
            raise ValueError(f"--space graphs reads its package and no file; got {self.table}")
        trains = self.space in children.SPACES
        if trains and self.table is not None:
            raise ValueError(f"--space {self.space} trains and reads no table; got {self.table}")
        if not trains and self.executor != "devices":
            raise ValueError(f"children of a table are not trained by {self.executor}")
        learns = bool({"reinforce", "ppo"} & set(self.strategies))
        check_used(self, ("policy", "rate"), learns, "strategies reinforce and ppo")
        check_used(self, ("batch",), "ppo" in self.strategies, "strategy ppo")
        told = TOKENS * self.repeats * self.children
        check_size(told, "the searches of a strategy", "runs or children")

    @property
    def repeats(self) -> int:
        """Searches of each strategy."""
        return self.runs or (3 if self.space in children.SPACES else 500)


def strategies(config: Search, space: Space) -> dict[str, Strategy]:
    """What is compared, by name."""
    policy = {"factorised": factorised, "lstm": lstm}[config.policy](space)
    usual = {"factorised": 0.05, "lstm": 0.001}[config.policy]
    rate = usual if config.rate is None else config.rate
    found = (
        random(space),
        evolution(space),
        reinforce(policy, optax.adam(rate)),
        ppo(policy, optax.adam(rate), batch=config.batch, decay=0.9),
    )
    return dict(zip(NAMES, found, strict=True))


def describe_outcome(
    config: Search, outcome: Outcome
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Percent: the rewards by strategy, `[run, child]`, 0 if broken, and what is said of them."""
    rewards = {name: replace_broken(100 * x) for name, x in outcome.rewards.items()}
    best = {name: 100 * reported for name, reported in outcome.best.items()}
    last = config.children // 5
    found = {
        "best": {
            n: {"mean": float(x.mean()), "std": float(x.std(ddof=1))} for n, x in best.items()
        },
        "p_over_random": {name: p_value(x, best["random"]) for name, x in best.items()},
        "mean_last_fifth": {name: float(seen[:, -last:].mean()) for name, seen in rewards.items()},
        "broken": outcome.broken,
        "seconds": outcome.seconds,
        **outcome.facts,
        **not_finite({"best": best}),
    }
    for count in figures.TOPS:
        found[f"top{count}"] = {
            n: float(mean_of_top(seen, count)[-1]) for n, seen in rewards.items()
        }
    return rewards, found


def p_value(values: np.ndarray, baseline: np.ndarray) -> float:
    """How probable so large a mean is, were it no larger than the baseline's: Welch's test."""
    if np.ptp(values) == np.ptp(baseline) == 0:  # where nothing varies, one difference says all
        return float(0.5 - 0.5 * np.sign(values[0] - baseline[0]))
    told = [fact for x in (values, baseline) for fact in (x.mean(), x.std(ddof=1), len(x))]
    test = stats.ttest_ind_from_stats(*told, equal_var=False, alternative="greater")
    return float(np.asarray(test)[1])


def prepare_search(config: Search) -> tuple[Callable[[Path], Outcome], str]:
    """What searches, given a folder, and the name of the data set.

    Raises:
        FileNotFoundError, ValueError: as `tabulated.read` and `children.samplers`.
    """
    if config.space not in children.SPACES:
        table, dataset = tabulated.read_table(config)
        compared = strategies(config, table.space)
        return lambda out: tabulated.measure(config, compared, table), dataset
    dataset = config.dataset or children.DATASETS[0]
    space, child = children.space_and_network(config.space, config)
    learning, compared = children.samplers(dataset, config), strategies(config, space)
    return partial(live.measure, config, compared, space, child, learning), dataset


def main(config: Search) -> dict[str, Any]:
    """Searches, prints the table, draws the figures and writes `summary.json`."""
    searched, dataset = prepare_search(config)
    out = config.out or new_folder(f"architecture-search-{config.space}-{dataset}")
    if config.space not in children.SPACES:  # the others claim it for what they go on with
        script_folder("architecture_search", replace(config, out=out))
    rewards, found = describe_outcome(config, searched(out))
    about = {name: getattr(config, name) for name in ("space", "children", "policy", "seed")}
    summary = about | {"runs": config.repeats, "dataset": dataset, "unit": "%"} | found
    summary = write_summary("architecture_search", config, out, summary, record=config.record)
    tables.show(summary)
    figures.draw_running_mean(out, rewards)
    figures.draw_top_means(out, rewards)
    if config.space in children.SPACES:
        drawing.draw_best(out, config, summary["chosen"])
    print(f"figures: {out}")
    return summary


if __name__ == "__main__":
    launch(main, Search, __doc__)
