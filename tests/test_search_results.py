"""What a search tells: its best child in words, its progress, and where to go with any reward."""

# pyright: reportArgumentType=false

import math
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import quick

from maml.search import (
    History,
    Space,
    best,
    local_executor,
    random_search,
    search,
    search_on_host,
)
from tasks.architectures import cells, macro

KEY = jax.random.key(0)
NAMES = (("8", "16", "32"), ("relu", "tanh"))
SPACE = Space((3, 2), names=NAMES)
STRATEGY = random_search(SPACE, batch=3)
STATE = STRATEGY.init(KEY)
HISTORY = History(
    jnp.array([[0, 1], [2, 0], [2, 1], [1, 1]]),
    jnp.array([0.5, jnp.nan, 0.75, 0.75]),
    jnp.arange(4) + 10,
)


def test_the_best_child_has_the_highest_reward_that_is_not_broken_and_its_words():
    child = best(HISTORY, SPACE)
    assert child[:1] + child[2:] == (12, 0.75, ("32", "tanh"))
    assert child.tokens.tolist() == [2, 1]
    infinite = HISTORY._replace(rewards=HISTORY.rewards.at[3].set(jnp.inf))
    assert best(infinite).number == 12 and best(infinite).words == ()


def test_the_best_child_is_that_of_either_loop():
    def reward(tokens, key):
        return tokens[0] - 0.1 * tokens[1]

    _, history = quick(lambda: search(STRATEGY, reward, STATE, KEY, 30))()
    _, on_host = search_on_host(STRATEGY, reward, STATE, KEY, 30)
    assert best(history, SPACE).words == best(on_host, SPACE).words == ("32", "relu")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: best((1, 2)), "the history must be a History"),
        (lambda: best(jax.tree.map(lambda leaf: leaf[None], HISTORY)), r"of one search.*\[1, 4\]"),
        (
            lambda: best(HISTORY._replace(rewards=jnp.full(4, jnp.nan))),
            "no child of a search has a finite reward, so none is the best; got 4 children",
        ),
        (lambda: best(HISTORY, Space((3, 2))), "the options have no names"),
        (lambda: best(HISTORY, NAMES), "the space must be a Space"),
        (lambda: SPACE.words(jnp.array([3, 0])), "tokens must be >= 0 and each below"),
        (lambda: jax.jit(SPACE.words)(jnp.array([2, 0])), "words need tokens with values"),
        (lambda: Space((3, 2), names=NAMES[:1]), r"\(3, 2\) words, .* got \(3,\)"),
        (lambda: Space((3, 2), names=["8", "16"]), "a tuple for each token; got"),
        (lambda: Space((3, 2), names=((8, 16, 32), ("a", "b"))), "must be different words"),
        (lambda: Space((3, 2), names=(("a", "a", "b"), ("a", "b"))), "must be different words"),
        (
            lambda: search_on_host(STRATEGY, lambda t, k: 0.0, STATE, KEY, 3, report=lambda n: n),
            r"report must be a function of \(known, children, best\)",
        ),
    ],
)
def test_what_has_no_best_or_no_words_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def backwards(function, items):
    """The local executor, whose last outcome is the first."""
    return reversed([*local_executor(function, items)])


@pytest.mark.parametrize("executor", [local_executor, backwards])
def test_a_report_counts_every_child_once_also_those_that_finished_before(executor):
    def reward(tokens, key):
        if tokens[0] == 0:
            raise OSError("disk full")
        return float(tokens[0] + tokens[1])

    told, finished = [], []

    def report(known, total, best):
        told.append((known, total, best))

    search_on_host(STRATEGY, reward, STATE, KEY, 6, executor, on_child=finished.append)
    _, history = search_on_host(
        *(STRATEGY, reward, STATE, KEY, 12, executor), finished=finished[:5], report=report
    )
    assert [(known, total) for known, total, _ in told] == [(n, 12) for n in range(1, 13)]
    values = [value for *_, value in told]
    assert values[-1] == np.nanmax(np.asarray(history.rewards)) == best(history).reward
    assert all(b >= a or math.isnan(a) for a, b in pairwise(values))
    assert any(math.isnan(child.reward) for child in finished)


def lookup(tokens, key):
    return {(2, 1): 1.0}[tuple(tokens)]


@pytest.mark.parametrize(
    "reward",
    [
        lambda tokens, key: float(tokens.sum()),
        lambda tokens, key: np.asarray(tokens).sum(),
        lambda tokens, key: 1.0 if tokens[0] > 1 else 0.0,
        lambda tokens, key: [0.0, 0.5, 1.0][tokens[0]],
        lambda tokens, key: tokens[tokens > 0].sum(),
        lambda tokens, key: float(f"{tokens[0]}"),
        lookup,
    ],
    ids=["float", "numpy", "if", "index", "mask", "text", "dictionary"],
)
def test_a_reward_that_is_no_jax_function_is_told_where_it_would_work(reward):
    with pytest.raises(ValueError, match="search_on_host, which takes the same arguments, would"):
        search(STRATEGY, reward, STATE, KEY, 3)


def test_another_error_of_a_reward_is_its_own():
    def reward(tokens, key):
        raise KeyError("no such file")

    with pytest.raises(KeyError, match="no such file"):
        search(STRATEGY, reward, STATE, KEY, 3)


def test_architectures_of_the_spaces_of_networks_have_words():
    sizes = macro.Macro(layers=2, side=7, sizes=(1, 3), strides=(1, 2), filters=(4, 8))
    words = macro.space(sizes).words(jnp.array([0, 1, 0, 1, 1, 1, 1, 0, 0, 0, 0]))
    first = ("height 1", "width 3", "row stride 1", "column stride 2", "8 filters")
    second = ("height 3", "width 1", "row stride 1", "column stride 1", "4 filters")
    assert words == (*first, "reads layer 1", *second)
    tokens = jnp.array([0, 1, 1, 2, 0, 2, 0, 3, 4, 1] + [0] * 10)
    words = cells.space(cells.Cells(blocks=2)).words(tokens)
    assert words[:5] == ("state 0", "state 1", "conv1", "conv3", "add")
    assert words[5:10] == ("state 2", "state 0", "conv5", "average3", "concatenate")
