"""Training of language models with given recurrent cells, with a checkpoint after each epoch."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import isfinite, nan
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer

import maml
from benchmarks.harness.checkpoints import checkpoints, restore
from benchmarks.harness.hardware import timed
from benchmarks.harness.stored import checkpoint_paths
from maml.search.space import Tokens
from maml.types import Params, RandomKey
from tasks.architectures.recurrent_reward import ModelFactory
from tasks.architectures.recurrent_training import (
    Carries,
    Chunks,
    TextBudget,
    Training,
    cut_text,
    mean_nats,
    optimizer,
    start_of_streams,
    start_training,
    streams_loss,
    train_epoch,
)
from tasks.dynamic_evaluation import dynamic_evaluation, mean_squares
from tasks.language_models import next_chunk, start_of

Words = Integer[np.ndarray, " words"]
PASSAGES = 100  # of training text, whose joint gradients dynamic evaluation squares, as its authors


class Texts(NamedTuple):
    """The texts for training, validation and test, in chunks `[chunk, stream, words + 1]`."""

    train: Chunks
    val: Chunks
    test: Chunks


def cut_texts(words: Sequence[Words], budget: TextBudget) -> Texts:
    """The chunks of the texts train, val and test; the last is read in one stream.

    Raises:
        ValueError: A text is too short.
    """
    streams = budget.streams, budget.streams, 1
    return _cut(words, budget, streams)


def cut_for_adaptation(words: Sequence[Words], budget: TextBudget, size: int) -> Texts:
    """The texts in chunks of this size: passages of the text train, and one stream of the others.

    Raises:
        ValueError: A text is too short.
    """
    return _cut(words, replace(budget, chunk=size), (PASSAGES, 1, 1))


def _cut(words: Sequence[Words], budget: TextBudget, streams: Sequence[int]) -> Texts:
    shares = budget.share, budget.val_share, budget.val_share
    budgets = (replace(budget, streams=count) for count in streams)
    return Texts(*map(jnp.asarray, map(cut_text, words, budgets, shares)))


class Programs(NamedTuple):
    """The compiled functions of a kind of model, whose first argument is the tokens of the cell.

    Attributes:
        start: Function `start(tokens, key)` to the state before the first update.
        epoch: Function `epoch(tokens, training, chunks, key)` to the state after an epoch.
        nats: Function `nats(tokens, params, chunks)` to the mean loss without adaptation.
        squares: Function `squares(tokens, params, chunks)` to the mean squares of the gradients of
            the chunks of all streams.
        adapted: Function `adapted(tokens, params, squares, rate, chunks)` to the mean loss with
            dynamic evaluation.
    """

    start: Callable[[Tokens, RandomKey], Training]
    epoch: Callable[[Tokens, Training, Chunks, RandomKey], Training]
    nats: Callable[[Tokens, Params, Chunks], Array]
    squares: Callable[[Tokens, Params, Chunks], Params]
    adapted: Callable[[Tokens, Params, Params, float, Chunks], Array]


def programs(child: ModelFactory, budget: TextBudget, updates: int, decay: float) -> Programs:
    """The programs of a kind of model.

    Args:
        child: Function `child(tokens) -> model`.
        budget: Amount of training.
        updates: Number of updates of the whole training.
        decay: Speed of the return to the trained parameters in dynamic evaluation.

    Returns:
        The programs, which are compiled when they are called.
    """
    adam, unused = optimizer(budget, updates), jax.random.key(0)

    def epoch(tokens: Tokens, training: Training, chunks: Chunks, key: RandomKey) -> Training:
        model = child(tokens).clone(dropout=budget.dropout)
        return train_epoch(model, adam, training, chunks, key)

    def squares(tokens: Tokens, params: Params, chunks: Chunks) -> Params:
        model, texts = child(tokens), maml.Episode(chunks[None], None)  # one text of all streams

        def start(params: Params) -> Carries:
            return start_of_streams(model, chunks)

        return mean_squares(streams_loss(model), start, params, texts, unused)

    def adapted(
        tokens: Tokens, params: Params, squares: Params, rate: float, chunks: Chunks
    ) -> Array:
        model, texts = child(tokens), maml.Episode(chunks.swapaxes(0, 1), None)
        learner = dynamic_evaluation(next_chunk(model), squares, rate=rate, decay=decay)
        return maml.evaluate_reading(learner, start_of(model), params, texts, unused)[0].mean()

    return Programs(
        start=jax.jit(lambda tokens, key: start_training(child(tokens), adam, key)),
        epoch=jax.jit(epoch, donate_argnums=1),
        nats=jax.jit(lambda tokens, params, chunks: mean_nats(child(tokens), params, chunks)),
        squares=jax.jit(squares),
        adapted=jax.jit(adapted),
    )


class Progress(NamedTuple):
    """A training with its results so far, which are in its checkpoints.

    Attributes:
        step: Number of updates.
        training: State of the training.
        val: Perplexity of the validation text after each epoch, NaN after those to come.
        seconds: Seconds of training.
    """

    step: Int[Array, ""]
    training: Training
    val: Float[Array, " epoch"]
    seconds: Float[Array, ""]


def train(
    program: Programs,
    tokens: Tokens,
    epochs: int,
    texts: Texts,
    key: RandomKey,
    folder: Path,
    report: Callable[[int, float, float], None],
) -> Progress:
    """Trains a model for all epochs, or goes on from its latest checkpoint.

    Args:
        program: Programs of the kind of model.
        tokens: Tokens of the cell.
        epochs: Number of epochs of the whole training.
        texts: Texts.
        key: Random key of the initial parameters and of the dropout.
        folder: Folder of the checkpoints.
        report: Function `report(epochs, seconds, perplexity)` that is called after each epoch, and
            first with those of the checkpoint.

    Returns:
        The training after the last epoch.
    """
    init_key, key = jax.random.split(key)
    size = len(texts.train)
    training = program.start(tokens, init_key)
    state = Progress(jnp.zeros((), int), training, jnp.full(epochs, jnp.nan), jnp.zeros(()))
    if checkpoint_paths(folder):
        state = restore(folder, state, epochs * size)
    done = int(state.step) // size
    report(done, 0.0, float(state.val[done - 1]))
    with checkpoints(folder, 0.0) as saved:
        for number in range(done, epochs):
            training, spent = timed(program.epoch, tokens, state.training, texts.train, key)
            val = perplexity(program.nats(tokens, training.params, texts.val))
            step, vals = (number + 1) * size, state.val.at[number].set(val)
            state = Progress(jnp.array(step), training, vals, state.seconds + spent)
            saved.finish(step, state, -np.inf)
            report(1, spent, val)
    return state


def measure_adapting(
    program: Programs, tokens: Tokens, params: Params, texts: Texts, rates: Sequence[float]
) -> dict[str, float]:
    """The perplexity of the test text with dynamic evaluation, at the rate that suits the text val.

    Args:
        program: Programs of the kind of model.
        tokens: Tokens of the cell.
        params: Trained parameters.
        texts: Texts, as `cut_for_adaptation` gives them.
        rates: Learning rates of dynamic evaluation.

    Returns:
        The perplexity, as `dynamic`, and the learning rate, as `rate`.
    """
    squares = program.squares(tokens, params, texts.train)
    read = partial(program.adapted, tokens, params, squares)
    losses = {rate: np.nan_to_num(read(rate, texts.val), nan=np.inf) for rate in rates}
    rate = min(losses, key=lambda rate: losses[rate])
    return {"dynamic": perplexity(read(rate, texts.test)), "rate": rate}


def perplexity(nats: Array) -> float:
    """The perplexity of a mean loss in nats, NaN if it is not finite."""
    value = float(jnp.exp(nats))
    return value if isfinite(value) else nan
