"""Runs a study: meta-training from one seed or several, an evaluation, and a folder of results.

The folder holds `log.jsonl`, one line per jitted call, written while the run goes on, and
`summary.json`. Ctrl-C ends meta-training after the call in progress; what was learned so far is
then evaluated as usual. All seeds are trained in one program.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

import maml
from benchmarks.harness import checkpoints, folders, hardware, loop, summaries
from benchmarks.harness.options import Run
from benchmarks.harness.statistics import confidence_intervals, count_not_finite, seed_means
from benchmarks.harness.stored import DamagedError
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
        evaluate: `evaluate(meta_params, split)`, with the split "val" or "test": the values of each
            metric on each task, after each number of inner steps.
        headline: Metric, and the number of inner steps, that others compare with.
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
    evaluate: Callable[[MetaParams, str], Values]
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


class Result(NamedTuple):
    """The folder of a run, its summary, and its meta-parameters, `[seed, ...]`."""

    out: Path
    summary: dict[str, Any]
    meta_params: MetaParams

    def of_seed(self, place: int = 0) -> MetaParams:
        """The meta-parameters of one of the seeds."""
        return unstack(self.meta_params)[place]


def run(study: Study, config: Run) -> Result:
    """Meta-trains and evaluates; writes `log.jsonl` and `summary.json`.

    The result of several seeds is their mean and its 95% confidence interval (Student's t), beside
    the means of each seed.

    Args:
        study: Study to run.
        config: Options of the run.

    Returns:
        Folder, summary and meta-parameters.

    Raises:
        ValueError: the folder holds a run, or another one than is to be resumed.
        FloatingPointError: training met trouble; the log says since when.
    """
    states = first_states(study, config)  # refuses what it must before there is a folder
    out = folders.run_folder(study.name, config)
    with matmul_precision(study.precision):
        states, done, seconds = train(study, config, states, out)
        start = time.perf_counter()
        results = evaluate_study(study, states.params)
        best = checkpoints.best_step(out / "checkpoints") if study.validates else None
        if best not in (None, done):
            try:
                earlier = checkpoints.load(out / "checkpoints", states, step=best).params
                results["best"] = {"meta_steps": best} | evaluate_study(study, earlier)
            except DamagedError as error:
                print(f"The best checkpoint, of step {best}, cannot be read: {error}")
    seconds["evaluate"] = time.perf_counter() - start
    results |= study.facts | {"seeds": config.seeds}
    if study.count_skipped:
        results["skipped_steps"] = sum(map(study.count_skipped, unstack(states)))
    results |= summaries.headline(results, *study.headline)
    summary = summaries.summarise_run(study.name, config, out, done, seconds, results)
    return Result(out, summary, states.params)


def matmul_precision(precision: hardware.Precision | None) -> AbstractContextManager[Any]:
    """Within it, matrix products have the given precision; bfloat16 concerns the layers alone."""
    exact = "tensorfloat32" if precision == "tensorfloat32" else "float32"
    return jax.default_matmul_precision(exact) if precision else nullcontext()


def seed_keys(config: Run) -> RandomKey:
    """The random keys of a run, `[seed]`."""
    return jax.vmap(jax.random.key)(config.seed + jnp.arange(config.seeds))


def first_states(study: Study, config: Run) -> MetaState:
    """The states before the first meta-step, `[seed, ...]`.

    Raises:
        ValueError: the meta-parameters to start from are missing, or of another shape.
    """
    states = stack([study.start(jax.random.fold_in(key, 0)) for key in seed_keys(config)])
    return states._replace(params=checkpoints.initial_params(config, states.params))


def train(
    study: Study, config: Run, states: MetaState, out: Path
) -> tuple[MetaState, int, dict[str, float]]:
    """Meta-trains; returns the states, the number of meta-steps taken, and the seconds it took."""
    keys = jax.vmap(jax.random.fold_in, (0, None))(seed_keys(config), 1)
    # One seed is enough work for a core; other devices take all seeds at once.
    batch = None if jax.default_backend() == "cpu" or config.seeds == 1 else config.seeds
    every, validating = config.steps_per_call, 0.0
    prefetch = max(n for n in range(1, study.prefetch + 1) if every % n == 0)

    def one(task: tuple[MetaState, RandomKey]) -> tuple[MetaState, dict[str, Array]]:
        state, metrics = maml.iterate(study.step, study.sample, *task, every, prefetch=prefetch)
        return state, study.select_metrics(metrics) | {"left_out": metrics["left_out"]}

    def call(states: MetaState, keys: RandomKey) -> tuple[MetaState, dict[str, Array]]:
        return jax.lax.map(one, (states, keys), batch_size=batch)

    def observe(states: MetaState, followed: dict[str, Array], done: int) -> loop.Progress:
        nonlocal validating
        numbers = {name: np.asarray(values) for name, values in followed.items()}
        left_out = numbers.pop("left_out")
        one_each = unstack(states)
        line: dict[str, Any] = {
            name: values.reshape(len(one_each), -1).mean(axis=1).tolist()
            for name, values in numbers.items()
        }
        means = {name: float(np.mean(values)) for name, values in line.items()}
        latest = [f"{name} {means[name]:.3g}" for name in study.bar_metrics]
        score = study.score(means)
        if study.validates:
            start = time.perf_counter()
            values = stack([study.evaluate(params, "val") for params in unstack(states.params)])
            validating += time.perf_counter() - start
            line["val"] = confidence_intervals(values, over_tasks=study.over_tasks)
            metric, last = values[study.headline[0]], [*values[study.headline[0]]][-1]
            score = float(metric[last].mean()) * (1 if study.higher_is_better else -1)
        if share := float(left_out.mean()):
            line["left_out"] = left_out.mean(axis=1).tolist()
            latest.append(f"{share:.1%} of the tasks left out")
        if study.count_skipped and any(
            skipped := [study.count_skipped(state) for state in one_each]
        ):
            line["skipped"] = skipped
        trouble = None
        for place, state in reversed([*enumerate(one_each)]):
            of_seed = {name: values[place] for name, values in numbers.items()}
            if reason := study.failure(state, of_seed, done - every):
                trouble = f"seed {config.seed + place}: {reason}"
        return loop.Progress(line, ", ".join(latest), score, trouble)

    seeds = f"{config.seeds} seeds on " if config.seeds > 1 else "Meta-training on "
    about = f"{seeds}{study.devices}"
    with folders.sole_writer(out):
        states, done, seconds = loop.train(call, states, (keys,), config, out, observe, about=about)
    return states, done, seconds | ({"validate": validating} if study.validates else {})


def evaluate_study(study: Study, meta_params: MetaParams) -> dict[str, Any]:
    """The results on the test tasks of meta-parameters `[seed, ...]`, and what was not finite."""
    values = stack([study.evaluate(params, "test") for params in unstack(meta_params)])
    results: dict[str, Any] = confidence_intervals(values, over_tasks=study.over_tasks)
    return results | seed_means(values) | count_not_finite(values)


def stack(trees: list[Any]) -> Any:
    """Stacks the leaves of trees along a new first axis: that of the seeds."""
    pile = np.stack if isinstance(jax.tree.leaves(trees)[0], np.ndarray) else jnp.stack
    return jax.tree.map(lambda *leaves: pile(leaves), *trees)


def unstack(tree: Any) -> list[Any]:
    """The trees of the seeds, the opposite of `stack`."""
    seeds = len(jax.tree.leaves(tree)[0])
    return [jax.tree.map(lambda leaf, n=n: leaf[n], tree) for n in range(seeds)]


def values_by_step(values: Any) -> dict[str, Any]:
    """From `[task, step]` to the values after each step."""
    return {str(step): values[:, step] for step in range(values.shape[1])}


def report_not_finite(state: MetaState, numbers: dict[str, np.ndarray], before: int) -> str | None:
    """Trouble as soon as a number is not finite, for studies whose outer step skips nothing."""
    for name, values in numbers.items():
        broken = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
        if broken.size:
            first = int(broken[0])
            return (
                f"{name} is {values[first]} since meta-step {before + first}: look at the rewards"
                " first"
            )
    return None
