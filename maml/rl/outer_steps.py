"""Outer steps that use the same trajectories several times.

Trajectories are drawn once and stored as `Episode(support, query)`: for each inner step those of
the policy before the step, and finally those of the adapted policy. The objective of an algorithm
is then a function of the meta-parameters on fixed data, through the ratios of its policies to those
that acted:

    collect -> Episode -> trust_region | repeatedly
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import PyTree, Scalar

from maml._checks import check_callable, check_count, check_number
from maml._contracts import check_algorithm, check_loss
from maml._optimizers import check_optimizer
from maml.inner import adapt
from maml.mapping import each_task
from maml.outer import meta_step
from maml.rl.environment import filled, undiscounted
from maml.rl.losses import Collect, Experience, steps, surrogate_loss, twice
from maml.rl.policies import Policy, check_policy
from maml.surrogates import score_function
from maml.trust_region import Region, check_region, trust_region_step
from maml.types import (
    Algorithm,
    Episode,
    Learner,
    LossFn,
    MetaGradient,
    MetaParams,
    MetaState,
    Metrics,
    Objective,
    Params,
    PerStep,
    RandomKey,
    Step,
)

NO_OBJECTIVE = "the algorithm needs a meta-gradient with an objective, as maml.unrolled makes it"
Improve = Callable[[MetaState, Episode, RandomKey], tuple[MetaState, Metrics]]
"""`improve(state, episodes, key) -> (state, metrics)`: one outer step on given episodes."""


def recording(collect: Collect, policy: Policy, loss: LossFn) -> LossFn:
    """The loss of a task on trajectories that the policy draws, with these as its metrics.

    Args:
        collect: Function that draws the trajectories, see `maml.rl.collector`.
        policy: Policy whose parameters are trained.
        loss: Loss of an `Experience`, such as that of `surrogate_loss`.

    Returns:
        A loss whose batch is a task, and whose metrics are the `Experience`.

    Raises:
        ValueError: `collect` or `loss` takes other arguments.
    """
    check_callable(collect, "collect", "params, task, key")
    check_policy(policy)
    check_loss(loss)

    def on_policy(params: PyTree, task: PyTree, key: RandomKey) -> tuple[Scalar, Experience]:
        experience = collect(params, task, key)
        return loss(params, experience, key)[0], experience

    return on_policy


def collect_episode(
    learner: Learner, collect: Collect, inner_steps: int
) -> Callable[[MetaParams, PyTree, RandomKey], Episode]:
    """A function that adapts to a task and returns the trajectories of all its policies.

    Args:
        learner: Learner with a loss made by `recording`.
        collect: Function that draws trajectories of the adapted policy.
        inner_steps: Number of inner steps K >= 0; with 0, support and query set are the same.

    Returns:
        The function `episode(meta_params, task, key) -> Episode`.

    Raises:
        ValueError: `inner_steps` is below 0, or a function takes other arguments.
    """
    check_callable(learner, "learner", "meta_params")
    check_callable(collect, "collect", "params, task, key")
    check_count(inner_steps, least=0, of="inner steps")

    def episode(meta_params: MetaParams, task: PyTree, key: RandomKey) -> Episode:
        support_key, query_key = jax.random.split(key)
        params, experience = adapt(learner(meta_params), task, support_key, inner_steps)
        if inner_steps and not isinstance(experience, Experience):
            raise ValueError(
                "the learner must have a loss made by recording, whose metrics are an Experience;"
                f" got {type(experience).__name__}"
            )
        query = collect(params, task, query_key)
        support = PerStep(experience) if inner_steps else query
        return jax.lax.stop_gradient(Episode(support, query))

    return episode


def outer_step(
    episode: Callable[[MetaParams, PyTree, RandomKey], Episode],
    improve: Improve,
    *,
    chunk: int | None = None,
    mesh: Mesh | None = None,
) -> Callable[[MetaState, PyTree, RandomKey], tuple[MetaState, Metrics]]:
    """An outer step for `maml.iterate` that collects an episode in each task and then improves.

    Args:
        episode: Function that collects the episode of one task, see `collect_episode`.
        improve: Outer step on the episodes of all tasks.
        chunk, mesh: As in `maml.evaluate`, for the collection of episodes.

    Returns:
        The step `step(state, tasks, key) -> (state, metrics)`.

    Raises:
        ValueError: a function takes other arguments.
    """
    check_callable(episode, "episode", "meta_params, task, key")
    check_callable(improve, "improve", "state, episodes, key")

    def step(state: MetaState, tasks: PyTree, key: RandomKey) -> tuple[MetaState, Metrics]:
        collect_key, improve_key = jax.random.split(key)
        episodes = each_task(episode, state.params, tasks, collect_key, chunk=chunk, mesh=mesh)
        return improve(state, episodes, improve_key)

    return step


def trust_region(
    algorithm: Algorithm,
    policy: Policy,
    inner_steps: int,
    *,
    fvp_trajectories: int | None = None,
    **options: Any,
) -> Improve:
    """The outer step of TRPO, with the mean KL of adapted policies from those that acted.

    Args:
        algorithm: Algorithm with an unrolled objective whose outer loss is a `surrogate_loss`.
        policy: Policy that adapts.
        inner_steps: Number of inner steps K >= 0.
        fvp_trajectories: Number of trajectories of each batch that the Fisher-vector products use;
            gradient, objective, divergence and adapted policy use all trajectories. None: all.
        options: Options of `trust_region_step`.

    Returns:
        The outer step `improve(state, episodes, key) -> (state, metrics)`.

    Raises:
        ValueError: the algorithm has no objective; `policy` is not a policy; a count is too small;
            an option is not one of `trust_region_step`, or out of range.
    """
    objective = _require_objective(algorithm)
    check_policy(policy)
    check_region(**options)
    check_count(inner_steps, least=0, of="inner steps")
    if fvp_trajectories is not None:
        check_count(fvp_trajectories, least=1, of="trajectories of a Fisher-vector product")

    def outputs(meta_params: MetaParams, episode: Episode, key: RandomKey) -> PyTree:
        subset = jax.tree.map(lambda leaf: leaf[:, :fvp_trajectories], episode.support)
        from_all, from_subset = (
            adapt(algorithm.learner(meta_params), support, key, inner_steps)[0]
            for support in (episode.support, subset)
        )
        # The policy adapted to all trajectories, with the derivative of that adapted to the subset.
        params = jax.tree.map(
            lambda full, reduced: reduced + jax.lax.stop_gradient(full - reduced),
            from_all,
            from_subset,
        )
        trajectories = jax.tree.map(
            lambda leaf: leaf[:fvp_trajectories], filled(episode.query.seen)
        )
        return jax.vmap(policy.along, (None, 0))(params, trajectories.observation)

    def divergence(old: PyTree, new: PyTree, episode: Episode) -> Scalar:
        alive = episode.query.seen.alive[:fvp_trajectories]
        kl = twice(policy.family.kl)(old, new)
        return jnp.sum(kl, where=alive) / steps(alive)

    def improve(state: MetaState, episodes: Episode, key: RandomKey) -> tuple[MetaState, Metrics]:
        def of_step(theta: MetaParams, episode: Episode, key: RandomKey) -> tuple[Scalar, Metrics]:
            return objective(theta, episode, key, state.step)

        region = Region(of_step, outputs, divergence, lambda metrics: metrics["query"]["kl"])
        params, metrics = trust_region_step(region, state.params, episodes, key, **options)
        return MetaState(params, state.opt_state, state.step + 1), metrics

    return improve


def repeatedly(
    algorithm: Algorithm,
    optimizer: optax.GradientTransformation,
    epochs: int = 1,
    **options: Any,
) -> Improve:
    """An outer step of several steps of an optimiser on the same episodes.

    With a clipped surrogate as the outer loss it is the outer step of ProMP.

    Args:
        algorithm: Algorithm whose meta-gradient is used.
        optimizer: Outer optimiser, an optax transformation.
        epochs: Number of steps on the same episodes, >= 1.
        options: Options of `meta_step`.

    Returns:
        The outer step `improve(state, episodes, key) -> (state, metrics)`.

    Raises:
        ValueError: `epochs` is below 1, `algorithm` is not an `Algorithm`, or the optimiser is not
            optax's.
    """
    check_algorithm(algorithm)
    check_optimizer(optimizer)
    check_count(epochs, least=1, of="epochs")

    def improve(state: MetaState, episodes: Episode, key: RandomKey) -> tuple[MetaState, Metrics]:
        def epoch(state: MetaState, key: RandomKey) -> tuple[MetaState, Metrics]:
            return meta_step(algorithm, optimizer, state, episodes, key, **options)

        new_state, metrics = jax.lax.scan(epoch, state, jax.random.split(key, epochs))
        return new_state._replace(step=state.step + 1), jax.tree.map(lambda leaf: leaf[0], metrics)

    return improve


def anchored(algorithm: Algorithm, policy: Policy, kl_coef: float) -> Algorithm:
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


def exploring(algorithm: Algorithm, policy: Policy, exploration_coef: float) -> Algorithm:
    """The algorithm with the term of E-MAML, which rewards exploration before the adaptation.

        - exploration_coef / steps  sum_i (R_query - mean_{j != i} R_j) sum_t l_it

    The sum is over the trajectories i of the first inner step, and R are undiscounted returns.
    Trajectories become more likely if the adapted policy has a higher return than the meta-policy
    has on average. The mean leaves out trajectory i, so that it does not depend on its actions.

    Args:
        algorithm: Algorithm with an objective.
        policy: Policy that adapts.
        exploration_coef: Coefficient of the term that is added to the objective, >= 0.

    Returns:
        The algorithm, whose metrics include the term, `credit`.

    Raises:
        ValueError: as `anchored`, or (when traced) there is only one trajectory.

    Stadie, Yang, Houthooft, Chen, Duan, Wu, Abbeel, Sutskever: Some considerations on learning to
    explore via meta-reinforcement learning (2018).
    """
    loss = surrogate_loss(policy, score_function)

    def credit(params: Params, first: Experience, episode: Episode, key: RandomKey) -> Scalar:
        returns = undiscounted(first.seen)
        if returns.size < 2:
            raise ValueError(
                "E-MAML compares each trajectory with the others of its batch, and needs at least"
                f" 2 trajectories; got {returns.size}"
            )
        others = (returns.sum() - returns) / (returns.size - 1)
        advantage = undiscounted(episode.query.seen).mean() - others
        weighted = first._replace(
            advantage=jnp.broadcast_to(advantage[:, None], first.advantage.shape)
        )
        return loss(params, weighted, key)[0]

    return _add_term(algorithm, exploration_coef, credit, "credit")


def _add_term(
    algorithm: Algorithm,
    coefficient: float,
    term: Callable[[Params, Experience, Episode, RandomKey], Scalar],
    name: str,
) -> Algorithm:
    """The algorithm with a term added to its objective.

    The term depends on the meta-policy and the trajectories of the first inner step.
    """
    unrolled = _require_objective(algorithm)
    check_number(coefficient, f"the coefficient of {name}", least=0)

    def objective(
        meta_params: MetaParams, episode: Episode, key: RandomKey, step: Step
    ) -> tuple[Scalar, Metrics]:
        if not isinstance(episode.support, PerStep):
            raise ValueError(f"{name} is a term of the first inner step; got 0 inner steps")
        value, metrics = unrolled(meta_params, episode, key, step)
        inner = algorithm.learner(meta_params)
        first = jax.tree.map(lambda leaf: leaf[0], episode.support.batches)
        addend = term(inner.params(inner.state), first, episode, key)
        return value + coefficient * addend, metrics | {name: addend}

    return algorithm._replace(grad=MetaGradient(objective))


def _require_objective(algorithm: Algorithm) -> Objective:
    """The objective of an algorithm; an algorithm without one is refused."""
    check_algorithm(algorithm)
    if algorithm.grad.objective is None or algorithm.grad.early is not None:
        raise ValueError(NO_OBJECTIVE)
    return algorithm.grad.objective
