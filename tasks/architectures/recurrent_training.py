"""The training of language models with a recurrent cell, on a text that is cut into streams.

Models are trained by truncated backpropagation through time: the text is cut into parallel streams,
which the model reads in chunks; it makes an update after each chunk of all streams, and carries its
state on to the next. The tokens of the cell are arrays, so that one compiled program trains any
cell of a space.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Integer

from maml._checks import check_count, check_number
from maml.types import CarryLoss, Params, RandomKey
from tasks.architectures.recurrent_model import RecurrentModel
from tasks.language_models import next_chunk

Chunks = Int[Array, "_ stream tokens"]  # the first axis counts chunks
Carries = tuple[Float[Array, "stream width"], ...]


@dataclass(frozen=True)
class TextBudget:
    """The amount of training of a language model, and the scale of its reward.

    Attributes:
        share: Share of the training text that is read, its beginning, in (0, 1].
        epochs: Number of times that this share is read, >= 1.
        streams: Number of parallel streams into which the text is cut, >= 1.
        chunk: Number of words of each stream between two updates, >= 1.
        rate: Initial learning rate of Adam, which decays to zero along a cosine, >= 0.
        clip: Largest norm of the gradient; longer gradients are scaled to this norm, > 0.
        dropout: Probability with which an input of a cell or of the head is zero in training, in
            [0, 1).
        val_share: Share of the validation or test text that is read, its beginning, in (0, 1].
        scale: Number c of the reward c / perplexity^2, > 0.

    Raises:
        ValueError: a number is outside of its range.
    """

    share: float = 0.1
    epochs: int = 1
    streams: int = 8
    chunk: int = 35
    rate: float = 1e-2
    clip: float = 1.0
    dropout: float = 0.0
    val_share: float = 0.25
    scale: float = 80.0

    def __post_init__(self) -> None:
        for name in ("epochs", "streams", "chunk"):
            check_count(getattr(self, name), least=1, of=name)
        for name in ("share", "val_share"):
            check_number(getattr(self, name), name, above=0.0, most=1.0)
        check_number(self.rate, "rate", least=0.0)
        check_number(self.dropout, "dropout", least=0.0, below=1.0)
        for name in ("clip", "scale"):
            check_number(getattr(self, name), name, above=0.0)


def cut_text(
    words: Integer[np.ndarray, " words"], budget: TextBudget, share: float
) -> Int[np.ndarray, "chunk stream tokens"]:
    """The chunks of the beginning of a text, each with the word that follows it.

    The words at the end that do not fill a chunk of all streams are left out.

    Args:
        words: Numbers of the words of the text.
        budget: Numbers of streams and of words in a chunk.
        share: Share of the text, in (0, 1].

    Returns:
        The chunks, `[chunk, stream, words + 1]`; a stream goes on in the next chunk.

    Raises:
        ValueError: the share of the text is shorter than a chunk of all streams.

    >>> cut_text(np.arange(14), TextBudget(streams=2, chunk=3), 1.0).tolist()
    [[[0, 1, 2, 3], [6, 7, 8, 9]], [[3, 4, 5, 6], [9, 10, 11, 12]]]
    """
    words = np.asarray(words, np.int32)
    streams, size = budget.streams, budget.chunk
    length = int(len(words) * share)
    chunks = (length - 1) // (streams * size)
    if chunks < 1:
        raise ValueError(
            f"a text must have {streams} streams of {size} words, and one word more; got a share of"
            f" {length} words: fewer streams, or a larger share, would work"
        )
    starts = np.arange(streams)[:, None] * chunks * size + np.arange(chunks * size + 1)
    streams_of_words = words[starts]
    rows = [streams_of_words[:, size * k : size * (k + 1) + 1] for k in range(chunks)]
    return np.stack(rows)


class Training(NamedTuple):
    """The state of a training.

    Attributes:
        step: Number of updates so far.
        params: Parameters of the model.
        opt_state: State of the optimiser.
    """

    step: Int[Array, ""]
    params: Params
    opt_state: optax.OptState


def optimizer(budget: TextBudget, updates: int) -> optax.GradientTransformation:
    """Adam on clipped gradients, with a learning rate that decays to zero along a cosine.

    Args:
        budget: Amount of training.
        updates: Number of updates of the whole training.

    Returns:
        The optimiser.
    """
    cosine = optax.cosine_decay_schedule(budget.rate, updates)
    return optax.chain(optax.clip_by_global_norm(budget.clip), optax.adam(cosine))


def start_training(
    model: RecurrentModel, adam: optax.GradientTransformation, key: RandomKey
) -> Training:
    """The state before the first update, with parameters that are drawn from the key."""
    words = jnp.zeros(1, jnp.int32)
    params = model.clone(dropout=0.0).init(key, words, model.start())
    return Training(jnp.zeros((), jnp.int32), params, adam.init(params))


def train_epoch(
    model: RecurrentModel,
    adam: optax.GradientTransformation,
    training: Training,
    chunks: Chunks,
    key: RandomKey,
) -> Training:
    """Reads a text once, all streams at the same time, with an update after each chunk.

    Args:
        model: Language model.
        adam: Optimiser.
        training: State of the training.
        chunks: Chunks of the text, `[chunk, stream, words + 1]`.
        key: Random key of the dropout.

    Returns:
        The state after the last chunk.
    """
    gradient = jax.grad(streams_loss(model), has_aux=True)

    def update(state: tuple, words: Int[Array, "stream tokens"]) -> tuple[tuple, None]:
        (step, params, opt_state), carries = state
        grads, (carries, _) = gradient(params, (words, carries), jax.random.fold_in(key, step))
        updates, opt_state = adam.update(grads, opt_state, params)
        after = Training(step + 1, optax.apply_updates(params, updates), opt_state)
        return (after, carries), None

    first = training, start_of_streams(model, chunks)
    return jax.lax.scan(update, first, chunks)[0][0]


def mean_nats(model: RecurrentModel, params: Params, chunks: Chunks) -> Float[Array, ""]:
    """The mean cross-entropy of a word, in nats, over the chunks of a text."""
    model, unused = model.clone(dropout=0.0), jax.random.key(0)  # the loss draws nothing
    loss = streams_loss(model)

    def read(carries: Carries, words: Int[Array, "stream tokens"]) -> tuple[Carries, Array]:
        nats, (carries, _) = loss(params, (words, carries), unused)
        return carries, nats

    return jax.lax.scan(read, start_of_streams(model, chunks), chunks)[1].mean()


def start_of_streams(model: RecurrentModel, chunks: Chunks) -> Carries:
    """The carries of all streams before their first chunk, zeros `[stream, width]`."""
    return tuple(jnp.zeros((chunks.shape[1], len(vector))) for vector in model.start())


def streams_loss(model: RecurrentModel) -> CarryLoss:
    """The mean of `tasks.language_models.next_chunk` over all streams.

    Args:
        model: Language model.

    Returns:
        A loss of the batch `(words[stream, words + 1], carries)`, in nats for each word, whose
        metrics are those of `next_chunk` for each stream.
    """
    one = jax.vmap(next_chunk(model), (None, 0, 0))

    def loss(params: Params, batch: tuple, key: RandomKey) -> tuple[Array, tuple[Carries, dict]]:
        losses, aux = one(params, batch, jax.random.split(key, len(batch[0])))
        return losses.mean(), aux

    return loss
