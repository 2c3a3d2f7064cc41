"""From a problem with labelled data and the options of a run to a `Study`."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import maml
from benchmarks.harness import display, hardware
from benchmarks.harness.options import DataOptions
from benchmarks.harness.run import Result, run
from benchmarks.harness.statistics import count_not_finite, curve
from benchmarks.harness.stored import checksum, kept_arrays
from benchmarks.harness.study import Study, Values, values_by_step
from maml.tree import leaves_by_path
from maml.types import LossFn, MetaParams, MetaState, Metrics, Params, RandomKey

BLOCK = 500  # test tasks of one jitted call


class Experiment(NamedTuple):
    """A model, an algorithm and tasks with labelled data.

    Attributes:
        name: Name of the benchmark.
        algorithm: Algorithm that is meta-trained.
        init: Initial parameters of the model, from a key.
        samplers: Samplers of ONE task, for each of the splits train, val and test.
        predict: The model, `(params, inputs) -> outputs`.
        metric: Loss and metrics of the evaluation, `(params, query, key) -> (loss, metrics)`.
        headline: Metric that is shown while the run goes on, and by which, on validation tasks, the
            best checkpoint is kept. Results are those of the last checkpoint; those of the best
            stand beside them.
        facts: Entries of every summary of the benchmark, such as the batch-norm mode.
        higher_is_better: Whether a higher headline is better.
        heavy: Whether a task is enough work for a core of its own.
        precision: Precision of the layers' matrix products.
        outer: Function from the configured Adam to the outer optimiser.
    """

    name: str
    algorithm: maml.Algorithm
    init: Callable[[RandomKey], Params]
    samplers: dict[str, maml.Sampler]
    predict: Callable[[Params, Any], jax.Array]
    metric: LossFn
    headline: str
    facts: dict[str, Any]
    higher_is_better: bool = True
    heavy: bool = True
    precision: hardware.Precision = "float32"
    outer: Callable[[optax.GradientTransformation], optax.GradientTransformation] = lambda o: o

    def initial(self, seed: int = 0) -> Params:
        """The initial parameters of a seed."""
        return jax.jit(self.init)(jax.random.fold_in(jax.random.key(seed), 0))


def run_experiment(experiment: Experiment, config: DataOptions) -> Result:
    """Meta-trains and evaluates an experiment; see `benchmarks.harness.run.run`."""
    return run(make_study(experiment, config), config)


def make_study(experiment: Experiment, config: DataOptions) -> Study:
    """The study of an experiment: `maml.meta_step` with Adam, and an evaluation step by step."""
    optimizer, layout = outer_optimizer(experiment, config), make_layout(experiment, config)
    headline, devices = experiment.headline, layout.mesh.size if layout.mesh else 1
    if layout.chunk and config.meta_batch // devices % layout.chunk:
        raise ValueError(
            f"a chunk must divide the number of tasks of each of {devices} devices, which is"
            f" {config.meta_batch // devices}; got {layout.chunk}; with --devices 1 it may be any"
            f" divisor of {config.meta_batch}"
        )

    def start(key: RandomKey) -> MetaState:
        return maml.init(experiment.algorithm, optimizer, experiment.init(key))

    def select_metrics(metrics: Metrics) -> dict[str, jax.Array]:
        return {"loss": metrics["loss"], **metrics["query"]}

    def failure(state: MetaState, numbers: dict[str, np.ndarray], before: int) -> str | None:
        report = maml.skip_report(state.opt_state)
        if report.in_a_row < config.patience:
            return None
        return (
            f"the meta-gradient is not finite since step {int(state.step) - report.in_a_row}, in"
            f" {', '.join(report.leaves)}; the meta-loss is {float(numbers['loss'].mean())}"
        )

    return Study(
        name=experiment.name,
        start=start,
        step=partial(maml.meta_step, experiment.algorithm, optimizer, **layout._asdict()),
        sample=maml.batch_tasks(experiment.samplers["train"], config.meta_batch),
        select_metrics=select_metrics,
        bar_metrics=(headline,),
        score=lambda means: -means["loss"],
        evaluate=lambda *args: _by_step(evaluate(experiment, config, *args)),
        headline=(headline, min(config.inner_steps, config.eval_steps)),
        facts={**experiment.facts, "precision": experiment.precision, "tasks": config.eval_tasks},
        failure=failure,
        devices=f"{layout}, in {experiment.precision}",
        count_skipped=lambda state: maml.skip_report(state.opt_state).total,
        higher_is_better=experiment.higher_is_better,
        validates=config.val_tasks > 0,
        over_tasks=True,
        prefetch=config.prefetch,
        precision=experiment.precision,
    )


def outer_optimizer(experiment: Experiment, config: DataOptions) -> optax.GradientTransformation:
    """Adam with the configured learning rate, which leaves out gradients that are not finite."""
    rate = config.outer_rate
    if config.cosine:
        rate = optax.cosine_decay_schedule(rate, max(config.meta_steps, 1))
    return maml.skip_nonfinite(experiment.outer(optax.adam(rate)))


def evaluate_on_test(
    experiment: Experiment, config: DataOptions, meta_params: MetaParams
) -> dict[str, Any]:
    """The curve of each metric on the test tasks, and how many values were not finite."""
    values = evaluate(experiment, config, meta_params, "test")
    curves = {name: curve(columns) for name, columns in values.items()}
    return curves | count_not_finite(_by_step(values))


def evaluate(
    experiment: Experiment,
    config: DataOptions,
    meta_params: MetaParams,
    split: str,
    keep: Path | None = None,
) -> dict[str, np.ndarray]:
    """The metrics on the same tasks of a split every time, each `[task, steps + 1]`.

    Tasks are evaluated in blocks. Those that are in the folder `keep` are read there, and the
    others are written to it, unless it is None.
    """
    validating = split == "val"
    tasks = config.val_tasks if validating else config.eval_tasks
    steps = config.inner_steps if validating else config.eval_steps
    layout = make_layout(experiment, config)
    blocks = -(-tasks // BLOCK)
    block = -(-tasks // blocks)
    sample = maml.batch_tasks(experiment.samplers[split], block)
    learner, metric = experiment.algorithm.learner, experiment.metric
    key, values = jax.random.key(2018 if validating else 2017), []
    name = keep and f"{checksum(leaves_by_path(meta_params)):08x}-{block}"
    for number in display.track(range(blocks), "Evaluating", shown=blocks > 1):
        at = jax.random.fold_in(key, number)
        compute = partial(_evaluate, learner, metric, steps, layout, meta_params, sample, at)
        values.append(kept_arrays(keep and keep / f"{name}-{number}.npz", compute))
    return jax.tree.map(lambda *blocks: np.concatenate(blocks)[:tasks], *values)


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
    tasks = len(jax.tree.leaves(episodes)[0])
    if layout.mesh and (more := -tasks % layout.mesh.size):
        # Every device computes as many tasks as the others, so some are computed twice.
        places = jnp.arange(tasks + more) % tasks
        episodes = jax.tree.map(lambda leaf: leaf[places], episodes)
    options = layout._asdict()
    metrics = maml.evaluate(learner, metric, meta_params, episodes, key, steps, **options)[1]
    return jax.tree.map(lambda leaf: leaf[:tasks], metrics)


def _by_step(values: dict[str, np.ndarray]) -> Values:
    return {metric: values_by_step(columns) for metric, columns in values.items()}


def make_layout(experiment: Experiment, config: DataOptions) -> hardware.Layout:
    """The layout of the whole run: what is trained on some devices is evaluated on them."""
    together = math.gcd(config.meta_batch, config.val_tasks, config.eval_tasks)
    return hardware.layout(
        together, heavy=experiment.heavy, devices=config.devices, chunk=config.chunk
    )
