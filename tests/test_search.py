"""Policies are distributions with the right gradients; a search equals its steps one by one."""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import quick

from maml import surrogates
from maml.search import (
    Space,
    ask_key,
    child_keys,
    entropy,
    evolution,
    factorised_policy,
    log_prob,
    lstm_policy,
    mutate,
    ppo,
    random_architecture,
    random_search,
    reinforce,
    search,
)
from maml.search.controllers import child_objective

KEY = jax.random.key(0)
FREE = Space((3, 2, 4))
# Nothing may come twice in a row, and after a 2 comes a 0.
MASKED = Space(
    (3, 2, 4),
    lambda tokens, at: (
        (at == 0)
        | ((jnp.arange(4) != tokens[at - 1]) & ((tokens[at - 1] != 2) | (jnp.arange(4) == 0)))
    ),
)
SPACES = {"free": FREE, "masked": MASKED}
POLICIES = {"factorised": factorised_policy, "lstm": partial(lstm_policy, size=5, scale=1.0)}
ALL = np.array(list(product(range(3), range(2), range(4))), np.int32)
STRATEGIES = {
    "random": lambda space: random_search(space, batch=2),
    "evolution": lambda space: evolution(space, population=4, batch=2),
    "reinforce": lambda space: reinforce(factorised_policy(space), optax.adam(0.1), batch=2),
    "ppo": lambda space: ppo(factorised_policy(space), optax.adam(0.1), batch=2, epochs=2),
}


@partial(quick, static_argnums=0)
def are_allowed(space, architectures):
    options = jax.vmap(space.option_masks)(architectures)
    return jnp.take_along_axis(options, architectures[..., None], axis=-1).all(axis=(1, 2))


@partial(quick, static_argnums=0)
def drawn_params(policy):
    params = policy.init(KEY)
    return jax.tree.map(lambda leaf: leaf + jax.random.normal(KEY, leaf.shape), params)


def probability(policy, params):
    def of(tokens):
        return jnp.exp(log_prob(policy.log_probs(params, tokens), tokens).sum())

    return jax.vmap(of)(ALL)


probabilities = quick(probability, static_argnums=0)


def reward(tokens, key):
    """Different for every architecture, and noisy."""
    return jnp.cos(tokens @ jnp.array([5, 3, 1])) + 0.01 * jax.random.normal(key)


@pytest.fixture(params=SPACES)
def space(request):
    return SPACES[request.param]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", POLICIES)
class TestAPolicy:
    def test_gives_the_allowed_architectures_all_probability_and_the_others_none(self, name, space):
        policy = POLICIES[name](space)
        result = probabilities(policy, drawn_params(policy))
        assert float(result.sum()) == pytest.approx(1, rel=1e-12)
        np.testing.assert_array_equal(result > 0, are_allowed(space, ALL))

    def test_draws_architectures_as_often_as_it_says(self, name, space):
        policy, count = POLICIES[name](space), 20_000
        params = drawn_params(policy)
        expected = np.asarray(probabilities(policy, params))
        draw = quick(jax.vmap(policy.sample, (None, 0)))
        drawn = np.asarray(draw(params, jax.random.split(KEY, count)))
        seen = (drawn[:, None] == ALL).all(axis=-1).mean(axis=0)
        assert seen.sum() == pytest.approx(1)
        assert (np.abs(seen - expected) <= 4.5 * np.sqrt(expected * (1 - expected) / count)).all()

    @pytest.mark.parametrize("surrogate", [surrogates.score_function, surrogates.clipped])
    def test_has_in_the_mean_the_exact_gradient_of_the_expected_reward(
        self, name, space, surrogate
    ):
        policy = POLICIES[name](space)
        params, rewards = drawn_params(policy), np.random.default_rng(0).normal(size=len(ALL))
        weights = probabilities(policy, params)
        legal = weights > 0
        children, weights = ALL[legal], weights[legal]

        def surrogate_mean(at):
            def one(child, value):
                acted = log_prob(policy.log_probs(params, child), child)
                return child_objective(policy, surrogate, at, child, acted, value - 0.7, 0.0)

            return weights @ jax.vmap(one)(children, rewards[legal])

        exact = quick(jax.grad(lambda at: probability(policy, at) @ rewards))(params)
        close = partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12)
        jax.tree.map(close, quick(jax.grad(surrogate_mean))(params), exact)

    def test_has_in_the_mean_over_its_architectures_its_entropy(self, name, space):
        policy = POLICIES[name](space)
        params = drawn_params(policy)
        result = probabilities(policy, params)
        along = quick(jax.vmap(lambda tokens: entropy(policy.log_probs(params, tokens))))(ALL)
        legal = result > 0
        expected = -(result[legal] * jnp.log(result[legal])).sum()
        assert float(result[legal] @ along[legal]) == pytest.approx(float(expected), rel=1e-12)
        likeliest = jnp.asarray(ALL)[result.argmax()]
        slopes = quick(jax.grad(lambda at: entropy(policy.log_probs(at, likeliest))))(params)
        assert all(np.isfinite(slope).all() for slope in jax.tree.leaves(slopes))  # if masked, too


@pytest.mark.usefixtures("x64")
def test_reinforce_takes_a_step_along_the_advantage_times_the_score():
    policy, rate, decay = factorised_policy(FREE), 0.3, 0.9
    strategy = reinforce(policy, optax.sgd(rate), batch=3, baseline_decay=decay)
    children, rewards = jnp.array(ALL[[3, 8, 20]]), jnp.array([1.0, 3.0, -1.0])
    tell = quick(strategy.tell)
    first = tell(strategy.init(KEY), children, rewards)
    assert float(first.strategy_state.baseline) == 1  # at first the mean
    second = tell(first, children, rewards + 1)
    assert float(second.strategy_state.baseline) == pytest.approx(decay**3 * 1 + (1 - decay**3) * 2)

    def expected(params):
        scores = [log_prob(policy.log_probs(params, child), child).sum() for child in children]
        return jnp.stack(scores) @ (rewards + 1 - 1) / 3

    step = second.strategy_state.params - first.strategy_state.params
    np.testing.assert_allclose(
        step, rate * jax.grad(expected)(first.strategy_state.params), rtol=1e-12
    )


def test_a_mutation_changes_one_token_of_a_free_space_and_stays_within_a_masked_one(space):
    keys = jax.random.split(KEY, 300)
    parents = quick(jax.vmap(partial(random_architecture, space)))(keys)
    children = quick(jax.vmap(partial(mutate, space)))(parents, keys)
    changed = np.asarray((parents != children).sum(axis=1))
    assert (changed == 1).all() if space is FREE else (changed >= 1).all()
    assert are_allowed(space, children).all()
    places = np.asarray(parents != children).sum(axis=0) / 300
    assert space is MASKED or np.allclose(places, 1 / 3, atol=0.1)


@pytest.mark.usefixtures("unchecked")
def test_a_mutation_takes_tokens_as_the_best_child_has_them():
    tokens = ALL[5]
    for given in (tokens, tokens.tolist()):
        np.testing.assert_array_equal(
            mutate(FREE, given, KEY), mutate(FREE, jnp.array(tokens), KEY)
        )


def test_where_nothing_is_allowed_the_token_is_no_option():
    space = Space((2, 2), lambda tokens, at: (at == 0) | (tokens[0] == 0) & (jnp.arange(2) < 2))
    drawn = np.asarray(
        quick(jax.vmap(partial(random_architecture, space)))(jax.random.split(KEY, 50))
    )
    np.testing.assert_array_equal(drawn[:, 1] == -1, drawn[:, 0] == 1)


def test_the_population_of_evolution_is_its_latest_children_and_they_descend_from_it():
    strategy = evolution(FREE, population=5, sample=200)  # the sample has the best, surely
    state, history = quick(lambda key: search(strategy, reward, strategy.init(key), key, 23))(KEY)
    ages = np.arange(23)[-5:]
    np.testing.assert_array_equal(state.strategy_state.tokens[ages % 5], history.tokens[-5:])
    np.testing.assert_array_equal(state.strategy_state.rewards[ages % 5], history.rewards[-5:])
    at_once = strategy.tell(strategy.init(KEY), history.tokens, history.rewards)
    jax.tree.map(np.testing.assert_array_equal, at_once, state)
    for child in range(5, 23):
        parent = child - 5 + int(jnp.argmax(history.rewards[child - 5 : child]))
        assert (history.tokens[child] != history.tokens[parent]).sum() == 1


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_search_is_its_steps_goes_on_where_it_was_saved_and_repeats_its_rewards(name):
    strategy, reward_all = STRATEGIES[name](MASKED), quick(jax.vmap(reward))
    run = partial(quick, static_argnums=2)(partial(search, strategy, reward))
    whole, history = run(strategy.init(KEY), KEY, 12)
    state, parts = strategy.init(KEY), []
    for _ in range(2):
        saved = jax.tree.map(np.array, state)
        state, part = run(jax.tree.map(jnp.asarray, saved), KEY, 6)
        parts.append(part)
    jax.tree.map(np.testing.assert_array_equal, state, whole)
    joined = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
    jax.tree.map(np.testing.assert_array_equal, joined, history)
    assert are_allowed(MASKED, history.tokens).all()

    ask, tell, state = quick(strategy.ask), quick(strategy.tell), strategy.init(KEY)
    for told in range(0, 12, 2):
        tokens = ask(state, ask_key(KEY, told))
        np.testing.assert_array_equal(tokens, history.tokens[told : told + 2])
        state = tell(state, tokens, reward_all(tokens, child_keys(KEY, told + jnp.arange(2))))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), state, whole)
    again = reward_all(history.tokens, child_keys(KEY, history.numbers))
    np.testing.assert_allclose(again, history.rewards, rtol=1e-5)


@pytest.mark.parametrize("broken", [jnp.nan, jnp.inf])
def test_a_broken_reward_is_the_worst_and_is_counted(broken):
    rewards = jnp.array([0.5, broken, 0.2, 0.9])
    children = jnp.array(ALL[[0, 7, 13, 22]])
    breeding = evolution(FREE, population=4)
    state = breeding.tell(breeding.init(KEY), children, rewards)
    assert state.num_broken == 1 and jnp.argmin(state.strategy_state.rewards) == 1
    learning = reinforce(factorised_policy(FREE), optax.sgd(0.1), batch=4)
    tell = quick(learning.tell)
    told, as_worst = (
        tell(learning.init(KEY), children, seen) for seen in (rewards, rewards.at[1].set(0.2))
    )
    jax.tree.map(np.testing.assert_array_equal, told.strategy_state, as_worst.strategy_state)
    nothing = tell(learning.init(KEY), children, jnp.full(4, broken))
    assert nothing.num_broken == 4 and (nothing.strategy_state.params == 0).all()
    later = tell(nothing, children, rewards)
    jax.tree.map(np.testing.assert_array_equal, later.strategy_state, told.strategy_state)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: Space(()), "each with an option; got"),
        (lambda: Space((3, 0)), r"got \(3, 0\)"),
        (lambda: random_search(FREE, batch=0), "children in a batch"),
        (lambda: evolution(FREE, population=0), "members"),
        (lambda: evolution(FREE, sample=0), "members of a sample"),
        (lambda: lstm_policy(FREE, 0), "units"),
        (lambda: reinforce(factorised_policy(FREE), optax.sgd(1.0), baseline_decay=1.0), "decay"),
        (lambda: ppo(factorised_policy(FREE), optax.sgd(1.0), epochs=0), "epochs"),
        (
            lambda: search(
                random_search(FREE, batch=3), reward, random_search(FREE).init(KEY), KEY, 10
            ),
            "batches of 3 children do not divide 10",
        ),
    ],
)
def test_invalid_options_are_refused_when_a_strategy_is_built(build, says):
    with pytest.raises(ValueError, match=says):
        build()
