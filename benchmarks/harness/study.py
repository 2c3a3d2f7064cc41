"""A study: what a benchmark trains and evaluates."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from benchmarks.harness import hardware
from maml.types import MetaParams, MetaState, Metrics, RandomKey

Values = dict[str, dict[str, np.ndarray]]  # metric -> inner step -> [task]


class Study(NamedTuple):
    """What is trained and evaluated; every benchmark makes one from its options.

    Attributes:
        name: Name of the benchmark.
        start: First state of a seed, from its key.
        step: Outer step, as `maml.iterate` takes it.
        sample: Sampler of the tasks of a meta-batch.
        select_metrics: Function from the metrics of a meta-step to its numbers by name, whose means
            are in the log.
        bar_metrics: Names of the numbers that the progress bar shows.
        score: Score of a checkpoint, higher is better, from the means of one call.
        evaluate: `evaluate(meta_params, split, keep)`, with the split "val" or "test": the values
            of each metric on each task, after each number of inner steps. A long evaluation keeps
            what it has computed in the folder `keep`, unless that is None, and reads it there.
        headline: Metric, and the number of inner steps or another key of its results, whose mean
            stands for the run in the summary; published numbers may be those of other inner steps.
        facts: Entries of every summary, such as the algorithm.
        failure: Reason to end the run, from the state and the numbers of one seed and the number
            of meta-steps before the call; None while it can go on.
        devices: Words for the devices that it runs on.
        count_skipped: Function from the state of a seed to the number of skipped meta-steps; None
            where the outer step skips none.
        higher_is_better: Whether a higher headline is better.
        validates: Whether the split "val" is evaluated after every call.
        over_tasks: Whether the result of one seed has a confidence interval, over its test tasks.
        prefetch: Largest number of meta-steps whose tasks are drawn at once.
        precision: Precision of the matrix products; None is JAX's default.
    """

    name: str
    start: Callable[[RandomKey], MetaState]
    step: Callable[[MetaState, PyTree, RandomKey], tuple[MetaState, Metrics]]
    sample: Callable[[RandomKey], PyTree]
    select_metrics: Callable[[Metrics], dict[str, Array]]
    bar_metrics: tuple[str, ...]
    score: Callable[[dict[str, float]], float]
    evaluate: Callable[[MetaParams, str, Path | None], Values]
    headline: tuple[str, int | str]
    facts: dict[str, Any]
    failure: Callable[[MetaState, dict[str, np.ndarray], int], str | None]
    devices: str
    count_skipped: Callable[[MetaState], int] | None = None
    higher_is_better: bool = True
    validates: bool = False
    over_tasks: bool = False
    prefetch: int = 1
    precision: hardware.Precision | None = None


def stack(trees: Sequence[Any]) -> Any:
    """Stacks the leaves of trees along a new first axis: that of the seeds."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def unstack(tree: Any) -> list[Any]:
    """The trees of the seeds, the opposite of `stack`."""
    seeds = len(jax.tree.leaves(tree)[0])
    return [jax.tree.map(lambda leaf, n=n: leaf[n], tree) for n in range(seeds)]


def stack_values(of_seeds: Sequence[Values]) -> Values:
    """The values `[seed, task]` of several seeds, with the inner steps in their order.

    `stack` would sort the steps as words: 10 before 2.
    """
    return {
        metric: {when: np.stack([values[metric][when] for values in of_seeds]) for when in curve}
        for metric, curve in of_seeds[0].items()
    }


def values_by_step(values: Any) -> dict[str, Any]:
    """From `[task, step]` to the values after each step."""
    return {str(step): values[:, step] for step in range(values.shape[1])}


def report_not_finite(state: MetaState, numbers: dict[str, np.ndarray], before: int) -> str | None:
    """The reason to end the run as soon as a number is not finite; None if all are finite.

    It serves studies whose outer step skips nothing.
    """
    for name, values in numbers.items():
        broken = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
        if broken.size:
            first = int(broken[0])
            return f"{name} is {values[first]} since meta-step {before + first}: check the rewards"
    return None
