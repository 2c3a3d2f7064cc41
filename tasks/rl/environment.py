"""Environments as two pure functions of one task, and trajectories drawn from them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from maml._checks import check_count
from maml.types import Params, RandomKey
from tasks.rl.policies import Policy


class Environment(NamedTuple):
    """A Markov decision process; the task is an argument, so that a map over tasks is any map.

    Attributes:
        reset: `reset(key, task) -> (state, observation)`.
        step: `step(key, state, action, task) -> (state, observation, reward, done)`; the reward is
            a number, and `done` says that no step follows.
        actions: the number of actions to choose from, or the shape of a vector of numbers.
    """

    reset: Callable[[RandomKey, PyTree], tuple[PyTree, Array]]
    step: Callable[[RandomKey, PyTree, Array, PyTree], tuple[PyTree, Array, Array, Array]]
    actions: int | tuple[int, ...]


class Trajectories(NamedTuple):
    """What happened, step by step; steps after the end are there, and do not count.

    Attributes:
        observation: what the policy saw, `[trajectory, time, ...]`.
        action: what it did.
        distribution: of its actions, as the policy's family describes it.
        log_prob: of the action, in nats.
        reward: for the action; 0 after the end.
        alive: whether the step counts: no earlier one was the last.
    """

    observation: Float[Array, "trajectory time *observation"]
    action: Array
    distribution: PyTree
    log_prob: Float[Array, "trajectory time"]
    reward: Float[Array, "trajectory time"]
    alive: Bool[Array, "trajectory time"]


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
    """Trajectories of a policy in one task, side by side.

    Args:
        environment: where.
        policy: what acts.
        params: of the policy; constants here.
        task: which of the environment's tasks.
        key: split into one key a trajectory.
        horizon: the most steps of a trajectory, >= 1.
        trajectories: how many, >= 1.

    Raises:
        ValueError: a count is below 1; the policy's actions are not the environment's; a step
            changes the shape or type of a leaf of the state or of the observation, or gives a
            reward that is no number.
    """
    check_count(horizon, least=1, of="steps of a trajectory")
    check_count(trajectories, least=1, of="trajectories")
    _check(environment, policy, params, task, key)

    def one(key: RandomKey) -> Trajectories:
        reset_key, walk_key = jax.random.split(key)
        state, observation = environment.reset(reset_key, task)

        def step(carry: Any, key: RandomKey) -> tuple[Any, Trajectories]:
            state, observation, memory, alive = carry
            act_key, step_key = jax.random.split(key)
            distribution, memory = policy.apply(params, observation, memory)
            action = policy.family.sample(distribution, act_key)
            log_prob = policy.family.log_prob(distribution, action)
            state, after, reward, done = environment.step(step_key, state, action, task)
            reward = jnp.where(alive, reward, 0)
            seen = Trajectories(observation, action, distribution, log_prob, reward, alive)
            return (state, after, memory, alive & ~done), seen

        start = state, observation, policy.memory, jnp.asarray(True)
        return jax.lax.scan(step, start, jax.random.split(walk_key, horizon))[1]

    drawn = jax.vmap(one)(jax.random.split(key, trajectories))
    return jax.lax.stop_gradient(drawn)


def _check(
    environment: Environment, policy: Policy, params: Params, task: PyTree, key: RandomKey
) -> None:
    state, observation = jax.eval_shape(environment.reset, key, task)
    distribution, _ = jax.eval_shape(policy.apply, params, observation, policy.memory)
    actions = policy.family.actions(distribution)
    if actions != environment.actions:
        raise ValueError(f"the environment has actions {environment.actions}; the policy {actions}")
    action = jax.eval_shape(policy.family.sample, distribution, key)
    after = jax.eval_shape(environment.step, key, state, action, task)
    number = jax.ShapeDtypeStruct((), jnp.result_type(float))
    truth = jax.ShapeDtypeStruct((), jnp.bool)
    wanted = {"state": state, "observation": observation, "reward": number, "done": truth}
    for (name, was), now in zip(wanted.items(), after, strict=True):
        _check_same(name, was, now)


def _check_same(name: str, was: PyTree, now: PyTree) -> None:
    before, after = (dict(jax.tree.leaves_with_path(tree)) for tree in (was, now))
    if before.keys() != after.keys():
        raise ValueError(f"a step changes the structure of the {name}")
    for path, leaf in before.items():
        got = after[path]
        if (got.shape, got.dtype) != (leaf.shape, leaf.dtype):
            raise ValueError(
                f"a step must keep {name}{jax.tree_util.keystr(path)} as"
                f" {leaf.dtype}{list(leaf.shape)}; it gives {got.dtype}{list(got.shape)}"
            )


def from_gymnax(environment: Any, params: PyTree) -> Environment:
    """An environment of gymnax (or with its methods), whose parameters are the task.

    Episodes end where it says so, its limit on time included.

    Args:
        environment: with `reset_env(key, params)`, `step_env(key, state, action, params)` and
            `action_space(params)`.
        params: of any task, for the space of actions; every task needs the same one.
    """
    space = environment.action_space(params)

    def reset(key: RandomKey, task: PyTree) -> tuple[PyTree, Array]:
        observation, state = environment.reset_env(key, task)
        return state, observation

    def step(
        key: RandomKey, state: PyTree, action: Array, task: PyTree
    ) -> tuple[PyTree, Array, Array, Array]:
        observation, state, reward, done, _ = environment.step_env(key, state, action, task)
        return state, observation, jnp.asarray(reward, float), jnp.asarray(done)

    return Environment(reset, step, getattr(space, "n", None) or tuple(space.shape))
