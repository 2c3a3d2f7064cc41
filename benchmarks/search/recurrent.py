"""Child networks that are language models with a recurrent cell: their options and rewards."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Integer

from benchmarks.search.children import ChildRewards
from maml.search import Reward
from maml.types import RandomKey
from tasks.architectures.recurrent_chain import Cell, chain
from tasks.architectures.recurrent_model import RecurrentModel
from tasks.architectures.recurrent_reward import reward_of_cell
from tasks.architectures.recurrent_training import TextBudget
from tasks.architectures.recurrent_tree import tree
from tasks.text import penn_treebank

DATASET = "ptb"
OPTIONS = "cell", "nodes", "width", "text"


@dataclass(frozen=True, kw_only=True)
class Recurrent:
    """Options of language models with a recurrent cell."""

    cell: Literal["chain", "tree"] = "chain"
    """Space of recurrent cells: chains of nodes as in ENAS, or trees with a memory as in Zoph and
    Le (space recurrent)."""
    nodes: int = 8
    """Number of nodes of a chain, or of leaves of a tree; for a tree it is a power of two (space
    recurrent)."""
    width: int = 64
    """Number of features of the words and of the cell (space recurrent)."""
    text: TextBudget = field(default_factory=TextBudget)
    """Amount of training of a language model (space recurrent)."""


def cell_of(options: Recurrent) -> Cell:
    """The space of recurrent cells that the options name, and its computation.

    Raises:
        ValueError: A tree has a number of leaves that is not a power of two.
    """
    return {"chain": chain, "tree": tree}[options.cell](options.nodes)


def recurrent_rewards(options: Recurrent, data: Path | None, dataset: str | None) -> ChildRewards:
    """The rewards of recurrent cells on the words of Penn Treebank.

    Args:
        options: Options of the language models.
        data: Folder of Penn Treebank.
        dataset: Name of the data set, ptb, or None.

    Returns:
        The rewards; the validation text gives those of the search, the test text the reported one.

    Raises:
        ValueError: Another data set is named, no folder is named, the folder lacks a text of Penn
            Treebank, a text is too short, or as `cell_of`.
    """
    if dataset not in (None, DATASET):
        raise ValueError(f"dataset must be {DATASET} for --space recurrent; got {dataset!r}")
    if data is None:
        raise ValueError(
            "--space recurrent needs the folder of Penn Treebank; name it with --data FOLDER"
        )
    cell, (vocabulary, (train, val, test)) = cell_of(options), penn_treebank_words(data)
    child = partial(RecurrentModel, cell, vocabulary=vocabulary, width=options.width)
    searched, reported = (reward_of_cell(child, train, x, options.text) for x in (val, test))

    def reward(key: RandomKey) -> Reward:
        return searched

    return ChildRewards(cell.space, reward, reported, str(data))


def penn_treebank_words(data: Path) -> tuple[int, list[Integer[np.ndarray, " words"]]]:
    """The size of the vocabulary, and the texts train, val and test as numbers of words.

    Raises:
        ValueError: The folder lacks a text of Penn Treebank.
    """
    corpus = penn_treebank(data, "words")
    return len(corpus.vocabulary), [next(iter(x.values())) for x in corpus.splits.values()]
