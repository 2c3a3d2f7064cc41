"""Outer steps that look at the same trajectories several times.

Trajectories are drawn once, into `Episode(support, query)`: for each inner step those of the policy
it starts from, and those of the adapted policy. Every algorithm's objective is then a function of
the meta-parameters on data that stays, with the ratios of its policies to those that acted:

    collect -> Episode -> trust_region | proximal | meta_step of any optimiser
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
"""One outer step on episodes that are there, `Episode[task, ...]`."""


def recording(collect: Collect, policy: Policy, loss: LossFn) -> LossFn:
    """The loss on trajectories that the policy itself draws; they are its metrics.

    Raises:
        ValueError: a function takes other arguments.
    """
    check_callable(collect, "collect", "params, task, key")
    check_loss(loss)

    def on_policy(params: PyTree, task: PyTree, key: RandomKey) -> tuple[Scalar, Experience]:
        experience = collect(params, task, key)
        return loss(params, experience, key)[0], experience

    return on_policy


def collect_episode(
    learner: Learner, collect: Collect, inner_steps: int
) -> Callable[[MetaParams, PyTree, RandomKey], Episode]:
    """What is experienced in one task while adapting to it, and by who has adapted.

    Args:
        learner: whose loss is `recording`.
        collect: what the adapted policy does.
        inner_steps: K inner steps; with none, support and query are the same.

    Raises:
        ValueError: `inner_steps` is below 0, or a function takes other arguments.
    """
    check_callable(learner, "learner", "meta_params")
    check_callable(collect, "collect", "params, task, key")
    check_count(inner_steps, least=0, of="inner steps")

    def episode(meta_params: MetaParams, task: PyTree, key: RandomKey) -> Episode:
        support_key, query_key = jax.random.split(key)
        params, experience = adapt(learner(meta_params), task, support_key, inner_steps)
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
    """Collects in every task, then improves: a step for `maml.iterate`.

    Args:
        episode: of one task.
        improve: the outer step on all of them.
        chunk, mesh: see `maml.evaluate`.

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
    """TRPO: the divergence is the mean KL of the adapted policies from those that acted.

    Args:
        algorithm: with an unrolled objective, whose outer loss is a `surrogate_loss`.
        policy: what adapts.
        inner_steps: K inner steps.
        fvp_trajectories: Number of trajectories of each batch that the Fisher-vector products use;
            gradient, objective, divergence and adapted policy use all. None: all.
        options: those of `trust_region_step`.

    Raises:
        ValueError: the algorithm has no objective; it is no policy; a count is below 1; an
            option is none of `trust_region_step`, or out of range.
    """
    objective = _objective(algorithm)
    check_policy(policy)
    check_region(**options)
    check_count(inner_steps, least=0, of="inner steps")
    if fvp_trajectories is not None:
        check_count(fvp_trajectories, least=1, of="trajectories of a Fisher-vector product")

    def outputs(meta_params: MetaParams, episode: Episode, key: RandomKey) -> PyTree:
        few = jax.tree.map(lambda leaf: leaf[:, :fvp_trajectories], episode.support)
        all_of, some_of = (
            adapt(algorithm.learner(meta_params), support, key, inner_steps)[0]
            for support in (episode.support, few)
        )
        # The policy that all adapt to; only its derivative is that of some.
        params = jax.tree.map(
            lambda whole, some: some + jax.lax.stop_gradient(whole - some), all_of, some_of
        )
        seen = jax.tree.map(lambda leaf: leaf[:fvp_trajectories], filled(episode.query.seen))
        return jax.vmap(policy.along, (None, 0))(params, seen.observation)

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
    """Some steps of an optimiser on the same episodes; with ratios clipped outside, ProMP.

    Args:
        algorithm: what gives the meta-gradient.
        optimizer: the outer one.
        epochs: how many steps, >= 1.
        options: those of `meta_step`.

    Raises:
        ValueError: `epochs` is below 1, the algorithm is none, or the optimiser is not optax's.
    """
    check_algorithm(algorithm)
    check_optimizer(optimizer)
    check_count(epochs, least=1, of="epochs")

    def improve(state: MetaState, episodes: Episode, key: RandomKey) -> tuple[MetaState, Metrics]:
        def epoch(state: MetaState, key: RandomKey) -> tuple[MetaState, Metrics]:
            return meta_step(algorithm, optimizer, state, episodes, key, **options)

        after, metrics = jax.lax.scan(epoch, state, jax.random.split(key, epochs))
        return after._replace(step=state.step + 1), jax.tree.map(lambda leaf: leaf[0], metrics)

    return improve


def anchored(algorithm: Algorithm, policy: Policy, kl_coef: float) -> Algorithm:
    """The objective plus kl_coef x KL of the meta-policy from the one that acted, as in ProMP.

    Raises:
        ValueError: the algorithm has no objective; it is no policy; the coefficient is no finite
            number >= 0; (when traced) there is no inner step.

    Rothfuss, Lee, Clavera, Asfour, Abbeel: ProMP (ICLR 2019).
    """
    loss = surrogate_loss(policy)

    def divergence(params: Params, first: Experience, episode: Episode, key: RandomKey) -> Scalar:
        return loss(params, first, key)[1]["kl"]

    return _plus(algorithm, kl_coef, divergence, "inner_kl")


def exploring(algorithm: Algorithm, policy: Policy, exploration_coef: float) -> Algorithm:
    """The objective with the extra term of E-MAML: credit for what is adapted to.

        - exploration_coef / steps  sum_i (R_query - mean_{j != i} R_j) sum_t l_it

    over the trajectories i of the first inner step, with R the undiscounted returns: those that
    adapting to gains more than trajectories of the meta-policy have on average become more likely.
    Leaving out trajectory i keeps its own luck out of what it is compared with.

    Raises:
        ValueError: as `anchored`, or (when traced) there is one trajectory alone.

    Stadie, Yang, Houthooft, Chen, Duan, Wu, Abbeel, Sutskever: Some considerations on learning to
    explore via meta-reinforcement learning (2018).
    """
    loss = surrogate_loss(policy, score_function)

    def credit(params: Params, first: Experience, episode: Episode, key: RandomKey) -> Scalar:
        returns = undiscounted(first.seen)
        if returns.size < 2:
            raise ValueError(
                "E-MAML compares each trajectory with the others of its batch: at least 2 are"
                f" needed; got {returns.size}"
            )
        others = (returns.sum() - returns) / (returns.size - 1)
        gain = undiscounted(episode.query.seen).mean() - others
        weighted = first._replace(advantage=jnp.broadcast_to(gain[:, None], first.advantage.shape))
        return loss(params, weighted, key)[0]

    return _plus(algorithm, exploration_coef, credit, "credit")


def _plus(
    algorithm: Algorithm,
    coefficient: float,
    term: Callable[[Params, Experience, Episode, RandomKey], Scalar],
    name: str,
) -> Algorithm:
    """The algorithm with a term of the meta-policy on the trajectories of the first inner step."""
    unrolled = _objective(algorithm)
    check_number(coefficient, f"the coefficient of {name}", least=0)

    def objective(
        meta_params: MetaParams, episode: Episode, key: RandomKey, step: Step
    ) -> tuple[Scalar, Metrics]:
        if not isinstance(episode.support, PerStep):
            raise ValueError(f"{name} is a term of the first inner step; there is none")
        value, metrics = unrolled(meta_params, episode, key, step)
        inner = algorithm.learner(meta_params)
        first = jax.tree.map(lambda leaf: leaf[0], episode.support.batches)
        added = term(inner.params(inner.state), first, episode, key)
        return value + coefficient * added, metrics | {name: added}

    return algorithm._replace(grad=MetaGradient(objective))


def _objective(algorithm: Algorithm) -> Objective:
    check_algorithm(algorithm)
    if algorithm.grad.objective is None or algorithm.grad.early is not None:
        raise ValueError(NO_OBJECTIVE)
    return algorithm.grad.objective
