"""A search on the host equals the search in one program, for every executor and order."""

import logging
import random as stdlib_random
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial
from problems import quick

import maml
from maml.search import (
    Space,
    device_executor,
    evolution,
    factorised_policy,
    local_executor,
    reinforce,
    search,
    search_on_host,
)

KEY = jax.random.key(0)
SPACE = Space((3, 2, 4))
STRATEGY = reinforce(factorised_policy(SPACE), optax.adam(0.1), batch=4)
STATE = STRATEGY.init(KEY)
TABLE = np.random.default_rng(0).uniform(size=(3, 2, 4)).astype(np.float32)


def reward(tokens, key):
    """Exact whoever computes it, and different for each child."""
    return jnp.asarray(TABLE)[tuple(tokens)] + jax.random.bits(key, dtype=jnp.uint8) / 256


def from_arrays(table, tokens, key):
    return table[tuple(tokens)] + jax.random.bits(key, dtype=jnp.uint8) / 256


def shuffled(function, items):
    result = list(local_executor(function, items))
    stdlib_random.Random(len(items)).shuffle(result)
    return result


EXECUTORS = {
    "in process": local_executor,
    "out of order": shuffled,
    "one device": device_executor(),
    "three devices": device_executor(maml.task_mesh(3)),  # do not divide a batch of four
    "eight devices": device_executor(maml.task_mesh(8), chunk=2),
}


def equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.fixture(scope="module")
def straight():
    return quick(partial(search, STRATEGY, reward, children=12))(STATE, KEY)


@pytest.mark.parametrize("name", EXECUTORS)
def test_a_driven_search_is_the_search_with_any_executor(name, straight):
    kept, executor = [], EXECUTORS[name]
    of_one = quick(reward) if executor in (local_executor, shuffled) else reward
    state, history = search_on_host(
        STRATEGY, of_one, STATE, KEY, 12, executor, on_child=kept.append
    )
    equal(history, straight[1])
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), state, straight[0])
    kept.sort(key=lambda child: child.number)
    assert [child.number for child in kept] == list(range(12))
    np.testing.assert_array_equal([child.tokens for child in kept], history.tokens)
    np.testing.assert_array_equal([child.reward for child in kept], history.rewards)


def test_a_strategy_that_learns_otherwise_can_be_driven_as_well():
    strategy = evolution(SPACE, population=2)
    state = strategy.init(KEY)
    _, history = search_on_host(strategy, quick(reward), state, KEY, 6)
    equal(history, quick(partial(search, strategy, reward, children=6))(state, KEY)[1])


def test_arrays_bound_by_partial_are_arguments_of_the_compiled_program():
    ride = Partial(from_arrays, jnp.asarray(TABLE))
    executor, keys = device_executor(), jax.random.split(KEY, 3)
    items = list(zip(jnp.zeros((3, 3), int), keys, strict=True))
    expected = [float(from_arrays(TABLE, *item)) for item in items]
    assert [float(result) for _, result in executor(ride, items)] == expected
    other = Partial(from_arrays, jnp.asarray(TABLE) + 1)
    assert [float(result) for _, result in executor(other, items)] == [w + 1 for w in expected]


class TestAfterACrash:
    @pytest.fixture
    def killed(self):
        """The children that were kept by a search that was killed at its seventh reward."""
        kept = []

        def keep(child):
            if len(kept) == 6:
                raise KeyboardInterrupt
            kept.append(child)

        with pytest.raises(KeyboardInterrupt):
            search_on_host(STRATEGY, quick(reward), STATE, KEY, 12, shuffled, on_child=keep)
        return kept

    def test_a_search_resumed_from_its_kept_children_equals_an_uninterrupted_one(self, killed):
        asked, kept = [], list(killed)

        def counted(function, items):
            asked.extend(items)
            return shuffled(function, items)

        whole = search_on_host(STRATEGY, quick(reward), STATE, KEY, 12)
        equal(
            search_on_host(
                STRATEGY,
                quick(reward),
                STATE,
                KEY,
                12,
                counted,
                finished=killed,
                on_child=kept.append,
            ),
            whole,
        )
        assert len(asked) == 6  # nobody is rewarded twice, not in the batch that was broken off
        assert sorted(child.number for child in kept) == list(range(12))

    def test_a_search_resumed_from_a_saved_state_equals_an_uninterrupted_one(self, killed):
        whole = search_on_host(STRATEGY, quick(reward), STATE, KEY, 12)
        state, first = search_on_host(STRATEGY, quick(reward), STATE, KEY, 4)
        saved = jax.tree.map(jnp.asarray, jax.tree.map(np.array, state))
        state, rest = search_on_host(STRATEGY, quick(reward), saved, KEY, 8, finished=killed)
        equal((state, jax.tree.map(lambda *x: jnp.concatenate(x), first, rest)), whole)

    def test_children_of_another_search_are_refused(self, killed):
        other = [killed[0]._replace(tokens=(killed[0].tokens + 1) % 2)]
        with pytest.raises(ValueError, match=r"child \d was kept as .* different searches"):
            search_on_host(STRATEGY, quick(reward), STATE, KEY, 12, finished=other)


def breaks(numbers):
    """An executor whose children with these places in their batch end with an exception."""

    def execute(function, items):
        for index, outcome in local_executor(function, items):
            yield index, OSError("disk full") if index in numbers else outcome

    return execute


def test_an_exception_is_logged_as_a_broken_reward_that_survives_a_resume(caplog):
    kept = []
    with caplog.at_level(logging.WARNING, "maml.search"):
        state, history = search_on_host(
            STRATEGY, quick(reward), STATE, KEY, 8, breaks({1}), on_child=kept.append
        )
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(history.rewards)), [1, 5])
    assert state.num_broken == 2 and state.num_rewards == 8
    assert [record.args for record in caplog.records if "disk full" in record.message]
    assert "child 5 is broken" in caplog.text
    equal(search_on_host(STRATEGY, quick(reward), STATE, KEY, 8, finished=kept), (state, history))


def test_an_exception_in_every_child_is_raised_and_says_where_to_resume():
    def bug(tokens, key):
        raise TypeError("a bug")

    with pytest.raises(RuntimeError, match=r"6 children in a row .*a bug.* from child 0 on") as got:
        search_on_host(STRATEGY, bug, STATE, KEY, 400, max_failures=6)
    assert isinstance(got.value.__cause__, TypeError)
    search_on_host(STRATEGY, quick(reward), STATE, KEY, 40, breaks({0, 1, 2}), max_failures=4)


@pytest.mark.parametrize(
    ("executor", "says"),
    [
        (lambda function, items: [(0, 1.0), (0, 1.0)], "item 0 twice"),
        (lambda function, items: [(4, 1.0)], "item 4 twice, or there is no such item"),
        (lambda function, items: [(0, 1.0), (2, 1.0)], r"without an outcome for items \[1, 3\]"),
    ],
)
def test_an_executor_that_loses_or_repeats_a_reward_is_refused(executor, says):
    with pytest.raises(RuntimeError, match=says):
        search_on_host(STRATEGY, quick(reward), STATE, KEY, 4, executor)


def test_a_search_of_zero_children_keeps_the_state_and_has_an_empty_history():
    state, history = search_on_host(STRATEGY, quick(reward), STATE, KEY, 0)
    equal(state, STATE)
    assert [leaf.shape for leaf in history] == [(0, 3), (0,), (0,)]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"children": -4}, "children must be"),
        ({"children": 6}, "batches of 4 children do not divide 6"),
        ({"max_failures": 0}, "exceptions in a row"),
        ({"reward": lambda tokens, key: jnp.ones(1)}, r"one number; got an array of \(1,\)"),
    ],
)
def test_invalid_options_of_a_search_are_refused(options, says):
    given = {"reward": quick(reward), "state": STATE, "key": KEY, "children": 4} | options
    with pytest.raises(ValueError, match=says):
        search_on_host(STRATEGY, **given)
    with pytest.raises(ValueError, match="items in a chunk"):
        device_executor(chunk=0)
