"""The objective of a policy over architectures, its baseline and its gradient.

An architecture is a trajectory of T actions, its tokens, with one reward at the end. The surrogates
are those of reinforcement learning, `maml.surrogates`.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, Scalar

from maml import surrogates
from maml._returns import checked_number
from maml.search.log_probs import entropy, log_prob
from maml.search.policies import ArchitecturePolicy
from maml.search.rewards import is_broken
from maml.search.space import Tokens
from maml.search.strategies import Batch, Rewards
from maml.types import Params


class ControllerState(NamedTuple):
    """The state of a policy gradient.

    Attributes:
        params: Parameters of the policy.
        opt_state: State of the optimiser.
        baseline: Moving average of the rewards, a scalar.
        lowest: Lowest reward so far, infinity before the first; it replaces broken rewards.
    """

    params: Params
    opt_state: PyTree
    baseline: Float[Array, ""]
    lowest: Float[Array, ""]


def child_objective(
    policy: ArchitecturePolicy,
    surrogate: surrogates.Surrogate,
    params: Params,
    tokens: Tokens,
    old_log_probs: Float[Array, " token"],
    advantage: Scalar,
    entropy_coef: float,
) -> Scalar:
    """The objective of ONE child, to be maximised: a surrogate plus an entropy term.

        surrogate(log pi(tokens) - log mu(tokens), A) + entropy_coef H

    With A = R - b, b any constant and pi = mu, the mean of its derivative over children of pi is
    the derivative of the expected reward, plus that of the entropy given the tokens drawn. A token
    that the policy cannot draw contributes nothing, neither to the value nor to the derivative.

    Args:
        policy: Policy pi.
        surrogate: One of `maml.surrogates`.
        params: Parameters of the policy.
        tokens: Tokens of the child, `[token]`.
        old_log_probs: Log-probabilities log mu of the tokens under the policy that drew them,
            `[token]`.
        advantage: Advantage A, the same for every token of the child.
        entropy_coef: Coefficient of the entropy H.

    Returns:
        The objective, a scalar.
    """
    log_probs = policy.log_probs(params, tokens)
    current = log_prob(log_probs, tokens)
    possible = (current != -jnp.inf) & (old_log_probs != -jnp.inf)
    change = jnp.where(possible, current, 0.0) - jnp.where(possible, old_log_probs, 0.0)
    value = checked_number(surrogate, "a surrogate")(change, jnp.full_like(change, advantage))
    return value + entropy_coef * entropy(log_probs)


def compute_advantages(
    controller: ControllerState, rewards: Rewards, baseline_decay: float
) -> tuple[Float[Array, " child"], ControllerState]:
    """The advantages of rewards over the baseline, and the updated baseline.

        A = R - b,   b <- decay b + (1 - decay) R   for every child

    The first b is the mean of the first batch. Broken rewards are replaced by the lowest reward so
    far; until a reward is not broken, all advantages are 0.

    Args:
        controller: State of the policy gradient before.
        rewards: Rewards of the children, `[child]`, see `is_broken`.
        baseline_decay: Decay of the baseline for every child, in [0, 1).

    Returns:
        The advantages, `[child]`, and the state with the new baseline and lowest reward.
    """
    broken, dtype = is_broken(rewards), controller.baseline.dtype
    rewards = rewards.astype(dtype)
    lowest = jnp.minimum(controller.lowest, jnp.where(broken, jnp.inf, rewards).min())
    rewards = jnp.where(broken, jnp.where(lowest < jnp.inf, lowest, 0.0), rewards)
    baseline = jnp.where(controller.lowest < jnp.inf, controller.baseline, rewards.mean())
    weight = baseline_decay ** len(rewards)
    updated = weight * baseline + (1 - weight) * rewards.mean()
    return rewards - baseline, controller._replace(baseline=updated.astype(dtype), lowest=lowest)


def tokens_log_probs(
    policy: ArchitecturePolicy, params: Params, tokens: Batch
) -> Float[Array, "child token"]:
    """The log-probabilities of the tokens of children that were drawn with these parameters."""
    return jax.vmap(lambda child: log_prob(policy.log_probs(params, child), child))(tokens)


def controller_loss(
    policy: ArchitecturePolicy,
    surrogate: surrogates.Surrogate,
    params: Params,
    tokens: Batch,
    old_log_probs: Float[Array, "child token"],
    advantages: Float[Array, " child"],
    entropy_coef: float,
) -> Scalar:
    """The loss of the policy: minus the mean `child_objective` of a batch of children."""
    objective = partial(child_objective, policy, surrogate, params, entropy_coef=entropy_coef)
    return -jax.vmap(objective)(tokens, old_log_probs, advantages).mean()


controller_gradient = jax.grad(controller_loss, 2)
"""The gradient of `controller_loss` by the parameters, with the same arguments."""
