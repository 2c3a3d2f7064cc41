"""Bandits and small Markov decision processes, with a budget of pulls or episodes for each task.

Meta-trains a policy that adapts within the budget of a task, and reports its reward on test tasks.

    python -m benchmarks.bandits --preset bandit-100-10        # 100 pulls of 10 arms
    python -m benchmarks.bandits --preset mdp-25               # 25 episodes of 10 steps
    python -m benchmarks.bandits --preset bandit-100-10 --algorithm rl2

The budget N is divided into equal batches, one before each inner step and one after the last, and
all of them count. Rows 0, 1, ... are the mean reward of a pull after that number of inner steps;
`total` is the reward of all N pulls; `at the last rate` is N times the mean reward of the last
batch, as if adaptation were free. Those of decision processes are fractions of the reward of the
best policy.

Published (Mishra et al. 2018, tables 3 and 4, which do not say how MAML spends its budget, so both
readings are compared): 67.1, 70.1 and 70.3 for 100 pulls of 5, 10 and 50 arms; 0.563 and 0.591
for 10 and 25 episodes. There are presets for the cells that are too expensive in the paper, too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
from jaxtyping import Array, PyTree

import maml
from benchmarks import meta_rl
from benchmarks.harness import hardware
from benchmarks.harness.bounds import check_size, check_used
from benchmarks.harness.command_line import launch
from benchmarks.harness.run import Result, run
from benchmarks.harness.study import Study, values_by_step
from benchmarks.meta_rl import MetaRL, RLProblem, evaluation_learner
from benchmarks.report import tables
from maml.mapping import map_tasks
from maml.rl.policies import table_policy
from maml.rl.rl2 import episode_returns, trial_environment
from maml.types import MetaParams, Params, RandomKey
from tasks.rl import tabular
from tasks.rl.networks import CategoricalGRU, recurrent_policy

STATES, EPISODE = 10, 10  # states, and steps of an episode, of the decision processes


@dataclass(frozen=True, kw_only=True)
class Bandits(MetaRL):
    """Options of the benchmark of bandits and decision processes."""

    algorithm: Literal["maml", "fomaml", "meta_sgd", "rl2"] = "meta_sgd"
    """Algorithm; `rl2` has a memory of earlier pulls instead of adapting."""
    problem: Literal["bandit", "mdp"]
    """Kind of task: a bandit, or a Markov decision process."""
    arms: int
    """Number of arms, or of actions in every state."""
    budget: int
    """Number of pulls, or of episodes, that are spent on a task."""
    width: int = 128
    """Number of units in the memory of rl2."""
    eval_tasks: int = 1000
    """Number of test tasks."""

    @property
    def unread_options(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """As in `MetaRL`; and the options of later rewards, where an episode is one pull."""
        yield from super().unread_options
        if self.problem == "bandit" and self.algorithm != "rl2":
            yield ("discount", "gae_lambda"), "episodes of several steps"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budget % (self.inner_steps + 1) or not self.inner_steps:
            raise ValueError(
                "budget must be a multiple of inner_steps + 1, and inner_steps >= 1; got budget"
                f" {self.budget} and inner_steps {self.inner_steps}"
            )
        check_used(self, ("width",), self.algorithm == "rl2", "algorithm rl2")
        if self.problem == "bandit" and self.horizon != 1:
            raise ValueError(f"horizon must be 1 for a bandit, a single pull; got {self.horizon}")
        states = 1 if self.problem == "bandit" else STATES**2
        check_size(self.eval_tasks * self.arms * states, "the test tasks", "eval_tasks or arms")
        self.check_steps(self.meta_batch, self.trajectories, self.trained_steps)
        self.check_steps(self.eval_tasks, self.trajectories, self.inner_steps)
        if self.algorithm == "rl2":  # whose trial is the whole budget
            self.check_steps(self.meta_batch, self.trajectories * self.budget, 0)

    @property
    def trajectories(self) -> int:
        """Number of pulls or episodes in each batch."""
        return self.budget // (self.inner_steps + 1)


def _preset(problem: Literal["bandit", "mdp"], budget: int, arms: int) -> Bandits:
    """The preset of a budget and a number of arms."""
    steps = next(n for n in (4, 1) if budget % (n + 1) == 0)
    return Bandits(
        preset=f"{problem}-{budget}" + (f"-{arms}" if problem == "bandit" else ""),
        surrogate="likelihood_ratio",
        problem=problem,
        arms=arms,
        budget=budget,
        horizon=1 if problem == "bandit" else EPISODE,
        inner_rate=(2.0 if problem == "bandit" else 10.0) * arms,
        inner_steps=steps,
        meta_batch=200 if budget <= 25 or problem == "bandit" else 100,
        meta_steps=200,
        steps_per_call=10,
        fvp_trajectories=budget,
    )


PRESETS = {
    config.preset: config
    for config in (
        *(_preset("bandit", n, k) for n in (100, 10, 500) for k in (10, 5, 50)),
        *(_preset("mdp", n, 5) for n in (10, 25, 50, 75, 100)),
    )
}


def problem(config: Bandits) -> RLProblem:
    """The environment and a table of logits; for rl2, trials of the budget and a memory."""
    if config.problem == "bandit":
        environment = tabular.bandit(config.arms)
        draw = partial(tabular.draw_bandit, arms=config.arms)
    else:
        environment = tabular.tabular_mdp(STATES, config.arms)
        draw = partial(tabular.draw_mdp, states=STATES, actions=config.arms)
    if config.algorithm != "rl2":
        policy = table_policy(config.arms)
        return RLProblem(environment, policy, draw, config.horizon, config.trajectories)
    policy = recurrent_policy(CategoricalGRU(config.arms, size=config.width))
    row = trial_environment(environment, config.budget, config.horizon)
    return RLProblem(row, policy, draw, config.budget * config.horizon, config.trajectories)


def make_study(config: Bandits) -> Study:
    """The study of the benchmark."""
    rl_problem = problem(config)
    remembers = config.algorithm == "rl2"
    heavy = remembers or config.problem == "mdp"
    layout = hardware.layout(config.meta_batch, heavy=heavy, devices=config.devices, chunk="all")

    def rewards(
        meta_params: MetaParams, tasks: tabular.TabularMDP | Array, key: RandomKey
    ) -> Array:
        """Mean returns, `[task, batch]`."""
        if remembers:
            collect = rl_problem.collector(config, 1)

            def episodes(params: Params, task: PyTree, key: RandomKey) -> Array:
                returns = episode_returns(collect(params, task, key).trajectories, config.budget)
                return returns.reshape(config.inner_steps + 1, -1).mean(axis=1)

            return map_tasks(episodes, meta_params, tasks, key, chunk=100)
        learner, loss = evaluation_learner(rl_problem, config)
        episode, steps = maml.Episode(tasks, tasks), config.inner_steps
        return maml.evaluate(learner, loss, meta_params, episode, key, steps)[1]["return"]

    def evaluate(meta_params: MetaParams, key: RandomKey) -> dict[str, dict[str, Array]]:
        draw_key, key = jax.random.split(key)
        tasks = jax.vmap(rl_problem.draw)(jax.random.split(draw_key, config.eval_tasks))
        means, total = rewards(meta_params, tasks, key), float(config.budget)
        if isinstance(tasks, tabular.TabularMDP):
            best = jax.vmap(lambda mdp: tabular.optimal_values(mdp, config.horizon)[0])(tasks)
            means, total = means / best.mean(), 1.0
        sums = {"total": means.mean(axis=1), "at the last rate": means[:, -1]}
        return {"reward": values_by_step(means) | {name: total * x for name, x in sums.items()}}

    facts = {"batch_norm": "none", "tasks": config.eval_tasks, "query_size": config.trajectories}
    return meta_rl.make_study(
        "bandits", rl_problem, config, layout, evaluate, headline=("reward", "total"), facts=facts
    )


def main(config: Bandits) -> Result:
    """Runs the experiment and prints the table."""
    result = run(make_study(config), config)
    tables.show(result.summary)
    return result


if __name__ == "__main__":
    launch(main, PRESETS, __doc__)
