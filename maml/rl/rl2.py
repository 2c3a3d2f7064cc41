"""Sequences of episodes: trials for policies with memory, and the return in MAML's code."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree, Scalar

from maml._checks import check_count, check_key
from maml.rl._trajectories import check_trajectories
from maml.rl.environment import (
    Environment,
    Trajectories,
    check_environment,
    rollout,
    step_environment,
)
from maml.rl.policies import Policy, check_policy, flatten_observation
from maml.rows import upcast
from maml.types import Params, RandomKey


class TrialState(NamedTuple):
    """The state of a trial.

    Attributes:
        inner: State of the environment in the current episode.
        age: Number of steps taken in the current episode.
        episode: Number of episodes that have ended.
    """

    inner: PyTree
    age: Array
    episode: Array


def trial_environment(environment: Environment, episodes: int, horizon: int) -> Environment:
    """An environment whose episode is a trial of RL^2, a sequence of episodes of one task.

    The observation is the vector `[observation, last action, last reward, new]`: the observation
    of the episode as a vector, the last action (one-hot if actions are discrete), its reward, and
    1 at the start of an episode. A policy with memory can learn the task from it.

    Args:
        environment: Environment of the episodes.
        episodes: Number of episodes of a trial, >= 1.
        horizon: Maximum number of steps of an episode, >= 1.

    Returns:
        The environment of trials.

    Raises:
        ValueError: a count is below 1, or `environment` is not an `Environment`.

    Duan, Schulman, Chen, Bartlett, Sutskever, Abbeel: RL^2: fast reinforcement learning via slow
    reinforcement learning (2016).
    """
    check_environment(environment)
    check_count(episodes, least=1, of="episodes")
    check_count(horizon, least=1, of="steps of an episode")
    count = environment.actions

    def encode_action(action: Array) -> Array:
        return action.ravel() if isinstance(count, tuple) else jax.nn.one_hot(action, count)

    def observe(observation: PyTree, action: Array, reward: Array, new: Array) -> Array:
        parts = flatten_observation(observation), action, reward[None], new[None]
        return jnp.concatenate([part.astype(float) for part in parts])

    def reset(key: RandomKey, task: PyTree) -> tuple[TrialState, Array]:
        state, observation = environment.reset(key, task)
        blank = jnp.zeros(count).ravel(), jnp.zeros(()), jnp.asarray(True)
        zero = jnp.zeros((), jnp.int32)
        return TrialState(state, zero, zero), observe(observation, *blank)

    def step(
        key: RandomKey, trial: TrialState, action: Array, task: PyTree
    ) -> tuple[TrialState, Array, Array, Array]:
        step_key, reset_key = jax.random.split(key)
        fresh = environment.reset(reset_key, task)
        *after_step, reward, done = step_environment(
            environment, trial.inner, fresh[1], action, task, step_key
        )
        age = trial.age + 1
        ended = done | (age == horizon)
        state, observation = jax.tree.map(
            lambda new, old: jnp.where(ended, new, old), fresh, tuple(after_step)
        )
        episode = trial.episode + ended
        next_trial = TrialState(state, jnp.where(ended, 0, age), episode)
        return (
            next_trial,
            observe(observation, encode_action(action), reward, ended),
            reward,
            episode == episodes,
        )

    return Environment(reset, step, count)


def episode_returns(
    trajectories: Trajectories, episodes: int
) -> Float[Array, "trajectory episode"]:
    """The undiscounted return of each episode of trials; 0 for episodes that were not reached.

    Args:
        trajectories: Trajectories in an environment made by `trial_environment`.
        episodes: Number of episodes of a trial, >= 1.

    Returns:
        The returns, `[trajectory, episode]`.

    Raises:
        ValueError: `episodes` is below 1, or the observations are not vectors, as those of
            `trial_environment` are.
    """
    check_count(episodes, least=1, of="episodes")
    check_trajectories(trajectories)
    if getattr(trajectories.observation, "ndim", None) != 3:
        shapes = jax.tree.map(jnp.shape, trajectories.observation)
        raise ValueError(
            f"observations of trials must be vectors, [trajectory, time, size]; got {shapes}"
        )
    number = jnp.cumsum((trajectories.observation[..., -1] > 0) & trajectories.alive, axis=1) - 1
    in_episode = (number[..., None] == jnp.arange(episodes)) & trajectories.alive[..., None]
    return jnp.sum(upcast(trajectories.reward)[..., None], axis=1, where=in_episode)


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
    """The mean undiscounted return as reported by MAML's code, over finished episodes.

    `trajectories` agents act in parallel, each of which starts a new episode when its episode ends,
    until finished episodes have `trajectories * horizon` steps. Unfinished episodes are dropped, so
    that short episodes have more weight than in the mean return of `rollout`.

    Args:
        environment, params, task, key, horizon, trajectories: As in `rollout`.
        policy: Policy without memory.

    Returns:
        The mean return, a scalar.

    Raises:
        ValueError: as `rollout`, or the policy has a memory.
    """
    check_environment(environment)
    check_policy(policy)
    check_count(horizon, least=1, of="steps of a trajectory")
    check_key(key)
    if jax.tree.leaves(policy.memory):
        raise ValueError("finished_return needs a policy without memory; got one with a memory")
    duration = 2 * horizon
    shapes = jax.eval_shape(environment.reset, key, task)[1]
    flat, unravel = ravel_pytree(
        jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    )

    def apply(params: Params, x: Array, memory: PyTree) -> tuple[PyTree, PyTree]:
        return policy.apply(params, unravel(x[: flat.size].astype(flat.dtype)), memory)

    sequence = trial_environment(environment, duration + 1, horizon)
    counts = {"horizon": duration + 1, "trajectories": trajectories}
    drawn = rollout(sequence, policy._replace(apply=apply), params, task, key, **counts)
    new = drawn.observation[..., -1] > 0
    ended, time = new[:, 1:], jnp.arange(duration)
    start = jax.lax.cummax(jnp.where(new[:, :-1], time, 0), axis=1)
    cumulative = jnp.pad(jnp.cumsum(drawn.reward, axis=1), ((0, 0), (1, 0)))
    returns = cumulative[:, 1:-1] - jnp.take_along_axis(cumulative, start, axis=1)
    steps = jnp.where(ended, time + 1 - start, 0).sum(axis=0)
    steps_before = jnp.cumsum(steps) - steps
    return returns.mean(where=ended & (steps_before < trajectories * horizon))
