"""The reward of a recurrent cell, which is low where its language model has a high perplexity.

    reward(tokens, key) = c / perplexity^2 on validation text, after a short training

A model is trained by truncated backpropagation through time: the text is cut into parallel streams,
which the model reads in chunks; it makes an update after each chunk of all streams, and carries its
state on to the next. One compiled program trains any cell of a space, given its tokens.

Zoph, Le: Neural architecture search with reinforcement learning (ICLR 2017), section 4.2.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int, Integer

from maml._checks import check_callable, check_count, check_key, check_number
from maml.search import Reward
from maml.search.space import Tokens
from maml.types import Params, RandomKey
from tasks._checks import check_is
from tasks.architectures.recurrent_model import RecurrentModel
from tasks.architectures.reward import BoundFunction
from tasks.language_models import next_chunk

Chunks = Int[Array, "_ stream tokens"]  # the first axis counts chunks
Carries = tuple[Float[Array, "stream width"], ...]
ModelFactory = Callable[[Tokens], RecurrentModel]
"""`child(tokens) -> model`, such as `partial(RecurrentModel, recurrent.chain(8))`."""


@dataclass(frozen=True)
class TextBudget:
    """The amount of training of a language model for a reward, and its scale.

    Attributes:
        share: Share of the training text that is read, its beginning, in (0, 1].
        epochs: Number of times that this share is read, >= 1.
        streams: Number of parallel streams into which the text is cut, >= 1.
        chunk: Number of words of each stream between two updates, >= 1.
        rate: Initial learning rate of Adam, which decays to zero along a cosine, >= 0.
        clip: Largest norm of the gradient; longer gradients are scaled to this norm, > 0.
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
    val_share: float = 0.25
    scale: float = 80.0

    def __post_init__(self) -> None:
        for name in ("epochs", "streams", "chunk"):
            check_count(getattr(self, name), least=1, of=name)
        for name in ("share", "val_share"):
            check_number(getattr(self, name), name, above=0.0, most=1.0)
        check_number(self.rate, "rate", least=0.0)
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


def reward_of_cell(
    child: ModelFactory,
    train: Integer[np.ndarray, " words"],
    held_out: Integer[np.ndarray, " held_out"],
    budget: TextBudget,
) -> Reward:
    """The reward of recurrent cells in language models that are trained from their initial weights.

    Args:
        child: Function `child(tokens) -> model`.
        train: Training text, as numbers of words.
        held_out: Text on which the reward is measured, as numbers of words.
        budget: Amount of training, and scale of the reward.

    Returns:
        The function `reward(tokens, key)`, a pytree whose leaves are the texts, so that they are
        arguments of jit. The reward is NaN if the training diverges.

    Raises:
        ValueError: an argument has the wrong type, or a text is too short, see `cut_text`.
    """
    check_callable(child, "child", "tokens")
    check_is(budget, "the budget", TextBudget)
    chunks = cut_text(train, budget, budget.share), cut_text(held_out, budget, budget.val_share)
    return Partial(BoundFunction(_train_and_evaluate, child, budget), *map(jnp.asarray, chunks))


def _train_and_evaluate(
    child: ModelFactory,
    budget: TextBudget,
    train: Chunks,
    held_out: Chunks,
    tokens: Tokens,
    key: RandomKey,
) -> Float[Array, ""]:
    params = train_model(child, budget, train, tokens, key)
    return budget.scale * jnp.exp(-2 * evaluate_model(child, params, held_out, tokens))


def train_model(
    child: ModelFactory, budget: TextBudget, train: Chunks, tokens: Tokens, key: RandomKey
) -> Params:
    """The trained parameters of a language model, not finite if the training diverged.

    Args:
        child: Function `child(tokens) -> model`.
        budget: Amount of training.
        train: Chunks of the training text, as of `cut_text`.
        tokens: Tokens of the cell, `[token]`.
        key: Random key of the initial parameters.

    Returns:
        The parameters.
    """
    check_key(key)
    model = child(tokens)
    params = model.init(key, train[0, 0, :-1], model.start())
    cosine = optax.cosine_decay_schedule(budget.rate, budget.epochs * len(train))
    adam = optax.chain(optax.clip_by_global_norm(budget.clip), optax.adam(cosine))

    def update(state: tuple, words: Int[Array, "stream tokens"]) -> tuple[tuple, None]:
        params, opt_state, carry = state
        gradient = jax.grad(_chunk_loss, argnums=1, has_aux=True)
        grads, carry = gradient(model, params, words, carry)
        updates, opt_state = adam.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state, carry), None

    def epoch(state: tuple, _: None) -> tuple[tuple, None]:
        last, _ = jax.lax.scan(update, (*state, _start(model, train)), train)
        return last[:2], None

    first = params, adam.init(params)
    (params, _), _ = jax.lax.scan(epoch, first, None, length=budget.epochs)
    return params


def evaluate_model(
    child: ModelFactory, params: Params, held_out: Chunks, tokens: Tokens
) -> Float[Array, ""]:
    """The mean cross-entropy of a word, in nats, over the chunks of a text."""
    model = child(tokens)

    def read(carry: Carries, words: Int[Array, "stream tokens"]) -> tuple[Carries, Array]:
        loss, carry = _chunk_loss(model, params, words, carry)
        return carry, loss

    return jax.lax.scan(read, _start(model, held_out), held_out)[1].mean()


def _start(model: RecurrentModel, chunks: Chunks) -> Carries:
    return tuple(jnp.zeros((chunks.shape[1], len(vector))) for vector in model.start())


def _chunk_loss(
    model: RecurrentModel, params: Params, words: Int[Array, "stream tokens"], carry: Carries
) -> tuple[Array, Carries]:
    """The mean loss of a chunk of all streams, and their carries after it."""
    unused = jax.random.key(0)  # the loss draws nothing
    one = jax.vmap(lambda stream: next_chunk(model)(params, stream, unused))
    losses, (carry, _) = one((words, carry))
    return losses.mean(), carry
