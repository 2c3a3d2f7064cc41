"""The table of NAS-Bench-NLP: recurrent cells in language models, trained on WikiText-2.

The recipe of a cell is a graph of linear layers, sums, products, blends and activations. The tokens
are properties of the recipe, and then the number of the cell among those with these properties.

Klyuchnikov et al.: NAS-Bench-NLP, neural architecture search benchmark for natural language
processing (2020), https://arxiv.org/abs/2006.07116
"""

import gzip
import json
import zlib
from collections import Counter, defaultdict
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from tasks._checks import as_path
from tasks.architectures.tabular import Table, tabulate

EPOCHS = 50  # of a finished run
SEARCH_EPOCHS = 5  # after which the reward is measured
SCALE = 80.0  # the number c of the reward c / perplexity^2
FINISHED = "OK"
MOST_STATES, MOST_NODES = 3, 11  # cells with more count as cells with this number


def nasbench_nlp(path: Path) -> Table:
    """The table of the cells of NAS-Bench-NLP that were trained on WikiText-2.

    The reward is 80 / perplexity^2 on the validation text after 5 epochs, and 80 / perplexity^2 on
    the test text after 50 epochs is reported. The loss of a cell that was trained several times is
    the mean over its finished runs. Runs that diverged are left out.

    The tokens of a cell are: whether its recipe has an elementwise product, and whether it has a
    blend; whether it has 1, 2 or more hidden states; a third of its number of nodes, of at most 11;
    and its number among the cells with the same properties.

    Args:
        path: Path of the JSON file, which may be compressed (`.gz`): a list of runs, each with its
            `recipe`, its `status`, and its losses `val` and `test` after each epoch, in nats.

    Returns:
        The table.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged or of another version.
    """
    path = as_path(path, "the file of NAS-Bench-NLP")
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no file of NAS-Bench-NLP at {path}; pass the path of a copy"
        )
    try:
        content = path.read_bytes()
        runs = json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)
    except (EOFError, OSError, ValueError, RecursionError, zlib.error) as error:
        raise ValueError(f"{path} is not JSON, or is truncated: {error}") from error
    losses: dict[str, list[tuple[float, float]]] = defaultdict(list)
    try:
        for run in runs:
            if run["status"] == FINISHED:
                recipe = json.dumps(run["recipe"], sort_keys=True)
                losses[recipe].append(_losses(run["val"], run["test"]))
        kinds = [properties(json.loads(recipe)) for recipe in losses]
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        expected = f"a list of runs, each with recipe, status, and {EPOCHS} losses val and test"
        raise ValueError(f"{path} is of another version: expected {expected}; {error!r}") from error
    if not losses:
        raise ValueError(f"{path} is of another version: expected finished runs; got none")
    counts: Counter[tuple[int, ...]] = Counter()
    codes = []
    for kind in kinds:
        codes.append((*kind, counts[kind]))
        counts[kind] += 1
    means = np.array([np.mean(pairs, axis=0) for pairs in losses.values()])
    rewards, reported = SCALE * np.exp(-2 * means).T
    choices = tuple((np.max(codes, axis=0) + 1).tolist())
    return tabulate(str(path), choices, np.array(codes), rewards, reported)


def properties(recipe: dict[str, Any]) -> tuple[int, int, int, int]:
    """The properties of a cell that are its first tokens.

    Args:
        recipe: Nodes by name, each with its operation `op` and its `input`, a list of names.

    Returns:
        Whether the recipe has an elementwise product; whether it has a blend; the number of hidden
        states, minus 1; and a third of the number of nodes.

    >>> properties({"node_0": {"op": "linear", "input": ["x", "h_prev_0"]},
    ...     "node_1": {"op": "activation_sigm", "input": ["node_0"]},
    ...     "h_new_0": {"op": "elementwise_prod", "input": ["node_0", "node_1"]}})
    (1, 0, 0, 1)
    """
    operations = {node["op"] for node in recipe.values()}
    states = sum(name.startswith("h_new") for name in recipe)
    return (
        int("elementwise_prod" in operations),
        int("blend" in operations),
        min(states, MOST_STATES) - 1,
        min(len(recipe), MOST_NODES) // 3,
    )


def _losses(val: list[Any], test: list[Any]) -> tuple[float, float]:
    """The losses of a finished run that are used, in nats."""
    if not len(val) == len(test) == EPOCHS:
        raise ValueError(f"got {len(val)} and {len(test)} losses")
    used = val[SEARCH_EPOCHS - 1], test[EPOCHS - 1]
    if not all(isfinite(loss) and loss >= 0 for loss in used):
        raise ValueError(f"got the losses {used}")
    return float(used[0]), float(used[1])
