"""Few-shot classification: options, algorithms, and the experiment that they make."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import maml
from benchmarks.harness import algorithms, hardware
from benchmarks.harness.bounds import check_size, check_used
from benchmarks.harness.options import DataOptions
from benchmarks.harness.supervised import BLOCK, Experiment
from maml.episodes import few_shot
from maml.types import Batch, LossFn, Params, RandomKey
from tasks import glyphs, omniglot
from tasks.architectures.cells import Cells
from tasks.architectures.stack import Stack
from tasks.augmentation import random_affine
from tasks.batch_norm import Mode, flax_apply, flax_loss, track_running_averages
from tasks.characters import alphabet
from tasks.models import MODELS

Apply = Callable[[Params, Any], jax.Array]
SIDE = 28  # height and width of the images, in pixels


@dataclass(frozen=True, kw_only=True)
class FewShot(DataOptions):
    """Options of the few-shot benchmark."""

    dataset: Literal["omniglot", "glyphs"] = "omniglot"
    """Data set; glyphs are the characters of matplotlib's fonts, which need no download."""
    data: Path | None = None
    """Folder with the two zips or folders of Omniglot, or a data_dir of tensorflow-datasets; None
    lets tensorflow-datasets find or download it."""
    resize: omniglot.Resize = "nearest"
    """Method that resizes Omniglot to 28x28 pixels: nearest, as in effect in MAML's code, or
    antialiased."""
    split: str = "paper"
    """Split of Omniglot into training, validation and test classes: "paper", "alphabets", or a JSON
    file. Glyphs are split by script."""
    within_alphabet: bool = False
    """Draw all classes of a validation or test episode from one alphabet."""
    ways: int
    """Number of classes in an episode."""
    shots: int
    """Number of support images for each class."""
    queries: int
    """Number of query images for each class, in meta-training and in the evaluation."""
    train_ways: int | None = None
    """Number of classes in an episode of meta-training; None is as in the evaluation. Only the
    closed-form heads of protonet and r2d2 can have another number."""
    train_queries: int | None = None
    """Number of query images for each class in meta-training; None is as in the evaluation."""
    rotate: bool = True
    """Rotate each class of an episode by 0, 90, 180 or 270 degrees."""
    augment: bool = False
    """Shift, scale, shear and rotate each image of meta-training a little, at random."""
    algorithm: Literal[
        "maml",
        "maml++",
        "fomaml",
        "anil",
        "boil",
        "meta_sgd",
        "reptile",
        "imaml",
        "protonet",
        "r2d2",
    ] = "maml"
    """Algorithm. Batch-norm biases do not adapt, as in MAML's code, except in reptile and imaml."""
    learn_rates: bool = False
    """Learn an inner learning rate for each layer and inner step (maml++)."""
    multi_step: int = 0
    """Number of meta-steps over which the losses after all inner steps fade to that after the last
    one (maml++); 0 has the last loss alone."""
    first_order: int = 0
    """Number of first-order meta-steps before those of second order (maml and maml++)."""
    per_step_norm: bool = False
    """Use separate batch-norm biases and running averages for each inner step (maml++)."""
    model: Literal["conv4", "conv4-pool", "fully-connected", "cells"] = "conv4"
    """Network: four convolutions with stride 2 or with max-pooling, four dense layers, or the cells
    of `tokens`."""
    zero_head: bool = False
    """Start the linear head of the four convolutions at zero instead of at random."""
    tokens: str = ""
    """Tokens of a normal and a reduction cell, separated by commas; see tasks/architectures."""
    copies: int = 1
    """Number of normal cells before each of the two reduction cells."""
    features: int = 16
    """Number of channels of the first cells; each reduction cell doubles it."""
    batch_norm: Mode = "transductive"
    """Statistics that normalise the query set: its own (transductive), those of the support set, or
    running averages."""
    momentum: float = 0.99
    """Momentum of the running averages."""
    regularisation: float = 2.0
    """Strength lambda of imaml's penalty on the distance to the meta-parameters."""

    def __post_init__(self) -> None:
        super().__post_init__()
        name = self.algorithm
        if name == "reptile" and self.batch_norm == "running":
            raise ValueError("batch_norm must not be running for reptile, which reads no query set")
        if name == "reptile" and self.inner_steps < 2:
            raise ValueError(f"reptile needs inner_steps >= 2; got {self.inner_steps}")
        on_omniglot, of_cells = self.dataset == "omniglot", self.model == "cells"
        check_used(self, ("data", "resize", "split"), on_omniglot, "dataset omniglot")
        check_used(self, ("tokens", "copies", "features"), of_cells, "model cells")
        check_used(self, ("zero_head",), "conv4" in self.model, "model conv4 or conv4-pool")
        if of_cells:
            network(self, ways=self.ways)  # refuses tokens that are not those of two cells
        check_used(self, ("momentum",), self.batch_norm == "running", "batch_norm running")
        if name == "imaml" and self.inner_rate * self.regularisation >= 2:
            raise ValueError(
                "inner_rate * regularisation must be < 2 for imaml, or its inner steps diverge; got"
                f" {self.inner_rate} * {self.regularisation}"
            )
        shots, queries = self.shots, max(self.queries, self.train_queries or 0)
        images = max(self.ways, self.train_ways or 0) * (shots + queries)
        tasks = max(self.tasks_at_once, min(BLOCK, self.eval_tasks))
        fewer = "meta_batch, prefetch, ways, shots or queries"
        check_size(tasks * images * SIDE**2, f"episodes of {images} images", fewer)


def network(config: FewShot, **options: Any) -> nn.Module:
    """The configured network, with options of every network, such as `ways`.

    Raises:
        ValueError: The tokens of cells are missing, not numbers, or not those of two cells.
    """
    if config.model != "cells":
        head = {"zero_head": True} if config.zero_head else {}
        return MODELS[config.model](**head, **options)
    try:
        tokens = tuple(int(token) for token in config.tokens.split(","))
    except ValueError as error:
        raise ValueError(
            f"model cells needs tokens, such as 0,1,2,...; got {config.tokens!r}"
        ) from error
    shape = {"blocks": len(tokens) // 10, "copies": config.copies, "features": config.features}
    return Stack(Cells(**shape, reductions=2, stride=2), tokens, **options)


def algorithm(config: FewShot, loss: LossFn, features: Apply, params: Params) -> maml.Algorithm:
    """The configured algorithm, with SGD as the inner optimiser."""
    norm = maml.mask_by_path(params, "/norm")
    names = "remat", "learn_rates", "multi_step", "first_order", "regularisation"
    return algorithms.build(
        config.algorithm,
        loss,
        config.inner_rate,
        config.inner_steps,
        mask=maml.complement(norm),
        head=maml.mask_by_path(params, "/head/"),
        per_step=norm if config.per_step_norm else None,
        features=features,
        scale=10.0,
        hvp=config.hvp or "forward",
        **{name: getattr(config, name) for name in names},
    )


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
    if config.dataset == "glyphs":
        characters = glyphs.load()
        splits = glyphs.splits(characters)
    else:
        characters = omniglot.load(config.data, resize=config.resize)
        splits = omniglot.splits(characters, config.split)
    alphabets = np.unique([alphabet(name) for name in characters.names], return_inverse=True)[1]
    counts = dict.fromkeys(splits, (config.ways, config.shots, config.queries))
    counts["train"] = train_ways, config.shots, config.train_queries or config.queries

    def sampler(split: str) -> maml.Sampler:
        augment = random_affine() if config.augment and split == "train" else None
        groups = alphabets[splits[split]] if config.within_alphabet and split != "train" else None
        options = {"rotate": config.rotate, "augment": augment, "groups": groups}
        return few_shot(characters.images[splits[split]], *counts[split], **options)

    running = config.batch_norm == "running"
    precision = hardware.precision(config.precision)
    dtype = jnp.bfloat16 if precision == "bfloat16" else None
    ways = max(train_ways, config.ways)
    model = network(config, ways=ways, track=running, dtype=dtype)
    shape = (1, *characters.images.shape[2:], 1)

    def init(key: RandomKey) -> Params:
        return model.init(key, jnp.zeros(shape))

    params = jax.eval_shape(init, jax.random.key(0))
    loss = flax_loss(model, config.batch_norm)
    features = flax_apply(model, config.batch_norm, features=True)
    facts = {
        "algorithm": config.algorithm,
        "batch_norm": config.batch_norm,
        "query_size": config.ways * config.queries,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params["params"])),
        "source": characters.source,
    }
    learning = algorithm(config, loss, features, params)
    metric = evaluation_loss(model, config.batch_norm)
    if members > 1:
        learning = learning._replace(learner=maml.ensemble(learning.learner))
        metric = evaluation_loss(model, config.batch_norm, maml.mixture)
        facts["algorithm"] = f"{config.algorithm}, ensemble of {members}"
    return Experiment(
        name="omniglot",
        algorithm=learning,
        init=init,
        samplers={split: sampler(split) for split in splits},
        predict=flax_apply(model, config.batch_norm, evaluating=True),
        metric=metric,
        headline="accuracy",
        facts=facts,
        precision=precision,
        outer=partial(track_running_averages, momentum=config.momentum) if running else lambda a: a,
    )
