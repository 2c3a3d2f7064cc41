"""Convolution as patches times a matrix, which is fast even if every task has its own kernel.

`jax.vmap` over tasks turns `lax.conv` into a grouped convolution, which XLA runs tens of times
slower on a CPU than a batched matrix product.
"""

from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from maml._checks import check_count
from maml._leaves import is_real


def convolution(
    x: Float[Array, "n height width channels"],
    kernel: Float[Array, "size size channels features"],
    *,
    stride: int = 1,
) -> Float[Array, "n out_height out_width features"]:
    """Convolution of images with a square kernel and SAME padding.

    Args:
        x: Images, `[n, height, width, channels]`.
        kernel: Kernel in the order HWIO, `[size, size, channels, features]`.
        stride: Distance between neighbourhoods, in pixels.

    Returns:
        The convolved images, `[n, out_height, out_width, features]`.

    >>> convolution(jnp.ones((2, 28, 28, 1)), jnp.ones((3, 3, 1, 8)), stride=2).shape
    (2, 14, 14, 8)
    """
    _check_images(x)
    shape, channels = jnp.shape(kernel), x.shape[3]
    if len(shape) != 4 or shape[0] != shape[1] or shape[2] != channels or not is_real(kernel):
        raise ValueError(
            f"a kernel must be real numbers [size, size, {channels}, features]; got {list(shape)}"
        )
    check_count(stride, least=1, of="pixels of a stride")
    return patches(x, kernel.shape[0], stride) @ kernel.reshape(-1, kernel.shape[-1])


def patches(
    x: Float[Array, "n height width channels"], size: int, stride: int
) -> Float[Array, "n out_height out_width patch"]:
    """The `size` x `size` neighbourhoods that a SAME convolution with this stride reads.

    With a kernel in the order HWIO, the convolution is
    `patches(x, size, stride) @ kernel.reshape(-1, features)`.

    Args:
        x: Images, `[n, height, width, channels]`.
        size: Side of a neighbourhood, in pixels.
        stride: Distance between neighbourhoods, in pixels.

    Returns:
        The neighbourhoods, `[n, out_height, out_width, size * size * channels]`, each as a vector
        in the order HWI.

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
    x: Float[Array, "n height width channels"], *, stride: int = 2
) -> Float[Array, "n out_height out_width channels"]:
    """Maximum over 2 x 2 windows with VALID padding.

    Args:
        x: Images, `[n, height, width, channels]`.
        stride: Distance between windows, in pixels. Stride 2 drops an odd last row or column.

    Returns:
        The maxima, `[n, out_height, out_width, channels]`.

    >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
    [[5.0, 7.0], [13.0, 15.0]]
    """
    _check_images(x, 2)
    check_count(stride, least=1, of="pixels of a stride")
    x = maximum(x[:, :-1:stride], x[:, 1::stride])
    return maximum(x[:, :, :-1:stride], x[:, :, 1::stride])


def _check_images(x: Any, side: int = 1) -> None:
    if not is_real(x) or jnp.ndim(x) != 4 or min(x.shape[1:3]) < side:
        got = list(jnp.shape(x)) if is_real(x) else getattr(x, "dtype", repr(x))
        raise ValueError(
            f"images must be real numbers [n, height, width, channels], of {side}x{side} pixels or"
            f" more; got {got}"
        )


def maximum(a: Float[Array, "*shape"], b: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The elementwise maximum, whose gradient always goes to exactly one argument.

    The gradient of `jnp.maximum`, and of `max` over axes, goes to the arguments that equal the
    maximum. If XLA computes an argument twice with different rounding, there may be none. NaN is
    kept, as by `jnp.maximum`.
    """
    return jnp.where((a > b) | jnp.isnan(a), a, b)
