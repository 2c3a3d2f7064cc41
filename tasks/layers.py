"""Patches, pooling, and batch-normalised linear maps with explicit statistics.

A convolution here is patches times a matrix: `vmap` over tasks gives every task its own kernel, and
`lax.conv` then becomes a grouped convolution, which XLA runs tens of times slower on a CPU than a
batched matrix product.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from maml._checks import check_count
from maml.rows import Weights, masked, nonzero, wide

Reference = int | Float[Array, " n"] | None
"""The rows that give statistics: a number of leading ones, all (None), or a weight for each."""


def patches(
    x: Float[Array, "n height width channels"], size: int, stride: int
) -> Float[Array, "n out_height out_width patch"]:
    """The `size` x `size` neighbourhoods that a SAME convolution with this stride looks at.

    With an HWIO kernel, `patches(x, size, stride) @ kernel.reshape(-1, features)` is that
    convolution.

    Args:
        x: images.
        size: of the neighbourhood, in pixels.
        stride: between neighbourhoods, in pixels.

    Returns:
        Each neighbourhood as a vector of size * size * channels numbers, in the order HWI.

    >>> patches(jnp.ones((2, 28, 28, 1)), 3, 2).shape
    (2, 14, 14, 9)
    """
    n, height, width, channels = x.shape
    pads = lax.padtype_to_pads((height, width), (size, size), (stride, stride), "SAME")
    out_height, out_width = -(-height // stride), -(-width // stride)
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    shifts = [
        lax.slice(
            x,
            (0, row, column, 0),
            (
                n,
                row + stride * (out_height - 1) + 1,
                column + stride * (out_width - 1) + 1,
                channels,
            ),
            (1, stride, stride, 1),
        )
        for row in range(size)
        for column in range(size)
    ]
    return jnp.concatenate(shifts, axis=-1)


def max_pool(
    x: Float[Array, "n height width channels"],
) -> Float[Array, "n half_h half_w channels"]:
    """Maximum over 2 x 2 windows, VALID: an odd last row or column is dropped.

    >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
    [[5.0, 7.0], [13.0, 15.0]]
    """
    _, height, width, _ = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    x = larger(x[:, ::2], x[:, 1::2])
    return larger(x[:, :, ::2], x[:, :, 1::2])


def larger(a: Float[Array, "*shape"], b: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The maximum, whose gradient always goes to one of the two.

    That of `jnp.maximum`, and of `max` over axes, goes to whoever equals the maximum, and that may
    be nobody where XLA computes them twice and rounds differently.
    """
    return jnp.where(a > b, a, b)


def moments(
    x: Float[Array, "n *rest channels"], weights: Weights, *, covariance: bool
) -> tuple[Float[Array, " channels"], Float[Array, "*_"]]:
    """Mean and (biased) variance of each channel, over the rows and all they hold.

    Args:
        x: Rows of numbers; what is in rows of weight 0 does not matter.
        weights: Weight of each row; None is 1.
        covariance: Whether the channels' covariance is given instead of the variances.
    """
    axes, channels = tuple(range(x.ndim - 1)), x.shape[-1]
    if weights is None:
        mean = x.mean(axes)
        if not covariance:
            return mean, x.var(axes)
        centered = (x - mean).reshape(-1, channels)
        return mean, centered.T @ centered / centered.shape[0]
    positions = x[0].size // channels
    share = (weights / nonzero(weights.sum() * positions)).astype(x.dtype)
    share = share.reshape(-1, *[1] * (x.ndim - 1))
    mean = jnp.sum(share * masked(x, weights), axes)
    centered = masked(x - mean, weights)
    if not covariance:
        return mean, jnp.sum(share * jnp.square(centered), axes)
    return mean, (share * centered).reshape(-1, channels).T @ centered.reshape(-1, channels)


def split(reference: Reference, rows: int) -> tuple[int | None, Weights]:
    """The number of leading rows, or the weights, that a reference is.

    Raises:
        ValueError: there are no rows, fewer than the reference, or not one weight for each.
    """
    check_count(rows, least=1, of="rows")
    if isinstance(reference, jax.Array | np.ndarray):
        if reference.shape != (rows,):
            raise ValueError(f"reference weights must be [{rows}]; got {list(reference.shape)}")
        return None, wide(reference)
    if reference is not None:
        check_count(reference, least=1, of="reference rows")
        if reference > rows:
            raise ValueError(f"{reference} reference rows need as many rows; got {rows}")
    return reference, None


class BatchNorm(nn.Module):
    """A batch-normalised linear map  (x W - mean) / sqrt(var + epsilon) + bias.

    No scale is learned, and the linear map has no bias, which the mean would take away again.
    Mean and (biased) variance are those of the call's own rows, of its first `reference` rows, of
    its rows with weights, or the running averages in the collection `batch_stats`. The module never
    averages: where it tracks and `batch_stats` is mutable, it puts out what it observed.

    Where x is narrower than x W they are computed from x, as mean(x) W and diag(W' cov(x) W), and
    dividing is done to W. In a network's first layer that spares most of the passes over its
    largest activations, in the derivatives too.

    Attributes:
        track: whether the module has running averages.
        epsilon: added to the variance; 1e-3 as in MAML's code.
        dtype: in which x W is computed and the result put out; None is that of x and W. The
            statistics are computed in float32 at least.

    Ioffe, Szegedy: Batch normalization (ICML 2015).
    """

    track: bool = False
    epsilon: float = 1e-3
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "n *rest inputs"],
        kernel: Float[Array, "inputs features"] | None = None,
        *,
        reference: Reference = None,
        running: bool = False,
    ) -> Float[Array, "n *rest features"]:
        """Normalises each channel, the last axis, of x W.

        Args:
            x: inputs of the linear map; patches, if it is a convolution.
            kernel: W; None is the identity, where x is the product already.
            reference: How many leading rows give the statistics (default: all), or the weight of
                each row in them. A row of weight 0 is normalised as well, and has to be finite.
            running: use the running averages instead.

        Raises:
            ValueError: there are no running averages, no reference rows or fewer than that, or not
                one weight for each.
        """
        if running and not self.track:
            raise ValueError("running averages need track=True")
        rows, weights = split(reference, x.shape[0])
        inputs, features = (x.shape[-1],) * 2 if kernel is None else kernel.shape
        bias = self.param("bias", nn.initializers.zeros_init(), (features,))
        narrow = inputs < features
        dtype = self.dtype or (x.dtype if kernel is None else jnp.result_type(x, kernel))

        def product(kernel: Array | None) -> Array:
            return x.astype(dtype) if kernel is None else x.astype(dtype) @ kernel.astype(dtype)

        seen = x if narrow else product(kernel)
        exact = wide(seen)
        mean, var = moments(exact[:rows], weights, covariance=narrow)
        if kernel is not None and narrow:
            mean, var = mean @ kernel, jnp.sum(kernel * (var @ kernel), axis=0)
        if self.track:
            averages = self.variable(
                "batch_stats", "averages", lambda: (jnp.zeros(features), jnp.ones(features))
            )
            if running:
                mean, var = averages.value
            elif self.is_mutable_collection("batch_stats") and not self.is_initializing():
                averages.value = (mean, var)
        scale = lax.rsqrt(var + self.epsilon)
        if kernel is not None and narrow:
            normalised = product(kernel * scale) + (bias - mean * scale)
        else:
            normalised = (exact - mean) * scale + bias
        return normalised.astype(dtype)
