"""Language models that read a text chunk by chunk, and carry a state from one chunk to the next.

A model is called as `model(tokens, carry) -> (logits, carry)` with the tokens of ONE text, and
`model.start()` is the carry before the first chunk. Reading a text in chunks gives the same logits
as reading it at once. No logit depends on a later token.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Integer, PyTree

from maml._checks import check_count, check_counts
from maml.types import CarryLoss, Params, RandomKey
from tasks._checks import check_tokens, nan_below_zero
from tasks.attention import Past, window_attention
from tasks.language import token_entropies


class WindowTransformer(nn.Module):
    """A transformer whose tokens attend to themselves and to the `window` tokens before them.

        x <- x + attention(norm(x)),   x <- x + swiglu(norm(x))

    Positions are rotary, keys and queries are normalised, and every norm is RMSNorm. The last
    quarter of the layers has a second feed-forward network, with its norm, between attention and
    the first one. Its parameters are named `second*`; these are the ones that adapt in the paper.

    Attributes:
        vocabulary: Number of different tokens, >= 2. A token outside of it is refused or, if it is
            traced, makes logits NaN.
        width: Width of the residual stream.
        layers: Number of layers, >= 1.
        heads: Number of attention heads; each has `width / heads` features, an even number.
        hidden: Width of the hidden layer of a feed-forward network; None is 8/3 of the width, to
            the nearest multiple of 4.
        window: Number of tokens before itself that a token attends to in each layer, >= 1.

    Tandon et al.: End-to-end test-time training for long context (2025),
    https://arxiv.org/abs/2512.23675
    """

    vocabulary: int = 256
    width: int = 128
    layers: int = 4
    heads: int = 4
    hidden: int | None = None
    window: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self.vocabulary, least=2, of="tokens in the vocabulary")
        check_counts(width=self.width, layers=self.layers, heads=self.heads)
        if self.hidden is not None:
            check_counts(hidden=self.hidden)
        check_count(self.window, least=1, of="tokens in the window")
        if self.width % (2 * self.heads):
            raise ValueError(
                f"rotary positions need an even number of features for each of {self.heads} heads;"
                f" got a width of {self.width}; one of {2 * self.heads} would work"
            )

    def start(self) -> list[Past]:
        """The carry before the first chunk: that of each layer, without any token."""
        empty = jnp.zeros((self.window, self.heads, self.width // self.heads))
        return [Past(empty, empty, jnp.zeros((), jnp.int32)) for _ in range(self.layers)]

    @nn.compact
    def __call__(
        self, tokens: Integer[Array, " time"], carry: list[Past]
    ) -> tuple[Float[Array, "time vocabulary"], list[Past]]:
        """Logits of the token that follows each token, and the carry after the last token.

        Raises:
            ValueError: the tokens are not of the vocabulary, or there is none.
        """
        x = embedded(tokens, self.vocabulary, self.width)
        hidden = self.hidden or 4 * max(1, round(self.width * 2 / 3))
        after = []
        for layer, past in enumerate(carry):
            h = nn.RMSNorm(name=f"norm{layer}")(x)
            h = nn.Dense(3 * self.width, use_bias=False, name=f"attention{layer}")(h)
            queries, keys, values = jnp.split(h.reshape(len(h), self.heads, -1), 3, axis=-1)
            queries = nn.RMSNorm(name=f"queries{layer}")(queries)
            keys = nn.RMSNorm(name=f"keys{layer}")(keys)
            h, past = window_attention(queries, keys, values, past)
            x = x + nn.Dense(self.width, use_bias=False, name=f"mixed{layer}")(h.reshape(x.shape))
            if layer >= self.layers - max(1, self.layers // 4):
                x = x + SwiGLU(hidden, name=f"second{layer}")(x)
            x = x + SwiGLU(hidden, name=f"first{layer}")(x)
            after.append(past)
        return logits_of(nn.RMSNorm(name="norm")(x), self.vocabulary), after


class SwiGLU(nn.Module):
    """A normalised feed-forward network with a gate:  W3 (silu(W1 norm(x)) * W2 norm(x)).

    Attributes:
        hidden: Width of the hidden layer.
    """

    hidden: int

    @nn.compact
    def __call__(self, x: Float[Array, "time width"]) -> Float[Array, "time width"]:
        """What is added to the residual stream."""
        h = nn.RMSNorm(name="norm")(x)
        gate, h = jnp.split(nn.Dense(2 * self.hidden, use_bias=False, name="in")(h), 2, axis=-1)
        return nn.Dense(x.shape[-1], use_bias=False, name="out")(nn.silu(gate) * h)


class LSTM(nn.Module):
    """Layers of long short-term memory between an embedding and a head.

    Attributes:
        vocabulary: Number of different tokens, as in `WindowTransformer`.
        width: Number of features of the embedding and of each layer.
        layers: Number of layers, >= 1.

    Hochreiter, Schmidhuber: Long short-term memory (Neural Computation 1997),
    https://doi.org/10.1162/neco.1997.9.8.1735
    """

    vocabulary: int = 256
    width: int = 256
    layers: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self.vocabulary, least=2, of="tokens in the vocabulary")
        check_counts(width=self.width, layers=self.layers)

    def start(self) -> list[tuple[Array, Array]]:
        """The carry before the first chunk: cell and output of each layer, zeros."""
        return [(jnp.zeros(self.width), jnp.zeros(self.width)) for _ in range(self.layers)]

    @nn.compact
    def __call__(
        self, tokens: Integer[Array, " time"], carry: list[tuple[Array, Array]]
    ) -> tuple[Float[Array, "time vocabulary"], list[tuple[Array, Array]]]:
        """As in `WindowTransformer`."""
        x = embedded(tokens, self.vocabulary, self.width)
        after = []
        for layer, before in enumerate(carry):
            cell = nn.OptimizedLSTMCell(self.width, name=f"cell{layer}")
            last, x = nn.RNN(cell, return_carry=True)(x, initial_carry=before)
            after.append(jax.tree.map(lambda a, b: a.astype(b.dtype), last, before))
        return logits_of(x, self.vocabulary), after


def embedded(
    tokens: Integer[Array, " time"], vocabulary: int, width: int
) -> Float[Array, "time width"]:
    """The embeddings of the tokens, by a layer named `tokens` whose weights start as N(0, 1)."""
    check_tokens(tokens[None], vocabulary)
    check_count(len(tokens), least=1, of="tokens to read")
    embed = nn.Embed(vocabulary, width, embedding_init=nn.initializers.normal(1.0), name="tokens")
    return embed(nan_below_zero(tokens[None])[0])


def logits_of(x: Float[Array, "time width"], vocabulary: int) -> Float[Array, "time vocabulary"]:
    """The logits, by a layer named `head` that starts near zero."""
    return nn.Dense(vocabulary, kernel_init=nn.initializers.normal(0.02), name="head")(x)


def start_of(model: nn.Module) -> Callable[[Params], PyTree]:
    """The function `start(params) -> carry` of a model, which `maml.reading` takes."""
    return lambda params: model.start()


def next_chunk(model: nn.Module) -> CarryLoss:
    """The mean cross-entropy of the next token in a chunk, in nats, with the carry of the model.

    Args:
        model: Model, called as `model(tokens[time], carry) -> (logits[time, vocabulary], carry)`.

    Returns:
        A loss of the batch `(tokens[time + 1], carry)`, whose metrics are the carry after the first
        `time` tokens, and `nats`, the cross-entropy of each token `[time]`.

    Raises:
        ValueError: the model is not a flax module, or (when called) as `tasks.language.next_token`.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"next_chunk needs a flax module; got {model!r}")

    def loss(
        params: Params, batch: tuple[Integer[Array, " tokens"], PyTree], key: RandomKey
    ) -> tuple[Array, tuple[PyTree, dict]]:
        tokens, carry = batch
        check_tokens(tokens[None])
        check_count(len(tokens), least=2, of="tokens in a chunk")
        logits, carry = model.apply(params, tokens[:-1], carry, rngs={"dropout": key})
        check_tokens(tokens[None], logits.shape[-1])
        nats = token_entropies(logits, tokens[1:])
        return nats.mean(), (carry, {"nats": nats})

    return loss
