"""Children that are trained to be rewarded: what they are made of, and what they learn from."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
from jax.tree_util import Partial

import maml
from benchmarks.harness.bounds import check, check_size, check_used
from maml.sampling import few_shot
from maml.search import Executor, Reward, Space, cluster, on_ray, over_devices
from maml.search.executors import Item, Outcome
from maml.types import RandomKey
from tasks import glyphs, omniglot
from tasks.architectures import cells, macro
from tasks.architectures.alphabets import Shrink, shrunk, small
from tasks.architectures.reward import (
    Budget,
    Child,
    from_scratch,
    from_shared,
    shared_weights,
)

SPACES = "macro", "cells"
DATASETS = "omniglot", "glyphs"


@dataclass(frozen=True, kw_only=True)
class Children:
    """Options of children; those of a space that is not searched are left alone."""

    data: Path | None = None
    """Folder of Omniglot, see tasks/omniglot.py."""
    alphabets: int = 8
    """The smallest of those to train on; a third of each one's classes is held out."""
    side: int = 14
    """Of the images, in pixels."""
    by: Shrink = "largest"
    """How blocks of pixels become one."""
    ways: int = 20
    """Classes of an episode."""
    shots: int = 1
    """Support drawings a class; there are as many queries."""
    layers: int = 3
    """Of the space of 2016."""
    sizes: tuple[int, ...] = (1, 3, 5)
    """Options of the height and of the width of a layer's filters."""
    strides: tuple[int, ...] = (1, 2)
    """Options of a layer's strides."""
    filters: tuple[int, ...] = (2, 4, 8)
    """Options of a layer's filters; of cells, the last is the width."""
    blocks: int = 2
    """Of a cell."""
    budget: Budget = field(default_factory=Budget)
    """Of one child."""
    shared_steps: int = 0
    """Meta-steps of weights that all children share; 0 is none."""

    def check_options(self, space: str, dataset: str | None) -> None:
        """Refuses options outside their bounds, and those that children of a space do not read.

        Args:
            space: whose children they are.
            dataset: what they learn from; None is Omniglot.

        Raises:
            ValueError: naming the option.
        """
        check(self)
        own = tuple(field.name for field in fields(Children))
        check_used(self, own, space in SPACES, f"children that are trained: space {SPACES}")
        check_used(self, ("data",), dataset != "glyphs", "dataset omniglot")
        check_used(self, ("layers", "sizes", "strides"), space != "cells", "space macro")
        check_used(self, ("blocks",), space != "macro", "space cells")
        gradient = self.budget.learner != "protonet"
        check_used(self.budget, ("inner_rate",), gradient, "budget.learner maml and fomaml")
        tasks = max(self.budget.meta_batch, self.budget.eval_tasks)
        images = self.ways * 2 * self.shots
        fewer = "the budget's tasks, ways or shots"
        check_size(tasks * images * self.side**2, f"episodes of {images} images", fewer)


def macro_config(options: Children) -> macro.Macro:
    """The space of 2016, with these options."""
    names = ("layers", "side", "sizes", "strides", "filters")
    return macro.Macro(**{name: getattr(options, name) for name in names})


def space_and_network(space: str, options: Children) -> tuple[Space, Child]:
    """The space, and what turns tokens into a model."""
    if space == "macro":
        own = macro_config(options)
        return macro.space(own), partial(macro.MacroNet, own, ways=options.ways)
    own = cells.Cells(blocks=options.blocks, features=options.filters[-1])
    return cells.space(own), partial(cells.CellNet, own, ways=options.ways)


def samplers(dataset: str, options: Children) -> tuple[dict[str, maml.Sampler], str]:
    """Tasks of the classes to train on, of those held out and of the test's; and their source.

    Raises:
        ValueError: there is no such data set, or it has too few classes.
    """
    if dataset not in DATASETS:
        raise ValueError(f"children learn from {' or '.join(DATASETS)}; got {dataset!r}")
    if dataset == "glyphs":
        characters = glyphs.load()
        parts = glyphs.splits(characters)
    else:
        characters = omniglot.load(options.data)
        parts = omniglot.splits(characters, "alphabets")
    names = [characters.names[index] for index in parts["train"]]
    chosen = small(characters, names, options.alphabets) | {"test": parts["test"]}
    images = shrunk(characters.images, options.side, by=options.by)
    counts = options.ways, options.shots, options.shots
    return {
        part: few_shot(images[own], *counts, rotate=True) for part, own in chosen.items()
    }, characters.source


def reward(
    space: Space, child: Child, sample: dict[str, maml.Sampler], options: Children, key: RandomKey
) -> Reward:
    """Of a child that is trained alone, or where there are any, from shared weights."""
    if not options.shared_steps:
        return from_scratch(child, sample["train"], sample["held_out"], options.budget)
    budget = replace(options.budget, meta_steps=options.shared_steps)
    train = jax.jit(lambda sample, key: shared_weights(child, space, sample, budget, key))
    shared = jax.block_until_ready(train(sample["train"], key))
    return from_shared(child, shared, sample["held_out"], options.budget)


@contextmanager
def executor(name: Literal["devices", "ray"]) -> Iterator[Executor]:
    """Who trains them: the devices at hand, or Ray, which is started for it.

    Raises:
        ImportError: Ray is not installed.
    """
    if name == "devices":
        yield over_devices(maml.task_mesh())
        return
    with cluster():
        run, programs = on_ray(), {}

        def execute(function: Reward, items: Sequence[Item]) -> Iterable[Outcome]:
            program = programs.setdefault(function, Partial(_jitted, function))
            return run(program, items)

        yield execute


@jax.jit
def _jitted(function: Reward, *item: Any) -> Any:
    return function(*item)
