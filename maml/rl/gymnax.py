"""Conversion of gymnax environments; the package gymnax itself is not imported."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from maml.rl.environment import Environment
from maml.types import RandomKey


def from_gymnax(environment: Any, params: PyTree) -> Environment:
    """An environment of gymnax (0.0.6 to 1.0), whose parameters are the task.

    Episodes end where the environment ends them, including its time limit. Actions have the type
    of its action space.

    Args:
        environment: Environment with `reset_env(key, params)`,
            `step_env(key, state, action, params)`, `action_space(params)` and, if steps do not
            apply the time limit, `is_truncated(state, params)`.
        params: Parameters of any task, which give the action space; it must be the same in every
            task.

    Returns:
        The environment for `maml.rl`.

    Raises:
        ValueError: a method is missing, the action space is neither Discrete nor Box, or (when
            traced) a step returns something else.
    """
    for method in ("reset_env", "step_env", "action_space"):
        if not callable(getattr(environment, method, None)):
            raise ValueError(f"an environment of gymnax must have {method}; got {environment!r}")
    space = environment.action_space(params)
    num_actions, shape = getattr(space, "n", None), getattr(space, "shape", None)
    if num_actions is None and (shape is None or hasattr(space, "spaces")):
        raise ValueError(f"the action space must be one Discrete or Box; got {space!r}")
    dtype = jax.dtypes.canonicalize_dtype(space.dtype)  # always int64 in older versions
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
                "step_env must return (observation, state, reward, done, info); got"
                f" {len(out)} values of {environment!r}"
            )
        observation, state, reward, done, _ = out
        if truncated:
            done |= truncated(state, task)
        return state, observation, jnp.asarray(reward, float), jnp.asarray(done)

    return Environment(
        reset, step, int(num_actions) if num_actions is not None else tuple(shape or ())
    )
