"""Regression of sinusoids from a few points (Finn et al. 2017, section 5.1 and table 2).

Meta-trains a small network on sinusoids of random amplitude and phase, and reports the mean squared
error on test sinusoids after 0 to 10 inner steps.

    python -m benchmarks.sinusoid                          # 5-shot; half a minute on one core
    python -m benchmarks.sinusoid --preset maml-paper-10-shot

Published: 0.67, 0.38 and 0.35 after 1, 5 and 10 inner steps with 5 shots. The presets
`maml-paper-*` have the inner learning rate of the paper's code, 0.001; with the 0.01 of its text
some tasks diverge after more inner steps than meta-training has.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp

import maml
from benchmarks.harness import algorithms, hardware
from benchmarks.harness.bounds import check_size
from benchmarks.harness.command_line import launch
from benchmarks.harness.options import DataOptions
from benchmarks.harness.run import Result
from benchmarks.harness.supervised import BLOCK, Experiment, run_experiment
from benchmarks.report import figures, published, tables
from maml.types import Params, RandomKey
from tasks.models import MLP
from tasks.sinusoid import few_points

WIDTH = 40  # units of each hidden layer


@dataclass(frozen=True, kw_only=True)
class Sinusoid(DataOptions):
    """Options of the sinusoid benchmark."""

    algorithm: Literal[
        "maml", "maml++", "fomaml", "meta_sgd", "reptile", "cavia", "r2d2", "pretrained", "oracle"
    ] = "maml"
    """Algorithm. `pretrained` learns all tasks jointly and adapts only in the evaluation; `oracle`
    does the same with amplitude and phase among the inputs. `maml++` learns learning rates, and
    its multi-step loss fades over the first half of meta-training."""
    frequencies: bool = False
    """Draw the frequency of each sinusoid too, as in the experiments of Meta-SGD."""
    context: int = 5
    """Number of context parameters of cavia, inputs which alone adapt."""
    shots: int
    """Number of support points in the evaluation, and of query points."""
    train_shots: int = 10
    """Number of support points during meta-training, and of query points."""

    def __post_init__(self) -> None:
        super().__post_init__()
        points = max(
            self.tasks_at_once * self.train_shots, min(BLOCK, self.eval_tasks) * self.shots
        )
        check_size(WIDTH * points, "a batch of tasks", "meta_batch, prefetch, train_shots or shots")

    @property
    def full_length_schedule(self) -> str | None:
        """As in `DataOptions`, or the multi-step loss of maml++."""
        return (
            "the fading multi-step loss"
            if self.algorithm == "maml++"
            else super().full_length_schedule
        )


PAPER = Sinusoid(
    preset="maml-paper-5-shot",
    shots=5,
    inner_rate=1e-3,
    inner_steps=1,
    meta_batch=25,
    meta_steps=70_000,
    steps_per_call=3500,
    prefetch=100,
)
TEXT = replace(PAPER, preset="inner-rate-0.01-5-shot", inner_rate=0.01)
META_SGD = replace(
    TEXT,
    preset="meta-sgd-paper-5-shot",
    algorithm="meta_sgd",
    frequencies=True,
    train_shots=5,
    meta_steps=60_000,
    steps_per_call=3000,
)
CAVIA = replace(PAPER, preset="cavia-paper", algorithm="cavia", shots=10, inner_rate=1.0)
PRESETS = {
    preset.preset: preset
    for preset in (
        *(PAPER, replace(PAPER, preset="maml-paper-10-shot", shots=10)),
        replace(PAPER, preset="maml-paper-20-shot", shots=20),
        *(TEXT, replace(TEXT, preset="inner-rate-0.01-10-shot", shots=10)),
        replace(TEXT, preset="inner-rate-0.01-20-shot", shots=20),
        *(META_SGD, replace(META_SGD, preset="meta-sgd-paper-10-shot", shots=10, train_shots=10)),
        replace(META_SGD, preset="meta-sgd-paper-20-shot", shots=20, train_shots=20),
        replace(CAVIA, meta_steps=50_000, steps_per_call=2500),
        replace(PAPER, preset="best-5-shot", algorithm="r2d2", cosine=True),
        replace(PAPER, preset="quick", meta_steps=10_000, steps_per_call=1000),
    )
}


def experiment(config: Sinusoid) -> Experiment:
    """The experiment with the given options."""
    precision = hardware.precision(config.precision)
    model = MLP(
        context=config.context if config.algorithm == "cavia" else 0,
        dtype=jnp.bfloat16 if precision == "bfloat16" else None,
    )
    wave = {"oracle": config.algorithm == "oracle", "frequencies": config.frequencies}
    shots = {"train": config.train_shots, "val": config.shots, "test": config.shots}
    samplers = {split: few_points(n, n, **wave) for split, n in shots.items()}

    def predict(params: Params, x: jax.Array, *, features: bool = False) -> jax.Array:
        return jnp.asarray(model.apply(params, x, features=features))

    loss = maml.regression(predict)
    inputs = jax.eval_shape(samplers["train"], jax.random.key(0)).support[0]

    def init(key: RandomKey) -> Params:
        return model.init(key, jnp.zeros(inputs.shape))

    params = jax.eval_shape(init, jax.random.key(0))
    algorithm = algorithms.build(
        config.algorithm,
        loss,
        config.inner_rate,
        config.inner_steps,
        multi_step=config.meta_steps // 2,
        context=maml.mask_by_path(params, "context") if model.context else None,
        features=partial(predict, features=True),
        head=maml.mask_by_path(params, "head"),
        ridge=0.1,
        hvp=config.hvp or "reverse",
        remat=config.remat,
    )
    facts = {"algorithm": config.algorithm, "query_size": config.shots, "batch_norm": "none"}
    return Experiment(
        name="sinusoid",
        algorithm=algorithm,
        init=init,
        samplers=samplers,
        predict=predict,
        metric=loss,
        headline="mse",
        facts=facts,
        higher_is_better=False,
        heavy=False,
        precision=precision,
    )


def main(config: Sinusoid) -> Result:
    """Runs the experiment, prints the table and draws the figures."""
    sinusoids = experiment(config)
    result = run_experiment(sinusoids, config)
    tables.show(result.summary)
    figures.learning_curve(
        result.out,
        {"mse": "meta-training tasks, adapted"},
        "mean squared error",
        title=f"{published.task_title(result.summary)}, {config.algorithm}",
        validated="mse",
    )
    if config.algorithm != "oracle":
        figures.fits(result.out, sinusoids, result.of_seed())
    return result


if __name__ == "__main__":
    launch(main, PRESETS, __doc__)
