"""Times one second-order meta-step of MAML in this library and in its peers; prints one table.

    make peers      # installs PyTorch and its packages in a separate environment

A meta-step is the meta-gradient of a meta-batch and an update by Adam, with the same tasks and
parameters for all. Images are noise of the size of a data set's pictures. A side is timed, in
float32, only if its first loss and meta-gradient agree with ours in float64. A round times every
side in turn; medians are reported, and of ratios the medians over rounds. This library takes
several meta-steps in one jitted scan. The peers:

* `loop`: PyTorch, a loop over tasks with `torch.autograd.grad`, as in learn2learn;
* `higher` and `torchopt`: the packages, as in their Omniglot examples;
* `torch.func`: `grad` in `vmap`;
* `jax-naive`: `jax.grad` of a vmap over tasks, with `lax.conv_general_dilated`, in a separate
  process, because this library turns cores into devices.
"""

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from timeit import timeit
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn

from benchmarks import images, omniglot, sinusoid
from benchmarks.few_shot import FewShot
from benchmarks.harness import hardware
from benchmarks.harness.bounds import check
from benchmarks.harness.command_line import launch
from benchmarks.harness.files import write_json
from benchmarks.harness.folders import script_folder
from benchmarks.harness.tables import print_table, quantity
from benchmarks.peers.ours import (
    Arrays,
    Problem,
    Side,
    Workload,
    as_float64,
    clock,
    our_side,
    spawn_side,
)

GLYPHS = replace(omniglot.PRESETS["glyphs-5-way-1-shot"], meta_batch=32)  # as fast as Omniglot
WAVES = sinusoid.PRESETS["inner-rate-0.01-5-shot"]
WORKLOADS: dict[str, Workload] = {
    "omniglot-5w1s": GLYPHS,
    "omniglot-5w5s": replace(GLYPHS, shots=5, queries=5),
    "omniglot-20w1s": replace(GLYPHS, ways=20, inner_steps=5, meta_batch=16),
    "cifar-5w1s": images.PRESETS["maml-cifar-fs"],
    "sinusoid": WAVES,
    "sinusoid-5-steps": replace(WAVES, inner_steps=5),
}
PEERS = ("loop", "higher", "torchopt", "torch.func", "jax-naive")
TOLERANCE = 1e-6  # relative to the loss and to the norm of the meta-gradient, in float64
SLOW, SLOW_ROUNDS = 5.0, 2  # seconds of a first meta-step beyond which there are two rounds
SHORT = 0.1  # shortest time of a side in a round, in seconds, so that a cold start is small
SIZE = 2048  # rows and columns of the matrices whose product measures the machine

Seconds = dict[str, list[float]]
Summary = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the comparison."""

    workloads: tuple[str, ...] = tuple(WORKLOADS)
    """Names of the workloads."""
    peers: tuple[str, ...] = PEERS[:-1]
    """Names of the peers; jax-naive takes minutes for a meta-step of the larger workloads."""
    rounds: int = 5
    """Number of rounds; a peer that takes more than 5 s a meta-step has two."""
    out: Path | None = None
    """Folder of summary.json; None writes no file."""

    def __post_init__(self) -> None:
        choices = (("workload", self.workloads, WORKLOADS), ("peer", self.peers, PEERS))
        for kind, names, known in choices:
            if unknown := set(names) - set(known):
                raise ValueError(f"no {kind} {min(unknown)!r}; there are {', '.join(known)}")
        check(self)


def operations(workload: FewShot) -> float:
    """Number of floating-point operations of the convolutions in the meta-gradient of one task.

    A block's forward pass on an image takes  m = 2 * height * width * 9 * c_in * c_out.  A support
    image costs 9 m an inner step: 1 forward, 2 for the gradients, 6 for the derivatives of these
    three. A query image costs 3 m. The first block needs no gradient for the image, which leaves
    4 m and 2 m. The head and element-wise operations are not counted.
    """
    side, _, inputs = workload.image
    pool, costs = workload.model == "conv4-pool", []
    for _ in range(4):
        halved = side // 2 if pool else (side + 1) // 2
        costs.append(2 * (side if pool else halved) ** 2 * 9 * inputs * workload.channels)
        side, inputs = halved, workload.channels
    first, *others = costs
    support, query = 4 * first + 9 * sum(others), 2 * first + 3 * sum(others)
    images = workload.shots * workload.inner_steps * support + workload.queries * query
    return float(workload.ways * images)


def build(peer: str, problem: Problem) -> Side:
    """Builds the side of a peer; an ImportError names a missing package."""
    if peer == "jax-naive":
        return spawn_side(problem)
    check, step = importlib.import_module("benchmarks.peers.theirs").build(peer, *problem)
    return Side(check, clock(step))


def admit(peer: str, problem: Problem, expected: tuple[float, Arrays]) -> Side:
    """Builds the side of a peer, after a comparison with our loss and meta-gradient in float64.

    Raises:
        ImportError: The package of the peer is not installed.
        ValueError: The loss or the meta-gradient differs from ours.
    """
    with jax.enable_x64(True):
        peer_loss, peer_grads = build(peer, as_float64(problem)).check()
    loss, grads = expected
    if not abs(peer_loss - loss) <= TOLERANCE * abs(loss):
        raise ValueError(f"its loss is {peer_loss:.8g}; ours is {loss:.8g}")
    ours, other = (
        np.concatenate([np.ravel(tree[name]) for name in grads]) for tree in (grads, peer_grads)
    )
    error = np.linalg.norm(ours - other) / np.linalg.norm(ours)
    if not error <= TOLERANCE:
        raise ValueError(f"its meta-gradient differs by {error:.2g} of the norm of ours")
    return build(peer, problem)


def measure(
    workload: Workload, options: Options, after: Callable[[], object], show: Callable[..., object]
) -> tuple[Seconds, dict[str, str]]:
    """Times each side: seconds of a meta-step by side and round, and the errors of failed peers.

    `after()` is called after each round, and `show(now=text)` between the timings.
    """
    show(now="maml")
    side, problem = our_side(workload)
    expected, sides, failed = side.check(), {"maml": side}, {}
    for peer in options.peers:
        show(now=f"checking {peer}")
        try:
            sides[peer] = admit(peer, problem, expected)
        except Exception as error:  # every error is a result, and the other peers are timed
            failed[peer] = f"{type(error).__name__}: {error}"
    first = {}
    seconds: Seconds = {name: [] for name in sides}
    for turn in range(options.rounds + 1):
        for name, side in sides.items():
            if turn == 0:
                show(now=f"warming up {name}")
                first[name] = side.seconds(1)
            elif name == "maml" or first[name] <= SLOW or turn <= SLOW_ROUNDS:
                show(now=f"round {turn} of {options.rounds}: {name}")
                times = max(1, round(SHORT / first[name]))
                seconds[name].append(side.seconds(times) / times / side.meta_steps)
        after()
    return seconds, failed


def summarise(
    seconds: dict[str, Seconds], failed: dict[str, str], products: Seconds, threads: int
) -> Summary:
    """The summary: medians by `workload/side`, the machine, and the versions of the packages."""
    names = ("ratios", "milliseconds", "tasks_per_second", "rounds", "fraction_of_matmul")
    summary: Summary = {name: {} for name in names} | {"failed": failed}
    matmul = 2 * SIZE**3 / min(np.median(spent) for spent in products.values())
    for workload, sides in seconds.items():
        config, ours = WORKLOADS[workload], sides["maml"]
        for side, spent in sides.items():
            key, median = f"{workload}/{side}", float(np.median(spent))
            summary["milliseconds"][key] = 1000 * median
            summary["tasks_per_second"][key] = config.meta_batch / median
            summary["rounds"][key] = len(spent)
            if side != "maml":
                summary["ratios"][key] = float(np.median(np.divide(spent, ours[: len(spent)])))
        if isinstance(config, FewShot):
            work = config.meta_batch * operations(config)
            reached = float(work / np.median(ours) / matmul)
            summary["fraction_of_matmul"][workload] = reached
    return summary | {
        "matmul_gflops": float(matmul / 1e9),
        "versions": hardware.versions((*hardware.PACKAGES, "torch", "higher", "torchopt")),
        "device": hardware.device(),
        "threads": threads,
    }


def show(summary: Summary) -> None:
    """Prints the table of a summary."""
    rows: list[tuple[str, ...]] = []
    for key, milliseconds in summary["milliseconds"].items():
        workload, side = key.split("/")
        rate, ratio = summary["tasks_per_second"][key], summary["ratios"].get(key)
        numbers = f"{milliseconds:.3g}", f"{rate:.0f}", f"{ratio:.2f}" if ratio else ""
        rows.append((workload, side, *numbers, str(summary["rounds"][key])))
    rows += [(*key.split("/"), "not timed") for key in summary["failed"]]
    notes = [f"{key}: {reason}" for key, reason in summary["failed"].items()]
    matmul = f"of the {summary['matmul_gflops']:.0f} GFLOP/s of a matrix product"
    for workload, fraction in summary["fraction_of_matmul"].items():
        notes.append(f"{workload}: ours reaches {fraction:.0%} {matmul}")
    versions = ", ".join(f"{name} {number}" for name, number in summary["versions"].items())
    notes.append(f"{summary['device']}, {quantity(summary['threads'], 'thread')}, {versions}")
    head = ("workload", "side", "median ms", "tasks/s", "time / ours", "rounds")
    title = "One second-order meta-step of MAML"
    print_table(head, rows, title, "\n".join(notes), left=head[:2])


def main(options: Options) -> Summary:
    """Checks and times all sides, prints the table, and writes summary.json."""
    if options.out:
        script_folder("peers", options)
    matrix = np.ones((SIZE, SIZE), np.float32)
    products: dict[str, Callable[[], object]] = {"numpy": lambda: matrix @ matrix}
    threads = os.cpu_count() or 1
    if find_spec("torch"):
        torch_side = importlib.import_module("benchmarks.peers.theirs")
        products["torch"], threads = torch_side.matmul(SIZE), torch_side.torch.get_num_threads()
    spent: Seconds = {name: [] for name in products}
    seconds, failed, summary = {}, {}, {}

    def clock_products() -> None:
        for name, call in products.items():
            spent[name].append(timeit(call, number=1))

    columns = "{task.description}", TimeElapsedColumn(), "{task.fields[now]}"
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False) as progress:
        for name in options.workloads:
            task = progress.add_task(name, total=1, now="")
            show_step = partial(progress.update, task, refresh=True)
            seconds[name], reasons = measure(WORKLOADS[name], options, clock_products, show_step)
            failed |= {f"{name}/{peer}": reason for peer, reason in reasons.items()}
            show_step(now="done", completed=1)
            summary = summarise(seconds, failed, spent, threads)
            if options.out:
                write_json(options.out / "summary.json", summary)
    show(summary)
    if options.out:
        print(f"Summary: {options.out / 'summary.json'}")
    return summary


if __name__ == "__main__":
    launch(main, Options, __doc__)
