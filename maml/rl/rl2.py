"""Episodes in a row: what a policy that remembers learns from, and what MAML's code counts."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree, Scalar

from maml._checks import check_count, check_key
from maml.rl.environment import (
    Environment,
    Trajectories,
    advance,
    check_environment,
    rollout,
)
from maml.rl.policies import Policy, check_policy, vector
from maml.rows import wide
from maml.types import Params, RandomKey


class Trial(NamedTuple):
    """State of a trial: that of the episode, its age in steps, and how many went before."""

    inner: PyTree
    age: Array
    episode: Array


def trials(environment: Environment, episodes: int, horizon: int) -> Environment:
    """Episodes of one task in a row, as one long one: what RL^2 calls a trial.

    The observation is `[observation, last action, last reward, new]`: what is seen in the episode,
    in one vector, what was done last (one-hot where there is a choice) and what came of it, and 1
    where an episode begins. A policy that remembers can learn the task from it.

    Args:
        environment: of the episodes.
        episodes: how many make a trial, >= 1.
        horizon: the most steps of an episode, >= 1.

    Raises:
        ValueError: a count is below 1, or it is no environment.

    Duan, Schulman, Chen, Bartlett, Sutskever, Abbeel: RL^2: fast reinforcement learning via slow
    reinforcement learning (2016).
    """
    check_environment(environment)
    check_count(episodes, least=1, of="episodes")
    check_count(horizon, least=1, of="steps of an episode")
    count = environment.actions

    def shown(action: Array) -> Array:
        return jax.nn.one_hot(action, count) if isinstance(count, int) else action.ravel()

    def observe(observation: PyTree, action: Array, reward: Array, new: Array) -> Array:
        parts = vector(observation), action, reward[None], new[None]
        return jnp.concatenate([part.astype(float) for part in parts])

    def reset(key: RandomKey, task: PyTree) -> tuple[Trial, Array]:
        state, observation = environment.reset(key, task)
        nothing = jnp.zeros(count).ravel(), jnp.zeros(()), jnp.asarray(True)
        zero = jnp.zeros((), jnp.int32)
        return Trial(state, zero, zero), observe(observation, *nothing)

    def step(
        key: RandomKey, trial: Trial, action: Array, task: PyTree
    ) -> tuple[Trial, Array, Array, Array]:
        step_key, reset_key = jax.random.split(key)
        anew = environment.reset(reset_key, task)
        *now, reward, done = advance(environment, trial.inner, anew[1], action, task, step_key)
        age = trial.age + 1
        over = done | (age == horizon)
        state, seen = jax.tree.map(lambda new, old: jnp.where(over, new, old), anew, tuple(now))
        episode = trial.episode + over
        after = Trial(state, jnp.where(over, 0, age), episode)
        return after, observe(seen, shown(action), reward, over), reward, episode == episodes

    return Environment(reset, step, count)


def by_episode(seen: Trajectories, episodes: int) -> Float[Array, "trajectory episode"]:
    """The undiscounted return of each episode of trials; 0 where a trial did not come to it.

    Raises:
        ValueError: `episodes` is below 1, or what was observed are no vectors, as of `trials`.
    """
    check_count(episodes, least=1, of="episodes")
    if getattr(seen.observation, "ndim", None) != 3:
        shapes = jax.tree.map(jnp.shape, seen.observation)
        raise ValueError(f"trials show vectors, [trajectory, time, size]; got {shapes}")
    number = jnp.cumsum((seen.observation[..., -1] > 0) & seen.alive, axis=1) - 1
    during = (number[..., None] == jnp.arange(episodes)) & seen.alive[..., None]
    return jnp.sum(wide(seen.reward)[..., None], axis=1, where=during)


def finished_return(
    environment: Environment,
    policy: Policy,
    params: Params,
    task: PyTree,
    key: RandomKey,
    *,
    horizon: int,
    trajectories: int,
) -> Scalar:
    """The mean undiscounted return as MAML's code reports it, over episodes that have finished.

    So many walkers go side by side, and whoever is done starts anew, until finished episodes hold
    `trajectories * horizon` steps. The others are dropped, so that short ones count for more than
    in the mean return of `rollout`.

    Arguments and errors are those of `rollout`, for a policy without memory: one with a memory is
    refused too.
    """
    check_environment(environment)
    check_policy(policy)
    check_count(horizon, least=1, of="steps of a trajectory")
    check_key(key)
    if jax.tree.leaves(policy.memory):
        raise ValueError("finished_return is of a policy without memory; got one that remembers")
    moments = 2 * horizon
    shapes = jax.eval_shape(environment.reset, key, task)[1]
    flat, unravel = ravel_pytree(
        jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    )

    def apply(params: Params, x: Array, memory: PyTree) -> tuple[PyTree, PyTree]:
        return policy.apply(params, unravel(x[: flat.size].astype(flat.dtype)), memory)

    row = trials(environment, moments + 1, horizon)
    counts = {"horizon": moments + 1, "trajectories": trajectories}
    seen = rollout(row, policy._replace(apply=apply), params, task, key, **counts)
    new = seen.observation[..., -1] > 0
    over, time = new[:, 1:], jnp.arange(moments)
    began = jax.lax.cummax(jnp.where(new[:, :-1], time, 0), axis=1)
    gained = jnp.pad(jnp.cumsum(seen.reward, axis=1), ((0, 0), (1, 0)))
    total = gained[:, 1:-1] - jnp.take_along_axis(gained, began, axis=1)
    steps = jnp.where(over, time + 1 - began, 0).sum(axis=0)
    before = jnp.cumsum(steps) - steps
    return total.mean(where=over & (before < trajectories * horizon))
