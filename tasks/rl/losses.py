"""Policy gradients as losses: on trajectories that are there, or drawn by the very policy."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, Scalar

from maml import LossFn
from maml.surrogates import Surrogate, likelihood_ratio
from maml.types import Metrics, Params, RandomKey
from tasks.rl.advantages import advantages
from tasks.rl.environment import Environment, Trajectories, rollout
from tasks.rl.policies import Policy


class Experience(NamedTuple):
    """Trajectories, and how much better each action turned out than expected."""

    seen: Trajectories
    advantage: Float[Array, "trajectory time"]


Collect = Callable[[Params, PyTree, RandomKey], Experience]
"""`collect(params, task, key)`: what a policy experiences in one task."""


def collector(
    environment: Environment,
    policy: Policy,
    *,
    horizon: int,
    trajectories: int,
    discount: float = 0.99,
    smoothing: float = 1.0,
    normalise: bool = True,
    lesson: Callable[[Array], Array] = lambda reward: reward,
) -> Collect:
    """Collects experience.

    Args:
        environment, policy, horizon, trajectories: as in `rollout`.
        discount, smoothing, normalise: as in `advantages`.
        lesson: what is learned from a reward; the advantages are those of it. Default: itself.
    """

    def collect(params: Params, task: PyTree, key: RandomKey) -> Experience:
        counts = {"horizon": horizon, "trajectories": trajectories}
        seen = rollout(environment, policy, params, task, key, **counts)
        judged = seen._replace(reward=lesson(seen.reward) * seen.alive)
        options = {"discount": discount, "smoothing": smoothing, "normalise": normalise}
        advantage = advantages(judged, **options)
        return Experience(seen, jax.lax.stop_gradient(advantage))

    return collect


def surrogate_loss(policy: Policy, surrogate: Surrogate = likelihood_ratio) -> LossFn:
    """Minus a surrogate of the value, a step:  L(theta) = - sum surrogate(l, A) / number of steps.

    Args:
        policy: what the parameters are of.
        surrogate: of one trajectory, see `maml.surrogates`.

    Returns:
        A loss of an `Experience`. Its metrics are `return`, the mean undiscounted return of the
        trajectories, and `kl`, the mean divergence of the policy from the one that acted, in nats.
    """

    def loss(params: Params, batch: Experience, key: RandomKey) -> tuple[Scalar, Metrics]:
        seen, steps = batch.seen, batch.seen.alive.sum()
        distribution = jax.vmap(policy.along, (None, 0))(params, seen.observation)
        log_prob = _twice(policy.family.log_prob)(distribution, seen.action)
        log_ratio = jnp.where(seen.alive, log_prob - seen.log_prob, 0)
        gain = jax.vmap(surrogate)(log_ratio, batch.advantage).sum()
        kl = _twice(policy.family.kl)(seen.distribution, distribution)
        metrics = {
            "return": seen.reward.sum(axis=1).mean(),
            "kl": jnp.sum(kl, where=seen.alive) / steps,
        }
        return -gain / steps, metrics

    return loss


def policy_gradient(
    collect: Collect, policy: Policy, surrogate: Surrogate = likelihood_ratio
) -> LossFn:
    """The loss of a task, on trajectories that the policy itself draws, with the key of the call.

    Args:
        collect: draws them, see `collector`.
        policy: what the parameters are of.
        surrogate: of one trajectory.

    Returns:
        A loss whose batch is a task of the environment.
    """
    loss = surrogate_loss(policy, surrogate)

    def on_policy(params: Params, task: PyTree, key: RandomKey) -> tuple[Scalar, Metrics]:
        return loss(params, collect(params, task, key), key)

    return on_policy


def _twice(function: Callable) -> Callable[..., Array]:
    """Mapped over trajectories and their steps."""
    return jax.vmap(jax.vmap(function))
