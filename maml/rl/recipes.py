"""Meta-reinforcement learning in one call: MAML with the outer step of TRPO, and ProMP.

A meta-step has two parts, and both adapt: the first draws and records trajectories while it adapts
to each task, the second takes the outer step on what was recorded.

    tasks -> collect_episode -> trpo | multi_epoch
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import PyTree

from maml._checks import check_callable, check_number
from maml._contracts import check_algorithm
from maml.algorithms import maml
from maml.estimators import unrolled
from maml.rl.environment import Environment
from maml.rl.losses import collector, policy_gradient, surrogate_loss
from maml.rl.outer_steps import (
    Improve,
    collect_episode,
    multi_epoch,
    outer_step,
    record_trajectories,
    trpo,
)
from maml.rl.policies import Policy
from maml.rl.terms import add_exploration_term, add_kl_penalty, require_objective
from maml.surrogates import Surrogate, clipped, likelihood_ratio
from maml.training import init
from maml.types import Algorithm, Learner, LossFn, MetaState, Metrics, RandomKey


class Recipe(NamedTuple):
    """Meta-reinforcement learning from the first state to the evaluation.

    Attributes:
        init: Function `init(key, task) -> state`, with new parameters of the policy for the
            observations of this task.
        step: Outer step `step(state, tasks, key) -> (state, metrics)` for `maml.iterate`. The
            metrics in `query` are those of the adapted policies, `return` and `kl`, and those in
            `support` of the policies before each inner step.
        learner: Learner for `maml.evaluate`, which draws trajectories in each inner step.
        loss: Loss of a task for `maml.evaluate`, with the metrics `return` and `kl`.
    """

    init: Callable[[RandomKey, PyTree], MetaState]
    step: Callable[[MetaState, PyTree, RandomKey], tuple[MetaState, Metrics]]
    learner: Learner
    loss: LossFn


def maml_trpo(
    environment: Environment,
    policy: Policy,
    inner_optimizer: optax.GradientTransformation,
    inner_steps: int,
    *,
    horizon: int,
    trajectories: int,
    radius: float = 0.01,
    cg_steps: int = 10,
    fvp_trajectories: int | None = None,
    **options: Any,
) -> Recipe:
    """MAML by policy gradients, with the outer step of TRPO.

    Args:
        environment: Environment of all tasks.
        policy: Policy that adapts; it decides how an observation is read.
        inner_optimizer: Inner optimiser, an optax transformation.
        inner_steps: Number of inner steps K >= 0; K = 0 is joint training.
        horizon: Maximum number of steps of a trajectory, >= 1.
        trajectories: Number of trajectories that each policy draws in a task, >= 1.
        radius: Largest mean divergence of the adapted policies from those that acted, in nats, > 0.
        cg_steps: Number of conjugate-gradient steps, >= 1.
        fvp_trajectories: Number of trajectories of each batch that the Fisher-vector products use.
            None: all.
        options: Options that `promp` has as well: `algorithm`, a function
            `(loss, optimizer, inner_steps) -> Algorithm` such as `maml.fomaml`, of which only
            `init` and `learner` are used, since the outer loss is that of the policy after the last
            inner step; `surrogate`, that of the inner steps; `exploration_coef`, see
            `add_exploration_term`; `chunk` and `mesh`, as in `maml.evaluate`; `discount`,
            `gae_lambda` and `normalise` of `collector`; and `adapting`, a dictionary of options of
            `collector` that are different in the inner steps, such as `{"normalise": False}`.

    Returns:
        The functions that meta-train and evaluate.

    Raises:
        ValueError: an option is out of range, or an argument has the wrong type.

    Finn, Abbeel, Levine: Model-agnostic meta-learning (ICML 2017), section 5.3,
    https://arxiv.org/abs/1703.03400
    """
    region: dict[str, Any] = {"radius": radius, "cg_steps": cg_steps}

    def outer(algorithm: Algorithm, **devices: Any) -> Improve:
        counts = {"fvp_trajectories": fvp_trajectories}
        return trpo(algorithm, policy, inner_steps, **counts, **region, **devices)

    make = _Outer(outer, optax.identity(), likelihood_ratio)
    batch = {"horizon": horizon, "trajectories": trajectories}
    return _recipe(environment, policy, inner_optimizer, inner_steps, make, **batch, **options)


def promp(
    environment: Environment,
    policy: Policy,
    inner_optimizer: optax.GradientTransformation,
    outer_optimizer: optax.GradientTransformation,
    inner_steps: int,
    *,
    horizon: int,
    trajectories: int,
    epochs: int = 5,
    clip: float | None = 0.3,
    kl_coef: float = 5e-4,
    **options: Any,
) -> Recipe:
    """ProMP: several steps of an optimiser on the clipped ratios of the adapted policies.

    With one epoch, no clip and no penalty, a meta-step is one policy gradient.

    Args:
        environment, policy, inner_optimizer, inner_steps, horizon, trajectories, options: As in
            `maml_trpo`.
        outer_optimizer: Outer optimiser, an optax transformation.
        epochs: Number of steps on the same trajectories, >= 1.
        clip: Distance of a ratio from 1 beyond which it is clipped, > 0. None: no clip.
        kl_coef: Coefficient of the penalty on the divergence of the meta-policy from the one that
            acted, >= 0. Without inner steps there is no penalty.

    Returns:
        The functions that meta-train and evaluate.

    Raises:
        ValueError: an option is out of range, or an argument has the wrong type.

    Rothfuss, Lee, Clavera, Asfour, Abbeel: ProMP (ICLR 2019), https://arxiv.org/abs/1810.06784
    """
    check_number(kl_coef, "kl_coef", least=0)
    if clip is not None:
        check_number(clip, "clip", above=0)

    def outer(algorithm: Algorithm, **devices: Any) -> Improve:
        if inner_steps and kl_coef:
            algorithm = add_kl_penalty(algorithm, policy, kl_coef)
        return multi_epoch(algorithm, outer_optimizer, epochs, **devices)

    surrogate = likelihood_ratio if clip is None else partial(clipped, clip=clip)
    make = _Outer(outer, outer_optimizer, surrogate)
    batch = {"horizon": horizon, "trajectories": trajectories}
    return _recipe(environment, policy, inner_optimizer, inner_steps, make, **batch, **options)


class _Outer(NamedTuple):
    """How the outer step is made from an algorithm on recorded trajectories."""

    improve: Callable[..., Improve]
    optimizer: optax.GradientTransformation
    surrogate: Surrogate


def _recipe(
    environment: Environment,
    policy: Policy,
    inner_optimizer: optax.GradientTransformation,
    inner_steps: int,
    outer: _Outer,
    *,
    algorithm: Callable[..., Algorithm] = maml,
    surrogate: Surrogate = likelihood_ratio,
    exploration_coef: float = 0.0,
    adapting: Mapping[str, Any] = MappingProxyType({}),
    chunk: int | None = None,
    mesh: Mesh | None = None,
    **collection: Any,
) -> Recipe:
    """The recipe of an outer step."""
    check_callable(algorithm, "algorithm", "loss, optimizer, inner_steps")
    check_number(exploration_coef, "exploration_coef", least=0)
    if not isinstance(adapting, Mapping):
        raise ValueError(f"adapting must be a dictionary of options of collector; got {adapting!r}")

    def build(loss: LossFn) -> Algorithm:
        built = algorithm(loss, inner_optimizer, inner_steps)
        check_algorithm(built)
        return built

    collect = collector(environment, policy, **collection)
    collect_inner = collector(environment, policy, **{**collection, **adapting})
    inner_loss = surrogate_loss(policy, surrogate)
    recorder = build(record_trajectories(collect_inner, policy, inner_loss))
    episode = collect_episode(recorder.learner, collect, inner_steps)
    recorded = build(inner_loss)
    require_objective(recorded)
    outer_loss = surrogate_loss(policy, outer.surrogate)
    recorded = recorded._replace(grad=unrolled(recorded.learner, outer_loss, inner_steps))
    if inner_steps and exploration_coef:
        recorded = add_exploration_term(recorded, policy, exploration_coef)

    def first_state(key: RandomKey, task: PyTree) -> MetaState:
        _, shapes = jax.eval_shape(environment.reset, key, task)
        observation = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return init(recorded, outer.optimizer, policy.init(key, observation))

    improve = outer.improve(recorded, chunk=chunk, mesh=mesh)
    return Recipe(
        first_state,
        outer_step(episode, improve, chunk=chunk, mesh=mesh),
        build(policy_gradient(collect_inner, policy, surrogate)).learner,
        policy_gradient(collect, policy),
    )
