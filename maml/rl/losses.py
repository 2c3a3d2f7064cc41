"""Policy gradients as losses: on trajectories that are there, or drawn by the very policy."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, Scalar

from maml._checks import check_callable, check_count, check_flags, check_number
from maml.rl.baselines import advantages
from maml.rl.environment import (
    Environment,
    Trajectories,
    check_environment,
    filled,
    rollout,
    undiscounted,
)
from maml.rl.policies import Policy, check_policy
from maml.surrogates import Surrogate, likelihood_ratio
from maml.types import LossFn, Metrics, Params, RandomKey


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
    gae_lambda: float = 1.0,
    normalise: bool = True,
    inner_reward: Callable[[Array], Array] = lambda reward: reward,
) -> Collect:
    """Collects experience.

    Args:
        environment, policy, horizon, trajectories: as in `rollout`.
        discount, gae_lambda, normalise: as in `advantages`.
        inner_reward: Function of the rewards whose values the advantages are computed from; by
            default the rewards themselves.

    Raises:
        ValueError: it is no environment or policy; a count is below 1; discount or gae_lambda is
            outside [0, 1]; `inner_reward` is no function, or (when traced) does not return a number
            for each reward.
    """
    check_environment(environment)
    check_policy(policy)
    check_count(horizon, least=1, of="steps of a trajectory")
    check_count(trajectories, least=1, of="trajectories")
    check_number(discount, "discount", least=0, most=1)
    check_number(gae_lambda, "gae_lambda", least=0, most=1)
    check_callable(inner_reward, "inner_reward", "reward")
    check_flags(normalise=normalise)

    def collect(params: Params, task: PyTree, key: RandomKey) -> Experience:
        counts = {"horizon": horizon, "trajectories": trajectories}
        seen = rollout(environment, policy, params, task, key, **counts)
        learned = jnp.asarray(inner_reward(seen.reward))
        if learned.shape != seen.reward.shape:
            raise ValueError(
                "inner_reward returns a number for each reward, of shape"
                f" {seen.reward.shape}; got the shape {learned.shape}"
            )
        judged = seen._replace(reward=jnp.where(seen.alive, learned, 0))
        options = {"discount": discount, "gae_lambda": gae_lambda, "normalise": normalise}
        advantage = advantages(judged, **options)
        return Experience(seen, jax.lax.stop_gradient(advantage))

    return collect


def surrogate_loss(policy: Policy, surrogate: Surrogate = likelihood_ratio) -> LossFn:
    """Minus a surrogate of the value, a step:  L(theta) = - sum surrogate(l, A) / number of steps.

    Steps after the end count neither in values nor in derivatives, whatever was observed there. An
    action that was taken and that the policy has come to forbid has the probability ratio 0.

    Args:
        policy: what the parameters are of.
        surrogate: of one trajectory, see `maml.surrogates`.

    Returns:
        A loss of an `Experience`. Its metrics are `return`, the mean undiscounted return of the
        trajectories, and `kl`, the mean divergence of the policy from the one that acted, in nats.
        Where no step counts, loss and kl are 0, and the return is NaN.

    Raises:
        ValueError: it is no policy or no surrogate, or (when traced) the batch is no `Experience`.
    """
    check_policy(policy)
    check_callable(surrogate, "surrogate", "log_ratio, advantage")

    def loss(params: Params, batch: Experience, key: RandomKey) -> tuple[Scalar, Metrics]:
        if not isinstance(batch, Experience):
            raise ValueError(
                "the batch must be an Experience, as maml.rl.losses.collector makes it; got"
                f" {type(batch).__name__}"
            )
        seen, alive = filled(batch.seen), batch.seen.alive
        distribution = jax.vmap(policy.along, (None, 0))(params, seen.observation)
        log_prob = twice(policy.family.log_prob)(distribution, seen.action)
        log_ratio = jnp.where(alive, log_prob - seen.log_prob, 0)
        gains = jax.vmap(surrogate)(log_ratio, jnp.where(alive, batch.advantage, 0))
        kl = twice(policy.family.kl)(seen.distribution, distribution)
        returns = undiscounted(seen)
        metrics = {
            "return": returns.mean(where=alive.any(axis=1)),
            "kl": jnp.sum(kl, where=alive) / steps(alive),
        }
        return -gains.sum() / steps(alive), metrics

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

    Raises:
        ValueError: `collect` is no function of `(params, task, key)`; otherwise as
            `surrogate_loss`.
    """
    check_callable(collect, "collect", "params, task, key")
    loss = surrogate_loss(policy, surrogate)

    def on_policy(params: Params, task: PyTree, key: RandomKey) -> tuple[Scalar, Metrics]:
        return loss(params, collect(params, task, key), key)

    return on_policy


def twice(function: Callable) -> Callable[..., Array]:
    """Mapped over trajectories and their steps."""
    return jax.vmap(jax.vmap(function))


def steps(alive: Bool[Array, "trajectory time"]) -> Int[Array, ""]:
    """How many steps count, or 1 where none does, to divide a sum of zeros by."""
    return jnp.maximum(alive.sum(), 1)
