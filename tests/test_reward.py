"""The reward of a child network is its accuracy after meta-training and adaptation."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import quick

import maml
from benchmarks.architecture_pilot import intraclass_correlation
from maml.episodes import few_shot
from maml.search import Space, random_architecture
from tasks.architectures import cells as cell_space
from tasks.architectures import macro as macro_space
from tasks.architectures.alphabets import shrink_images, smallest_alphabets
from tasks.architectures.cells import CellNet, Cells
from tasks.architectures.macro import Macro
from tasks.architectures.macro_net import MacroNet
from tasks.architectures.reward import (
    Budget,
    initial_params,
    reward_from_scratch,
)
from tasks.architectures.shared import reward_from_shared, shared_weights
from tasks.batch_norm import flax_apply, flax_loss
from tasks.characters import Characters

KEY = jax.random.key(0)
MACRO = Macro(layers=1, side=7, sizes=(1, 3), filters=(2, 4))
CHILD = partial(MacroNet, MACRO, ways=3)
SPACE = macro_space.space(MACRO)
SMALL = jnp.array([1, 0, 1, 0, 0])
LARGE = jnp.array([1, 1, 0, 0, 1])
BUDGET = Budget(
    learner="fomaml", meta_steps=3, meta_batch=2, outer_rate=1e-2, eval_tasks=6, chunk=2
)


@pytest.fixture(scope="module")
def samplers():
    """Classes are textures, so that a few steps are enough to tell them apart."""
    rng = np.random.default_rng(0)
    textures = rng.integers(0, 2, (12, 1, 7, 7)) * 155
    images = (textures + rng.integers(0, 100, (12, 6, 7, 7))).astype(np.uint8)
    return [few_shot(part, 3, 1, 1, rotate=False) for part in (images[:8], images[8:])]


def optimizer():
    """Adam, but the head stays at zero."""
    adam = optax.adam(optax.cosine_decay_schedule(1e-2, 3))

    def update(updates, state, params=None):
        updates, state = adam.update(updates, state, params)
        frozen = maml.mask_by_path(updates, "/head/")
        return jax.tree.map(lambda update, head: update * (not head), updates, frozen), state

    return optax.GradientTransformation(adam.init, update)


@pytest.mark.parametrize("learner", ["protonet", pytest.param("fomaml", marks=pytest.mark.slow)])
def test_a_reward_is_what_train_and_evaluate_give_written_out(samplers, learner):
    train, held_out = samplers
    budget = replace(BUDGET, learner=learner)
    reward = quick(lambda reward, tokens, key: reward(tokens, key))
    got = reward(reward_from_scratch(CHILD, train, held_out, budget), SMALL, KEY)

    def written_out(key):
        init_key, train_key = jax.random.split(key)
        model = CHILD(SMALL)
        params = model.init(init_key, jnp.zeros((3, 7, 7, 1)))
        loss = flax_loss(model, "transductive")
        adapts = maml.complement(maml.mask_by_path(params, "/norm"))
        algorithm = maml.fomaml(loss, optax.sgd(10.0), 1, mask=adapts)
        if learner == "protonet":
            features = flax_apply(model, "transductive", features=True)
            head = maml.mask_by_path(params, "/head/")
            algorithm = maml.protonet(loss, features, head=head)
        adam = optimizer()
        state = maml.init(algorithm, adam, params)
        state, _ = maml.train(algorithm, adam, maml.batch_tasks(train, 2), state, train_key, 3)
        episodes = maml.batch_tasks(held_out, 6)(jax.random.key(2018))
        result = maml.evaluate(algorithm.learner, loss, state.params, episodes, key, 1)
        shared = reward_from_shared(CHILD, state.params, held_out, budget)(SMALL, key)
        return result[1]["accuracy"][:, 1].mean(), shared

    np.testing.assert_allclose(quick(written_out)(KEY), [got, got], atol=1e-6)


def test_rewards_mapped_over_children_are_those_one_by_one(samplers):
    train, held_out = samplers
    reward = reward_from_scratch(CHILD, train, held_out, replace(BUDGET, meta_steps=1))
    tokens, keys = jnp.stack([SMALL, LARGE]), jax.random.split(KEY)
    one_by_one = quick(lambda reward, *jobs: jax.lax.map(lambda job: reward(*job), jobs))
    together = quick(lambda reward, *jobs: jax.vmap(reward)(*jobs))
    expected = one_by_one(reward, tokens, keys)
    np.testing.assert_allclose(together(reward, tokens, keys), expected, atol=1e-6)


def test_shared_weights_that_only_ever_train_one_child_are_that_child_from_scratch(samplers):
    """The space allows one architecture, the largest, so both start and learn alike."""
    train, options = samplers[0], jnp.arange(2)

    def only(tokens, position):
        return options == LARGE[position]

    space = Space(SPACE.choices, only)
    params = quick(lambda train: shared_weights(CHILD, space, train, BUDGET, KEY))(train)
    init_key, key = jax.random.split(KEY)
    model = CHILD(LARGE)
    started = initial_params(CHILD(jnp.asarray(SPACE.choices) - 1), train, init_key)
    adapts = maml.complement(maml.mask_by_path(started, "/norm"))
    loss = flax_loss(model, "transductive")
    algorithm = maml.fomaml(loss, optax.sgd(10.0), 1, mask=adapts)
    adam = optimizer()

    def sample(key):
        return maml.batch_tasks(train, 2)(jax.random.split(key)[1])

    def written_out(key):
        state, step = maml.init(algorithm, adam, started), partial(maml.meta_step, algorithm, adam)
        return maml.iterate(step, sample, state, key, 3)[0].params

    for got, expected in zip(*map(jax.tree.leaves, (params, quick(written_out)(key))), strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["macro", "cells"])
def test_shared_weights_start_in_whole(samplers, name):
    """No architecture uses all: that of the last options pools, and its layers miss the image."""
    macro, cells = Macro(layers=2, side=7, sizes=(1, 3), filters=(2, 4)), Cells(features=2)
    space, child = {
        "macro": (macro_space.space(macro), partial(MacroNet, macro, ways=3)),
        "cells": (cell_space.space(cells), partial(CellNet, cells, ways=3)),
    }[name]
    budget, largest = replace(BUDGET, meta_steps=0), jnp.asarray(space.choices) - 1
    alone = quick(lambda train: initial_params(child(largest), train, jax.random.split(KEY)[0]))
    shared = quick(lambda train: shared_weights(child, space, train, budget, KEY))
    pairs = zip(*map(jax.tree.leaves, (alone(samplers[0]), shared(samplers[0]))), strict=True)
    kernels = [(own, full) for own, full in pairs if own.ndim >= 4]
    assert any((own == 0).any() for own, _ in kernels)
    for own, full in kernels:
        assert (full != 0).all() and jnp.array_equal(jnp.where(own == 0, 0, full), own)
        assert jnp.abs(full).max() < 1.5 * jnp.abs(own).max() or not own.any()


def test_a_child_whose_loss_is_not_finite_is_broken(samplers):
    start = quick(partial(initial_params, CHILD(SMALL)))(samplers[0], KEY)
    params = jax.tree.map(lambda leaf: leaf * jnp.nan, start)
    reward = reward_from_shared(CHILD, params, samplers[1], BUDGET)
    assert jnp.isnan(quick(lambda reward: reward(SMALL, KEY))(reward))


def test_weights_that_a_drawn_child_does_not_use_stay_as_they_were(samplers):
    space = Space(SPACE.choices, lambda tokens, position: jnp.arange(2) == SMALL[position])
    before, after = (
        quick(
            lambda train, steps=steps: shared_weights(
                CHILD, space, train, replace(BUDGET, meta_steps=steps), KEY
            )
        )(samplers[0])
        for steps in (0, 2)
    )
    change = np.asarray(after["params"]["conv0"] - before["params"]["conv0"])
    used = np.zeros(change.shape, bool)
    used[:, 1:2, 0, :2] = True  # 3 x 1, of the image, two filters
    assert (change[used] != 0).any() and (change[~used] == 0).all()


def test_uniform_tokens_are_uniform_over_what_is_allowed():
    def never_twice(tokens, position):
        return (jnp.arange(3) != tokens[0]) | (position == 0)

    space = Space((3, 3), never_twice)
    drawn = jax.vmap(partial(random_architecture, space))(jax.random.split(KEY, 6_000))
    pairs, counts = np.unique(np.asarray(drawn), axis=0, return_counts=True)
    assert len(pairs) == 6 and (pairs[:, 0] != pairs[:, 1]).all()
    np.testing.assert_allclose(counts, 1_000, atol=4 * (1_000 * 5 / 6) ** 0.5)


def test_the_smallest_alphabets_are_split_and_no_class_is_on_both_sides():
    names = tuple(
        f"{name}/{n}" for name, size in (("A", 9), ("B", 3), ("C", 6)) for n in range(size)
    )
    characters = Characters(np.zeros((18, 1, 2, 2), np.uint8), names, "")
    result = smallest_alphabets(characters, [name for name in names if name != "B/0"], 2)
    both = result["train"] + result["held_out"]
    assert sorted(both) == [10, 11, *range(12, 18)] and len(result["held_out"]) == 2
    with pytest.raises(ValueError, match="1 to 3; got 4"):
        smallest_alphabets(characters, list(names), 4)


def test_blocks_of_pixels_become_their_largest_or_their_mean():
    images = np.array([[[[0, 4, 1, 1], [8, 0, 1, 1]] * 2]], np.uint8)
    assert shrink_images(images, 2)[0, 0].tolist() == [[8, 1], [8, 1]]
    assert shrink_images(images, 2, by="mean")[0, 0].tolist() == [[3, 1], [3, 1]]
    with pytest.raises(ValueError, match="divide 4; got 3"):
        shrink_images(images, 3)


def test_the_intraclass_correlation_is_that_of_shrout_and_fleiss():
    """Their table 2: ICC(1, 1) = 0.17."""
    ratings = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    result = intraclass_correlation(np.array(ratings, float))
    assert round(result["icc"], 2) == 0.17
    np.testing.assert_allclose(result["ci95"], [-0.133, 0.723], atol=2e-3)


def test_an_empty_budget_is_refused():
    with pytest.raises(ValueError, match="meta_steps"):
        Budget(meta_steps=-1)
