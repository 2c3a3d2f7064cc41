"""Few-shot classification of images: the algorithm, the evaluation, and the experiment."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import maml
from benchmarks import image_sets
from benchmarks.few_shot import CHARACTERS, FewShot, network
from benchmarks.harness import hardware
from benchmarks.harness.run import Result
from benchmarks.harness.supervised import Experiment, run_experiment
from benchmarks.report import figures, published, tables
from maml.episodes import few_shot
from maml.types import Batch, LossFn, MetaParams, Params, RandomKey
from tasks.batch_norm import Mode, flax_apply, track_running_averages
from tasks.characters import alphabet
from tasks.recipes import image_classifier

Apply = Callable[[Params, Any], jax.Array]


def algorithm(config: FewShot, model: nn.Module, params: Params) -> maml.Algorithm:
    """The configured algorithm, with SGD as the inner optimiser."""
    names = "inner_rate", "inner_steps", "batch_norm", "per_step_norm", "remat", "regularisation"
    further = "learn_rates", "multi_step", "first_order", "temperature", "damping"
    options = {name: getattr(config, name) for name in (*names, *further)}
    hvp = config.hvp or "forward"
    return image_classifier(config.algorithm, model, params, hvp=hvp, **options)


def build(
    config: FewShot, ways: int
) -> tuple[nn.Module, Callable[[RandomKey], Params], Params, maml.Algorithm]:
    """The network, its initial parameters from a key, and the algorithm; no data are read.

    Args:
        config: Options.
        ways: Number of outputs of the network.

    Returns:
        The network, `init(key) -> params`, the shapes of the parameters, and the algorithm.
    """
    dtype = jnp.bfloat16 if hardware.precision(config.precision) == "bfloat16" else None
    model = network(config, ways=ways, track=config.batch_norm == "running", dtype=dtype)

    def init(key: RandomKey) -> Params:
        return model.init(key, jnp.zeros((1, *config.image)))

    params = jax.eval_shape(init, jax.random.key(0))
    return model, init, params, algorithm(config, model, params)


def shapes(config: FewShot) -> MetaParams:
    """The meta-parameters of the options as shapes and types, in which trained ones are read."""
    *_, params, learning = build(config, config.network_ways)
    return jax.eval_shape(learning.init, params)


def evaluation_loss(
    model: nn.Module, mode: Mode, combine: Callable[[Apply], Apply] = lambda apply: apply
) -> LossFn:
    """The loss of an evaluation, with the accuracies by other batch-norm statistics as metrics."""

    def loss_of(mode: Mode) -> LossFn:
        return maml.classification(combine(flax_apply(model, mode, evaluating=True)))

    modes: dict[str, Mode] = {"inductive": "support", "transductive": "transductive"}
    others = {f"accuracy_{name}": loss_of(m) for name, m in modes.items() if m != mode != "running"}
    loss = loss_of(mode)

    def evaluate(params: Params, query: Batch, key: RandomKey) -> tuple[jax.Array, dict]:
        value, metrics = loss(params, query, key)
        also = {name: other(params, query, key)[1]["accuracy"] for name, other in others.items()}
        return value, metrics | also

    return evaluate


def experiment(config: FewShot, *, members: int = 1) -> Experiment:
    """Loads the data and makes the experiment.

    Raises:
        ValueError: The data or the algorithm does not allow the options.
    """
    train_ways = config.train_ways or config.ways
    data = image_sets.load(config)
    groups = np.unique([alphabet(name) for name in data.names], return_inverse=True)[1]
    held_out = config.ways, config.shots, config.queries
    shots, queries = config.shots_range or config.shots, config.train_queries or config.queries
    changes = tuple(
        data.augment if config.augment_set in ("both", part) else None
        for part in ("support", "query")
    )

    def sampler(split: str) -> maml.Sampler:
        classes, training = data.splits[split], split == "train"
        options = {
            "counts": None if data.counts is None else data.counts[classes],
            "rotate": config.rotate,
            "augment": changes if config.augment and training else None,
            "normalise": data.normalise,
            "groups": groups[classes] if config.within_alphabet and not training else None,
        }
        counts = (train_ways, shots, queries) if training else held_out
        try:
            return few_shot(data.images[classes], *counts, **options)
        except ValueError as error:
            cure = ". --val-tasks 0 needs no validation classes" if split == "val" else ""
            raise ValueError(f"the {split} split of {data.source}: {error}{cure}") from error

    running = config.batch_norm == "running"
    precision = hardware.precision(config.precision)
    model, init, params, learning = build(config, config.network_ways)
    facts = {
        "algorithm": config.algorithm,
        "batch_norm": config.batch_norm,
        "query_size": config.ways * config.queries,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params["params"])),
        "source": data.source,
    }
    if data.normalise:
        facts["normalise"] = np.array(data.normalise).tolist()
    metric = evaluation_loss(model, config.batch_norm)
    if members > 1:
        learning = learning._replace(learner=maml.ensemble(learning.learner))
        metric = evaluation_loss(model, config.batch_norm, maml.mixture)
        facts["algorithm"] = f"{config.algorithm}, ensemble of {members}"
    return Experiment(
        name="omniglot" if config.dataset in CHARACTERS else "images",
        algorithm=learning,
        init=init,
        samplers={s: sampler(s) for s in data.splits if s != "val" or config.val_tasks},
        predict=flax_apply(model, config.batch_norm, evaluating=True),
        metric=metric,
        headline="accuracy",
        facts=facts,
        precision=precision,
        outer=partial(track_running_averages, momentum=config.momentum) if running else lambda a: a,
    )


def main(config: FewShot) -> Result:
    """Runs the experiment, prints the table and draws the figures."""
    few_shot = experiment(config)
    result = run_experiment(few_shot, config)
    tables.show(result.summary)
    figures.learning_curve(
        result.out,
        {"accuracy": "meta-training tasks, adapted"},
        "accuracy, %",
        title=f"{published.task_title(result.summary)}, {config.algorithm}",
        validated="accuracy",
        scale=100,
    )
    figures.episodes(result.out, few_shot, result.of_seed(), max(1, config.inner_steps))
    return result
