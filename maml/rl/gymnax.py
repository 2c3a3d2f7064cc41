"""Environments of gymnax as environments of `maml.rl`; the package itself is not imported."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from maml.rl.environment import Environment
from maml.types import RandomKey


def from_gymnax(environment: Any, params: PyTree) -> Environment:
    """An environment of gymnax, 0.0.6 to 1.0, or with its methods; its parameters are the task.

    Episodes end where it says so, its limit on time included. Actions have the type of its space.

    Args:
        environment: with `reset_env(key, params)`, `step_env(key, state, action, params)`,
            `action_space(params)` and, where the limit on time is no part of a step,
            `is_truncated(state, params)`.
        params: of any task, for the space of actions; every task needs the same one.

    Raises:
        ValueError: a method is missing, an action is neither a choice nor an array of numbers, or
            (when traced) a step gives something else.
    """
    for method in ("reset_env", "step_env", "action_space"):
        if not callable(getattr(environment, method, None)):
            raise ValueError(f"an environment of gymnax has {method}; {environment!r} has not")
    space = environment.action_space(params)
    choices, shape = getattr(space, "n", None), getattr(space, "shape", None)
    if choices is None and (shape is None or hasattr(space, "spaces")):
        raise ValueError(f"an action must be of one Discrete or Box space; got {space!r}")
    dtype = jax.dtypes.canonicalize_dtype(space.dtype)  # int64 in older ones, whatever the mode
    truncated = getattr(environment, "is_truncated", None)

    def reset(key: RandomKey, task: PyTree) -> tuple[PyTree, PyTree]:
        observation, state = environment.reset_env(key, task)
        return state, observation

    def step(
        key: RandomKey, state: PyTree, action: Array, task: PyTree
    ) -> tuple[PyTree, PyTree, Array, Array]:
        out = environment.step_env(key, state, action.astype(dtype), task)
        if len(out) != 5:
            raise ValueError(
                "step_env gives (observation, state, reward, done, info); got"
                f" {len(out)} values of {environment!r}"
            )
        observation, state, reward, done, _ = out
        if truncated:
            done |= truncated(state, task)
        return state, observation, jnp.asarray(reward, float), jnp.asarray(done)

    return Environment(reset, step, int(choices) if choices is not None else tuple(shape or ()))
