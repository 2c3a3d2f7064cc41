"""Convolution as patches times matrix, pooling, and batch normalisation with explicit statistics.

`vmap` over tasks gives every task its own kernel, and `lax.conv` then becomes a grouped
convolution, which XLA runs tens of times slower on a CPU than the batched matrix product here.
"""

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float


def patches(
    x: Float[Array, "n height width channels"], size: int, stride: int
) -> Float[Array, "n out_height out_width patch"]:
    """The `size` x `size` neighbourhoods that a SAME convolution with this stride looks at.

    Args:
        x: images.
        size: of the neighbourhood, in pixels.
        stride: between neighbourhoods, in pixels.

    Returns:
        Each neighbourhood as a vector of size * size * channels numbers.

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


def conv2d(
    x: Float[Array, "n height width channels"],
    kernel: Float[Array, "size size channels features"],
    *,
    stride: int = 1,
) -> Float[Array, "n out_height out_width features"]:
    """Convolution with SAME padding, equal to `lax.conv_general_dilated` to rounding.

    Args:
        x: images, NHWC.
        kernel: HWIO.
        stride: in pixels, in both directions.

    >>> conv2d(jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 5)), stride=2).shape
    (1, 2, 2, 5)
    """
    size, _, _, features = kernel.shape
    return patches(x, size, stride) @ kernel.reshape(-1, features)


def max_pool(
    x: Float[Array, "n height width channels"],
) -> Float[Array, "n half_h half_w channels"]:
    """Maximum over 2 x 2 windows, VALID: an odd last row or column is dropped.

    >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
    [[5.0, 7.0], [13.0, 15.0]]
    """
    _, height, width, _ = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    # Not `max` over axes: its gradient divides by how many numbers equal the maximum, and that
    # may be none of them where XLA computes x twice and rounds differently.
    x = jnp.maximum(x[:, ::2], x[:, 1::2])
    return jnp.maximum(x[:, :, ::2], x[:, :, 1::2])


class Conv(nn.Module):
    """`conv2d` with a bias and Xavier-uniform kernels.

    Attributes:
        features: output channels.
        size: of the kernel, in pixels.
        stride: in pixels.
    """

    features: int
    size: int = 3
    stride: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n out_h out_w features"]:
        """Convolves images, NHWC."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), shape)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        return conv2d(x, kernel, stride=self.stride) + bias


class BatchNorm(nn.Module):
    """Batch normalisation  (x - mean) / sqrt(var + epsilon) + bias,  without a learned scale.

    Mean and (biased) variance are those of the call's own rows, of its first `reference` rows, or
    the running averages in the collection `batch_stats`. The module never averages: where it
    tracks and `batch_stats` is mutable, it puts out what it observed.

    Attributes:
        track: whether the module has running averages.
        epsilon: added to the variance; 1e-3 as in MAML's code.

    Ioffe, Szegedy: Batch normalization (ICML 2015).
    """

    track: bool = False
    epsilon: float = 1e-3

    @nn.compact
    def __call__(
        self, x: Float[Array, "n *rest"], *, reference: int | None = None, running: bool = False
    ) -> Float[Array, "n *rest"]:
        """Normalises each channel, the last axis.

        Args:
            x: activations.
            reference: how many leading rows give the statistics (default: all).
            running: use the running averages instead.

        Raises:
            ValueError: there are no running averages, or no reference rows.
        """
        if (running and not self.track) or reference == 0:
            raise ValueError("running averages need track=True, and statistics at least one row")
        features = x.shape[-1]
        bias = self.param("bias", nn.initializers.zeros_init(), (features,))
        axes = tuple(range(x.ndim - 1))
        mean, var = x[:reference].mean(axes), x[:reference].var(axes)
        if self.track:
            averages = self.variable(
                "batch_stats", "averages", lambda: (jnp.zeros(features), jnp.ones(features))
            )
            if running:
                mean, var = averages.value
            elif self.is_mutable_collection("batch_stats") and not self.is_initializing():
                averages.value = (mean, var)
        return (x - mean) * lax.rsqrt(var + self.epsilon) + bias
