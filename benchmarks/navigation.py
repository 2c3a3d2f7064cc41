"""2D navigation by meta-reinforcement learning (Finn et al. 2017, section 5.3 and figure 4).

Meta-trains a policy that walks to a goal which it cannot see, and reports the return on test goals
before adaptation and after each inner step, a policy-gradient step on the trajectories of a task.

    python -m benchmarks.navigation                       # settings of the paper's code; 3 minutes
    python -m benchmarks.navigation --preset best         # our best settings
    python -m benchmarks.navigation --algorithm oracle    # a policy that sees the goal
    python -m benchmarks.navigation --preset corners      # sparse rewards, which need exploration

Published: returns of -40.41, -11.68, -3.33 and -3.23 after 0, 1, 2 and 3 inner steps on 40 test
goals, and -2.29 by the oracle. They are means over the trajectories that finish first, as in the
paper's sampler (`finished_return`); the mean return of all trajectories is reported too.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from math import gcd
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

import maml
from benchmarks import meta_rl
from benchmarks.harness import hardware
from benchmarks.harness.command_line import launch
from benchmarks.harness.run import Result, run
from benchmarks.harness.study import Study, values_by_step
from benchmarks.meta_rl import MetaRL, RLProblem, evaluation_learner
from benchmarks.report import figures, published, tables
from maml.mapping import map_tasks
from maml.rl.environment import rollout
from maml.rl.policies import gaussian_policy
from maml.rl.rl2 import episode_returns, finished_return, trial_environment
from maml.types import MetaParams, Params, RandomKey
from tasks.rl import navigation
from tasks.rl.networks import GaussianGRU, GaussianMLP, recurrent_policy


@dataclass(frozen=True, kw_only=True)
class Navigation(MetaRL):
    """Options of the navigation benchmark."""

    algorithm: Literal["maml", "fomaml", "meta_sgd", "pretrained", "oracle", "random", "rl2"] = (
        "maml"
    )
    """Algorithm. `pretrained` learns all goals jointly, `oracle` does the same and sees the goal,
    `random` is not trained, and `rl2` has a memory of earlier episodes instead of adapting."""
    corners: bool = False
    """Put goals in four corners, with rewards in the goal's quadrant alone: a policy that never
    enters it before adaptation gets no reward to adapt to."""
    trajectories: int = 20
    """Number of trajectories in each batch."""
    width: int = 100
    """Number of units in each of the policy's two hidden layers, or in the memory of rl2."""
    activation: Literal["relu", "tanh"] = "relu"
    """Activation of the policy's hidden layers; that of the published random policy is tanh."""
    std: float = 1.0
    """Initial standard deviation of the policy's actions."""
    squared: bool = False
    """Use minus the squared distance as reward, as in the paper's text, not in its code."""
    goals: int = 40
    """Number of test goals, the first of the paper's."""
    eval_trajectories: int = 40
    """Number of trajectories in each batch of the evaluation."""
    eval_steps: int = 4
    """Number of inner steps in the evaluation; those beyond `inner_steps` have half the learning
    rate. For rl2, the number of episodes before the last one of a trial."""

    @property
    def unread_options(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """As in `MetaRL`; and those of Gaussian policies for rl2, and of training for random."""
        yield from super().unread_options
        if self.algorithm == "rl2":
            yield ("inner_steps", "std", "activation"), "algorithms that adapt, not rl2"
        if self.algorithm == "random":
            trained = ("meta_steps", "outer", "radius", "cg_steps", "fvp_trajectories")
            yield (*trained, "trajectories"), "algorithms that are trained, not random"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.corners and (self.algorithm == "oracle" or self.squared):
            raise ValueError("--corners excludes --algorithm oracle and --squared")
        self.check_steps(self.meta_batch, self.trajectories, self.trained_steps)
        self.check_steps(self.goals, self.eval_trajectories, self.eval_steps)
        if self.goals % (self.devices or 1):
            raise ValueError(
                f"the devices must divide goals, which is {self.goals}; got {self.devices}"
            )


FINN = Navigation(
    preset="finn-2017",
    surrogate="score_function",
    inner_rate=0.5,
    inner_steps=1,
    meta_batch=20,
    meta_steps=100,
    steps_per_call=10,
    horizon=100,
)
PUBLISHED = {"MAML, 0 inner steps": -40.41, "MAML, 1 inner step": -11.68, "oracle": -2.29}
BEST = replace(
    FINN,
    preset="best",
    surrogate="likelihood_ratio",
    inner_reward="square",
    gae_lambda=0.95,
    inner_rate=0.02,
)
RL2 = replace(FINN, preset="rl2", algorithm="rl2", outer="promp", gae_lambda=0.95, width=64)
CORNERS = replace(
    FINN,
    preset="corners",
    corners=True,
    surrogate="likelihood_ratio",
    std=0.3,
    horizon=50,
    eval_steps=1,
)
PRESETS = {preset.preset: preset for preset in (FINN, BEST, RL2, CORNERS)}


def problem(config: Navigation) -> RLProblem:
    """The environment, whose goal an oracle sees, and the policy."""
    environment = navigation.navigation(squared=config.squared, oracle=config.algorithm == "oracle")
    draw, horizon, batch = navigation.draw_goal, config.horizon, config.trajectories
    if config.corners:
        environment, draw = navigation.corners(), navigation.draw_corner
    if config.algorithm == "rl2":
        episodes = config.eval_steps + 1
        policy = recurrent_policy(GaussianGRU(2, size=config.width))
        row = trial_environment(environment, episodes, horizon)
        return RLProblem(row, policy, draw, episodes * horizon, batch)
    options = {"widths": (config.width, config.width), "std": config.std}
    policy = gaussian_policy(GaussianMLP(2, **options, activation=config.activation))
    return RLProblem(environment, policy, draw, horizon, batch)


def held_out(config: Navigation) -> Float[Array, "goal 2"]:
    """The goals of the evaluation."""
    if config.corners:
        return jnp.resize(navigation.CORNERS, (config.goals, 2))
    return navigation.held_out_goals(config.goals)


def make_study(config: Navigation) -> Study:
    """The study of the benchmark."""
    rl_problem = problem(config)
    tasks = gcd(config.meta_batch, config.goals)
    layout = hardware.layout(tasks, heavy=True, devices=config.devices)
    environment, policy, *_ = rl_problem
    learner, loss = evaluation_learner(rl_problem, config, config.eval_trajectories)
    counts = {"horizon": config.horizon, "trajectories": config.eval_trajectories}

    def metric(params: Params, goal: Array, key: RandomKey) -> dict[str, Array]:
        finished = finished_return(environment, policy, params, goal, key, **counts)
        return {"returns": finished, "mean_returns": loss(params, goal, key)[1]["return"]}

    def evaluate(meta_params: MetaParams, key: RandomKey) -> dict[str, dict[str, Array]]:
        goals, options = held_out(config), layout._asdict()
        if config.algorithm == "rl2":
            collect = rl_problem.collector(config, config.eval_trajectories)

            def episodes(params: Params, goal: Array, key: RandomKey) -> Array:
                trajectories = collect(params, goal, key).trajectories
                return episode_returns(trajectories, config.eval_steps + 1).mean(axis=0)

            returns = map_tasks(episodes, meta_params, goals, key, **options)
            return {"returns": values_by_step(returns)}
        tasks, steps = maml.Episode(goals, goals), config.eval_steps
        metrics = maml.evaluate(learner, metric, meta_params, tasks, key, steps, **options)
        return {name: values_by_step(values) for name, values in metrics.items()}

    when = str(min(config.eval_steps, 1))
    facts = {"batch_norm": "none", "tasks": config.goals, "query_size": config.eval_trajectories}
    return meta_rl.make_study(
        "navigation", rl_problem, config, layout, evaluate, headline=("returns", when), facts=facts
    )


def walks(
    config: Navigation, meta_params: MetaParams, goals: Float[Array, "goal 2"]
) -> Float[Array, "goal step trajectory time 2"]:
    """Positions on the way to goals after 0, 1, ... inner steps, NaN where an episode has ended."""
    environment, policy, *_ = rl_problem = problem(config)
    learner, _ = evaluation_learner(rl_problem, config, config.eval_trajectories)
    counts = {"horizon": config.horizon, "trajectories": 6}

    def metric(params: Params, goal: Array, key: RandomKey) -> Array:
        trajectories = rollout(environment, policy, params, goal, key, **counts)
        alive = trajectories.alive[..., None]
        return jnp.where(alive, trajectories.observation[..., :2], jnp.nan)

    tasks, key = maml.Episode(goals, goals), jax.random.key(2018)
    return maml.evaluate(learner, metric, meta_params, tasks, key, config.eval_steps)


def main(config: Navigation) -> Result:
    """Runs the experiment, prints the table and draws the figures."""
    result = run(make_study(config), config)
    tables.show(result.summary)
    if result.summary["meta_steps"]:
        figures.learning_curve(
            result.out,
            {name: f"{name} adaptation" for name in ("before", "after")},
            "mean return",
            title=f"{published.task_title(result.summary)}, {config.algorithm}",
            levels={} if config.corners else PUBLISHED,
        )
    if config.algorithm != "rl2":
        goals = held_out(config)[:4]
        figures.paths(result.out, jax.jit(partial(walks, config))(result.of_seed(), goals), goals)
    return result


if __name__ == "__main__":
    launch(main, PRESETS, __doc__)
