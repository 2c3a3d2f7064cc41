"""The options and the `Study` that all benchmarks of meta-reinforcement learning share."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

import maml
from benchmarks.harness import algorithms, hardware
from benchmarks.harness.bounds import check_size, check_used
from benchmarks.harness.options import RunOptions
from benchmarks.harness.study import Study, Values, report_not_finite
from maml import surrogates
from maml.rl.environment import Environment
from maml.rl.losses import Collect, collector, policy_gradient
from maml.rl.policies import Policy
from maml.rl.recipes import maml_trpo, promp
from maml.types import LossFn, MetaParams, Metrics, RandomKey

SURROGATES = {
    name: getattr(surrogates, name)
    for name in ("score_function", "likelihood_ratio", "taypo2", "dice")
}
NUMBERS_OF_A_STEP = 10  # about: observation, action, reward, ...


@dataclass(frozen=True, kw_only=True)
class MetaRL(RunOptions):
    """Options that all benchmarks of reinforcement learning share."""

    seeds: int = 5
    """Number of seeds that are trained: `seed`, `seed` + 1, ..."""
    surrogate: Literal["score_function", "likelihood_ratio", "taypo2", "dice"]
    """Surrogate loss of the inner steps; `score_function` is that of MAML's code."""
    outer: Literal["trpo", "promp", "adam"] = "trpo"
    """Outer step: in a trust region, epochs of Adam on clipped ratios, or one step of Adam."""
    radius: float = 0.01
    """Largest mean KL divergence of a trust-region step, in nats."""
    cg_steps: int = 10
    """Number of conjugate-gradient steps in a trust-region step."""
    fvp_trajectories: int = 2
    """Number of trajectories of each batch in the Fisher-vector products of a trust-region step."""
    epochs: int = 5
    """Number of ProMP epochs in each meta-step."""
    clip: float = 0.3
    """Largest distance from 1 of ProMP's probability ratios, beyond which they are clipped."""
    kl_coef: float = 5e-4
    """Coefficient of ProMP's KL penalty on the meta-policy."""
    exploration_coef: float = 0.0
    """Coefficient of the exploration term of E-MAML; 0 is none."""
    discount: float = 0.99
    """Discount factor of rewards for each step, in the advantages."""
    gae_lambda: float = 1.0
    """Parameter lambda of the generalised advantage estimates."""
    inner_reward: Literal["reward", "square"] = "reward"
    """Reward of the inner steps: the reward, with advantages of mean 0 and standard deviation 1, or
    minus its square, not normalised. The gradient of a squared distance grows with the distance."""
    horizon: int
    """Largest number of steps in an episode."""

    @property
    def unread_options(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """As in `RunOptions`; and those of another outer step, which presets set."""
        yield from super().unread_options
        if self.outer != "trpo":
            yield ("fvp_trajectories",), "outer trpo"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_used(self, ("radius", "cg_steps"), self.outer == "trpo", "outer trpo")
        check_used(self, ("outer_rate",), self.outer != "trpo", "outer promp and adam")
        check_used(self, ("epochs", "clip", "kl_coef"), self.outer == "promp", "outer promp")

    @property
    def adapting(self) -> dict[str, Any]:
        """Options of `maml.rl.collector` that are different in the inner steps."""
        if self.inner_reward == "reward":
            return {}
        return {"normalise": False, "inner_reward": lambda reward: -jnp.square(reward)}

    def check_steps(self, tasks: int, trajectories: int, inner_steps: int) -> None:
        """Refuses more steps of the environment at once than memory can hold.

        Raises:
            ValueError: There are too many steps; the message has their size.
        """
        steps = tasks * trajectories * self.horizon * (inner_steps + 1)
        fewer = "the tasks, the trajectories, the horizon or the inner steps"
        check_size(NUMBERS_OF_A_STEP * steps, "the trajectories of a batch", fewer)

    @property
    def trained_steps(self) -> int:
        """Number of inner steps that meta-training differentiates through."""
        return 0 if self.algorithm in algorithms.JOINT else self.inner_steps


class RLProblem(NamedTuple):
    """A problem of meta-reinforcement learning.

    Attributes:
        environment: Environment of all tasks.
        policy: Policy that acts.
        draw: Function that draws a task from a key.
        horizon: Largest number of steps in a trajectory.
        trajectories: Number of trajectories in each batch.
    """

    environment: Environment
    policy: Policy
    draw: Callable[[RandomKey], PyTree]
    horizon: int
    trajectories: int

    def collector(
        self, config: MetaRL, trajectories: int | None = None, *, adapting: bool = False
    ) -> Collect:
        """The function that collects trajectories; `adapting` gives them the inner reward."""
        options = self.collection(config) | (config.adapting if adapting else {})
        options |= {"trajectories": trajectories or self.trajectories}
        return collector(self.environment, self.policy, **options)

    def collection(self, config: MetaRL) -> dict[str, Any]:
        """The options of `maml.rl.collector`."""
        options = {name: getattr(config, name) for name in ("discount", "gae_lambda")}
        return options | {"horizon": self.horizon, "trajectories": self.trajectories}


def algorithm(config: MetaRL, loss: LossFn, *, evaluating: bool = False) -> maml.Algorithm:
    """The configured algorithm; in an evaluation, policies trained without adaptation adapt too.

    There, inner steps beyond those of meta-training have half the learning rate, as in MAML's code.
    """

    def sgd(rate: float) -> optax.GradientTransformation:
        halved = optax.piecewise_constant_schedule(rate, {config.inner_steps: 0.5})
        return optax.sgd(halved if evaluating else rate)

    joint = config.algorithm in algorithms.JOINT
    name = "maml" if joint and evaluating else config.algorithm
    return algorithms.build(name, loss, config.inner_rate, config.inner_steps, optimizer=sgd)


def evaluation_learner(
    problem: RLProblem, config: MetaRL, trajectories: int | None = None
) -> tuple[maml.Learner, LossFn]:
    """The learner of an evaluation and its loss, both on trajectories that they collect."""
    collect = problem.collector(config, trajectories, adapting=True)
    loss = policy_gradient(collect, problem.policy)
    return algorithm(config, loss, evaluating=True).learner, loss


def make_study(
    name: str,
    problem: RLProblem,
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
        headline: Metric, and the number of inner steps or another key of its results, such as
            `total`, whose mean stands for the run.
        facts: Entries of the summary, beside the algorithm.

    Returns:
        The study, which `benchmarks.harness.run.run` runs.
    """
    steps = config.trained_steps
    options: dict[str, Any] = {
        "algorithm": lambda loss, *_: algorithm(config, loss),
        "surrogate": SURROGATES[config.surrogate],
        "exploration_coef": config.exploration_coef,
        "adapting": config.adapting,
        **problem.collection(config),
        **layout._asdict(),
    }
    inner = problem.environment, problem.policy, optax.sgd(config.inner_rate)
    if config.outer == "trpo":
        names = "radius", "cg_steps", "fvp_trajectories"
        options |= {name: getattr(config, name) for name in names}
        recipe = maml_trpo(*inner, steps, **options)
    else:
        plain = {"epochs": 1, "clip": None, "kl_coef": 0.0}
        names = plain if config.outer == "promp" else ()
        options |= plain | {name: getattr(config, name) for name in names}
        recipe = promp(*inner, optax.adam(config.outer_rate), steps, **options)

    def sample(key: RandomKey) -> PyTree:
        return jax.vmap(problem.draw)(jax.random.split(key, config.meta_batch))

    def select_metrics(metrics: Metrics) -> dict[str, Array]:
        after = metrics["query"]["return"]
        before = metrics["support"]["return"][..., 0] if steps else after
        return {"before": before, "after": after}

    compiled = jax.jit(evaluate)

    def evaluate_split(meta_params: MetaParams, split: str, keep: Path | None) -> Values:
        values = jax.device_get(compiled(meta_params, jax.random.key(2017)))
        return {
            metric: dict(sorted(steps.items(), key=lambda item: _order(item[0])))
            for metric, steps in values.items()
        }

    return Study(
        name=name,
        start=lambda key: recipe.init(key, problem.draw(key)),
        step=recipe.step,
        sample=sample,
        select_metrics=select_metrics,
        bar_metrics=("before", "after"),
        score=lambda means: means["after"],
        evaluate=evaluate_split,
        headline=headline,
        facts={"algorithm": config.algorithm, **facts},
        failure=report_not_finite,
        devices=str(layout),
    )


def _order(when: str) -> tuple[bool, int, str]:
    """A key that sorts numbers of inner steps as numbers, before other names."""
    return not when.isdigit(), int(when) if when.isdigit() else 0, when
