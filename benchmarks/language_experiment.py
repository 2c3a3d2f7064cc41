"""From the options of `benchmarks.language` to texts, a model, and the study of reading."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Float, PyTree

import maml
from benchmarks.harness import algorithms, display, hardware, supervised
from benchmarks.harness.study import Study, Values, values_by_step
from benchmarks.harness.tables import quantity
from benchmarks.language_options import Language
from maml.types import MetaParams, Metrics, Params, RandomKey
from tasks import text
from tasks.corpus import Corpus
from tasks.dynamic_evaluation import dynamic_evaluation, mean_squares
from tasks.language_models import LSTM, WindowTransformer, next_chunk, start_of
from tasks.passages import random_readings, readings

SEED = 2017  # of the texts on which dynamic evaluation squares gradients; no model draws numbers
CLIP = 1.0  # largest norm of the gradients of meta-steps, and of clipped inner steps
TEXTS_OF_SQUARES = 64  # number of training texts whose gradients dynamic evaluation squares
OPTIMIZERS = {
    "sgd": optax.sgd,
    "clipped": lambda rate: optax.chain(maml.clip_by_global_norm(CLIP), optax.sgd(rate)),
    "adam": partial(optax.adam, eps_root=1e-8),
    "dynamic": optax.sgd,  # in training, where nothing adapts
}


def load(config: Language) -> Corpus:
    """The texts, after the notes on what is left out of them are printed.

    Raises:
        ValueError: the files cannot be read.
    """
    if config.dataset == "stdlib":
        corpus = text.standard_library(config.level)
    elif config.data is None:
        raise ValueError(f"dataset {config.dataset} needs --data, the path of the texts; got none")
    else:
        source = text.penn_treebank if config.dataset == "ptb" else text.own_texts
        corpus = source(config.data, config.level)
    notes = [*corpus.notes]
    size = config.step_tokens * config.eval_steps
    if config.model == "transformer" and config.window >= size:
        notes.append(
            f"The window of {config.window} tokens reaches over a whole passage of {size}."
        )
    sizes = {"train": config.step_tokens * config.inner_steps, "val": size, "test": size}
    for split, named in corpus.splits.items():
        short = sum(len(tokens) <= sizes[split] for tokens in named.values())
        if short and (split != "val" or config.val_tasks):
            notes.append(
                f"Texts of {split} that are shorter than a passage of {sizes[split] + 1:,} tokens"
                f" are left out: {short} of {len(named)}."
            )
    lengths = np.array([len(tokens) for tokens in corpus.splits["test"].values()])
    passages = (lengths - 1) // size
    if rest := int((lengths - 1 - size * passages)[passages > 0].sum()):
        notes.append(f"Tokens after the last whole passages of test are left out: {rest:,}.")
    if (found := int(passages.sum())) > config.eval_tasks:
        notes.append(f"Passages of test that are read: {config.eval_tasks} of {found:,}.")
    print(*notes, sep="\n", end="\n" * bool(notes))
    return corpus


def network(config: Language, vocabulary: int) -> WindowTransformer | LSTM:
    """The model that the options name."""
    if config.model == "lstm":
        return LSTM(vocabulary, config.width, config.layers)
    sizes = {name: getattr(config, name) for name in ("width", "layers", "heads", "window")}
    return WindowTransformer(vocabulary, **sizes)


def algorithm(config: Language, model: nn.Module, params: Params, factor: Any = 1.0) -> Any:
    """The algorithm, with inner learning rates multiplied by a factor."""

    def optimizer(rate: float) -> optax.GradientTransformation:
        return OPTIMIZERS[config.optimizer](rate * factor)

    built = algorithms.build(
        config.algorithm,
        next_chunk(model),
        config.inner_rate,
        config.inner_steps,
        optimizer=optimizer,
        mask=mask_of(config, params),
        hvp=config.hvp or "reverse",
        remat=config.remat,
    )
    start = start_of(model)
    if config.algorithm == "reptile":
        return built._replace(grad=maml.reading_displacement(built.learner, start))
    adapts = config.algorithm != "pretrained"
    return built._replace(grad=maml.reading(built.learner, start, adapts=adapts))


def mask_of(config: Language, params: Params) -> PyTree[bool] | None:
    """The mask of the parameters that adapt; None is all."""
    return maml.mask_by_path(params, "/second") if config.adapts == "second" else None


def make_study(config: Language) -> Study:
    """The study: meta-training on random passages, an evaluation of each text from its beginning.

    Raises:
        ValueError: the texts cannot be read, or are shorter than a passage.
    """
    corpus = load(config)
    texts = {split: [*named.values()] for split, named in corpus.splits.items()}
    model = network(config, len(corpus.vocabulary))

    def init(key: RandomKey) -> Params:
        return model.init(key, jnp.zeros(1, jnp.int32), model.start())

    params = jax.eval_shape(init, jax.random.key(0))
    passages, names, time = {}, {}, config.step_tokens
    for split, most in (("val", config.val_tasks), ("test", config.eval_tasks)):
        if most:
            arguments = texts[split], config.eval_steps, time, most
            passages[split], places = readings(*arguments, kind=f"{split} texts")
            titles = [*corpus.splits[split]]
            names[split] = [f"{titles[text]} from token {token:,}" for text, token in places]
    sample = random_readings(texts["train"], config.inner_steps, time, kind="train texts")
    mask = mask_of(config, params)
    adapted = params if mask is None else maml.partition(params, mask)[0]
    facts = {
        "algorithm": config.algorithm,
        "batch_norm": "none",
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "adapted_parameters": sum(leaf.size for leaf in jax.tree.leaves(adapted)),
        "vocabulary": len(corpus.vocabulary),
        "notes": corpus.notes,
    }
    experiment = supervised.Experiment(
        name="language",
        algorithm=algorithm(config, model, params),
        init=init,
        samplers={"train": sample},
        predict=lambda params, tokens: model.apply(params, tokens, model.start())[0],
        metric=next_chunk(model),
        headline="bits",
        facts=facts,
        higher_is_better=False,
        heavy=False,
        precision=hardware.precision(config.precision),
        outer=lambda adam: optax.chain(maml.clip_by_global_norm(CLIP), adam),
    )

    def select_metrics(metrics: Metrics) -> dict[str, Array]:
        return {"loss": metrics["loss"], "bits": metrics["loss"] / np.log(2)}

    study = supervised.make_study(experiment, config)
    facts = study.facts | {"tasks": len(passages["test"])}
    evaluate = make_evaluation(config, experiment, model, sample, passages, names)
    return study._replace(
        select_metrics=select_metrics, evaluate=evaluate, headline=("bits", "mean"), facts=facts
    )


def make_evaluation(
    config: Language,
    experiment: supervised.Experiment,
    model: nn.Module,
    sample: maml.Sampler,
    passages: dict[str, np.ndarray],
    names: dict[str, list[str]],
) -> Callable[[MetaParams, str, Path | None], Values]:
    """The evaluation of a study: bits for each token by the number of inner steps before it."""
    loss, start, key = next_chunk(model), start_of(model), jax.random.key(SEED)
    params = jax.eval_shape(experiment.init, key)
    squares_at = jax.jit(partial(mean_squares, loss, start))
    layout = supervised.make_layout(experiment, config)._asdict()

    @partial(jax.jit, static_argnames="adapts")
    def scores(
        meta_params: MetaParams, squares: Params, factor: Array, chunks: Array, *, adapts: bool
    ) -> Float[Array, "text chunk"]:
        learner = algorithm(config, model, params, factor).learner
        if config.optimizer == "dynamic":
            rate = config.inner_rate * factor
            learner = dynamic_evaluation(loss, squares, rate=rate, decay=config.decay)
        episodes = maml.Episode(chunks, None)
        read = partial(maml.evaluate_reading, adapts=adapts, **layout)
        return read(learner, start, meta_params, episodes, key)[0] / np.log(2)

    def read_all(
        meta_params: MetaParams, squares: Params, factor: float, split: str, *, adapts: bool
    ) -> np.ndarray:
        """The scores of all texts, in blocks of one size; the last block repeats texts."""
        texts, block = passages[split], config.meta_batch
        blocks = [np.arange(at, at + block) % len(texts) for at in range(0, len(texts), block)]
        title = "Reading with adaptation" if adapts else "Reading without adaptation"
        shown = display.track(blocks, title, shown=split == "test")
        read = partial(scores, meta_params, squares, factor, adapts=adapts)
        return np.concatenate([read(texts[rows]) for rows in shown])[: len(texts)]

    def evaluate(meta_params: MetaParams, split: str, keep: Path | None) -> Values:
        squares, factor = (), config.factors[0]
        if config.optimizer == "dynamic":
            squares = squares_at(meta_params, maml.batch_tasks(sample, TEXTS_OF_SQUARES)(key), key)
        if split == "test" and len(config.factors) > 1:
            read = partial(read_all, meta_params, squares, split="val", adapts=True)
            means = {one: np.nan_to_num(read(one).mean(), nan=np.inf) for one in config.factors}
            factor = min(means, key=lambda one: means[one])
            tried = ", ".join(f"{one:g}: {mean:.4f}" for one, mean in means.items())
            print(f"Validation bits by the factor of the inner learning rate: {tried}.")
        read = partial(read_all, meta_params, squares, factor, split)
        adapted, static = read(adapts=True), read(adapts=False)
        kind = "initial inner" if config.algorithm == "meta_sgd" else "inner"
        rate = f"{kind} learning rate {config.inner_rate * factor:g}"
        report_divergence(adapted, rate, split, names[split])
        return as_values(adapted, static, factor, by_position=split == "test")

    return evaluate


def report_divergence(bits: np.ndarray, rate: str, split: str, names: Sequence[str]) -> None:
    """Prints on how many passages the inner steps diverged, and on which first, if on any."""
    broken = ~np.isfinite(bits)
    if broken.any():
        rows = np.flatnonzero(broken.any(axis=1))
        steps = int(np.argmax(broken[rows[0]]))
        print(
            f"With the {rate}, {len(rows)} of {len(bits)} {split} passages diverged; the first of"
            f" them is {names[rows[0]]}, in chunk {steps + 1} after"
            f" {quantity(steps, 'inner step')}."
        )


def as_values(
    adapted: np.ndarray, static: np.ndarray, factor: float, *, by_position: bool
) -> Values:
    """The values of each text by the number of inner steps, and their means over the chunks."""
    metrics = {"bits": adapted, "bits_static": static, "gain": static - adapted}
    values = {
        name: (values_by_step(bits) if by_position else {}) | {"mean": bits.mean(axis=1)}
        for name, bits in metrics.items()
    }
    return values | {"factor": {"mean": np.full(len(adapted), factor)}}
