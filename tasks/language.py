"""Language modelling, in which each task is a text given by a few of its passages.

    L(theta) = - mean over passages and positions t of  log p_theta(x_{t+1} | x_1 .. x_t)

Tokens are integers below the size of the vocabulary, such as the bytes of a text. A passage for a
model that reads `length` tokens has one more, since it is both input and target.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Integer

from maml import Episode, LossFn, Sampler
from maml._checks import check_count, check_counts, check_key
from maml.rows import check_labels, upcast
from maml.types import Params, RandomKey
from tasks._checks import check_tokens, nan_below_zero


class Transformer(nn.Module):
    """A causal transformer with pre-normalised residual layers of attention and GELU networks.

        x <- x + attention(norm(x)),   x <- x + W2 gelu(W1 norm(x))

    No logit depends on a later token. Positions are learned. Embeddings start as N(0, 1), and the
    head starts near zero, so that all tokens are about equally likely before training.

    Attributes:
        vocabulary: Number of different tokens, >= 2. Any other token is refused or, if it is
            traced, makes every output NaN.
        width: Width of the residual stream; the hidden layers are four times as wide.
        layers: Number of layers, >= 0.
        heads: Number of attention heads, a divisor of the width.
        length: Maximum number of tokens that the model reads.
    """

    vocabulary: int = 256
    width: int = 128
    layers: int = 4
    heads: int = 4
    length: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self.vocabulary, least=2, of="tokens in the vocabulary")
        check_count(self.width, least=1, of="units of the residual stream")
        check_counts(heads=self.heads)
        check_count(self.length, least=1, of="tokens to read")
        check_count(self.layers, least=0, of="layers")
        if self.width % self.heads:
            raise ValueError(f"{self.heads} heads do not divide a width of {self.width}")

    @nn.compact
    def __call__(self, tokens: Integer[Array, "n time"]) -> Float[Array, "n time vocabulary"]:
        """Logits of the token that follows each token.

        Raises:
            ValueError: there are more tokens than `length`, or they are not of the vocabulary.

        >>> model, tokens = Transformer(width=8, layers=1), jnp.zeros((2, 9), int)
        >>> jax.eval_shape(model.init_with_output, jax.random.key(0), tokens)[0].shape
        (2, 9, 256)
        """
        check_tokens(tokens, self.vocabulary)
        if 0 in tokens.shape:
            raise ValueError(f"a model reads one token or more; got {list(tokens.shape)}")
        time = tokens.shape[1]
        if time > self.length:
            raise ValueError(f"the model reads at most {self.length} tokens; got {time}")
        draw = nn.initializers.normal(1.0)
        embed = nn.Embed(self.vocabulary, self.width, embedding_init=draw, name="tokens")
        x = embed(nan_below_zero(tokens))
        x = x + self.param("positions", draw, (self.length, self.width))[:time]
        for layer in range(self.layers):
            h = nn.LayerNorm(name=f"norm{layer}a")(x)
            h = nn.Dense(3 * self.width, name=f"attention{layer}")(h)
            h = attention(*jnp.split(h.reshape(*h.shape[:2], self.heads, -1), 3, axis=-1))
            x = x + nn.Dense(self.width, name=f"mixed{layer}")(h.reshape(x.shape))
            h = nn.LayerNorm(name=f"norm{layer}b")(x)
            h = nn.gelu(nn.Dense(4 * self.width, name=f"hidden{layer}")(h))
            x = x + nn.Dense(self.width, name=f"added{layer}")(h)
        x, draw = nn.LayerNorm(name="norm")(x), nn.initializers.normal(0.02)
        return nn.Dense(self.vocabulary, kernel_init=draw, name="head")(x)


def attention(
    queries: Float[Array, "n time heads size"],
    keys: Float[Array, "n time heads size"],
    values: Float[Array, "n time heads size"],
) -> Float[Array, "n time heads size"]:
    """Causal attention:  y_t = sum over s <= t of softmax_s(q_t . k_s / sqrt(size)) v_s.

    >>> values = jnp.arange(3.0).reshape(1, 3, 1, 1)
    >>> attention(jnp.zeros_like(values), values, values).ravel().tolist()
    [0.0, 0.5, 1.0]
    """
    shapes = [jnp.shape(part) for part in (queries, keys, values)]
    if len(shapes[0]) != 4 or shapes.count(shapes[0]) != 3:
        raise ValueError(f"queries, keys and values must be [n, time, heads, size]; got {shapes}")
    time, _, size = queries.shape[1:]
    scores = jnp.einsum("nthd,nshd->nhts", queries, keys) / np.sqrt(size).astype(queries.dtype)
    weights = jax.nn.softmax(scores, where=jnp.tri(time, dtype=bool))
    return jnp.einsum("nhts,nshd->nthd", weights, values)


def next_token(model: nn.Module) -> LossFn:
    """The mean cross-entropy of the next token, in nats.

    Args:
        model: Model, called as `model(tokens[n, time]) -> logits[n, time, vocabulary]`.

    Returns:
        A loss of the batch `tokens[n, time + 1]`, with the metrics `cross_entropy` (nats) and
        `bits_per_token`, all computed in float32 at least.

    Raises:
        ValueError: the model is not a flax module; or (when called) the batch is not integers
            `[n, time + 1]`, has passages of fewer than two tokens, or has tokens without a logit.
            Traced tokens without a logit make the loss and its derivative NaN.

    >>> model, tokens = Transformer(width=8, layers=1), jnp.zeros((2, 9), int)
    >>> params = jax.jit(model.init)(jax.random.key(0), tokens)
    >>> params = jax.tree.map(jnp.zeros_like, params)
    >>> _, metrics = jax.jit(next_token(model))(params, tokens, jax.random.key(0))
    >>> round(float(metrics["bits_per_token"]), 3)
    8.0
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"next_token needs a flax module; got {model!r}")

    def loss(
        params: Params, tokens: Integer[Array, "n tokens"], key: RandomKey
    ) -> tuple[Array, dict]:
        check_tokens(tokens)
        if tokens.shape[0] < 1 or tokens.shape[1] < 2:
            got = f"{tokens.shape[1]} in each of {tokens.shape[0]} passages"
            raise ValueError(f"a passage needs two tokens or more; got {got}")
        logits = jnp.asarray(model.apply(params, tokens[:, :-1]))
        check_tokens(tokens, logits.shape[-1])
        value = token_entropies(logits, tokens[:, 1:]).mean()
        return value, {"cross_entropy": value, "bits_per_token": value / np.log(2)}

    return loss


def token_entropies(
    logits: Float[Array, "*place vocabulary"], tokens: Integer[Array, "*place"]
) -> Float[Array, "*place"]:
    """The cross-entropies of tokens, in nats and in float32 at least; NaN without a logit."""
    targets, valid = check_labels(tokens, logits.shape, None)
    entropies = optax.losses.softmax_cross_entropy_with_integer_labels(upcast(logits), targets)
    # A factor of NaN makes the derivative NaN as well.
    return entropies * jnp.where(valid, 1, jnp.float32(jnp.nan))


def markov_chains(
    shots: int, queries: int, length: int, *, vocabulary: int = 256, branches: int = 4
) -> Sampler:
    """A sampler of tasks, each of passages of its own random Markov chain.

        x_{t+1} = S[x_t, b],   b ~ U{1 .. branches},   S[i, j] ~ U{0 .. vocabulary - 1}

    A model that knows the table S needs at most log(branches) nats for each token; a model that
    does not know it needs log(vocabulary) nats.

    Args:
        shots: Number of passages of the support set.
        queries: Number of passages of the query set, from the same chain.
        length: Number of tokens of a passage that a model reads.
        vocabulary: Number of different tokens.
        branches: Number of successors of each token.

    Returns:
        The sampler `sample(key) -> Episode(support, query)`, with tokens
        `[shots or queries, length + 1]`.

    Raises:
        ValueError: a count is not an integer >= 1, or (when sampling) the key is not one key.

    >>> episode = markov_chains(shots=2, queries=3, length=8)(jax.random.key(0))
    >>> episode.support.shape, episode.query.shape
    ((2, 9), (3, 9))
    """
    check_counts(shots=shots, queries=queries, branches=branches)
    check_count(length, least=1, of="tokens to read")
    check_count(vocabulary, least=1, of="tokens in the vocabulary")
    sizes = {"shots": shots, "queries": queries, "length": length}
    return jax.tree_util.Partial(partial(_walk, vocabulary=vocabulary, branches=branches, **sizes))


def _walk(
    key: RandomKey, *, shots: int, queries: int, length: int, vocabulary: int, branches: int
) -> Episode:
    check_key(key)
    table_key, start_key, branch_key = jax.random.split(key, 3)
    successors = jax.random.randint(table_key, (vocabulary, branches), 0, vocabulary)
    start = jax.random.randint(start_key, (shots + queries,), 0, vocabulary)
    branch_choices = jax.random.randint(branch_key, (length, shots + queries), 0, branches)

    def step(token: Array, branch: Array) -> tuple[Array, Array]:
        return successors[token, branch], token

    last, previous = jax.lax.scan(step, start, branch_choices)
    tokens = jnp.concatenate([previous, last[None]]).T
    return Episode(tokens[:shots], tokens[shots:])
