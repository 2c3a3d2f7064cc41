"""Policy gradients over architectures: REINFORCE, and PPO as it found NASNet.

The search is a bandit of T tokens, whose reward comes at the end; its surrogates are those of
reinforcement learning, `maml.surrogates`.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree, Scalar

from maml import surrogates
from maml._checks import check_callable, check_count, check_number
from maml._optimizers import check_optimizer, update
from maml.finite import is_finite, where
from maml.search.policies import Policy, check_policy, entropy, log_prob
from maml.search.space import Tokens
from maml.search.strategies import Batch, Rewards, State, Strategy, is_broken, strategy
from maml.surrogates import Surrogate
from maml.types import Params, RandomKey


class Controller(NamedTuple):
    """What a policy gradient has learned.

    Attributes:
        params: of the policy.
        opt_state: of its optimiser.
        baseline: the moving average of the rewards.
        lowest: the lowest reward so far, infinity before the first; broken ones count as much.
    """

    params: Params
    opt_state: PyTree
    baseline: Float[Array, ""]
    lowest: Float[Array, ""]


def gain(
    policy: Policy,
    surrogate: Surrogate,
    params: Params,
    tokens: Tokens,
    acted: Float[Array, " token"],
    advantage: Scalar,
    bonus: float,
) -> Scalar:
    """Of ONE child, to be maximised: the surrogate of its tokens, and the bonus for the entropy.

        surrogate(log pi(tokens) - log mu(tokens), A) + bonus H

    The mean of its derivative over the children of pi, with A = R - b, b any constant and pi = mu,
    is that of the expected reward, and of the entropy along the way. A token that the policy cannot
    draw counts for nothing, in the derivative either.

    Args:
        policy: pi.
        surrogate: any of `maml.surrogates`: an architecture is a trajectory of T actions.
        params: of the policy.
        tokens: of the child.
        acted: log mu, of each token.
        advantage: A, the same for every token: the reward comes at the end.
        bonus: of the entropy.
    """
    log_probs = policy.log_probs(params, tokens)
    now = log_prob(log_probs, tokens)
    drawn = (now != -jnp.inf) & (acted != -jnp.inf)
    change = jnp.where(drawn, now, 0.0) - jnp.where(drawn, acted, 0.0)
    return surrogate(change, jnp.full_like(change, advantage)) + bonus * entropy(log_probs)


def judge(
    learned: Controller, rewards: Rewards, decay: float
) -> tuple[Float[Array, " child"], Controller]:
    """What rewards are worth against the baseline, and the baseline after them.

        A = R - b,   b <- decay b + (1 - decay) R   for every child

    The first b is the mean of the first batch. Broken rewards are the lowest so far; until one is
    not broken, no child has an advantage.

    Args:
        learned: before.
        rewards: of the children, see `is_broken`.
        decay: of the baseline.

    Returns:
        The advantages, and what is learned, of which the baseline and the lowest are new.
    """
    broken, dtype = is_broken(rewards), learned.baseline.dtype
    rewards = rewards.astype(dtype)
    lowest = jnp.minimum(learned.lowest, jnp.where(broken, jnp.inf, rewards).min())
    rewards = jnp.where(broken, jnp.where(lowest < jnp.inf, lowest, 0.0), rewards)
    baseline = jnp.where(learned.lowest < jnp.inf, learned.baseline, rewards.mean())
    kept = decay ** len(rewards)
    after = kept * baseline + (1 - kept) * rewards.mean()
    return rewards - baseline, learned._replace(baseline=after.astype(dtype), lowest=lowest)


def acting(policy: Policy, params: Params, tokens: Batch) -> Float[Array, "child token"]:
    """What `gain` calls log mu, of children that were drawn with these parameters."""
    return jax.vmap(lambda child: log_prob(policy.log_probs(params, child), child))(tokens)


def loss_of(
    policy: Policy,
    surrogate: Surrogate,
    params: Params,
    tokens: Batch,
    acted: Float[Array, "child token"],
    advantages: Float[Array, " child"],
    bonus: float,
) -> Scalar:
    """What is descended on: minus the mean `gain` of some children."""
    each = partial(gain, policy, surrogate, params, bonus=bonus)
    return -jax.vmap(each)(tokens, acted, advantages).mean()


gradient = jax.grad(loss_of, 2)
"""The gradient to descend, of the same arguments as `loss_of`."""


def policy_gradient(
    policy: Policy,
    optimizer: optax.GradientTransformation,
    *,
    surrogate: Surrogate,
    batch: int,
    epochs: int,
    decay: float,
    bonus: float,
) -> Strategy:
    """Ascends a surrogate of the expected reward; `reinforce` and `ppo` are cases of it.

    The children told are taken for those of the policy as it is. Told to it later, as K controllers
    do that share one policy, they give the stale gradient that such schemes are content with. A
    step whose gradient is not finite, or which would not leave the parameters so, is not taken.

    Args:
        policy: of what to ask for.
        optimizer: any optax transformation.
        surrogate: any of `maml.surrogates`.
        batch: children asked for at once.
        epochs: steps of the optimiser on a batch.
        decay: of the baseline, for every child, see `judge`.
        bonus: of the entropy.

    Raises:
        ValueError: the policy is none, the optimiser is not optax's, `batch` or `epochs` is below
            1, `decay` is not in [0, 1), or `bonus` is negative.
    """
    check_policy(policy)
    check_optimizer(optimizer)
    check_callable(surrogate, "surrogate", "log_ratio, advantage")
    check_count(epochs, least=1, of="epochs")
    check_number(decay, "decay", least=0.0, below=1.0)
    check_number(bonus, "bonus", least=0.0)

    def init(key: RandomKey) -> Controller:
        params = policy.init(key)
        return Controller(params, optimizer.init(params), jnp.zeros(()), jnp.full((), jnp.inf))

    def child(state: State, key: RandomKey) -> Tokens:
        return policy.sample(state.learned.params, key)

    def learn(before: Controller, tokens: Batch, rewards: Rewards, told: Array) -> Controller:
        advantages, after = judge(before, rewards, decay)
        acted = acting(policy, before.params, tokens)

        def loss(params: Params) -> Scalar:
            return loss_of(policy, surrogate, params, tokens, acted, advantages, bonus)

        def epoch(state: tuple, _: None) -> tuple[tuple, None]:
            params, opt_state = state
            grads = jax.grad(loss)(params)
            updates, opt_state = update(optimizer, grads, opt_state, params, loss)
            moved = optax.apply_updates(params, updates), opt_state
            return where(is_finite((grads, moved[0])), moved, state), None

        start = before.params, before.opt_state
        (params, opt_state), _ = jax.lax.scan(epoch, start, length=epochs)
        return after._replace(params=params, opt_state=opt_state)

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

    Arguments and errors are those of `policy_gradient`.

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
    """PPO: several steps on each batch, a token's ratio to the policy that drew it clipped.

    Args:
        policy, optimizer, batch, epochs, decay, bonus: see `policy_gradient`.
        clip: how far from 1 a ratio still gains.

    Raises:
        ValueError: as `policy_gradient`, or `clip` is not above 0.

    Zoph, Vasudevan, Shlens, Le: Learning transferable architectures (CVPR 2018), whose batch,
    decay and bonus are the defaults.
    """
    check_number(clip, "clip", above=0.0)
    surrogate = partial(surrogates.clipped, clip=clip)
    options = {"batch": batch, "epochs": epochs, "decay": decay, "bonus": bonus}
    return policy_gradient(policy, optimizer, surrogate=surrogate, **options)
