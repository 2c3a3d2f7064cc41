"""Meta-trains the same problem from several seeds in one program, and evaluates each.

For what is too noisy to be judged by one seed. Folder and log are as `benchmarks.runner`'s.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

import maml
from benchmarks.harness import checkpoints, folders, hardware, loop, session
from benchmarks.harness.options import Run
from benchmarks.harness.statistics import not_finite, over_seeds
from maml.types import MetaParams, MetaState, Metrics, RandomKey


class Trainer(NamedTuple):
    """What meta-training consists of.

    Attributes:
        start: the first state, from a key.
        step: an outer step, for `maml.iterate`.
        sample: the tasks of a meta-batch, from a key.
        follow: what the log and the bar show of a step's metrics, by name; numbers.
        headline: by which of them the best checkpoint is kept, higher is better.
    """

    start: Callable[[RandomKey], MetaState]
    step: Callable[[MetaState, PyTree, RandomKey], tuple[MetaState, Metrics]]
    sample: Callable[[RandomKey], PyTree]
    follow: Callable[[Metrics], dict[str, Array]]
    headline: str


class Study(NamedTuple):
    """What a benchmark hands over.

    Attributes:
        name: of the benchmark.
        trainer: how it is meta-trained.
        evaluate: `evaluate(meta_params, key) -> {metric: {when: [task]}}`.
        facts: what belongs to every result of the benchmark.
        headline: the metric, and when, that others compare with.
    """

    name: str
    trainer: Trainer
    evaluate: Callable[[MetaParams, RandomKey], dict[str, dict[str, Array]]]
    facts: dict[str, Any]
    headline: tuple[str, str]


class Result(NamedTuple):
    """Where it lies, what is in its summary, and the meta-parameters, `[seed, ...]`."""

    out: Path
    summary: dict[str, Any]
    meta_params: MetaParams


def run(study: Study, config: Run, seeds: int) -> Result:
    """Meta-trains and evaluates; writes `log.jsonl` and `summary.json`.

    Each evaluated metric is summarised by its mean over seeds and tasks, and the 95% confidence
    interval over seeds (Student's t; None for one seed).

    Raises:
        ValueError: the folder holds a run.
        FloatingPointError: a number that is followed is not finite any more.
    """
    trainer = study.trainer
    keys = jax.vmap(jax.random.key)(config.seed + jnp.arange(seeds))
    fold = jax.vmap(jax.random.fold_in, (0, None))
    # A core has enough to do with one seed; other devices take all.
    batch = 1 if jax.default_backend() == "cpu" else seeds
    every = config.steps_per_call

    def one(task: tuple[MetaState, RandomKey]) -> tuple[MetaState, dict[str, Array]]:
        state, metrics = maml.iterate(trainer.step, trainer.sample, *task, every)
        return state, trainer.follow(metrics) | {"left_out": metrics["left_out"]}

    def call(states: MetaState, keys: Any) -> tuple[MetaState, dict[str, Array]]:
        return jax.lax.map(one, (states, keys), batch_size=batch)

    def judge(states: MetaState, key: RandomKey) -> dict[str, dict[str, Array]]:
        return jax.lax.map(lambda s: study.evaluate(s.params, key), states, batch_size=batch)

    def observe(states: MetaState, followed: Any, done: int) -> loop.Observed:
        left_out = followed.pop("left_out")
        lines = {name: np.mean(values, axis=1).tolist() for name, values in followed.items()}
        shown = ", ".join(f"{name} {np.mean(values):.3g}" for name, values in lines.items())
        score = float(np.mean(lines[trainer.headline]))
        if share := float(left_out.mean()):
            lines["left_out"] = left_out.mean(axis=1).tolist()
            shown += f", {share:.1%} of the tasks left out"
        return loop.Observed(lines, shown, score, _trouble(followed, done - every))

    states, arguments = jax.vmap(trainer.start)(fold(keys, 0)), (fold(keys, 1),)
    states = states._replace(params=checkpoints.started(config, states.params))
    out = folders.folder(study.name, config)
    about = f"{seeds} seeds on {hardware.device()}"
    states, done, seconds = loop.train(call, states, arguments, config, out, observe, about=about)
    start = time.perf_counter()
    values = jax.block_until_ready(jax.jit(judge)(states, jax.random.key(2017)))
    seconds["evaluate"] = time.perf_counter() - start
    found = {
        metric: {when: over_seeds(np.asarray(curve[when])) for when in sorted(curve, key=_order)}
        for metric, curve in values.items()
    }
    facts = study.facts | {"seeds": seeds, "seconds_per_seed": round(seconds["train"] / seeds, 2)}
    facts |= session.headline(found, *study.headline) | not_finite(values)
    summary = session.summarise(study.name, config, out, done, seconds, found | facts)
    return Result(out, summary, states.params)


def by_step(values: Array) -> dict[str, Array]:
    """From `[task, step]` to each step's."""
    return {str(step): values[:, step] for step in range(values.shape[1])}


def _order(when: str) -> tuple[bool, int, str]:
    """Steps as numbers, and then all else."""
    return not when.isdigit(), int(when) if when.isdigit() else 0, when


def _trouble(followed: dict[str, Array], before: int) -> str | None:
    """What is not finite, and since when."""
    for name, values in followed.items():
        finite = np.isfinite(values)
        if not finite.all():
            seed, step = np.argwhere(~finite)[0][:2]
            return (
                f"{name} is {np.asarray(values)[seed, step]} since meta-step {before + step} of the"
                f" seed in place {seed}: look at the rewards first"
            )
    return None
