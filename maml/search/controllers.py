"""Policy gradients over architectures: REINFORCE, and PPO as in the search for NASNet.

An architecture is a trajectory of T actions, its tokens, with one reward at the end. The surrogates
are those of reinforcement learning, `maml.surrogates`.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree, Scalar

from maml import surrogates
from maml._checks import check_callable, check_count, check_number
from maml._optimizers import check_optimizer, init_state, update
from maml._returns import checked_number
from maml.finite import is_finite, select_tree
from maml.search.policies import ArchitecturePolicy, check_policy, entropy, log_prob
from maml.search.space import Tokens
from maml.search.strategies import Batch, Rewards, SearchState, Strategy, is_broken, make_strategy
from maml.types import Params, RandomKey


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


def policy_gradient_strategy(
    policy: ArchitecturePolicy,
    optimizer: optax.GradientTransformation,
    *,
    surrogate: surrogates.Surrogate,
    batch: int,
    epochs: int,
    baseline_decay: float,
    entropy_coef: float,
) -> Strategy:
    """Gradient ascent on a surrogate of the expected reward, such as `reinforce` and `ppo`.

    `tell` assumes that the children were drawn by the current policy. If they were drawn by an
    earlier one, as by K controllers that share one policy, the gradient is stale, as is usual in
    such schemes. A step is skipped if its gradient or the new parameters are not finite.

    Args:
        policy: Policy that draws the children.
        optimizer: Optimiser, an optax transformation.
        surrogate: One of `maml.surrogates`.
        batch: Number of children asked for at once, >= 1.
        epochs: Number of steps of the optimiser on a batch, >= 1.
        baseline_decay: Decay of the baseline for every child, in [0, 1), see `compute_advantages`.
        entropy_coef: Coefficient of the entropy, >= 0.

    Returns:
        The strategy.

    Raises:
        ValueError: `policy` is not an `ArchitecturePolicy`, the optimiser is not optax's, `batch`
            or `epochs` is below 1, `baseline_decay` is not in [0, 1), or `entropy_coef` is negative.
    """
    check_policy(policy)
    check_optimizer(optimizer)
    check_callable(surrogate, "surrogate", "log_ratio, advantage")
    check_count(epochs, least=1, of="epochs")
    check_number(baseline_decay, "baseline_decay", least=0.0, below=1.0)
    check_number(entropy_coef, "entropy_coef", least=0.0)

    def init(key: RandomKey) -> ControllerState:
        params = policy.init(key)
        return ControllerState(
            params, init_state(optimizer, params), jnp.zeros(()), jnp.full((), jnp.inf)
        )

    def child(state: SearchState, key: RandomKey) -> Tokens:
        return policy.sample(state.strategy_state.params, key)

    def learn(
        controller: ControllerState, tokens: Batch, rewards: Rewards, num_rewards: Array
    ) -> ControllerState:
        advantages, updated = compute_advantages(controller, rewards, baseline_decay)
        old_log_probs = tokens_log_probs(policy, controller.params, tokens)

        def loss(params: Params) -> Scalar:
            return controller_loss(
                policy, surrogate, params, tokens, old_log_probs, advantages, entropy_coef
            )

        def epoch(state: tuple, _: None) -> tuple[tuple, None]:
            params, opt_state = state
            grads = jax.grad(loss)(params)
            updates, after = update(optimizer, grads, opt_state, params, loss)
            proposed = optax.apply_updates(params, updates), after
            return select_tree(is_finite((grads, proposed[0])), proposed, state), None

        (params, opt_state), _ = jax.lax.scan(epoch, controller[:2], length=epochs)
        return updated._replace(params=params, opt_state=opt_state)

    return make_strategy(policy.space, batch, init, child, learn)


def reinforce(
    policy: ArchitecturePolicy,
    optimizer: optax.GradientTransformation,
    *,
    batch: int = 1,
    baseline_decay: float = 0.9,
    entropy_coef: float = 0.0,
) -> Strategy:
    """REINFORCE with a moving-average baseline:  grad E[R] = E[(R - b) grad log pi(tokens)].

    Args:
        policy, optimizer, batch, baseline_decay, entropy_coef: As in `policy_gradient_strategy`.

    Returns:
        The strategy.

    Raises:
        ValueError: as `policy_gradient_strategy`.

    Williams: Simple statistical gradient-following algorithms (1992), as in
    Zoph, Le: Neural architecture search with reinforcement learning (ICLR 2017).
    """
    return policy_gradient_strategy(
        policy,
        optimizer,
        surrogate=surrogates.score_function,
        batch=batch,
        epochs=1,
        baseline_decay=baseline_decay,
        entropy_coef=entropy_coef,
    )


def ppo(
    policy: ArchitecturePolicy,
    optimizer: optax.GradientTransformation,
    *,
    batch: int = 20,
    epochs: int = 4,
    clip: float = 0.2,
    baseline_decay: float = 0.95,
    entropy_coef: float = 1e-5,
) -> Strategy:
    """PPO: several steps on each batch, with clipped ratios to the policy that drew the tokens.

    Args:
        policy, optimizer, batch, epochs: As in `policy_gradient_strategy`.
        baseline_decay, entropy_coef: As in `policy_gradient_strategy`.
        clip: Distance of a ratio from 1 beyond which the surrogate does not increase, > 0.

    Returns:
        The strategy.

    Raises:
        ValueError: as `policy_gradient_strategy`, or `clip` is not above 0.

    Zoph, Vasudevan, Shlens, Le: Learning transferable architectures (CVPR 2018), whose batch,
    decay and bonus are the defaults.
    """
    check_number(clip, "clip", above=0.0)
    surrogate = partial(surrogates.clipped, clip=clip)
    options = {
        "batch": batch,
        "epochs": epochs,
        "baseline_decay": baseline_decay,
        "entropy_coef": entropy_coef,
    }
    return policy_gradient_strategy(policy, optimizer, surrogate=surrogate, **options)
