"""Terms added to the objective of a meta-gradient: ProMP's KL penalty, E-MAML's exploration."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Scalar

from maml._checks import check_number
from maml._contracts import check_algorithm
from maml.rl.environment import undiscounted_returns
from maml.rl.losses import Experience, surrogate_loss
from maml.rl.policies import Policy
from maml.surrogates import score_function
from maml.types import (
    Algorithm,
    BatchPerStep,
    Episode,
    Inner,
    MetaGradient,
    MetaParams,
    Metrics,
    Objective,
    Params,
    RandomKey,
    Step,
)


def add_kl_penalty(algorithm: Algorithm, policy: Policy, kl_coef: float) -> Algorithm:
    """The algorithm with kl_coef x KL of the meta-policy from the one that acted, as in ProMP.

    Args:
        algorithm: Algorithm with an objective.
        policy: Policy that adapts.
        kl_coef: Coefficient of the divergence that is added to the objective, >= 0.

    Returns:
        The algorithm, whose metrics include `inner_kl`, the divergence in nats.

    Raises:
        ValueError: the algorithm has no objective; `policy` is not a policy; the coefficient is not
            a finite number >= 0; (when traced) there is no inner step.

    Rothfuss, Lee, Clavera, Asfour, Abbeel: ProMP (ICLR 2019).
    """
    loss = surrogate_loss(policy)

    def divergence(params: Params, first: Experience, episode: Episode, key: RandomKey) -> Scalar:
        return loss(params, first, key)[1]["kl"]

    return _add_term(algorithm, kl_coef, divergence, "inner_kl")


def add_exploration_term(
    algorithm: Algorithm, policy: Policy, exploration_coef: float
) -> Algorithm:
    """The algorithm with the term of E-MAML, which rewards exploration before the adaptation.

        - exploration_coef / steps  sum_i (R_query - mean_{j != i} R_j) sum_t l_it

    The sum is over the trajectories i of the first inner step, steps is the number of their steps,
    and R are undiscounted returns.
    Trajectories become more likely if the adapted policy has a higher return than the meta-policy
    has on average. The mean leaves out trajectory i, so that it does not depend on its actions.

    Args:
        algorithm: Algorithm with an objective.
        policy: Policy that adapts.
        exploration_coef: Coefficient of the term that is added to the objective, >= 0.

    Returns:
        The algorithm, whose metrics include the term, `exploration`.

    Raises:
        ValueError: as `add_kl_penalty`, or (when traced) there is only one trajectory.

    Stadie, Yang, Houthooft, Chen, Duan, Wu, Abbeel, Sutskever: Some considerations on learning to
    explore via meta-reinforcement learning (2018).
    """
    loss = surrogate_loss(policy, score_function)

    def exploration(params: Params, first: Experience, episode: Episode, key: RandomKey) -> Scalar:
        returns = undiscounted_returns(first.trajectories)
        if returns.size < 2:
            raise ValueError(
                "E-MAML compares each trajectory with the others of its batch, and needs at least"
                f" 2 trajectories; got {returns.size}"
            )
        others = (returns.sum() - returns) / (returns.size - 1)
        advantage = undiscounted_returns(episode.query.trajectories).mean() - others
        weighted = first._replace(
            advantage=jnp.broadcast_to(advantage[:, None], first.advantage.shape)
        )
        return loss(params, weighted, key)[0]

    return _add_term(algorithm, exploration_coef, exploration, "exploration")


def _add_term(
    algorithm: Algorithm,
    coefficient: float,
    term: Callable[[Params, Experience, Episode, RandomKey], Scalar],
    name: str,
) -> Algorithm:
    """The algorithm with a term added to its objective.

    The term depends on the meta-policy and the trajectories of the first inner step.
    """
    objective_without_term = require_objective(algorithm)
    check_number(coefficient, f"the coefficient of {name}", least=0)

    def objective(
        meta_params: MetaParams, episode: Episode, key: RandomKey, step: Step
    ) -> tuple[Scalar, Metrics]:
        if not isinstance(episode.support, BatchPerStep):
            raise ValueError(f"the term {name} needs an inner step or more; got 0")
        value, metrics = objective_without_term(meta_params, episode, key, step)
        inner = algorithm.learner(meta_params)
        check_start_is_fixed(inner)
        first = jax.tree.map(lambda leaf: leaf[0], episode.support.batches)
        addend = term(inner.params(inner.state), first, episode, key)
        return value + coefficient * addend, metrics | {name: addend}

    return algorithm._replace(grad=MetaGradient(objective))


def check_start_is_fixed(inner: Any) -> None:
    """Refuses an inner problem with `begin`, whose policy would not be the one that acted.

    Raises:
        ValueError: The inner problem has a `begin`.
    """
    if isinstance(inner, Inner) and inner.begin is not None:
        raise ValueError(
            "an Inner with begin starts from another policy each time it adapts, and recorded"
            " trajectories need the one that acted; without begin, or with maml.rl.policy_gradient"
            " and maml.train, it would work"
        )


def require_objective(algorithm: Algorithm) -> Objective:
    """The objective of an algorithm; an algorithm without one is refused."""
    check_algorithm(algorithm)
    if algorithm.grad.objective is None or algorithm.grad.early is not None:
        raise ValueError(
            "the algorithm needs a meta-gradient with an objective, as maml.unrolled makes it"
        )
    return algorithm.grad.objective
