"""Architecture search: random search, evolution, REINFORCE and PPO, over many runs.

Searches a table of rewards, or trains each child network, and reports the accuracy of the best
child of each strategy, with the p-value against random search.

    python -m benchmarks.architecture_search --space nasbench201 --table FILE --dataset cifar100
    python -m benchmarks.architecture_search --space nasbench201 --table FILE --children 500
    python -m benchmarks.architecture_search --space macro-table --table FILE --children 300
    python -m benchmarks.architecture_search --space graphs --dataset cora     # needs no file
    python -m benchmarks.architecture_search --space maml-bench                # needs no file
    python -m benchmarks.architecture_search --space macro --data FOLDER --children 200
    python -m benchmarks.architecture_search --space cells --data FOLDER --shared-steps 2000

A table takes half a minute on two cores; the spaces macro and cells train their child networks. The
reward is the accuracy after a short training, and another training of the child with the best
reward is reported. Figures show the mean of the best 5 and 25 rewards over the number of children,
as in NASNet.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optax
from scipy import stats

from benchmarks.harness.bounds import check_size, check_used
from benchmarks.harness.command_line import launch
from benchmarks.harness.folders import claim_folder, new_folder, result_options, write_summary
from benchmarks.harness.statistics import count_not_finite
from benchmarks.search import children, drawing, figures, live, tables, tabulated
from benchmarks.search.children import Children
from benchmarks.search.figures import mean_of_top, replace_broken
from benchmarks.search.live import SearchResult
from maml.search import (
    Space,
    Strategy,
    evolution,
    factorised_policy,
    lstm_policy,
    ppo,
    random_search,
    reinforce,
)

NAMES = "random", "evolution", "reinforce", "ppo"
TOKENS = 16  # about the number of tokens of a child network


@dataclass(frozen=True, kw_only=True)
class Search(Children):
    """Options of the search."""

    space: Literal["nasbench201", "macro-table", "graphs", "maml-bench", "macro", "cells"] = (
        "nasbench201"
    )
    """Search space: a table in a file (nasbench201, macro-table), the table of the package
    nas-bench-graph (graphs), that of `benchmarks.maml_bench`, or, with the training of each child,
    the convolutional space of 2016 (macro) or that of cells."""
    table: Path | None = None
    """File of the table, where the search space needs one."""
    dataset: str | None = None
    """Data set of the table, or omniglot or glyphs for child networks that are trained; None is the
    first."""
    children: int = 100
    """Number of child networks of a search."""
    runs: int | None = None
    """Number of searches with each strategy; None is 500 for a table, and 3 with training."""
    strategies: tuple[Literal["random", "evolution", "reinforce", "ppo"], ...] = NAMES
    """Strategies to compare, among them random, the baseline."""
    executor: Literal["devices", "ray"] = "devices"
    """Executor that trains child networks: the devices of this process, or Ray."""
    policy: Literal["factorised", "lstm"] = "factorised"
    """Policy of REINFORCE and PPO."""
    rate: float | None = None
    """Learning rate of REINFORCE and PPO; None is 0.05 for the factorised policy and 0.001 for the
    LSTM."""
    batch: int = 10
    """Number of child networks between two updates of PPO, a divisor of the children."""
    seed: int = 0
    """Seed of all searches."""
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
            raise ValueError("--executor ray needs Ray: pip install 'maml-jax[ray]'")
        if "random" not in self.strategies:
            raise ValueError(f"strategies must include random, the baseline; got {self.strategies}")
        if self.space == "graphs" and self.table is not None:
            raise ValueError(
                f"--space graphs reads a package, not a file; got --table {self.table}"
            )
        trains = self.space in children.SPACES
        if trains and self.table is not None:
            raise ValueError(f"--space {self.space} reads no table; got --table {self.table}")
        if not trains and self.executor != "devices":
            raise ValueError(f"executor must be devices for a table; got {self.executor}")
        learns = bool({"reinforce", "ppo"} & set(self.strategies))
        check_used(self, ("policy", "rate"), learns, "strategies reinforce and ppo")
        check_used(self, ("batch",), "ppo" in self.strategies, "strategy ppo")
        tokens = TOKENS * self.repeats * self.children
        check_size(tokens, "the searches of a strategy", "runs or children")

    @property
    def repeats(self) -> int:
        """Number of searches with each strategy."""
        return self.runs or (3 if self.space in children.SPACES else 500)


def strategies(config: Search, space: Space) -> dict[str, Strategy]:
    """All strategies by name."""
    policy = {"factorised": factorised_policy, "lstm": lstm_policy}[config.policy](space)
    default = {"factorised": 0.05, "lstm": 0.001}[config.policy]
    rate = default if config.rate is None else config.rate
    values = (
        random_search(space),
        evolution(space),
        reinforce(policy, optax.adam(rate)),
        ppo(policy, optax.adam(rate), batch=config.batch, baseline_decay=0.9),
    )
    return dict(zip(NAMES, values, strict=True))


def describe_outcome(
    config: Search, outcome: SearchResult
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Rewards `[run, child]` by strategy, in percent, 0 if broken, and their statistics."""
    rewards = {name: replace_broken(100 * x) for name, x in outcome.rewards.items()}
    best = {name: 100 * reported for name, reported in outcome.best.items()}
    last = config.children // 5
    results = {
        "best": {
            n: {"mean": float(x.mean()), "std": float(x.std(ddof=1))} for n, x in best.items()
        },
        "p_over_random": {name: p_value(x, best["random"]) for name, x in best.items()},
        "mean_last_fifth": {
            name: float(values[:, -last:].mean()) for name, values in rewards.items()
        },
        "broken": outcome.broken,
        "seconds": outcome.seconds,
        **outcome.facts,
        **count_not_finite({"best": best}),
    }
    for count in figures.TOPS:
        means = {name: mean_of_top(values, count) for name, values in rewards.items()}
        results[f"top{count}"] = {name: float(curve[-1]) for name, curve in means.items()}
    return rewards, results


def p_value(values: np.ndarray, baseline: np.ndarray) -> float:
    """The p-value of a mean no larger than that of a baseline, by Welch's one-sided test."""
    if np.ptp(values) == np.ptp(baseline) == 0:  # no variance: Welch's test is not defined
        return float(0.5 - 0.5 * np.sign(values[0] - baseline[0]))
    moments = [moment for x in (values, baseline) for moment in (x.mean(), x.std(ddof=1), len(x))]
    test = stats.ttest_ind_from_stats(*moments, equal_var=False, alternative="greater")
    return float(np.asarray(test)[1])


def prepare_search(config: Search) -> tuple[Callable[[Path], SearchResult], str]:
    """The function that searches, given a folder, and the name of the data set.

    Raises:
        FileNotFoundError: As `tabulated.read_table` and `children.samplers`.
        ValueError: As `tabulated.read_table` and `children.samplers`.
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
    search, dataset = prepare_search(config)
    out = config.out or new_folder(f"architecture-search-{config.space}-{dataset}")
    if config.space not in children.SPACES:  # the others can be resumed, and claim it later
        claim_folder(out, result_options("architecture_search", config))
    rewards, results = describe_outcome(config, search(out))
    about = {name: getattr(config, name) for name in ("space", "children", "policy", "seed")}
    summary = about | {"runs": config.repeats, "dataset": dataset, "unit": "%"} | results
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
