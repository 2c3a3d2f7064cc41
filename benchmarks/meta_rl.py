"""From options to a `Study` of meta-reinforcement learning: what every such benchmark shares."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

import maml
from benchmarks.harness import hardware
from benchmarks.harness.bounds import check_size, check_used
from benchmarks.harness.options import Run
from benchmarks.harness.study import Study, Values, not_finite_at_once
from maml import surrogates
from maml.rl import outer_steps
from maml.rl.environment import Environment
from maml.rl.losses import Collect, collector, policy_gradient, surrogate_loss
from maml.rl.policies import Policy
from maml.types import LossFn, MetaParams, MetaState, Metrics, RandomKey

SURROGATES = {
    "score_function": surrogates.score_function,
    "likelihood_ratio": surrogates.likelihood_ratio,
    "taypo2": surrogates.taypo2,
    "dice": surrogates.dice,
}

NOT_ADAPTED = ("pretrained", "oracle", "random", "rl2")
NUMBERS_OF_A_STEP = 10  # observation, action, reward, ...


@dataclass(frozen=True, kw_only=True)
class MetaRL(Run):
    """Options of the benchmarks in reinforcement learning. Each adds its own."""

    algorithm: str = "maml"
    """What is meta-trained."""
    seeds: int = 5
    """How many are trained: `seed`, `seed` + 1, ..."""
    surrogate: Literal["score_function", "likelihood_ratio", "taypo2", "dice"]
    """Of the inner steps; `score_function` is that of MAML's code."""
    outer: Literal["trpo", "promp", "adam"] = "trpo"
    """The outer step: a trust region, epochs of Adam on clipped ratios, or one step of Adam."""
    radius: float = 0.01
    """Largest mean KL divergence of a trust-region step, in nats."""
    cg_steps: int = 10
    """Conjugate-gradient steps of a trust-region step."""
    fvp_trajectories: int = 2
    """Trajectories of each batch that give its metric."""
    epochs: int = 5
    """Of promp."""
    clip: float = 0.3
    """Of promp's ratios."""
    kl_coef: float = 5e-4
    """Strength of promp's KL penalty on the meta-policy."""
    exploration_coef: float = 0.0
    """Strength of E-MAML's term."""
    discount: float = 0.99
    """Of a reward, each step, in the advantages."""
    gae_lambda: float = 1.0
    """Lambda of the generalised advantage estimates."""
    inner_reward: Literal["reward", "square"] = "reward"
    """What inner steps ascend: the rewards, with advantages of mean 0 and deviation 1, or minus
    their squares as they are. The square of a distance says how far, the distance only where to."""
    trajectories: int = 20
    """Of each batch."""
    horizon: int
    """Most steps of an episode."""

    @property
    def unread(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """As every benchmark's, and those of adapting, or of the outer step that is not taken."""
        yield from super().unread
        if self.algorithm in NOT_ADAPTED:
            yield ("surrogate",), f"algorithms that adapt, not {NOT_ADAPTED}"
        if self.algorithm == "rl2":
            yield ("inner_rate",), "algorithms that adapt, not rl2"
        if self.outer != "trpo":
            yield ("fvp_trajectories",), "outer trpo"

    def __post_init__(self) -> None:
        super().__post_init__()
        promp, adapts = self.outer == "promp", self.algorithm not in NOT_ADAPTED
        check_used(self, ("radius", "cg_steps"), self.outer == "trpo", "outer trpo")
        check_used(self, ("outer_rate",), self.outer != "trpo", "outer promp and adam")
        check_used(self, ("epochs", "clip"), promp, "outer promp")
        check_used(self, ("kl_coef",), promp and adapts, "outer promp where the policy adapts")
        check_used(self, ("exploration_coef",), adapts, f"algorithms that adapt, not {NOT_ADAPTED}")
        check_used(
            self, ("inner_reward",), self.algorithm != "rl2", "algorithms that adapt, not rl2"
        )
        self.check_steps(self.meta_batch, self.trajectories, self.trained_steps)

    def check_steps(self, tasks: int, trajectories: int, updates: int) -> None:
        """Refuses more steps of an environment at once than memory can hold.

        Raises:
            ValueError: saying how much it would be.
        """
        steps = tasks * trajectories * self.horizon * (updates + 1)
        fewer = "the tasks, the trajectories, the horizon or the inner steps"
        check_size(NUMBERS_OF_A_STEP * steps, "the trajectories of a batch", fewer)

    @property
    def trained_steps(self) -> int:
        """Inner steps that meta-training looks through."""
        return 0 if self.algorithm in NOT_ADAPTED else self.inner_steps


class Problem(NamedTuple):
    """What is to be learned.

    Attributes:
        environment: whose tasks they are.
        policy: what acts.
        draw: a task, from a key.
        horizon: the most steps of a trajectory.
    """

    environment: Environment
    policy: Policy
    draw: Callable[[RandomKey], PyTree]
    horizon: int

    def collector(
        self, config: MetaRL, trajectories: int | None = None, *, adapting: bool = False
    ) -> Collect:
        """What the policy experiences, under the options; `adapting`, with their inner_reward."""
        square = adapting and config.inner_reward == "square"
        return collector(
            self.environment,
            self.policy,
            horizon=self.horizon,
            trajectories=trajectories or config.trajectories,
            discount=config.discount,
            gae_lambda=config.gae_lambda,
            normalise=not square,
            inner_reward=(lambda reward: -jnp.square(reward))
            if square
            else (lambda reward: reward),
        )


def algorithm(config: MetaRL, loss: LossFn, *, evaluating: bool = False) -> maml.Algorithm:
    """The configured algorithm. In an evaluation, what was trained without adaptation adapts.

    There, updates beyond those of meta-training have half the rate, as in MAML's code.
    """
    steps = config.inner_steps if evaluating else config.trained_steps

    def scaled(rate: float) -> optax.GradientTransformation:
        halved = optax.piecewise_constant_schedule(rate, {config.inner_steps: 0.5})
        return optax.sgd(halved if evaluating else rate)

    rate = config.inner_rate
    return {
        "fomaml": lambda: maml.fomaml(loss, scaled(rate), steps),
        "meta_sgd": lambda: maml.meta_sgd(loss, scaled(1.0), steps, rate=rate),
    }.get(config.algorithm, lambda: maml.maml(loss, scaled(rate), steps))()


def evaluation_learner(
    problem: Problem, config: MetaRL, trajectories: int | None = None
) -> tuple[maml.Learner, LossFn]:
    """(What adapts in an evaluation, its loss), both on trajectories drawn on the way."""
    collect = problem.collector(config, trajectories, adapting=True)
    loss = policy_gradient(collect, problem.policy)
    return algorithm(config, loss, evaluating=True).learner, loss


def study(
    name: str,
    problem: Problem,
    config: MetaRL,
    layout: hardware.Layout,
    evaluate: Callable[[MetaParams, RandomKey], dict[str, dict[str, Array]]],
    *,
    headline: tuple[str, str],
    facts: dict[str, Any],
) -> Study:
    """The study of a problem: collects trajectories, adapts, and takes the configured outer step.

    Args:
        name: Name of the benchmark.
        problem: Problem to learn.
        config: Options of the run.
        layout: Layout of the tasks of a meta-batch on the devices.
        evaluate: Metrics on the test tasks, `evaluate(meta_params, key)`.
        headline: Metric, and when, that others compare with.
        facts: Entries of the summary, beside the algorithm.

    Returns:
        The study, which `benchmarks.harness.study.run` runs.
    """
    policy, steps, options = problem.policy, config.trained_steps, layout._asdict()
    collect, study = problem.collector(config), problem.collector(config, adapting=True)
    inner = surrogate_loss(policy, SURROGATES[config.surrogate])
    promp = config.outer == "promp"
    clipped = partial(surrogates.clipped, clip=config.clip)
    outer = surrogate_loss(policy, clipped if promp else surrogates.likelihood_ratio)
    chosen = algorithm(config, inner)
    chosen = chosen._replace(grad=maml.unrolled(chosen.learner, outer, steps))
    if steps and config.exploration_coef:
        chosen = outer_steps.exploring(chosen, policy, config.exploration_coef)
    if steps and promp:
        chosen = outer_steps.anchored(chosen, policy, config.kl_coef)
    optimizer = optax.adam(config.outer_rate)
    if config.outer == "trpo":
        region: dict[str, Any] = {"radius": config.radius, "cg_steps": config.cg_steps, **options}
        improve = outer_steps.trust_region(
            chosen, policy, steps, fvp_trajectories=config.fvp_trajectories, **region
        )
    else:
        improve = outer_steps.repeatedly(
            chosen, optimizer, config.epochs if promp else 1, **options
        )
    recorder = algorithm(config, outer_steps.recording(study, policy, inner)).learner
    episode = outer_steps.collect_episode(recorder, collect, steps)

    def start(key: RandomKey) -> MetaState:
        _, observation = problem.environment.reset(key, problem.draw(key))
        return maml.init(chosen, optimizer, policy.init(key, jnp.zeros_like(observation)))

    def sample(key: RandomKey) -> PyTree:
        return jax.vmap(problem.draw)(jax.random.split(key, config.meta_batch))

    def follow(metrics: Metrics) -> dict[str, Array]:
        after = metrics["query"]["return"]
        before = metrics["support"]["return"][..., 0] if steps else after
        return {"before": before, "after": after}

    judged = jax.jit(evaluate)

    def tested(meta_params: MetaParams, split: str) -> Values:
        values = jax.device_get(judged(meta_params, jax.random.key(2017)))
        return {
            metric: dict(sorted(steps.items(), key=lambda item: _order(item[0])))
            for metric, steps in values.items()
        }

    return Study(
        name,
        start,
        outer_steps.outer_step(episode, improve, **options),
        sample,
        follow,
        shown=("before", "after"),
        score=lambda means: means["after"],
        evaluate=tested,
        headline=headline,
        facts={"algorithm": config.algorithm, **facts},
        trouble=not_finite_at_once,
        about=str(layout),
    )


def _order(when: str) -> tuple[bool, int, str]:
    """Sorts numbers of inner steps as numbers, before all else."""
    return not when.isdigit(), int(when) if when.isdigit() else 0, when
