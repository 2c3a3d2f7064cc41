"""MAML-Bench: a table of all architectures of a small search space, meta-trained.

Meta-trains each architecture three times, and writes its accuracies on held-out and on test
classes, so that searches need no training.

    python -m benchmarks.maml_bench --data FOLDER     # half an hour
    python -m benchmarks.architecture_search --space maml-bench

The 648 networks have two convolutions, each with a height, a width and a number of filters, and the
second with a choice of inputs. Classes and budget are those of a search that trains its child
networks, so a search in the table, with the first training as reward and the others as report,
equals such a search, and hundreds of them can be compared. An interrupted run is resumed by the
same command.
"""

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
from benchmarks.harness import folders
from benchmarks.harness.command_line import launch
from benchmarks.harness.display import track
from benchmarks.harness.files import save_figure
from benchmarks.harness.hardware import timed
from benchmarks.harness.stored import read_arrays, write_arrays
from benchmarks.harness.summary import write_summary
from benchmarks.search import children
from benchmarks.search.children import Children
from benchmarks.search.tabulated import TABLE
from maml.search import Space, device_executor
from maml.search.space import Tokens
from maml.types import RandomKey
from tasks.architectures import macro
from tasks.architectures.reward import BoundFunction, Budget, ChildFactory, accuracy, train_child

PARTIAL = "partial.npz"
BLOCK = 16  # child networks between two writes of the file
LARGEST = 1_000_000  # largest number of rows of the table


@dataclass(frozen=True, kw_only=True)
class Bench(Children):
    """Options of the table."""

    dataset: Literal["omniglot", "glyphs"] = "omniglot"
    """Data set; glyphs are the characters of matplotlib's fonts, which need no download."""
    layers: int = 2
    """Number of layers of a network."""
    strides: tuple[int, ...] = (1,)
    """Choices of a layer's vertical and horizontal strides, in pixels."""
    filters: tuple[int, ...] = (4, 8)
    """Choices of the number of filters of a layer."""
    trainings: int = 3
    """Number of trainings of each architecture."""
    seed: int = 0
    """Seed of all trainings."""
    out: Path = folders.RESULTS / "runs" / TABLE.parent.name
    """Folder of `table.npz`, `summary.json` and the figure."""

    def __post_init__(self) -> None:
        self.check_options("macro", self.dataset)
        if self.shared_steps:
            raise ValueError(f"shared_steps must be 0 for the table; got {self.shared_steps}")
        entries = prod(macro.space(children.macro_config(self)).choices)
        if entries > LARGEST:
            raise ValueError(
                f"a table must have at most {LARGEST:,} architectures; got up to {entries:,}:"
                " lower layers, or give fewer sizes, strides or filters"
            )


def all_architectures(space: Space) -> Int[np.ndarray, "entry token"]:
    """All architectures of a search space, in the order of their tokens."""
    tokens = np.array(list(product(*map(range, space.choices))))

    def is_allowed(architecture: Array) -> Array:
        allowed = space.option_masks(architecture)
        return jnp.take_along_axis(allowed, architecture[:, None], axis=1).all()

    return tokens[np.asarray(jax.jit(jax.vmap(is_allowed))(tokens))]


def accuracies(
    child: ChildFactory,
    budget: Budget,
    train: maml.Sampler,
    held_out: maml.Sampler,
    test: maml.Sampler,
    tokens: Tokens,
    key: RandomKey,
) -> Float[Array, "2"]:
    """The accuracies on held-out and on test classes of a child network, after one training."""
    params = train_child(child, budget, train, tokens, key)
    splits = (held_out, test)
    return jnp.stack([accuracy(child, budget, split, params, tokens, key) for split in splits])


def load_accuracies(
    config: Bench, entries: int
) -> tuple[Float[np.ndarray, "entry training 2"], float]:
    """Claims a folder, and reads its accuracies, NaN where there are none, and their seconds.

    Raises:
        ValueError: The accuracies are missing, or have other options or another shape.
    """
    path, options = config.out / PARTIAL, config.out / "config.json"
    claimed = folders.options_as_json(config)
    del claimed["out"]
    shape = (entries, config.trainings, 2)
    if not options.exists():
        if path.exists() or (config.out / "table.npz").exists():
            raise ValueError(f"{config.out} holds a table without {options}; name another --out")
        folders.check_free(config.out)
        config.out.mkdir(parents=True, exist_ok=True)
        write_arrays(path, accuracy=np.full(shape, np.nan, np.float32), seconds=0.0)
    folders.claim_folder(config.out, claimed, (PARTIAL,))
    if not path.exists():
        raise ValueError(
            f"{options} is that of a table whose {PARTIAL} is missing; put it back, or name another"
            " folder with --out"
        )
    stored = read_arrays(path, "accuracy", "seconds")
    if stored["accuracy"].shape != shape:
        raise ValueError(f"{path} has accuracies {stored['accuracy'].shape}; expected {shape}")
    return stored["accuracy"], float(stored["seconds"])


def draw(out: Path, values: Float[np.ndarray, "entry training 2"]) -> Figure:
    """Draws reported accuracies over rewards; saved as `table.png`."""
    rewards, reported = values[:, 0, 0], values[:, 1:, 1].mean(1)
    figure = Figure(figsize=(5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(100 * rewards, 100 * reported, ".", alpha=0.3)
    axes.set(
        xlabel="accuracy on held-out classes, training 1, %", ylabel="accuracy on test classes, %"
    )
    rank = float(np.asarray(stats.spearmanr(rewards, reported))[0])
    axes.set_title(f"{len(values):,} architectures: Spearman {rank:.2f}")
    axes.grid(alpha=0.3)
    return save_figure(figure, out / "table.png")


def main(config: Bench) -> dict[str, Any]:
    """Trains the missing entries, and writes the table, its summary and its figure."""
    space, child = children.space_and_network("macro", config)
    sample, source = children.samplers(config.dataset, config)
    codes = all_architectures(space)
    values, seconds = load_accuracies(config, len(codes))
    splits = (sample[split] for split in ("train", "held_out", "test"))
    reward = Partial(BoundFunction(accuracies, child, config.budget), *splits)
    key, execute = jax.random.key(config.seed), device_executor(maml.task_mesh())
    missing = np.argwhere(np.isnan(values[..., 0]).T)  # in the order of trainings
    blocks = [missing[start : start + BLOCK] for start in range(0, len(missing), BLOCK)]
    for block in track(blocks, f"blocks of {BLOCK} architectures"):
        keys = [jax.random.fold_in(jax.random.fold_in(key, t), entry) for t, entry in block]
        items = list(zip(jnp.asarray(codes[block[:, 1]]), keys, strict=True))
        outcomes, spent = timed(list, execute(reward, items))
        for place, pair in outcomes:
            values[block[place][1], block[place][0]] = pair
        seconds += spent
        write_arrays(config.out / PARTIAL, accuracy=values, seconds=seconds)
    arrays = {"code": codes.astype(np.uint8), "accuracy": values.astype(np.float16)}
    write_arrays(config.out / "table.npz", **arrays)
    draw(config.out, values)
    facts = {"architectures": len(codes), "source": source, "seconds": {"train": seconds}}
    return write_summary("maml_bench", config, config.out, facts, record=False)


if __name__ == "__main__":
    launch(main, Bench, __doc__)
