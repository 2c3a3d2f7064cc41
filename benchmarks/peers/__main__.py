"""The time of one second-order meta-step of MAML, ours beside others': one run, one table.

    make peers      # PyTorch and its packages in an environment of their own

A meta-step is the meta-gradient of a meta-batch and Adam's update. All sides get the same tasks,
parameters and architecture, and a side is timed, in float32, only if its first loss and
meta-gradient agree with ours in float64. Rounds time every side, in turns; medians are reported,
and ratios are medians of the ratios of a round. Ours runs as users run it, several meta-steps in
one jitted scan. The peers:

* `loop`: PyTorch, a loop over tasks with `torch.autograd.grad`, as in learn2learn;
* `higher` and `torchopt`: the packages, as in their Omniglot examples;
* `torch.func`: `grad` in `vmap`;
* `jax-naive`: `jax.grad` of a vmap over tasks, with `lax.conv_general_dilated`, in a process of
  its own, for ours makes devices of the cores.
"""

import importlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn
from rich.table import Table

from benchmarks import omniglot, sinusoid
from benchmarks.harness import hardware
from benchmarks.harness.bounds import check
from benchmarks.harness.command_line import launch
from benchmarks.harness.files import as_json, write_text
from benchmarks.harness.folders import script_folder
from benchmarks.peers.ours import (
    Arrays,
    Problem,
    Side,
    Workload,
    as_float64,
    our_side,
    side_in_process,
)

GLYPHS = replace(omniglot.PRESETS["glyphs-5-way-1-shot"], meta_batch=32)  # pixels cost no time
WAVES = sinusoid.PRESETS["alpha-of-the-text-5-shot"]
WORKLOADS: dict[str, Workload] = {
    "omniglot-5w1s": GLYPHS,
    "omniglot-5w5s": replace(GLYPHS, shots=5, queries=5),
    "omniglot-20w1s": replace(GLYPHS, ways=20, inner_steps=5, meta_batch=16),
    "sinusoid": WAVES,
    "sinusoid-5-steps": replace(WAVES, inner_steps=5),
}
PEERS = ("loop", "higher", "torchopt", "torch.func", "jax-naive")
TOLERANCE = 1e-6  # of the loss and of the length of the meta-gradient, in float64
SLOW, SLOW_ROUNDS = 5.0, 2  # a peer whose first meta-step takes more seconds has fewer rounds
SHORT = 0.1  # seconds that a side runs in a round at least, so that a cold start does not count
SIZE = 2048  # of the matrices whose product says what the machine can do

Seconds = dict[str, list[float]]
Summary = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is compared."""

    workloads: tuple[str, ...] = tuple(WORKLOADS)
    """Which workloads."""
    peers: tuple[str, ...] = PEERS
    """Which peers."""
    rounds: int = 7
    """How often each is timed; a peer that takes more than 5 s, only twice."""
    out: Path | None = None
    """Folder for summary.json."""

    def __post_init__(self) -> None:
        asked = (("workload", self.workloads, WORKLOADS), ("peer", self.peers, PEERS))
        for kind, names, known in asked:
            if unknown := set(names) - set(known):
                raise ValueError(f"no {kind} {min(unknown)!r}; there are {', '.join(known)}")
        check(self)


def operations(ways: int, shots: int, queries: int, steps: int) -> float:
    """Floating-point operations of the convolutions in the meta-gradient of one task.

    A block's forward pass on an image takes  m = 2 * height * width * 9 * c_in * c_out.  A support
    image costs 9 m an inner step: 1 forward, 2 for the gradients, 6 for the derivatives of these
    three. A query image costs 3 m. The first block owes the image no gradient, which leaves 4 m
    and 2 m. The head and element-wise work are not counted.
    """
    sizes = ((14, 1), (7, 64), (4, 64), (2, 64))
    first, *others = (2 * side**2 * 9 * channels * 64 for side, channels in sizes)
    support, query = 4 * first + 9 * sum(others), 2 * first + 3 * sum(others)
    return float(ways * (shots * steps * support + queries * query))


def mean_seconds(run: Callable[[int], object], times: int = 1) -> float:
    """Seconds of a run, the mean of so many."""
    start = time.perf_counter()
    run(times)
    return (time.perf_counter() - start) / times


def build(peer: str, problem: Problem) -> Side:
    """A peer's side; an ImportError says which package is missing."""
    if peer == "jax-naive":
        return side_in_process(problem)
    return Side(*importlib.import_module("benchmarks.peers.theirs").build(peer, *problem))


def admit(peer: str, problem: Problem, expected: tuple[float, Arrays]) -> Side:
    """A peer's side, after the check in float64.

    Raises:
        ImportError: its package is not installed.
        ValueError: its loss or meta-gradient is another than ours.
    """
    with jax.enable_x64(True):
        their_loss, their_grads = build(peer, as_float64(problem)).check()
    loss, grads = expected
    if not abs(their_loss - loss) <= TOLERANCE * abs(loss):
        raise ValueError(f"its loss is {their_loss:.8g}; ours is {loss:.8g}")
    flat, theirs = (
        np.concatenate([np.ravel(tree[name]) for name in grads]) for tree in (grads, their_grads)
    )
    error = np.linalg.norm(flat - theirs) / np.linalg.norm(flat)
    if not error <= TOLERANCE:
        raise ValueError(f"its meta-gradient differs by {error:.2g} of the length of ours")
    return build(peer, problem)


def measure(
    workload: Workload, options: Options, after: Callable[[], object], say: Callable[..., object]
) -> tuple[Seconds, dict[str, str]]:
    """Seconds of a meta-step of each side in each round, and which peers failed, and why.

    `after` is called after each round, and `say` is told what goes on while no clock runs.
    """
    say(now="maml")
    mine, problem = our_side(workload)
    expected, sides, failed = mine.check(), {"maml": mine}, {}
    for peer in options.peers:
        say(now=f"checking {peer}")
        try:
            sides[peer] = admit(peer, problem, expected)
        except Exception as error:  # whatever it is, it is a result, and the others go on
            failed[peer] = f"{type(error).__name__}: {error}"
    first = {}
    seconds: Seconds = {name: [] for name in sides}
    for turn in range(options.rounds + 1):
        for name, side in sides.items():
            if turn == 0:
                say(now=f"warming up {name}")
                first[name] = mean_seconds(side.run)
            elif name == "maml" or first[name] <= SLOW or turn <= SLOW_ROUNDS:
                say(now=f"round {turn} of {options.rounds}: {name}")
                spent = mean_seconds(side.run, times=max(1, round(SHORT / first[name])))
                seconds[name].append(spent / side.meta_steps)
        after()
    return seconds, failed


def summarise(
    seconds: dict[str, Seconds], failed: dict[str, str], products: Seconds, threads: int
) -> Summary:
    """What is written: medians under `workload/side`, and what was measured by what, where."""
    names = ("ratios", "milliseconds", "tasks_per_second", "rounds", "fraction_of_matmul")
    summary: Summary = {name: {} for name in names} | {"failed": failed}
    matmul = 2 * SIZE**3 / min(np.median(spent) for spent in products.values())
    for workload, sides in seconds.items():
        config, mine = WORKLOADS[workload], sides["maml"]
        for side, spent in sides.items():
            key, median = f"{workload}/{side}", float(np.median(spent))
            summary["milliseconds"][key] = 1000 * median
            summary["tasks_per_second"][key] = config.meta_batch / median
            summary["rounds"][key] = len(spent)
            if side != "maml":
                summary["ratios"][key] = float(np.median(np.divide(spent, mine[: len(spent)])))
        if isinstance(config, omniglot.FewShot):
            work = operations(config.ways, config.shots, config.queries, config.inner_steps)
            reached = float(config.meta_batch * work / np.median(mine) / matmul)
            summary["fraction_of_matmul"][workload] = reached
    return summary | {
        "matmul_gflops": float(matmul / 1e9),
        "versions": hardware.versions((*hardware.PACKAGES, "torch", "higher", "torchopt")),
        "device": hardware.device(),
        "threads": threads,
    }


def show(summary: Summary) -> None:
    """Prints the table of a summary."""
    table = Table(title="One second-order meta-step of MAML")
    for column in ("workload", "", "median ms", "tasks/s", "their time / ours", "rounds"):
        table.add_column(column, justify="left" if column in ("workload", "") else "right")
    for key, milliseconds in summary["milliseconds"].items():
        workload, side = key.split("/")
        rate, ratio = summary["tasks_per_second"][key], summary["ratios"].get(key)
        numbers = f"{milliseconds:.3g}", f"{rate:.0f}", f"{ratio:.2f}" if ratio else ""
        table.add_row(workload, side, *numbers, str(summary["rounds"][key]))
    for key in summary["failed"]:
        table.add_row(*key.split("/"), "not timed")
    notes = [f"{key}: {reason}" for key, reason in summary["failed"].items()]
    matmul = f"of the {summary['matmul_gflops']:.0f} GFLOP/s of a matrix product"
    for workload, fraction in summary["fraction_of_matmul"].items():
        notes.append(f"{workload}: ours reaches {fraction:.0%} {matmul}")
    versions = ", ".join(f"{name} {number}" for name, number in summary["versions"].items())
    notes.append(f"{summary['device']}, {summary['threads']} threads, {versions}")
    table.caption = "\n".join(notes)
    Console().print(table)


def main(options: Options) -> Summary:
    """Checks and times everything, prints the table, and writes summary.json."""
    if options.out:
        script_folder("peers", options)
    matrix = np.ones((SIZE, SIZE), np.float32)
    products: dict[str, Callable[[], object]] = {"numpy": lambda: matrix @ matrix}
    threads = os.cpu_count() or 1
    if find_spec("torch"):
        theirs = importlib.import_module("benchmarks.peers.theirs")
        products["torch"], threads = theirs.matmul(SIZE), theirs.torch.get_num_threads()
    spent: Seconds = {name: [] for name in products}
    seconds, failed, summary = {}, {}, {}

    def clock_products() -> None:
        for name, call in products.items():
            spent[name].append(mean_seconds(lambda _, call=call: call()))

    columns = "{task.description}", TimeElapsedColumn(), "{task.fields[now]}"
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False) as progress:
        for name in options.workloads:
            say = partial(progress.update, progress.add_task(name, total=1, now=""), refresh=True)
            seconds[name], reasons = measure(WORKLOADS[name], options, clock_products, say)
            failed |= {f"{name}/{peer}": reason for peer, reason in reasons.items()}
            say(now="done", completed=1)
            summary = summarise(seconds, failed, spent, threads)
            if options.out:
                write_text(options.out / "summary.json", as_json(summary, indent=2) + "\n")
    show(summary)
    return summary


if __name__ == "__main__":
    launch(main, Options, __doc__)
