"""Trajectories of equal length, and the check that a value is such."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from maml._leaves import is_number, is_real


class Trajectories(NamedTuple):
    """Trajectories of equal length, whose steps after the end of an episode do not count.

    Attributes:
        observation: Observations of the policy, each leaf `[trajectory, time, ...]`.
        action: Actions, `[trajectory, time, ...]`.
        distribution: Distributions of the actions, in the form of the policy's family.
        log_prob: Log-probabilities of the actions, in nats, `[trajectory, time]`.
        reward: Rewards of the actions, 0 after the end, `[trajectory, time]`.
        alive: Mask of the steps that count, those up to the end of the episode,
            `[trajectory, time]`.
    """

    observation: PyTree
    action: Array
    distribution: PyTree
    log_prob: Float[Array, "trajectory time"]
    reward: Float[Array, "trajectory time"]
    alive: Bool[Array, "trajectory time"]


def check_trajectories(trajectories: Any) -> None:
    """Refuses a value that is not `Trajectories`, or whose rewards do not fit the mask.

    Raises:
        ValueError: the value is not `Trajectories`, reward and mask are not real numbers and bools
            `[trajectory, time]`, or observations are missing or no numbers.
    """
    if not isinstance(trajectories, Trajectories):
        raise ValueError(
            f"trajectories must be Trajectories, as rollout returns; got {trajectories!r}"
        )
    alive, reward = trajectories.alive, trajectories.reward
    shape, dtype = jnp.shape(alive), getattr(alive, "dtype", type(alive))
    if len(shape) != 2 or dtype != np.bool_:
        raise ValueError(f"alive must be bools [trajectory, time]; got {dtype}{list(shape)}")
    if not is_real(reward) or jnp.shape(reward) != shape:
        got = list(jnp.shape(reward)) if is_real(reward) else repr(reward)
        raise ValueError(f"rewards must be real numbers {list(shape)}; got {got}")
    leaves = jax.tree.leaves(trajectories.observation)
    if not leaves or not all(map(is_number, leaves)):
        raise ValueError(
            "observations must be arrays of numbers [trajectory, time, ...]; got"
            f" {trajectories.observation}"
        )
