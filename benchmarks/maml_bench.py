"""MAML-Bench: every architecture of a small space, meta-trained, in a table that costs nothing.

    python -m benchmarks.maml_bench --data FOLDER     # half an hour
    python -m benchmarks.architecture_search --space maml-bench

Networks of two convolutions, each with a height, a width and a number of filters, the second with
a choice of what it reads: 648. Each is trained three times, on the classes and with the budget of a
live search, and tried on held-out classes and on those of the test. So a search that is rewarded by
the first training, and reported by the others, is a live search, and hundreds of them can be
compared. The same command goes on with what was interrupted.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int
from matplotlib.figure import Figure
from scipy import stats

import maml
from benchmarks.harness.command_line import launch
from benchmarks.harness.files import atomic_write, read_arrays
from benchmarks.harness.folders import RESULTS, check_free, claim_folder, options_as_json
from benchmarks.harness.plot import save_figure
from benchmarks.harness.summaries import write_summary
from benchmarks.harness.terminal import track
from benchmarks.search import children
from benchmarks.search.children import Children
from benchmarks.search.tabulated import TABLE
from maml.search import Space, over_devices
from maml.search.space import Tokens
from maml.types import RandomKey
from tasks.architectures import macro
from tasks.architectures.reward import Bound, Budget, Child, accuracy, trained

PARTIAL = "partial.npz"
BLOCK = 16  # children between two savings
LARGEST = 1_000_000  # rows of the table


@dataclass(frozen=True, kw_only=True)
class Bench(Children):
    """Options of the table."""

    dataset: Literal["omniglot", "glyphs"] = "omniglot"
    """What the children learn from."""
    layers: int = 2
    """Of a network."""
    strides: tuple[int, ...] = (1,)
    """Options of a layer's strides."""
    filters: tuple[int, ...] = (4, 8)
    """Options of a layer's filters."""
    trainings: int = 3
    """Of each architecture."""
    seed: int = 0
    """Of all of them."""
    out: Path = RESULTS / "runs" / TABLE.parent.name
    """Folder of `table.npz`, `summary.json` and the figure."""

    def __post_init__(self) -> None:
        self.check_options("macro", self.dataset)
        if self.shared_steps:
            raise ValueError("every network of the table is trained alone; no --shared-steps")
        entries = prod(macro.space(children.macro_config(self)).choices)
        if entries > LARGEST:
            raise ValueError(
                f"a table of up to {entries:,} architectures is beyond {LARGEST:,};"
                " lower layers, or give fewer sizes, strides or filters"
            )


def all_architectures(space: Space) -> Int[np.ndarray, "entry token"]:
    """Every architecture that a space allows, in the order of their tokens."""
    tokens = np.array(list(product(*map(range, space.choices))))

    def whole(own: Array) -> Array:
        return jnp.take_along_axis(space.along(own), own[:, None], axis=1).all()

    return tokens[np.asarray(jax.jit(jax.vmap(whole))(tokens))]


def accuracies(
    child: Child, budget: Budget, *data: maml.Sampler
) -> Callable[[Tokens, RandomKey], Float[Array, "2"]]:
    """Accuracy on held-out and on test classes, of one training; `data` are the three samplers."""
    return Partial(Bound(_accuracies, child, budget), *data)


def _accuracies(
    child: Child,
    budget: Budget,
    train: maml.Sampler,
    held_out: maml.Sampler,
    test: maml.Sampler,
    tokens: Tokens,
    key: RandomKey,
) -> Float[Array, "2"]:
    params = trained(child, budget, train, tokens, key)
    parts = (held_out, test)
    return jnp.stack([accuracy(child, budget, part, params, tokens, key) for part in parts])


def load_accuracies(
    config: Bench, entries: int
) -> tuple[Float[np.ndarray, "entry training 2"], float]:
    """The accuracies that a folder holds, NaN where there are none yet, and their seconds.

    Raises:
        ValueError: they are of other options, or missing, or of another shape.
    """
    path, options = config.out / PARTIAL, config.out / "config.json"
    wanted = {name: value for name, value in options_as_json(config).items() if name != "out"}
    shape = (entries, config.trainings, 2)
    if not options.exists():
        if path.exists() or (config.out / "table.npz").exists():
            raise ValueError(f"{config.out} holds a table without {options}: name another --out")
        check_free(config.out)
        config.out.mkdir(parents=True, exist_ok=True)
        save_accuracies(config.out, np.full(shape, np.nan, np.float32), 0.0)
    claim_folder(config.out, wanted, (PARTIAL,))
    if not path.exists():
        raise ValueError(
            f"{options} tells of a table whose {PARTIAL} is missing: put it back, or name another"
            " folder with --out"
        )
    found = read_arrays(path, "accuracy", "seconds")
    if found["accuracy"].shape != shape:
        raise ValueError(f"{path} has accuracies {found['accuracy'].shape}; expected {shape}")
    return found["accuracy"], float(found["seconds"])


def save_accuracies(
    out: Path, found: Float[np.ndarray, "entry training 2"], seconds: float
) -> None:
    """Writes what has been trained to the folder."""
    with atomic_write(out / PARTIAL) as aside, aside.open("wb") as file:
        np.savez(file, allow_pickle=False, accuracy=found, seconds=seconds)


def draw(out: Path, found: Float[np.ndarray, "entry training 2"]) -> Figure:
    """What a search is rewarded by against what is reported; `table.png`."""
    rewards, reported = found[:, 0, 0], found[:, 1:, 1].mean(1)
    figure = Figure(figsize=(5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(100 * rewards, 100 * reported, ".", alpha=0.3)
    axes.set(xlabel="held-out classes, training 1, %", ylabel="test classes, other trainings, %")
    rank = float(np.asarray(stats.spearmanr(rewards, reported))[0])
    axes.set_title(f"{len(found):,} architectures: Spearman {rank:.2f}")
    axes.grid(alpha=0.3)
    return save_figure(figure, out / "table.png")


def main(config: Bench) -> dict[str, Any]:
    """Trains what is missing; writes the table, its summary and its figure."""
    space, child = children.space_and_network("macro", config)
    sample, source = children.samplers(config.dataset, config)
    codes = all_architectures(space)
    found, seconds = load_accuracies(config, len(codes))
    reward = accuracies(
        child, config.budget, *(sample[part] for part in ("train", "held_out", "test"))
    )
    key, execute = jax.random.key(config.seed), over_devices(maml.task_mesh())
    missing = np.argwhere(np.isnan(found[..., 0]).T)  # all of a training, then all of the next
    blocks = [missing[start : start + BLOCK] for start in range(0, len(missing), BLOCK)]
    for block in track(blocks, f"blocks of {BLOCK} architectures"):
        since = time.perf_counter()
        keys = [jax.random.fold_in(jax.random.fold_in(key, t), entry) for t, entry in block]
        items = list(zip(jnp.asarray(codes[block[:, 1]]), keys, strict=True))
        for place, value in execute(reward, items):
            found[block[place][1], block[place][0]] = value
        seconds += time.perf_counter() - since
        save_accuracies(config.out, found, seconds)
    table = {"code": codes.astype(np.uint8), "accuracy": found.astype(np.float16)}
    with atomic_write(config.out / "table.npz") as aside, aside.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **table)
    draw(config.out, found)
    facts = {"architectures": len(codes), "source": source, "seconds": {"train": seconds}}
    return write_summary("maml_bench", config, config.out, facts, record=False)


if __name__ == "__main__":
    launch(main, Bench, __doc__)
