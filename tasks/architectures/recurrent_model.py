"""Language models with a recurrent cell, which the tokens of a search space choose.

    x_t = sqrt(width) E[w_t],    (s_t, y_t) = cell(s_{t-1}, x_t),    logits_t = E y_t + b

Here E is the embedding of the words w_t, whose weights the head shares, and b is a bias. There may
be several layers of the cell, each with its own weights, which read the outputs y of the one below.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Integer

from maml._checks import check_count, check_counts, check_number
from maml.search.space import Tokens, check_tokens, in_range
from tasks._checks import check_is, nan_below_zero
from tasks._checks import check_tokens as check_words
from tasks.architectures.recurrent_chain import Cell, State


class RecurrentModel(nn.Module):
    """A language model: a recurrent cell between an embedding and a head that share their weights.

    It reads chunks of a text as the models of `tasks.language_models` do.

    Attributes:
        cell: Search space of the cell, such as `recurrent_chain.chain(8)`.
        tokens: Tokens of the cell, `[token]`. Where they are traced and not of the space, the
            logits are NaN.
        vocabulary: Number of different words, >= 2. A word outside of it is refused or, if it is
            traced, makes logits NaN.
        width: Number of features of the embedding and of the cell, >= 1.
        layers: Number of layers of the cell, >= 1.
        dropout: Probability with which a number that a layer or the head reads is zero, in [0, 1);
            clone the model with 0 to evaluate it.

    Raises:
        ValueError: a number is too small; or (when called) the tokens are not of the space, or the
            words not of the vocabulary.
    """

    cell: Cell
    tokens: Tokens
    vocabulary: int = 10_000
    width: int = 64
    layers: int = 1
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_is(self.cell, "the cell", Cell)
        check_count(self.vocabulary, least=2, of="words in the vocabulary")
        check_counts(features=self.width, layers=self.layers)
        check_number(self.dropout, "dropout", least=0.0, below=1.0)

    def start(self) -> State:
        """The carry before the first chunk, zeros."""
        return (jnp.zeros(self.width),) * (self.layers * self.cell.states)

    @nn.compact
    def __call__(
        self, words: Integer[Array, " time"], carry: State
    ) -> tuple[Float[Array, "time vocabulary"], State]:
        """Logits of the word that follows each word, and the carry after the last word."""
        check_tokens(self.tokens, self.cell.space.choices)
        check_words(words[None], self.vocabulary)
        draw = nn.initializers.normal(self.width**-0.5)
        embed = nn.Embed(self.vocabulary, self.width, embedding_init=draw, name="words")
        names = zip(("inputs", "weights"), self.cell.shapes(self.width), strict=True)
        inputs, weights = (self.param(name, draw, (self.layers, *shape)) for name, shape in names)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.vocabulary,))
        drop = nn.Dropout(self.dropout, deterministic=False)
        x = self.width**0.5 * embed(nan_below_zero(words[None])[0])
        states, after = self.cell.states, ()
        for layer in range(self.layers):

            def step(state: State, products: Array, layer: int = layer) -> tuple[State, Array]:
                return self.cell.step(self.tokens, weights[layer], state, products)

            before = carry[layer * states : (layer + 1) * states]
            last, x = jax.lax.scan(step, before, drop(x) @ inputs[layer])
            after += last
        x = jnp.where(in_range(self.tokens, self.cell.space.choices), x, jnp.nan)
        return embed.attend(drop(x)) + bias, after
