"""One search of a table by whoever earns its rewards: what each way to ask for them costs.

    python -m benchmarks.search_cluster --table FILE
    python -m benchmarks.search_cluster --table FILE --executor ray replicas --address auto

A look into the table takes no time, so a child's seconds are those of asking for it. Of the first
three the children are the same; `replicas` are K controllers that share their parameters.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import optax
from jax.tree_util import Partial
from rich.console import Console
from rich.table import Table as Shown

import maml
from benchmarks.architecture_search import Search
from benchmarks.bounds import check, check_used
from benchmarks.config import launch
from benchmarks.live_search import best_of
from benchmarks.search_figures import unbroken
from benchmarks.table_search import read
from maml.search import (
    Executor,
    History,
    cluster,
    drive,
    factorised,
    in_process,
    in_shards,
    on_ray,
    over_devices,
    reinforce,
    replicate,
)
from tasks.architectures.tabular import Table, lookup

Who = Literal["in-process", "devices", "ray", "replicas"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the comparison."""

    executor: tuple[Who, ...] = ("in-process", "devices", "ray", "replicas")
    """Who earns the rewards; the latter two need Ray."""
    space: Literal["nasbench201", "macro-table", "graphs"] = "nasbench201"
    """What is searched."""
    table: Path | None = None
    """The file, where the space needs one."""
    dataset: str | None = None
    """Of the table, where it has several; None is the first."""
    children: int = 200
    """Architectures that each search is rewarded for."""
    batch: int = 10
    """Children asked for at once, by each controller."""
    replicas: int = 2
    """Controllers of `replicas`."""
    shards: int = 2
    """Servers of their parameters."""
    rate: float = 0.05
    """Of Adam."""
    address: str | None = None
    """Of a Ray cluster, "auto" for this machine's own; None starts one that nobody else reaches."""
    seed: int = 0
    """Of all the searches."""
    cache: bool = True
    """Keep compiled programs in the user's cache directory, and take them from there."""

    def __post_init__(self) -> None:
        check(self)
        if self.children % self.batch:
            raise ValueError(f"the batch must divide {self.children} children; got {self.batch}")
        replicated = "replicas" in self.executor
        check_used(self, ("replicas", "shards"), replicated, "executor replicas")
        on_ray = bool({"ray", "replicas"} & set(self.executor))
        check_used(self, ("address",), on_ray, "executor ray and replicas")
        if on_ray and find_spec("ray") is None:
            raise ValueError(f"executor {self.executor} needs Ray; pip install 'maml-jax[ray]'")


def reward(values: Any, tokens: Any, key: Any) -> Any:
    """Of one child."""
    return lookup(values, tokens)


def searches(options: Options, table: Table) -> dict[Who, Callable[[], History]]:
    """By who earns the rewards."""
    key = jax.random.key(options.seed)
    of_one = Partial(reward, table.rewards)
    adam = optax.adam(options.rate)
    whole = reinforce(factorised(table.space), adam, batch=options.batch)

    def driven(executor: Executor) -> History:
        return drive(whole, of_one, whole.init(key), key, options.children, executor)[1]

    def replicated() -> History:
        parts = in_shards(factorised(table.space), adam, options.shards)
        state = reinforce(*parts).init(key)
        run = partial(replicate, replicas=options.replicas, batch=options.batch)
        return run(*parts, of_one, state, key, options.children)[1]

    return {
        "in-process": lambda: driven(in_process),
        "devices": lambda: driven(over_devices(maml.task_mesh())),
        "ray": lambda: driven(on_ray()),
        "replicas": replicated,
    }


def main(options: Options) -> dict[str, dict[str, float]]:
    """Searches, prints the table, and gives it, by who earned the rewards."""
    table, dataset = read(Search(space=options.space, table=options.table, dataset=options.dataset))
    with ExitStack() as stack:
        if {"ray", "replicas"} & set(options.executor):
            started = time.perf_counter()
            stack.enter_context(cluster(options.address))
            print(f"Ray started in {time.perf_counter() - started:.1f} s")
        found, ways = {}, searches(options, table)
        for who in options.executor:
            started = time.perf_counter()
            history = jax.block_until_ready(ways[who]())
            seconds = time.perf_counter() - started
            best = history.tokens[best_of(np.asarray(history.rewards))]
            last = history.rewards[-options.children // 5 :]
            found[who] = {
                "best": 100 * float(lookup(table.reported, best)),
                "mean of the last fifth": 100 * float(unbroken(np.asarray(last)).mean()),
                "seconds": seconds,
                "children/s": options.children / seconds,
            }
    show(f"{options.space} {dataset}, {options.children} children", found)
    return found


def show(title: str, found: dict[str, dict[str, float]]) -> None:
    """As a table."""
    shown = Shown("executor", *next(iter(found.values())), title=title)
    for who, numbers in found.items():
        shown.add_row(who, *(f"{number:.2f}" for number in numbers.values()))
    Console().print(shown)


if __name__ == "__main__":
    launch(main, Options, __doc__)
