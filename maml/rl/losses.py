"""Policy gradients as losses, on given trajectories or on those of the current policy."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, Scalar

from maml._checks import check_callable, check_count, check_flags, check_number
from maml._leaves import is_real
from maml._returns import checked_number
from maml.rl._trajectories import check_trajectories
from maml.rl.baselines import advantages
from maml.rl.environment import (
    Environment,
    Trajectories,
    check_environment,
    fill_after_end,
    rollout,
    undiscounted_returns,
)
from maml.rl.policies import Policy, check_policy
from maml.surrogates import Surrogate, likelihood_ratio
from maml.types import LossFn, Metrics, Params, RandomKey


class Experience(NamedTuple):
    """Trajectories and their advantages.

    Attributes:
        trajectories: Trajectories of one task.
        advantage: Advantages of the actions, `[trajectory, time]`.
    """

    trajectories: Trajectories
    advantage: Float[Array, "trajectory time"]


Collect = Callable[[Params, PyTree, RandomKey], Experience]
"""`collect(params, task, key) -> Experience` of a policy in one task."""


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
    """A function that draws trajectories of a policy and computes their advantages.

    Args:
        environment, policy, horizon, trajectories: As in `rollout`.
        discount, gae_lambda, normalise: As in `advantages`.
        inner_reward: Function of the rewards from whose values the advantages are computed; by
            default the identity.

    Returns:
        The function `collect(params, task, key) -> Experience`.

    Raises:
        ValueError: `environment` or `policy` has the wrong type; a count is below 1; discount or
            gae_lambda is outside [0, 1]; `inner_reward` is not a function, or (when traced) does
            not return a number for each reward.
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
        drawn = rollout(environment, policy, params, task, key, **counts)
        inner_rewards = inner_reward(drawn.reward)
        if not is_real(inner_rewards):
            raise ValueError(f"inner_reward must return real numbers; got {inner_rewards!r}")
        inner_rewards = jnp.asarray(inner_rewards)
        if inner_rewards.shape != drawn.reward.shape:
            raise ValueError(
                "inner_reward must return a number for each reward, of shape"
                f" {drawn.reward.shape}; got the shape {inner_rewards.shape}"
            )
        with_inner_rewards = drawn._replace(reward=jnp.where(drawn.alive, inner_rewards, 0))
        options = {"discount": discount, "gae_lambda": gae_lambda, "normalise": normalise}
        advantage = advantages(with_inner_rewards, **options)
        return Experience(drawn, jax.lax.stop_gradient(advantage))

    return collect


def surrogate_loss(policy: Policy, surrogate: Surrogate = likelihood_ratio) -> LossFn:
    """The negative surrogate per step:  L(theta) = - sum surrogate(l, A) / number of steps.

    Steps after the end contribute to no value and no derivative, whatever their observations. An
    action that the policy now forbids has the probability ratio 0.

    Args:
        policy: Policy whose parameters are trained.
        surrogate: Surrogate of one trajectory, see `maml.surrogates`.

    Returns:
        A loss of an `Experience`. Its metrics are `return`, the mean undiscounted return of the
        trajectories, and `kl`, the mean divergence of the policy from the one that acted, in nats.
        If no step counts, loss and kl are 0, and the return is NaN.

    Raises:
        ValueError: `policy` is not a policy, `surrogate` is not a surrogate, or (when traced) the
            batch is not an `Experience`.
    """
    check_policy(policy)
    check_callable(surrogate, "surrogate", "log_ratio, advantage")

    def loss(params: Params, batch: Experience, key: RandomKey) -> tuple[Scalar, Metrics]:
        if not isinstance(batch, Experience):
            raise ValueError(
                "the batch must be an Experience, as a function of maml.rl.collector returns; got"
                f" {type(batch).__name__}"
            )
        check_trajectories(batch.trajectories)
        alive = batch.trajectories.alive
        if not is_real(batch.advantage) or jnp.shape(batch.advantage) != alive.shape:
            raise ValueError(
                f"advantages must be real numbers {list(alive.shape)}; got"
                f" {jnp.shape(batch.advantage) if is_real(batch.advantage) else batch.advantage!r}"
            )
        drawn = fill_after_end(batch.trajectories)
        distribution = jax.vmap(policy.apply_sequence, (None, 0))(params, drawn.observation)
        log_prob = map_over_steps(policy.family.log_prob)(distribution, drawn.action)
        log_ratio = jnp.where(alive, log_prob - drawn.log_prob, 0)
        values = jax.vmap(checked_number(surrogate, "a surrogate"))(
            log_ratio, jnp.where(alive, batch.advantage, 0)
        )
        kl = map_over_steps(policy.family.kl)(drawn.distribution, distribution)
        returns = undiscounted_returns(drawn)
        metrics = {
            "return": returns.mean(where=alive.any(axis=1)),
            "kl": jnp.sum(kl, where=alive) / count_steps(alive),
        }
        return -values.sum() / count_steps(alive), metrics

    return loss


def policy_gradient(
    collect: Collect, policy: Policy, surrogate: Surrogate = likelihood_ratio
) -> LossFn:
    """The loss of a task, on trajectories that the policy draws with the random key of the call.

    Args:
        collect: Function that draws the trajectories, see `collector`.
        policy: Policy whose parameters are trained.
        surrogate: Surrogate of one trajectory, see `maml.surrogates`.

    Returns:
        A loss whose batch is a task of the environment.

    Raises:
        ValueError: `collect` is not a function of `(params, task, key)`; otherwise as
            `surrogate_loss`.
    """
    check_callable(collect, "collect", "params, task, key")
    loss = surrogate_loss(policy, surrogate)

    def on_policy(params: Params, task: PyTree, key: RandomKey) -> tuple[Scalar, Metrics]:
        return loss(params, collect(params, task, key), key)

    return on_policy


def map_over_steps(function: Callable) -> Callable[..., Array]:
    """The function, mapped over trajectories and their steps."""
    return jax.vmap(jax.vmap(function))


def count_steps(alive: Bool[Array, "trajectory time"]) -> Int[Array, ""]:
    """Number of steps that count, or 1 if none does, as the divisor of a sum over them."""
    return jnp.maximum(alive.sum(), 1)
