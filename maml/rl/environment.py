"""Environments, each two pure functions of one task, and trajectories drawn from them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from maml._checks import check_callable, check_count, check_key
from maml._leaves import is_array, is_real
from maml.rl._trajectories import Trajectories, check_trajectories
from maml.rl.policies import Policy, check_policy
from maml.rows import upcast
from maml.types import Params, RandomKey


class Environment(NamedTuple):
    """A Markov decision process whose task is an argument, so that `jax.vmap` can map over tasks.

    Attributes:
        reset: Function `reset(key, task) -> (state, observation)`; both are any trees of arrays.
        step: Function `step(key, state, action, task) -> (state, observation, reward, done)`. State
            and observation have the shapes of those of `reset`, and are cast to their types. The
            reward is a real number, and `done` is True if no step follows.
        actions: Number of discrete actions, or the shape of a continuous action.
    """

    reset: Callable[[RandomKey, PyTree], tuple[PyTree, PyTree]]
    step: Callable[[RandomKey, PyTree, Array, PyTree], tuple[PyTree, PyTree, Array, Array]]
    actions: int | tuple[int, ...]


def rollout(
    environment: Environment,
    policy: Policy,
    params: Params,
    task: PyTree,
    key: RandomKey,
    *,
    horizon: int,
    trajectories: int,
) -> Trajectories:
    """Draws trajectories of a policy in one task.

    If the distribution of an action is NaN, its reward is NaN.

    Args:
        environment: Environment.
        policy: Policy that acts.
        params: Parameters of the policy, which are treated as constants.
        task: Task of the environment.
        key: Random key, split into one for each trajectory.
        horizon: Maximum number of steps of a trajectory, >= 1.
        trajectories: Number of trajectories, >= 1.

    Returns:
        The trajectories, `[trajectory, time, ...]`.

    Raises:
        ValueError: a count is below 1; `environment`, `policy` or `key` has the wrong type; the
            policy cannot be applied to the observation; its actions are not those of the
            environment; a step changes the shape or kind of a leaf of the state, the observation or
            the memory, or returns a reward that is not a number.
    """
    check_count(horizon, least=1, of="steps of a trajectory")
    check_count(trajectories, least=1, of="trajectories")
    check_key(key)
    check_environment(environment)
    check_policy(policy)
    _check_actions(environment, policy, params, task, key)

    def run_trajectory(key: RandomKey) -> Trajectories:
        reset_key, steps_key = jax.random.split(key)
        state, observation = environment.reset(reset_key, task)

        def step(carry: Any, key: RandomKey) -> tuple[Any, Trajectories]:
            state, observation, memory, alive = carry
            act_key, step_key = jax.random.split(key)
            distribution, after = policy.apply(params, observation, memory)
            memory = _cast_like("memory", memory, after)
            action = policy.family.sample(distribution, act_key)
            log_prob = policy.family.log_prob(distribution, action)
            state, after, reward, done = step_environment(
                environment, state, observation, action, task, step_key
            )
            reward = jnp.where(jnp.isnan(log_prob), jnp.nan, reward)
            reward = jnp.where(alive, reward, 0)
            recorded = Trajectories(observation, action, distribution, log_prob, reward, alive)
            return (state, after, memory, alive & ~done), recorded

        start = state, observation, policy.memory, jnp.asarray(True)
        return jax.lax.scan(step, start, jax.random.split(steps_key, horizon))[1]

    drawn = jax.vmap(run_trajectory)(jax.random.split(key, trajectories))
    return jax.lax.stop_gradient(drawn)


def step_environment(
    environment: Environment,
    state: PyTree,
    observation: PyTree,
    action: Array,
    task: PyTree,
    key: RandomKey,
) -> tuple[PyTree, PyTree, Array, Array]:
    """One step of an environment, with state and observation cast to their types before.

    Args:
        environment: Environment.
        state: State before the step.
        observation: Observation before the step.
        action: Action.
        task: Task of the environment.
        key: Random key of the step.

    Returns:
        The state, observation, reward and `done` after the step.

    Raises:
        ValueError: (when traced) the step does not return these four, or changes their shapes.
    """
    out = environment.step(key, state, action, task)
    if not (isinstance(out, tuple | list) and len(out) == 4):
        raise ValueError(f"a step must return (state, observation, reward, done); got {out}")
    next_state, next_observation, reward, done = out
    return (
        _cast_like("state", state, next_state),
        _cast_like("observation", observation, next_observation),
        _cast_like("reward", jnp.zeros(()), upcast(reward) if is_real(reward) else reward),
        _cast_like("done", jnp.asarray(False), done),
    )


def fill_after_end(trajectories: Trajectories) -> Trajectories:
    """The trajectories, with each step after the end replaced by their first step.

    Observations after the end are arbitrary. If one is NaN, so are the policy's outputs, and the
    derivative even of their product with zero. If the first step does not count either, the step is
    replaced by zeros. The reward of a step that does not count is 0.
    """

    def fill(leaf: Array) -> Array:
        counts = trajectories.alive.reshape(*trajectories.alive.shape, *[1] * (leaf.ndim - 2))
        return jnp.where(counts, leaf, jnp.where(counts[:, :1], leaf[:, :1], 0))

    return jax.tree.map(fill, trajectories)._replace(
        alive=trajectories.alive,
        reward=jnp.where(trajectories.alive, upcast(trajectories.reward), 0),
    )


def undiscounted_returns(trajectories: Trajectories) -> Float[Array, " trajectory"]:
    """The undiscounted return of each trajectory.

    Args:
        trajectories: Trajectories `[trajectory, time]`.

    Returns:
        The sums of the rewards, `[trajectory]`, NaN for a trajectory without a step that counts.
    """
    check_trajectories(trajectories)
    returns = jnp.sum(upcast(trajectories.reward), axis=1, where=trajectories.alive)
    return jnp.where(trajectories.alive.any(axis=1), returns, jnp.nan)


def check_environment(environment: Any) -> None:
    """Refuses a value that is not an `Environment`, or has functions of other arguments.

    Raises:
        ValueError: the value is not an `Environment`, or `reset` or `step` takes other arguments.
    """
    if not isinstance(environment, Environment):
        raise ValueError(
            "the environment must be an Environment(reset, step, actions); got"
            f" {type(environment).__name__}: from_gymnax would work for one of gymnax"
        )
    check_callable(environment.reset, "reset", "key, task")
    check_callable(environment.step, "step", "key, state, action, task")


def _check_actions(
    environment: Environment, policy: Policy, params: Params, task: PyTree, key: RandomKey
) -> None:
    try:
        out = jax.eval_shape(environment.reset, key, task)
    except Exception as error:
        raise ValueError(f"the environment cannot be reset in this task: {error}") from error
    if not (isinstance(out, tuple | list) and len(out) == 2):
        raise ValueError(f"reset must return (state, observation); got {out}")
    observation = out[1]
    if not jax.tree.leaves(observation):
        raise ValueError(
            f"an observation must have an array; got {observation!r}: jnp.ones(1) would work"
        )
    try:
        distribution, _ = jax.eval_shape(policy.apply, params, observation, policy.memory)
    except Exception as error:
        raise ValueError(
            "with these parameters the policy cannot be applied to the environment's observation,"
            f" {observation}: {error}"
        ) from error
    actions = policy.family.actions(distribution)
    if actions != environment.actions:
        raise ValueError(
            f"policy and environment must have the same actions; got {actions} for the policy and"
            f" {environment.actions} for the environment"
        )


def _cast_like(name: str, before: PyTree, after: PyTree) -> PyTree:
    """The results of a step, cast to the types of the values before it."""
    if jax.tree.structure(before) != jax.tree.structure(after):
        raise ValueError(
            f"a step must keep the structure of the {name}, {jax.tree.structure(before)}; got"
            f" {jax.tree.structure(after)}"
        )

    def cast_leaf(path: tuple, old: Array, new: Any) -> Array:
        if not is_array(new):
            raise ValueError(f"a step must return arrays; got {new!r} for the {name}")
        old, new = jnp.asarray(old), jnp.asarray(new)
        if (new.shape, _kind(new.dtype)) != (old.shape, _kind(old.dtype)):
            raise ValueError(
                f"a step must keep {name}{jax.tree_util.keystr(path)} as"
                f" {old.dtype}{list(old.shape)}; got {new.dtype}{list(new.shape)}"
            )
        return new if new.dtype == old.dtype else new.astype(old.dtype)

    return jax.tree.map_with_path(cast_leaf, before, after)


def _kind(dtype: Any) -> Any:
    return next((kind for kind in (np.integer, np.floating) if jnp.issubdtype(dtype, kind)), dtype)
