"""The reward of a recurrent cell, which is higher the lower the perplexity of its language model.

    reward(tokens, key) = c / perplexity^2 on validation text, after a short training

The module `recurrent_training` has the training.

Zoph, Le: Neural architecture search with reinforcement learning (ICLR 2017), section 4.2.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float, Integer

from maml._checks import check_callable, check_key
from maml.search import Reward
from maml.search.space import Tokens
from maml.types import RandomKey
from tasks._checks import check_is
from tasks.architectures.recurrent_model import RecurrentModel
from tasks.architectures.recurrent_training import (
    Chunks,
    TextBudget,
    Training,
    cut_text,
    mean_nats,
    optimizer,
    start_training,
    train_epoch,
)
from tasks.architectures.reward import BoundFunction

ModelFactory = Callable[[Tokens], RecurrentModel]
"""`child(tokens) -> model`, such as `partial(RecurrentModel, recurrent_chain.chain(8))`."""


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
    check_key(key)
    drop_key = jax.random.fold_in(key, 1)
    model = child(tokens).clone(dropout=budget.dropout)
    adam = optimizer(budget, budget.epochs * len(train))

    def epoch(training: Training, none: None) -> tuple[Training, None]:
        return train_epoch(model, adam, training, train, drop_key), None

    first = start_training(model, adam, key)
    (_, params, _), _ = jax.lax.scan(epoch, first, None, length=budget.epochs)
    return budget.scale * jnp.exp(-2 * mean_nats(model, params, held_out))
