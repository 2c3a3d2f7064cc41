"""Searches whose rewards are read from a table, hundreds of runs in one program."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.harness.display import track
from benchmarks.harness.folders import RESULTS, claim_folder, result_options
from benchmarks.harness.hardware import timed
from benchmarks.search.live import SearchResult
from benchmarks.search.options import Search
from benchmarks.search.scales import PERCENT, Scale
from maml.search import Strategy, search
from maml.search.rewards import best_child
from maml.types import RandomKey
from tasks.architectures import graphs, table_files
from tasks.architectures.nasbench_nlp import nasbench_nlp
from tasks.architectures.tabular import Table, lookup

TABLE = RESULTS / "maml-bench" / "table.npz"  # the table of MAML-Bench


def read_table(config: Search) -> tuple[Table, str]:
    """Reads the table of a search space.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The space needs a file and none is named, it has no such data set, or the file
            does not hold such a table.
    """
    if config.space == "graphs":
        dataset = config.dataset or graphs.DATASETS[0]
        return graphs.nasbench_graph(dataset), dataset
    if config.space == "maml-bench":
        if config.dataset not in (None, "omniglot"):
            raise ValueError(f"dataset must be omniglot for MAML-Bench; got {config.dataset!r}")
        return table_files.maml_bench(config.table or TABLE), "omniglot"
    if config.table is None:
        raise ValueError(f"--space {config.space} needs a file; name it with --table FILE")
    if config.space == "nasbench201":
        dataset = config.dataset or table_files.DATASETS[0]
        return table_files.nasbench201(config.table, dataset), dataset
    if config.space == "nasbench-nlp":
        if config.dataset not in (None, "wikitext2"):
            raise ValueError(f"dataset must be wikitext2 for NAS-Bench-NLP; got {config.dataset!r}")
        return nasbench_nlp(config.table), "wikitext2"
    if config.dataset not in (None, "cifar10"):
        raise ValueError(f"dataset must be cifar10 for NAS-Bench-Macro; got {config.dataset!r}")
    return table_files.nasbench_macro(config.table), "cifar10"


def search_program(strategy: Strategy, table: Table, config: Search) -> Callable[[RandomKey], Any]:
    """One program of many searches, from a key: (rewards, reports), both `[run, child]`."""

    def one(key: RandomKey) -> Any:
        init_key, key = jax.random.split(key)
        state = strategy.init(init_key)

        def reward(tokens: Any, key: RandomKey) -> Any:
            return lookup(table.rewards, tokens)

        _, history = search(strategy, reward, state, key, config.children)
        return history.rewards, jax.vmap(lookup, (None, 0))(table.reported, history.tokens)

    return jax.jit(lambda key: jax.vmap(one)(jax.random.split(key, config.repeats)))


def measure(config: Search, compared: dict[str, Strategy], table: Table, out: Path) -> SearchResult:
    """Claims a folder, and searches a table with each strategy.

    Raises:
        ValueError: As `claim_folder`.
    """
    claim_folder(out, result_options("architecture_search", config))
    rewards, best, seconds = {}, {}, {}
    for name in track(config.strategies, "searches"):
        key = jax.random.fold_in(jax.random.key(config.seed), list(compared).index(name))
        outcome, seconds[name] = timed(search_program(compared[name], table, config), key)
        values, reports = jax.device_get(outcome)
        rewards[name] = values
        best[name] = reports.astype(float)[np.arange(config.repeats), best_child(values)]
    return SearchResult(rewards, best, seconds, {"optimum": optimum(table, config.scale)})


def optimum(table: Table, scale: Scale = PERCENT) -> float:
    """The best reported value of all architectures, as it is shown."""
    reported = np.asarray(table.reported)
    best = reported[np.isfinite(reported)].max()
    return float(scale.show(100 * best))
