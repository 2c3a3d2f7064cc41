"""Trials of several episodes against the same computed step by step, and finished returns."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import quick

from maml.rl.distributions import categorical, gaussian
from maml.rl.environment import Environment, rollout
from maml.rl.losses import Experience, surrogate_loss
from maml.rl.policies import memoryless_policy
from maml.rl.rl2 import episode_returns, finished_return, trial_environment
from tasks.rl import navigation, tabular
from tasks.rl.networks import CategoricalGRU, GaussianGRU, recurrent_policy

KEY = jax.random.key(0)
FAIR = memoryless_policy(lambda key, x: x, lambda params, x: jnp.zeros(2), categorical)


def counting(ends_after):
    """An episode counts its steps, pays the count, and ends with probability 1 / `ends_after`."""

    def reset(key, task):
        return jnp.zeros(()), jnp.zeros(1)

    def step(key, count, action, task):
        count = count + 1
        return count, count[None], count, jax.random.bernoulli(key, 1 / ends_after)

    return Environment(reset, step, 2)


def walk(environment, policy, params, task=None, **counts):
    walked = jax.jit(lambda key: rollout(environment, policy, params, task, key, **counts))(KEY)
    return jax.tree.map(np.asarray, walked)


@pytest.mark.parametrize("ends_after", [1, 3, 1000])
def test_a_trial_concatenates_its_episodes(ends_after):
    trial = trial_environment(counting(ends_after)._replace(actions=np.int64(2)), 4, 5)
    trajectories = walk(trial, FAIR, None, horizon=20, trajectories=50)
    returns = np.asarray(episode_returns(trajectories, 4))
    for n in range(50):
        episode, count, expected = 0, 0, np.zeros(4)
        for t in range(20):
            assert bool(trajectories.alive[n, t]) == (episode < 4)
            if episode == 4:
                continue
            place, *action, reward, new = trajectories.observation[n, t]
            assert place == count and new == (count == 0)
            if t:
                assert action == list(np.eye(2)[trajectories.action[n, t - 1]])
                assert reward == trajectories.reward[n, t - 1]
            count += 1
            assert trajectories.reward[n, t] == count
            expected[episode] += count
            over = t + 1 < 20 and trajectories.observation[n, t + 1, -1]
            if over or count == 5:
                episode, count = episode + 1, 0
        np.testing.assert_array_equal(returns[n], expected)


@pytest.mark.parametrize(("ends_after", "horizon"), [(4, 12), (1000, 7)])
def test_the_reported_return_is_that_of_the_sampler_of_mamls_code(ends_after, horizon):
    """Its loop, with numpy: walkers side by side, until finished paths hold enough steps."""
    random, walkers = np.random.default_rng(0), 10

    def sampled():
        ages, returns, lengths = np.zeros(walkers, int), [], 0
        while lengths < walkers * horizon:
            ages += 1
            over = (random.random(walkers) < 1 / ends_after) | (ages == horizon)
            returns += [age * (age + 1) / 2 for age in ages[over]]
            lengths += ages[over].sum()
            ages[over] = 0
        return np.mean(returns)

    theirs = np.array([sampled() for _ in range(400)])
    counts = {"horizon": horizon, "trajectories": walkers}
    one = partial(finished_return, counting(ends_after), FAIR, None, None, **counts)
    ours = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(KEY, 400)))
    error = np.sqrt((theirs.var() + ours.var()) / 400)
    assert abs(theirs.mean() - ours.mean()) <= 4 * error


@pytest.mark.parametrize(
    ("policy", "environment", "task"),
    [
        (recurrent_policy(CategoricalGRU(2, size=6)), tabular.bandit(2), jnp.array([0.1, 0.9])),
        (recurrent_policy(GaussianGRU(2, size=6)), navigation.navigation(), jnp.array([0.3, 0.2])),
    ],
)
def test_a_policy_with_memory_gives_the_same_distributions_stepwise_and_in_sequence(
    policy, environment, task
):
    trial = trial_environment(environment, 3, 4)
    observation = trial.reset(KEY, task)[1]
    params = quick(policy.init)(KEY, observation)
    trajectories = walk(trial, policy, params, task, horizon=12, trajectories=5)
    again = quick(jax.vmap(policy.apply_sequence, (None, 0)))(params, trajectories.observation)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), again, trajectories.distribution)
    first = quick(jax.vmap(lambda x: policy.apply(params, x, policy.memory)[0]))(
        trajectories.observation[:, 5]
    )
    there = jax.tree.map(lambda leaf: leaf[:, 5], again)
    assert any(
        not np.allclose(a, b)
        for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(there), strict=True)
    )


def test_the_last_action_has_a_gradient_by_every_earlier_observation():
    """The gradient by an early observation's weights is there: the last action alone is paid."""
    policy = recurrent_policy(CategoricalGRU(2, size=6))
    trial = trial_environment(tabular.bandit(2), 6, 1)
    task = jnp.array([0.1, 0.9])
    params = quick(policy.init)(KEY, trial.reset(KEY, task)[1])
    collect = partial(rollout, trial, policy, horizon=6, trajectories=3)
    trajectories = quick(collect)(params, task, KEY)
    last = jnp.zeros((3, 6)).at[:, -1].set(1.0)

    def value(observation):
        changed = trajectories._replace(observation=observation)
        return surrogate_loss(policy)(params, Experience(changed, last), KEY)[0]

    by_observation = quick(jax.grad(value))(trajectories.observation)
    assert (jnp.abs(by_observation).max(axis=(0, 2)) > 0).all()


def test_families_of_memories_are_those_of_their_modules():
    assert recurrent_policy(CategoricalGRU(2)).family is categorical
    assert recurrent_policy(GaussianGRU(2)).family is gaussian


@pytest.mark.parametrize(
    ("counts", "message"),
    [((0, 5), "number of episodes must be"), ((5, 0), "steps of an episode must be")],
)
def test_a_trial_needs_episodes_and_steps(counts, message):
    with pytest.raises(ValueError, match=message):
        trial_environment(counting(2), *counts)
