"""Runs an experiment: meta-training in jitted calls, evaluation, and a folder with what came out.

The folder holds `log.jsonl`, a line a call, written as it happens, and `summary.json`. Ctrl-C
ends meta-training after the call at work, and what was learned is evaluated like any other.
"""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import maml
from benchmarks.harness import checkpoints, folders, hardware, loop, session
from benchmarks.harness.options import Config
from benchmarks.harness.statistics import finite, not_finite
from benchmarks.harness.stored import DamagedError
from maml.types import LossFn, MetaParams, Params, RandomKey

BLOCK = 500  # test tasks of one jitted call
Curve = dict[str, dict[str, float | None]]  # inner step -> {"mean": ..., "ci95": ...}


class Experiment(NamedTuple):
    """What a benchmark hands over.

    Attributes:
        name: of the benchmark.
        algorithm: what is meta-trained.
        params: where meta-training starts.
        samplers: of ONE task, for each of the parts train, val and test.
        predict: the model, `(params, inputs) -> outputs`.
        metric: of the evaluation, `(params, query, key) -> (loss, metrics)`.
        headline: which of the metrics is shown while it runs, and by which on validation tasks the
            best checkpoint is kept; results are the last one's, and the best one's beside it.
        higher: whether more of it is better.
        facts: what belongs to every result of the benchmark, such as the batch-norm mode.
        heavy: a task is work enough for a core of its own.
        precision: of the layers' matrix products.
        outer: from the configured Adam to the outer optimiser.
    """

    name: str
    algorithm: maml.Algorithm
    params: Params
    samplers: dict[str, maml.Sampler]
    predict: Callable[[Params, Any], jax.Array]
    metric: LossFn
    headline: str
    facts: dict[str, Any]
    higher: bool = True
    heavy: bool = True
    precision: hardware.Precision = "float32"
    outer: Callable[[optax.GradientTransformation], optax.GradientTransformation] = lambda o: o


def initial_key(config: Config) -> RandomKey:
    """The key of a run's initialisation."""
    return jax.random.fold_in(jax.random.key(config.seed), 0)


class Result(NamedTuple):
    """What came out: where it lies, what is in its summary, and the meta-parameters."""

    out: Path
    summary: dict[str, Any]
    meta_params: MetaParams


def run(experiment: Experiment, config: Config) -> Result:
    """Meta-trains and evaluates; writes `log.jsonl` and `summary.json`.

    Raises:
        ValueError: the folder holds a run, or another one than is to be resumed.
        FloatingPointError: the meta-gradient was not finite for too long; the log says since when.
    """
    first_state(experiment, config)  # what it refuses, it refuses before there is a folder
    out = folders.folder(experiment.name, config)
    with precisely(experiment):
        state, done, seconds = train(experiment, config, out)
        start = time.perf_counter()
        found: dict[str, Any] = tested(experiment, config, state.params)
        best = checkpoints.best(out / "checkpoints") if config.val_tasks else None
        if best not in (None, done):
            try:
                earlier = checkpoints.load(out / "checkpoints", state, step=best).params
                found["best"] = {"meta_steps": best} | tested(experiment, config, earlier)
            except DamagedError as error:
                print(f"The best checkpoint, of step {best}, cannot be read: {error}")
    seconds["evaluate"] = time.perf_counter() - start
    found |= experiment.facts
    found |= {"precision": experiment.precision, "tasks": config.eval_tasks}
    found["skipped_steps"] = maml.skipped(state.opt_state)[0]
    when = min(config.inner_steps, config.eval_steps)
    found |= session.headline(found, experiment.headline, when)
    summary = session.summarise(experiment.name, config, out, done, seconds, found)
    return Result(out, summary, state.params)


def precisely(experiment: Experiment) -> AbstractContextManager[Any]:
    """In it, matrix products have the precision of the experiment."""
    exact = "tensorfloat32" if experiment.precision == "tensorfloat32" else "float32"
    return jax.default_matmul_precision(exact)


def tested(experiment: Experiment, config: Config, meta_params: MetaParams) -> dict[str, Any]:
    """The curve of each metric on the test tasks, and how many of those diverged, if any did."""
    metrics = evaluate(experiment, config, meta_params, "test")
    steps = {
        name: {str(step): column for step, column in enumerate(values.T)}
        for name, values in metrics.items()
    }
    return {name: curve(values) for name, values in metrics.items()} | not_finite(steps)


def outer_optimizer(experiment: Experiment, config: Config) -> optax.GradientTransformation:
    """Adam, with the configured rate, which leaves broken gradients out."""
    rate = config.outer_rate
    if config.cosine:
        rate = optax.cosine_decay_schedule(rate, max(config.meta_steps, 1))
    return maml.skip_nonfinite(experiment.outer(optax.adam(rate)))


def first_state(experiment: Experiment, config: Config) -> maml.MetaState:
    """The state before the first meta-step.

    Raises:
        ValueError: the meta-parameters to start from are missing, or of another shape.
    """
    optimizer = outer_optimizer(experiment, config)
    state = maml.init(experiment.algorithm, optimizer, experiment.params)
    return state._replace(params=checkpoints.started(config, state.params))


def train(
    experiment: Experiment, config: Config, out: Path
) -> tuple[maml.MetaState, int, dict[str, float]]:
    """Meta-trains; gives the state, the meta-steps taken and the seconds it took."""
    optimizer, every = outer_optimizer(experiment, config), config.steps_per_call
    state = first_state(experiment, config)
    sample = maml.batched(experiment.samplers["train"], config.meta_batch)
    key = jax.random.fold_in(jax.random.key(config.seed), 1)  # 0 is that of the initialisation

    layout = _layout(experiment, config)
    prefetch = max(n for n in range(1, config.prefetch + 1) if every % n == 0)
    options = {"meta_steps": every, "prefetch": prefetch, **layout._asdict()}

    def call(state: maml.MetaState, sample: maml.Sampler, key: RandomKey) -> Any:
        return maml.train(experiment.algorithm, optimizer, sample, state, key, **options)

    validating = 0.0

    def observe(state: maml.MetaState, metrics: Any, done: int) -> loop.Observed:
        nonlocal validating
        line: dict[str, Any] = {"loss": float(metrics["loss"].mean())}
        line |= {name: float(jnp.mean(values)) for name, values in metrics["query"].items()}
        score = -line["loss"]
        if config.val_tasks:
            start = time.perf_counter()
            val = evaluate(experiment, config, state.params, "val")
            validating += time.perf_counter() - start
            line["val"] = {name: curve(values) for name, values in val.items()}
            score = float(val[experiment.headline][:, -1].mean()) * (1 if experiment.higher else -1)
        total, row, leaves = maml.skipped(state.opt_state)
        trouble = None
        if total:
            line["skipped"] = total
        if row >= config.patience:
            since = int(state.step) - row
            trouble = (
                f"the meta-gradient is not finite since step {since}, in {', '.join(leaves)}; the"
                f" meta-loss is {line['loss']}"
            )
        shown = f"{experiment.headline} {line[experiment.headline]:.3f}"
        if left_out := float(metrics["left_out"].mean()):
            line["left_out"] = left_out
            shown += f", {left_out:.1%} of the tasks left out"
        return loop.Observed(line, shown, score, trouble)

    # The first state shares arrays with the experiment's parameters, so it is not donated itself.
    state, arguments = jax.tree.map(jnp.copy, state), (sample, key)
    about = f"Meta-training on {layout}, in {experiment.precision}"
    state, done, seconds = loop.train(call, state, arguments, config, out, observe, about=about)
    return state, done, seconds | {"validate": validating}


def evaluate(
    experiment: Experiment, config: Config, meta_params: MetaParams, part: str
) -> dict[str, np.ndarray]:
    """The metrics on the same tasks of a part every time, each `[task, steps + 1]`."""
    validating = part == "val"
    tasks = config.val_tasks if validating else config.eval_tasks
    steps = config.inner_steps if validating else config.eval_steps
    layout = _layout(experiment, config)
    devices, blocks = layout.mesh.size if layout.mesh else 1, -(-tasks // BLOCK)
    block = -(-tasks // (blocks * devices)) * devices
    sample = maml.batched(experiment.samplers[part], block)
    learner, metric = experiment.algorithm.learner, experiment.metric
    key, seen = jax.random.key(2018 if validating else 2017), []
    for number in session.track(range(blocks), "Evaluating", shown=blocks > 1):
        at = jax.random.fold_in(key, number)
        values = _evaluate(learner, metric, steps, layout, meta_params, sample, at)
        seen.append(jax.device_get(values))
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:tasks], *seen)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _evaluate(
    learner: maml.Learner,
    metric: LossFn,
    steps: int,
    layout: hardware.Layout,
    meta_params: MetaParams,
    sample: maml.Sampler,
    key: RandomKey,
) -> dict[str, jax.Array]:
    sample_key, key = jax.random.split(key)
    episodes = sample(sample_key)
    options = layout._asdict()
    return maml.evaluate(learner, metric, meta_params, episodes, key, steps, **options)[1]


def _layout(experiment: Experiment, config: Config) -> hardware.Layout:
    """One for the whole run: what is trained on some devices is evaluated on them."""
    together = math.gcd(config.meta_batch, config.val_tasks, config.eval_tasks)
    return hardware.layout(
        together, heavy=experiment.heavy, devices=config.devices, chunk=config.chunk
    )


def curve(values: np.ndarray) -> Curve:
    """Mean and 95% confidence interval over tasks after every inner step; None if one diverged."""
    pairs = np.stack(maml.mean_ci95(jnp.asarray(values)), axis=-1)
    return {
        str(step): {"mean": finite(mean), "ci95": finite(ci95)}
        for step, (mean, ci95) in enumerate(pairs)
    }
