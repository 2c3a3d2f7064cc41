"""Meta-reinforcement learning with the library alone: half a minute on one core.

    python examples/reinforcement_learning.py

An agent in the plane is rewarded for being near a goal that it does not see. It adapts by one
policy-gradient step on 20 trajectories; ProMP learns where adaptation starts.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

import maml
from maml import rl

HORIZON, TRAJECTORIES, GOALS = 20, 20, 20


def reset(key, goal):
    """An episode starts at the origin: (state, observation)."""
    return jnp.zeros(2), jnp.zeros(2)


def step(key, place, action, goal):
    """A step of at most 0.1 in each direction: (state, observation, reward, whether it ended)."""
    place = place + jnp.clip(action, -0.1, 0.1)
    return place, place, -jnp.linalg.norm(place - goal), jnp.asarray(False)


class Network(NamedTuple):
    """A policy network with one hidden layer; any object with `init` and `apply` will do."""

    width: int = 32

    def init(self, key, observation):
        """Initial parameters."""
        draw, keys = jax.nn.initializers.lecun_normal(), jax.random.split(key)
        return {
            "in": draw(keys[0], (3, self.width)),
            "out": draw(keys[1], (self.width, 2)) * 0.1,
            "log_std": jnp.full(2, -2.0),
        }

    def apply(self, params, observation):
        """The distribution of the action."""
        hidden = jnp.tanh(jnp.append(observation, 1.0) @ params["in"])
        return rl.Gaussian(hidden @ params["out"], params["log_std"])


def goals(count):
    """A sampler of tasks, which are goals."""
    return lambda key: jax.random.uniform(key, (count, 2), minval=-1.0, maxval=1.0)


def main(meta_steps=200):
    """Meta-trains, and prints the mean return after 0, 1 and 2 inner steps."""
    environment, policy = rl.Environment(reset, step, actions=(2,)), rl.gaussian_policy(Network())
    counts = {"inner_steps": 1, "horizon": HORIZON, "trajectories": TRAJECTORIES}
    recipe = rl.promp(environment, policy, optax.sgd(0.1), optax.adam(3e-3), **counts)

    @jax.jit
    def train(state):
        key = jax.random.key(1)
        return maml.iterate(recipe.step, goals(GOALS), state, key, meta_steps)

    @jax.jit
    def evaluate(params):
        test, key = goals(100)(jax.random.key(2)), jax.random.key(3)
        tasks = maml.Episode(support=test, query=test)
        return maml.evaluate(recipe.learner, recipe.loss, params, tasks, key, inner_steps=2)

    state, _ = train(recipe.init(jax.random.key(0), jnp.zeros(2)))
    mean, ci95 = maml.mean_ci95(evaluate(state.params)[1]["return"])
    for steps in range(3):
        print(f"inner steps: {steps}, return: {mean[steps]:.1f} ± {ci95[steps]:.1f}")
    return mean


if __name__ == "__main__":
    main()
