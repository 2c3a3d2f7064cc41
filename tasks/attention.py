"""Attention with a sliding window, which carries keys and values from chunk to chunk of a text.

It is written in basic operations, because fused attention has no second derivative.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

ROTARY = 10_000.0  # the wavelengths of the rotary positions are below 2 pi times this, in tokens


class Past(NamedTuple):
    """Keys and values of the last tokens before a chunk: what a layer carries to the next chunk.

    Attributes:
        keys: Keys without their rotation, `[window, heads, size]`, the latest last.
        values: Values, `[window, heads, size]`.
        seen: Number of rows that hold tokens, the last ones; at the start of a text it is 0.
    """

    keys: Float[Array, "window heads size"]
    values: Float[Array, "window heads size"]
    seen: Int[Array, ""]


def window_attention(
    queries: Float[Array, "time heads size"],
    keys: Float[Array, "time heads size"],
    values: Float[Array, "time heads size"],
    past: Past,
) -> tuple[Float[Array, "time heads size"], Past]:
    """Attention of each token to itself and the `window` tokens before it, also in earlier chunks.

        y_t = sum over s, t - window <= s <= t, of softmax_s(R_t q_t . R_s k_s / sqrt(size)) v_s

    R_t is the rotation of token t, so that scores depend on the distance t - s alone.

    Args:
        queries, keys, values: Those of the tokens of a chunk.
        past: Keys and values before the chunk.

    Returns:
        The weighted sums y of the values, `[time, heads, size]`, and the past for the next chunk.
    """
    time, window = len(queries), len(past.keys)
    keys = jnp.concatenate([past.keys, keys.astype(past.keys.dtype)])
    values = jnp.concatenate([past.values, values.astype(past.values.dtype)])
    own, places = jnp.arange(time), jnp.arange(-window, time)  # places in the chunk
    products = jnp.einsum("thd,shd->hts", rotate(queries, own), rotate(keys, places))
    distance = own[:, None] - places
    visible = (distance >= 0) & (distance <= window) & (places >= -past.seen)
    weights = jax.nn.softmax(products / queries.shape[-1] ** 0.5, where=visible)
    attended = jnp.einsum("hts,shd->thd", weights, values)
    return attended, Past(keys[-window:], values[-window:], jnp.minimum(past.seen + time, window))


def rotate(
    x: Float[Array, "n heads size"], places: Int[Array, " n"]
) -> Float[Array, "n heads size"]:
    """Rotary positions: features j and j + size / 2 are turned by the angle place 10000^(-2j/size).

    Su et al.: RoFormer, enhanced transformer with rotary position embedding (2021),
    https://arxiv.org/abs/2104.09864
    """
    half = x.shape[-1] // 2
    angles = places[:, None, None] * jnp.asarray(ROTARY ** (-np.arange(half) / half), x.dtype)
    sine, cosine = jnp.sin(angles), jnp.cos(angles)
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cosine - b * sine, a * sine + b * cosine], axis=-1)
