"""The adapter to gymnax, with the real package; `make test-older` runs it with an older one."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maml.rl.distributions import Gaussian, categorical, gaussian
from maml.rl.environment import rollout
from maml.rl.gymnax import from_gymnax
from maml.rl.losses import collector
from maml.rl.policies import memoryless_policy

gymnax = pytest.importorskip("gymnax", reason="gymnax is not installed")
KEY, HORIZON = jax.random.key(0), 12
NAMES = "CartPole-v1", "Pendulum-v1", "MountainCarContinuous-v0", "Catch-bsuite", "DeepSea-bsuite"


def made(name):
    environment, params = gymnax.make(name)
    adapted = from_gymnax(environment, params)
    if isinstance(adapted.actions, int):
        logits = jnp.zeros(adapted.actions)
        policy = memoryless_policy(lambda *_: None, lambda *_: logits, categorical)
        return environment, params, adapted, policy
    numbers = Gaussian(jnp.zeros(adapted.actions), jnp.zeros(adapted.actions))
    return (
        environment,
        params,
        adapted,
        memoryless_policy(lambda *_: None, lambda *_: numbers, gaussian),
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_walk_is_that_of_gymnax_with_the_same_keys_and_actions(name):
    environment, params, adapted, policy = made(name)
    walk = jax.jit(partial(rollout, adapted, policy, None, horizon=HORIZON, trajectories=1))
    trajectories = jax.tree.map(lambda leaf: leaf[0], walk(params, KEY))

    reset_key, walk_key = jax.random.split(jax.random.split(KEY, 1)[0])
    observation, state = environment.reset_env(reset_key, params)
    step = jax.jit(environment.step_env)
    dtype = jax.dtypes.canonicalize_dtype(environment.action_space(params).dtype)
    for time, key in enumerate(jax.random.split(walk_key, HORIZON)):
        if not trajectories.alive[time]:
            break
        np.testing.assert_allclose(trajectories.observation[time], observation, rtol=1e-6)
        action = jnp.asarray(trajectories.action[time], dtype)
        observation, state, reward, *_ = step(jax.random.split(key)[1], state, action, params)
        assert trajectories.reward[time] == pytest.approx(float(jnp.squeeze(reward)), rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_advantages_are_finite_whatever_is_observed(name):
    _, params, adapted, policy = made(name)
    collect = jax.jit(partial(collector(adapted, policy, horizon=HORIZON, trajectories=2), None))
    assert jnp.isfinite(collect(params, KEY).advantage).all()


def test_an_episode_ends_at_the_limit_on_time():
    _, params, adapted, policy = made("Pendulum-v1")
    short = params.replace(max_steps_in_episode=5)
    walk = jax.jit(partial(rollout, adapted, policy, None, horizon=HORIZON, trajectories=2))
    trajectories = walk(short, KEY)
    assert (trajectories.alive.sum(axis=1) <= 6).all() and not trajectories.alive[:, -1].any()
