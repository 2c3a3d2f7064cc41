"""Child networks that are trained for their reward: their options, search space and data."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
from jax.tree_util import Partial

import maml
from benchmarks.harness.bounds import check, check_size, check_used
from maml.episodes import few_shot
from maml.search import Executor, Reward, Space, device_executor, ray_cluster, ray_executor
from maml.types import RandomKey
from tasks import glyphs, omniglot
from tasks.architectures import cells, macro
from tasks.architectures.alphabets import Shrink, shrink_images, smallest_alphabets
from tasks.architectures.macro_net import MacroNet
from tasks.architectures.reward import Budget, ChildFactory, reward_from_scratch
from tasks.architectures.shared import reward_from_shared, shared_weights

SPACES = "macro", "cells"  # whose child networks are trained
DATASETS = "omniglot", "glyphs"


@dataclass(frozen=True, kw_only=True)
class Children:
    """Options of child networks; those that the search space does not read keep their defaults."""

    data: Path | None = None
    """Folder of Omniglot, see tasks/omniglot.py (spaces macro and cells), or of Penn Treebank
    (space recurrent)."""
    alphabets: int = 8
    """Number of alphabets, the smallest ones, to train on; a third of the classes is held out."""
    side: int = 14
    """Height and width of the images, in pixels."""
    by: Shrink = "largest"
    """Statistic that reduces a block of pixels to one."""
    ways: int = 20
    """Number of classes in an episode."""
    shots: int = 1
    """Number of support images for each class, and of query images."""
    layers: int = 3
    """Number of layers of a child network (space macro)."""
    sizes: tuple[int, ...] = (1, 3, 5)
    """Choices of the height and of the width of a layer's filters, in pixels (space macro)."""
    strides: tuple[int, ...] = (1, 2)
    """Choices of a layer's vertical and horizontal strides, in pixels (space macro)."""
    filters: tuple[int, ...] = (2, 4, 8)
    """Choices of the number of filters of a layer; cells have the last of them."""
    blocks: int = 2
    """Number of blocks in a cell (space cells)."""
    budget: Budget = field(default_factory=Budget)
    """Budget of the training of one child network."""
    shared_steps: int = 0
    """Number of meta-steps of weights that all child networks share; 0 trains each one alone."""

    def check_options(self, space: str, dataset: str | None) -> None:
        """Refuses options outside their bounds, and those that the search space does not read.

        Raises:
            ValueError: An option is refused; the message has its name.
        """
        check(self)
        names = tuple(field.name for field in fields(Children) if field.name != "data")
        check_used(self, names, space in SPACES, f"space {' or '.join(SPACES)}")
        reads = (*SPACES, "recurrent")
        check_used(self, ("data",), space in reads, f"space {' or '.join(reads)}")
        used = dataset != "glyphs" or space == "recurrent"
        check_used(self, ("data",), used, "dataset omniglot")
        check_used(self, ("layers", "sizes", "strides"), space != "cells", "space macro")
        check_used(self, ("blocks",), space != "macro", "space cells")
        gradient = self.budget.learner != "protonet"
        check_used(self.budget, ("inner_rate",), gradient, "budget.learner maml and fomaml")
        tasks = max(self.budget.meta_batch, self.budget.eval_tasks)
        images = self.ways * 2 * self.shots
        fewer = "the budget's tasks, ways or shots"
        check_size(tasks * images * self.side**2, f"episodes of {images} images", fewer)


def macro_config(options: Children) -> macro.Macro:
    """The options of the convolutional search space of 2016."""
    names = ("layers", "side", "sizes", "strides", "filters")
    return macro.Macro(**{name: getattr(options, name) for name in names})


def space_and_network(space: str, options: Children) -> tuple[Space, ChildFactory]:
    """The search space of a name, and the function from tokens to a child network."""
    if space == "macro":
        config = macro_config(options)
        return macro.space(config), partial(MacroNet, config, ways=options.ways)
    config = cells.Cells(blocks=options.blocks, features=options.filters[-1])
    return cells.space(config), partial(cells.CellNet, config, ways=options.ways)


def samplers(dataset: str, options: Children) -> tuple[dict[str, maml.Sampler], str]:
    """Samplers of tasks for the splits train, held_out and test, and the source of the data.

    Raises:
        ValueError: There is no such data set, or it has too few classes.
    """
    if dataset not in DATASETS:
        raise ValueError(f"dataset must be {' or '.join(DATASETS)}; got {dataset!r}")
    if dataset == "glyphs":
        characters = glyphs.load()
        splits = glyphs.splits(characters)
    else:
        characters = omniglot.load(options.data)
        splits = omniglot.splits(characters, "alphabets")
    names = [characters.names[index] for index in splits["train"]]
    classes = smallest_alphabets(characters, names, options.alphabets) | {"test": splits["test"]}
    images = shrink_images(characters.images, options.side, by=options.by)
    counts = options.ways, options.shots, options.shots
    return {
        split: few_shot(images[rows], *counts, rotate=True) for split, rows in classes.items()
    }, characters.source


def reward(
    space: Space,
    child: ChildFactory,
    sample: dict[str, maml.Sampler],
    options: Children,
    key: RandomKey,
) -> Reward:
    """The reward of a child network, trained alone or, with `shared_steps`, from shared weights."""
    if not options.shared_steps:
        return reward_from_scratch(child, sample["train"], sample["held_out"], options.budget)
    budget = replace(options.budget, meta_steps=options.shared_steps)
    train = jax.jit(lambda sample, key: shared_weights(child, space, sample, budget, key))
    shared = jax.block_until_ready(train(sample["train"], key))
    return reward_from_shared(child, shared, sample["held_out"], options.budget)


class ChildRewards(NamedTuple):
    """The rewards of the child networks of a search space, which are trained.

    Attributes:
        space: Search space.
        reward: Function from the key of a run to the reward of its child networks.
        reported: Reward that is reported for the best child network of a search.
        source: Origin of the data.
    """

    space: Space
    reward: Callable[[RandomKey], Reward]
    reported: Reward
    source: str


def image_rewards(options: Children, space_name: str, dataset: str) -> ChildRewards:
    """The rewards of networks that adapt to new classes of images.

    Raises:
        ValueError: As `samplers`.
    """
    space, child = space_and_network(space_name, options)
    sample, source = samplers(dataset, options)
    reported = reward_from_scratch(child, sample["train"], sample["test"], options.budget)
    return ChildRewards(space, partial(reward, space, child, sample, options), reported, source)


@contextmanager
def executor(name: Literal["devices", "ray"]) -> Iterator[Executor]:
    """Gives the executor that trains child networks: the devices of this process, or a Ray cluster.

    Raises:
        ImportError: Ray is not installed.
    """
    if name == "devices":
        yield device_executor(maml.task_mesh())
        return
    with ray_cluster():
        run, program = ray_executor(), cache(partial(Partial, _jitted))
        yield lambda function, items: run(program(function), items)


@jax.jit
def _jitted(function: Reward, *item: Any) -> Any:
    return function(*item)
