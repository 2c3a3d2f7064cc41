"""Environments as two pure functions of one task, and trajectories drawn from them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from maml._checks import check_callable, check_count, check_key
from maml.rl.policies import Policy, check_policy
from maml.rows import wide
from maml.types import Params, RandomKey


class Environment(NamedTuple):
    """A Markov decision process; the task is an argument, so that a map over tasks is any map.

    Attributes:
        reset: `reset(key, task) -> (state, observation)`, both any tree of arrays.
        step: `step(key, state, action, task) -> (state, observation, reward, done)`; state and
            observation as those of `reset` in shape, and cast to their types; the reward is a real
            number, also a Python one, and `done` says that no step follows.
        actions: the number of actions to choose from, or the shape of a vector of numbers.
    """

    reset: Callable[[RandomKey, PyTree], tuple[PyTree, PyTree]]
    step: Callable[[RandomKey, PyTree, Array, PyTree], tuple[PyTree, PyTree, Array, Array]]
    actions: int | tuple[int, ...]


class Trajectories(NamedTuple):
    """What happened, step by step; steps after the end are there, and do not count.

    Attributes:
        observation: what the policy saw, each leaf `[trajectory, time, ...]`.
        action: what it did.
        distribution: of its actions, as the policy's family describes it.
        log_prob: of the action, in nats.
        reward: for the action; 0 after the end.
        alive: whether the step counts: no earlier one was the last.
    """

    observation: PyTree
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

    An action of a policy that is broken, with a distribution that is NaN, earns NaN.

    Args:
        environment: where.
        policy: what acts.
        params: of the policy; constants here.
        task: which of the environment's tasks.
        key: split into one key a trajectory.
        horizon: the most steps of a trajectory, >= 1.
        trajectories: how many, >= 1.

    Raises:
        ValueError: a count is below 1; it is no environment, policy or key; the policy cannot be
            applied to the observation; its actions are not the environment's; a step changes the
            shape or kind of a leaf of the state, the observation or the memory, or gives a reward
            that is no number.
    """
    check_count(horizon, least=1, of="steps of a trajectory")
    check_count(trajectories, least=1, of="trajectories")
    check_key(key)
    check_environment(environment)
    check_policy(policy)
    _check_actions(environment, policy, params, task, key)

    def one(key: RandomKey) -> Trajectories:
        reset_key, walk_key = jax.random.split(key)
        state, observation = environment.reset(reset_key, task)

        def step(carry: Any, key: RandomKey) -> tuple[Any, Trajectories]:
            state, observation, memory, alive = carry
            act_key, step_key = jax.random.split(key)
            distribution, after = policy.apply(params, observation, memory)
            memory = _alike("memory", memory, after)
            action = policy.family.sample(distribution, act_key)
            log_prob = policy.family.log_prob(distribution, action)
            state, after, reward, done = advance(
                environment, state, observation, action, task, step_key
            )
            reward = jnp.where(jnp.isnan(log_prob), jnp.nan, reward)
            reward = jnp.where(alive, reward, 0)
            seen = Trajectories(observation, action, distribution, log_prob, reward, alive)
            return (state, after, memory, alive & ~done), seen

        start = state, observation, policy.memory, jnp.asarray(True)
        return jax.lax.scan(step, start, jax.random.split(walk_key, horizon))[1]

    drawn = jax.vmap(one)(jax.random.split(key, trajectories))
    return jax.lax.stop_gradient(drawn)


def advance(
    environment: Environment,
    state: PyTree,
    observation: PyTree,
    action: Array,
    task: PyTree,
    key: RandomKey,
) -> tuple[PyTree, PyTree, Array, Array]:
    """A step of an environment, of which state and observation keep their types.

    Raises:
        ValueError: (when traced) it returns something else than a step does.
    """
    out = environment.step(key, state, action, task)
    if not (isinstance(out, tuple | list) and len(out) == 4):
        raise ValueError(f"a step gives (state, observation, reward, done); got {out}")
    after, seen, reward, done = out
    return (
        _alike("state", state, after),
        _alike("observation", observation, seen),
        _alike("reward", jnp.zeros(()), jax.tree.map(wide, reward)),
        _alike("done", jnp.asarray(False), done),
    )


def filled(seen: Trajectories) -> Trajectories:
    """The trajectories, with their first step in the place of each that does not count.

    There the environment may have shown anything; what comes out of a policy that saw a NaN gets
    into derivatives, even where it is multiplied by zero. Zeros stand where the first step does not
    count either. The reward of a step that does not count is 0.
    """

    def fill(leaf: Array) -> Array:
        counts = seen.alive.reshape(*seen.alive.shape, *[1] * (leaf.ndim - 2))
        return jnp.where(counts, leaf, jnp.where(counts[:, :1], leaf[:, :1], 0))

    return jax.tree.map(fill, seen)._replace(
        alive=seen.alive, reward=jnp.where(seen.alive, wide(seen.reward), 0)
    )


def undiscounted(seen: Trajectories) -> Float[Array, " trajectory"]:
    """The sum of the rewards of each trajectory, NaN where it has no step that counts."""
    total = jnp.sum(wide(seen.reward), axis=1, where=seen.alive)
    return jnp.where(seen.alive.any(axis=1), total, jnp.nan)


def check_environment(environment: Any) -> None:
    """Refuses what is not an `Environment`, or has functions of other arguments.

    Raises:
        ValueError: saying what is wanted.
    """
    if not isinstance(environment, Environment):
        raise ValueError(
            "an Environment(reset, step, actions) is wanted, as from_gymnax makes it; got"
            f" {type(environment).__name__}"
        )
    check_callable(environment.reset, "reset", "key, task")
    check_callable(environment.step, "step", "key, state, action, task")


def _check_actions(
    environment: Environment, policy: Policy, params: Params, task: PyTree, key: RandomKey
) -> None:
    out = jax.eval_shape(environment.reset, key, task)
    if not (isinstance(out, tuple | list) and len(out) == 2):
        raise ValueError(f"reset gives (state, observation); got {out}")
    observation = out[1]
    if not jax.tree.leaves(observation):
        raise ValueError("there is nothing to observe: jnp.ones(1) will do")
    try:
        distribution, _ = jax.eval_shape(policy.apply, params, observation, policy.memory)
    except Exception as error:
        raise ValueError(
            "with these parameters the policy cannot be applied to the environment's observation,"
            f" {observation}: {error}"
        ) from error
    actions = policy.family.actions(distribution)
    if actions != environment.actions:
        raise ValueError(f"the environment has actions {environment.actions}; the policy {actions}")


def _alike(name: str, was: PyTree, now: PyTree) -> PyTree:
    """What came out of a step, in the types of what went in."""
    if jax.tree.structure(was) != jax.tree.structure(now):
        raise ValueError(f"a step changes the structure of the {name}")

    def same(path: tuple, old: Array, new: Array) -> Array:
        old, new = jnp.asarray(old), jnp.asarray(new)
        if (new.shape, _kind(new.dtype)) != (old.shape, _kind(old.dtype)):
            raise ValueError(
                f"a step must keep {name}{jax.tree_util.keystr(path)} as"
                f" {old.dtype}{list(old.shape)}; it gives {new.dtype}{list(new.shape)}"
            )
        return new if new.dtype == old.dtype else new.astype(old.dtype)

    return jax.tree.map_with_path(same, was, now)


def _kind(dtype: Any) -> Any:
    return next((kind for kind in (np.integer, np.floating) if jnp.issubdtype(dtype, kind)), dtype)
