"""Language models to compare: with cells of a search, with random cells, and with an LSTM."""

from bisect import bisect_left
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.harness.bounds import check, check_size
from benchmarks.harness.files import COUNT, TEXT
from benchmarks.harness.summary import read_summary
from benchmarks.search.recurrent import Recurrent, cell_of
from maml.search import random_architecture
from maml.search.space import Tokens
from tasks.architectures.recurrent_lstm import lstm
from tasks.architectures.recurrent_model import RecurrentModel
from tasks.architectures.recurrent_reward import ModelFactory

# The summary of a search; other search spaces have no cell.
SEARCH = {"space": TEXT, "chosen": {}, "config": {"cell": (TEXT, None), "nodes": (COUNT, None)}}
ARRAYS = 4  # of the size of the parameters: with them the gradient and Adam's two moments
WIDEST = 8192  # largest width of an LSTM
Name = Literal["reinforce", "ppo", "evolution", "random", "random-cell", "lstm"]


class Candidate(NamedTuple):
    """A model to train.

    Attributes:
        child: Function `child(tokens) -> model`.
        tokens: Tokens of the cell, for each seed.
        width: Number of features.
        parameters: Number of parameters.
    """

    child: ModelFactory
    tokens: list[Tokens]
    width: int
    parameters: int


def candidates(
    search: Path,
    names: tuple[Name, ...],
    *,
    seeds: int,
    seed: int,
    vocabulary: int,
    width: int,
    layers: int,
) -> dict[str, Candidate]:
    """The models to train, by name.

    Args:
        search: Folder of a run of `benchmarks.architecture_search --space recurrent`.
        names: Names of strategies of the search, whose run n has the cell of seed n; or
            `random-cell`, or `lstm`.
        seeds: Number of trainings of each model.
        seed: Seed of the random cells.
        vocabulary: Number of different words.
        width: Number of features; an LSTM has the width with the nearest number of parameters.
        layers: Number of layers.

    Returns:
        The models, in the order of the names.

    Raises:
        ValueError: The folder is not that of a search for recurrent cells, the search lacks a
            strategy or has too few runs, or the models are too large.
    """
    found = read_summary(search, SEARCH)
    if found["space"] != "recurrent":
        raise ValueError(
            f"{search} must be a search with --space recurrent; got --space {found['space']}"
        )
    options = Recurrent(**{name: found["config"][name] for name in ("cell", "nodes")})
    check(options)
    cell = cell_of(options)
    sizes = {"vocabulary": vocabulary, "layers": layers}
    key = jax.random.split(jax.random.key(seed))[1]  # trainings have the keys of the first
    keys = [jax.random.fold_in(key, place) for place in range(seeds)]
    cells = {name: [tokens for _, tokens in pairs] for name, pairs in found["chosen"].items()}
    cells |= {"random-cell": [random_architecture(cell.space, key) for key in keys]}
    child = partial(RecurrentModel, cell, width=width, **sizes)
    target, models = count_parameters(child(cells["random-cell"][0])), {}
    check_size(ARRAYS * target, "a model, its gradient and Adam's moments", "width or layers")
    for name in names:
        if name == "lstm":
            models[name] = lstm_of_size(target, seeds, **sizes)
            continue
        tokens = [jnp.asarray(one) for one in cells.get(name, ())[:seeds]]
        if len(tokens) < seeds:
            raise ValueError(
                f"{search} must have {seeds} runs with the strategy {name}, one for each seed; got"
                f" {len(tokens)}"
            )
        models[name] = Candidate(child, tokens, width, target)
    return models


def lstm_of_size(target: int, seeds: int, **sizes: int) -> Candidate:
    """An LSTM with about this number of parameters, and its token for each seed.

    Raises:
        ValueError: It would be too wide.
    """
    token, child = jnp.zeros(1, int), partial(RecurrentModel, lstm(), **sizes)

    def count(width: int) -> int:
        return count_parameters(child(token, width=width))

    if count(WIDEST) < target:
        raise ValueError(f"an LSTM may be {WIDEST} wide at most, too few for {target:,} parameters")
    widths = range(1, WIDEST)
    above = bisect_left(widths, target, key=count)
    width = min(widths[max(0, above - 1) : above + 1], key=lambda width: abs(count(width) - target))
    return Candidate(partial(child, width=width), [token] * seeds, width, count(width))


def count_parameters(model: RecurrentModel) -> int:
    """The number of parameters of a model."""
    draw = partial(model.init, words=jnp.zeros(1, int), carry=model.start())
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(draw, jax.random.key(0))))
