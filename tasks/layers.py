"""Patches, pooling, and batch-normalised linear maps with explicit statistics.

A convolution here is patches times a matrix: `vmap` over tasks gives every task its own kernel, and
`lax.conv` then becomes a grouped convolution, which XLA runs tens of times slower on a CPU than a
batched matrix product.
"""

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float


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


class BatchNorm(nn.Module):
    """A batch-normalised linear map  (x W - mean) / sqrt(var + epsilon) + bias.

    No scale is learned, and the linear map has no bias, which the mean would take away again.
    Mean and (biased) variance are those of the call's own rows, of its first `reference` rows, or
    the running averages in the collection `batch_stats`. The module never averages: where it
    tracks and `batch_stats` is mutable, it puts out what it observed.

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
        reference: int | None = None,
        running: bool = False,
    ) -> Float[Array, "n *rest features"]:
        """Normalises each channel, the last axis, of x W.

        Args:
            x: inputs of the linear map; patches, if it is a convolution.
            kernel: W; None is the identity, where x is the product already.
            reference: how many leading rows give the statistics (default: all).
            running: use the running averages instead.

        Raises:
            ValueError: there are no running averages, or no reference rows.
        """
        if (running and not self.track) or reference == 0:
            raise ValueError("running averages need track=True, and statistics at least one row")
        inputs, features = (x.shape[-1],) * 2 if kernel is None else kernel.shape
        bias = self.param("bias", nn.initializers.zeros_init(), (features,))
        axes = tuple(range(x.ndim - 1))
        narrow = inputs < features
        dtype = self.dtype or (x.dtype if kernel is None else jnp.result_type(x, kernel))

        def product(kernel: Array | None) -> Array:
            return x.astype(dtype) if kernel is None else x.astype(dtype) @ kernel.astype(dtype)

        seen = x if narrow else product(kernel)
        exact = seen.astype(jnp.promote_types(seen.dtype, jnp.float32))
        mean, var = exact[:reference].mean(axes), exact[:reference].var(axes)
        if kernel is not None and narrow:
            centered = (exact[:reference] - mean).reshape(-1, inputs)
            covariance = centered.T @ centered / centered.shape[0]
            mean, var = mean @ kernel, jnp.sum(kernel * (covariance @ kernel), axis=0)
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
