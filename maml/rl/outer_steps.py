"""Outer steps that use the same trajectories several times.

Trajectories are drawn once and stored as `Episode(support, query)`: for each inner step those of
the policy before the step, and finally those of the adapted policy. The objective of an algorithm
is then a function of the meta-parameters on fixed data, through the ratios of its policies to those
that acted:

    collect -> Episode -> trpo | multi_epoch
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import PyTree, Scalar

from maml._checks import check_callable, check_count
from maml._contracts import check_algorithm, check_loss, check_state
from maml._optimizers import check_optimizer
from maml.inner import adapt
from maml.mapping import map_tasks
from maml.outer import meta_step
from maml.rl.environment import fill_after_end
from maml.rl.losses import Collect, Experience, count_steps, map_over_steps
from maml.rl.policies import Policy, check_policy
from maml.rl.terms import check_start_is_fixed, require_objective
from maml.trust_region import TrustRegion, check_region, trust_region_step
from maml.types import (
    Algorithm,
    BatchPerStep,
    Episode,
    Learner,
    LossFn,
    MetaParams,
    MetaState,
    Metrics,
    RandomKey,
)

Improve = Callable[[MetaState, Episode, RandomKey], tuple[MetaState, Metrics]]
"""`improve(state, episodes, key) -> (state, metrics)`: one outer step on given episodes."""


def record_trajectories(collect: Collect, policy: Policy, loss: LossFn) -> LossFn:
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
        learner: Learner with a loss made by `record_trajectories`.
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
        inner = learner(meta_params)
        check_start_is_fixed(inner)
        params, experience = adapt(inner, task, support_key, inner_steps)
        if inner_steps and not isinstance(experience, Experience):
            raise ValueError(
                "the learner must have a loss made by record_trajectories, whose metrics are an"
                f" Experience; got {type(experience).__name__}"
            )
        query = collect(params, task, query_key)
        support = BatchPerStep(experience) if inner_steps else query
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
        episodes = map_tasks(episode, state.params, tasks, collect_key, chunk=chunk, mesh=mesh)
        return improve(state, episodes, improve_key)

    return step


def trpo(
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
        options: Options of `trust_region_step`: `radius`, `damping`, `shrink`, `cg_steps`,
            `backtracks`, `chunk`, `mesh`.

    Returns:
        The outer step `improve(state, episodes, key) -> (state, metrics)`.

    Raises:
        ValueError: the algorithm has no objective; `policy` is not a policy; a count is too small;
            an option is not one of `trust_region_step`, or out of range.
    """
    objective = require_objective(algorithm)
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
            lambda leaf: leaf[:fvp_trajectories], fill_after_end(episode.query.trajectories)
        )
        return jax.vmap(policy.apply_sequence, (None, 0))(params, trajectories.observation)

    def divergence(old: PyTree, new: PyTree, episode: Episode) -> Scalar:
        alive = episode.query.trajectories.alive[:fvp_trajectories]
        kl = map_over_steps(policy.family.kl)(old, new)
        return jnp.sum(kl, where=alive) / count_steps(alive)

    def improve(state: MetaState, episodes: Episode, key: RandomKey) -> tuple[MetaState, Metrics]:
        check_state(state)

        def of_step(theta: MetaParams, episode: Episode, key: RandomKey) -> tuple[Scalar, Metrics]:
            return objective(theta, episode, key, state.step)

        region = TrustRegion(of_step, outputs, divergence, lambda metrics: metrics["query"]["kl"])
        params, metrics = trust_region_step(region, state.params, episodes, key, **options)
        return MetaState(params, state.opt_state, state.step + 1), metrics

    return improve


def multi_epoch(
    algorithm: Algorithm,
    optimizer: optax.GradientTransformation,
    epochs: int = 1,
    *,
    chunk: int | None = None,
    mesh: Mesh | None = None,
) -> Improve:
    """An outer step of several steps of an optimiser on the same episodes.

    With a clipped surrogate as the outer loss it is the outer step of ProMP.

    Args:
        algorithm: Algorithm whose meta-gradient is used.
        optimizer: Outer optimiser, an optax transformation.
        epochs: Number of steps on the same episodes, >= 1.
        chunk, mesh: As in `meta_step`.

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
            return meta_step(algorithm, optimizer, state, episodes, key, chunk=chunk, mesh=mesh)

        new_state, metrics = jax.lax.scan(epoch, state, jax.random.split(key, epochs))
        return new_state._replace(step=state.step + 1), jax.tree.map(lambda leaf: leaf[0], metrics)

    return improve
