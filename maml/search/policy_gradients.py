"""Search strategies that train a policy by its gradient: REINFORCE, and PPO as for NASNet.

A batch of children is a batch of trajectories, see `maml.search.controllers`.
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Scalar

from maml import surrogates
from maml._checks import check_callable, check_count, check_number
from maml._optimizers import check_optimizer
from maml._updates import init_state, update
from maml.finite import is_finite, select_tree
from maml.search.controllers import (
    ControllerState,
    compute_advantages,
    controller_loss,
    tokens_log_probs,
)
from maml.search.policies import ArchitecturePolicy, check_policy
from maml.search.space import Tokens
from maml.search.strategies import Batch, Rewards, SearchState, Strategy, make_strategy
from maml.types import Params, RandomKey


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
            or `epochs` is below 1, `baseline_decay` is not in [0, 1), or `entropy_coef` is
            negative.
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
