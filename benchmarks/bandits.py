"""Bandits and small Markov decision processes, with a budget of pulls or episodes for each task.

    python -m benchmarks.bandits --preset bandit-100-10        # 100 pulls of 10 arms
    python -m benchmarks.bandits --preset mdp-25               # 25 episodes of 10 steps
    python -m benchmarks.bandits --preset bandit-100-10 --algorithm rl2

Protocol: the budget N is cut into equal batches, one before each update and one after the last,
and all of them count. Rows 0, 1, ... are the mean reward of a pull after so many updates, `total`
is the reward of all N pulls, and `at the last rate` is N times that of the last batch, as if
adapting had cost nothing. Of a decision process all are fractions of the best policy's. Published
(Mishra et al. 2018, tables 3 and 4, which do not say how MAML spends its budget, so that both
readings are shown beside it): 67.1, 70.1, 70.3 for 100 pulls of 5, 10, 50 arms; 0.563 and 0.591 for
10 and 25 episodes. The cells that they left blank as too expensive have presets too.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import jax
from jaxtyping import Array, PyTree

import maml
from benchmarks import meta_rl
from benchmarks.harness import hardware
from benchmarks.harness.bounds import check_size, check_used
from benchmarks.harness.command_line import launch
from benchmarks.harness.study import Result, Study, by_step, run
from benchmarks.meta_rl import MetaRL, Problem, evaluation_learner
from benchmarks.report import tables
from maml.mapping import each_task
from maml.rl.policies import table_policy
from maml.rl.rl2 import by_episode, trials
from maml.types import MetaParams, Params, RandomKey
from tasks.rl import tabular
from tasks.rl.networks import CategoricalGRU, recurrent_policy

STATES, EPISODE = 10, 10  # of the decision processes


@dataclass(frozen=True, kw_only=True)
class Bandits(MetaRL):
    """Options of the benchmark of bandits and decision processes."""

    algorithm: Literal["maml", "fomaml", "meta_sgd", "rl2"] = "meta_sgd"
    """What is meta-trained; `rl2` remembers earlier pulls instead of adapting."""
    problem: Literal["bandit", "mdp"]
    """What a task is."""
    arms: int
    """To choose from, in every state."""
    budget: int
    """Pulls, or episodes, that are spent on a task."""
    width: int = 128
    """Of rl2's memory."""
    eval_tasks: int = 1000
    """Tasks of the evaluation."""

    @property
    def unread(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """As every benchmark's, and those of later rewards where an episode is one pull."""
        yield from super().unread
        if self.problem == "bandit" and self.algorithm != "rl2":
            yield ("discount", "gae_lambda"), "episodes of several steps"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budget % (self.inner_steps + 1) or not self.inner_steps:
            raise ValueError(
                "the budget is spent in equal batches, one before each of at least one update and"
                f" one at the end; {self.budget} is not divided by {self.inner_steps + 1}"
            )
        check_used(self, ("width",), self.algorithm == "rl2", "algorithm rl2")
        batch = self.budget // (self.inner_steps + 1)
        by = f"other benchmarks: here, a batch is {batch} by the budget"
        check_used(self, ("trajectories",), self.trajectories == batch, by)
        if self.problem == "bandit" and self.horizon != 1:
            raise ValueError(f"an episode of a bandit is one pull; got horizon {self.horizon}")
        states = 1 if self.problem == "bandit" else STATES**2
        check_size(self.eval_tasks * self.arms * states, "the test tasks", "eval_tasks or arms")
        self.check_steps(self.eval_tasks, batch, self.inner_steps)
        if self.algorithm == "rl2":  # a trial is the whole budget
            self.check_steps(self.meta_batch, batch * self.budget, 0)


def _preset(problem: Literal["bandit", "mdp"], budget: int, arms: int) -> Bandits:
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


def problem(config: Bandits) -> Problem:
    """The environment and a table of logits, or for rl2 trials of the budget and a memory."""
    if config.problem == "bandit":
        environment = tabular.bandit(config.arms)
        draw = partial(tabular.draw_bandit, arms=config.arms)
    else:
        environment = tabular.tabular(STATES, config.arms)
        draw = partial(tabular.draw_mdp, states=STATES, actions=config.arms)
    if config.algorithm != "rl2":
        return Problem(environment, table_policy(config.arms), draw, config.horizon)
    policy = recurrent_policy(CategoricalGRU(config.arms, size=config.width))
    row = trials(environment, config.budget, config.horizon)
    return Problem(row, policy, draw, config.budget * config.horizon)


def study(config: Bandits) -> Study:
    """The parts of the benchmark."""
    chosen = problem(config)
    remembers = config.algorithm == "rl2"
    heavy = remembers or config.problem == "mdp"
    layout = hardware.layout(config.meta_batch, heavy=heavy, devices=config.devices, chunk=0)

    def rewards(
        meta_params: MetaParams, tasks: tabular.TabularMDP | Array, key: RandomKey
    ) -> Array:
        """Mean returns, `[task, batch]`."""
        if remembers:
            collect = chosen.collector(config, 1)

            def episodes(params: Params, task: PyTree, key: RandomKey) -> Array:
                returns = by_episode(collect(params, task, key).seen, config.budget)
                return returns.reshape(config.inner_steps + 1, -1).mean(axis=1)

            return each_task(episodes, meta_params, tasks, key, chunk=100)
        learner, loss = evaluation_learner(chosen, config)
        episode, updates = maml.Episode(tasks, tasks), config.inner_steps
        return maml.evaluate(learner, loss, meta_params, episode, key, updates)[1]["return"]

    def evaluate(meta_params: MetaParams, key: RandomKey) -> dict[str, dict[str, Array]]:
        draw_key, key = jax.random.split(key)
        tasks = jax.vmap(chosen.draw)(jax.random.split(draw_key, config.eval_tasks))
        found, total = rewards(meta_params, tasks, key), float(config.budget)
        if isinstance(tasks, tabular.TabularMDP):
            best = jax.vmap(lambda mdp: tabular.best_values(mdp, config.horizon)[0])(tasks)
            found, total = found / best.mean(), 1.0
        sums = {"total": found.mean(axis=1), "at the last rate": found[:, -1]}
        return {"reward": by_step(found) | {name: total * x for name, x in sums.items()}}

    facts = {"batch_norm": "none", "tasks": config.eval_tasks, "query_size": config.trajectories}
    return meta_rl.study(
        "bandits", chosen, config, layout, evaluate, headline=("reward", "total"), facts=facts
    )


def main(config: Bandits) -> Result:
    """Runs it and prints the table."""
    config = replace(config, trajectories=config.budget // (config.inner_steps + 1))
    result = run(study(config), config)
    tables.show(result.summary)
    return result


if __name__ == "__main__":
    launch(main, PRESETS, __doc__)
