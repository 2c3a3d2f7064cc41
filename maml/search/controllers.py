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
from maml._optimizers import check_optimizer, start, update
from maml._returns import one_number
from maml.finite import is_finite, where
from maml.search.policies import Policy, check_policy, entropy, log_prob
from maml.search.space import Tokens
from maml.search.strategies import Batch, Rewards, State, Strategy, is_broken, strategy
from maml.types import Params, RandomKey


class Controller(NamedTuple):
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


def gain(
    policy: Policy,
    surrogate: surrogates.Surrogate,
    params: Params,
    tokens: Tokens,
    acted: Float[Array, " token"],
    advantage: Scalar,
    bonus: float,
) -> Scalar:
    """The objective of ONE child, to be maximised: a surrogate plus a bonus for the entropy.

        surrogate(log pi(tokens) - log mu(tokens), A) + bonus H

    With A = R - b, b any constant and pi = mu, the mean of its derivative over children of pi is
    the derivative of the expected reward, plus that of the entropy given the tokens drawn. A token
    that the policy cannot draw contributes nothing, neither to the value nor to the derivative.

    Args:
        policy: Policy pi.
        surrogate: One of `maml.surrogates`.
        params: Parameters of the policy.
        tokens: Tokens of the child, `[token]`.
        acted: Log-probabilities log mu of the tokens under the policy that drew them, `[token]`.
        advantage: Advantage A, the same for every token of the child.
        bonus: Weight of the entropy.

    Returns:
        The objective, a scalar.
    """
    log_probs = policy.log_probs(params, tokens)
    current = log_prob(log_probs, tokens)
    possible = (current != -jnp.inf) & (acted != -jnp.inf)
    change = jnp.where(possible, current, 0.0) - jnp.where(possible, acted, 0.0)
    advantages, surrogate = jnp.full_like(change, advantage), one_number(surrogate, "a surrogate")
    return surrogate(change, advantages) + bonus * entropy(log_probs)


def judge(
    learned: Controller, rewards: Rewards, decay: float
) -> tuple[Float[Array, " child"], Controller]:
    """The advantages of rewards over the baseline, and the updated baseline.

        A = R - b,   b <- decay b + (1 - decay) R   for every child

    The first b is the mean of the first batch. Broken rewards are replaced by the lowest reward so
    far; until a reward is not broken, all advantages are 0.

    Args:
        learned: State of the policy gradient before.
        rewards: Rewards of the children, `[child]`, see `is_broken`.
        decay: Decay of the baseline for every child, in [0, 1).

    Returns:
        The advantages, `[child]`, and the state with the new baseline and lowest reward.
    """
    broken, dtype = is_broken(rewards), learned.baseline.dtype
    rewards = rewards.astype(dtype)
    lowest = jnp.minimum(learned.lowest, jnp.where(broken, jnp.inf, rewards).min())
    rewards = jnp.where(broken, jnp.where(lowest < jnp.inf, lowest, 0.0), rewards)
    baseline = jnp.where(learned.lowest < jnp.inf, learned.baseline, rewards.mean())
    weight = decay ** len(rewards)
    updated = weight * baseline + (1 - weight) * rewards.mean()
    return rewards - baseline, learned._replace(baseline=updated.astype(dtype), lowest=lowest)


def acting(policy: Policy, params: Params, tokens: Batch) -> Float[Array, "child token"]:
    """The log-probabilities of the tokens of children that were drawn with these parameters."""
    return jax.vmap(lambda child: log_prob(policy.log_probs(params, child), child))(tokens)


def loss_of(
    policy: Policy,
    surrogate: surrogates.Surrogate,
    params: Params,
    tokens: Batch,
    acted: Float[Array, "child token"],
    advantages: Float[Array, " child"],
    bonus: float,
) -> Scalar:
    """The loss of the policy: minus the mean `gain` of a batch of children."""
    child_gain = partial(gain, policy, surrogate, params, bonus=bonus)
    return -jax.vmap(child_gain)(tokens, acted, advantages).mean()


gradient = jax.grad(loss_of, 2)
"""The gradient of `loss_of` by the parameters, with the same arguments."""


def policy_gradient(
    policy: Policy,
    optimizer: optax.GradientTransformation,
    *,
    surrogate: surrogates.Surrogate,
    batch: int,
    epochs: int,
    decay: float,
    bonus: float,
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
        decay: Decay of the baseline for every child, in [0, 1), see `judge`.
        bonus: Weight of the entropy, >= 0.

    Returns:
        The strategy.

    Raises:
        ValueError: `policy` is not a `Policy`, the optimiser is not optax's, `batch` or `epochs` is
            below 1, `decay` is not in [0, 1), or `bonus` is negative.
    """
    check_policy(policy)
    check_optimizer(optimizer)
    check_callable(surrogate, "surrogate", "log_ratio, advantage")
    check_count(epochs, least=1, of="epochs")
    check_number(decay, "decay", least=0.0, below=1.0)
    check_number(bonus, "bonus", least=0.0)

    def init(key: RandomKey) -> Controller:
        params = policy.init(key)
        return Controller(params, start(optimizer, params), jnp.zeros(()), jnp.full((), jnp.inf))

    def child(state: State, key: RandomKey) -> Tokens:
        return policy.sample(state.learned.params, key)

    def learn(learned: Controller, tokens: Batch, rewards: Rewards, told: Array) -> Controller:
        advantages, updated = judge(learned, rewards, decay)
        acted = acting(policy, learned.params, tokens)

        def loss(params: Params) -> Scalar:
            return loss_of(policy, surrogate, params, tokens, acted, advantages, bonus)

        def epoch(state: tuple, _: None) -> tuple[tuple, None]:
            params, opt_state = state
            grads = jax.grad(loss)(params)
            updates, after = update(optimizer, grads, opt_state, params, loss)
            proposed = optax.apply_updates(params, updates), after
            return where(is_finite((grads, proposed[0])), proposed, state), None

        (params, opt_state), _ = jax.lax.scan(epoch, learned[:2], length=epochs)
        return updated._replace(params=params, opt_state=opt_state)

    return strategy(policy.space, batch, init, child, learn)


def reinforce(
    policy: Policy,
    optimizer: optax.GradientTransformation,
    *,
    batch: int = 1,
    decay: float = 0.9,
    bonus: float = 0.0,
) -> Strategy:
    """REINFORCE with a moving-average baseline:  grad E[R] = E[(R - b) grad log pi(tokens)].

    Args:
        policy, optimizer, batch, decay, bonus: As in `policy_gradient`.

    Returns:
        The strategy.

    Raises:
        ValueError: as `policy_gradient`.

    Williams: Simple statistical gradient-following algorithms (1992), as in
    Zoph, Le: Neural architecture search with reinforcement learning (ICLR 2017).
    """
    options = {"batch": batch, "epochs": 1, "decay": decay, "bonus": bonus}
    return policy_gradient(policy, optimizer, surrogate=surrogates.score_function, **options)


def ppo(
    policy: Policy,
    optimizer: optax.GradientTransformation,
    *,
    batch: int = 20,
    epochs: int = 4,
    clip: float = 0.2,
    decay: float = 0.95,
    bonus: float = 1e-5,
) -> Strategy:
    """PPO: several steps on each batch, with clipped ratios to the policy that drew the tokens.

    Args:
        policy, optimizer, batch, epochs, decay, bonus: As in `policy_gradient`.
        clip: Distance of a ratio from 1 beyond which the surrogate does not increase, > 0.

    Returns:
        The strategy.

    Raises:
        ValueError: as `policy_gradient`, or `clip` is not above 0.

    Zoph, Vasudevan, Shlens, Le: Learning transferable architectures (CVPR 2018), whose batch,
    decay and bonus are the defaults.
    """
    check_number(clip, "clip", above=0.0)
    surrogate = partial(surrogates.clipped, clip=clip)
    options = {"batch": batch, "epochs": epochs, "decay": decay, "bonus": bonus}
    return policy_gradient(policy, optimizer, surrogate=surrogate, **options)
