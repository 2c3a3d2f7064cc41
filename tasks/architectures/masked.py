"""Components of the largest network of a space, which computes every network of it by masks.

An architecture is an array of integers, so that one compiled program serves all architectures.
Numbers that an architecture does not use are multiplied by zero: kernels by a mask of their size
and channels, images by a mask of the positions that remain after a stride, branches by a gate.
Masked numbers are exactly zero in values and derivatives, and never infinite, since 0 x inf is not
zero.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from maml.batch_norm import Reference, parse_reference
from maml.rows import mask_rows, nonzero_divisor, upcast
from maml.types import RandomKey


def check_images(x: Any, side: int | None = None) -> None:
    """Refuses values that are not grey images, or have another side unless `side` is None.

    Raises:
        ValueError: the images have another shape.
    """
    size = ("height", "width") if side is None else (side, side)
    if jnp.ndim(x) != 4 or x.shape[3] != 1 or (side is not None and x.shape[1:3] != size):
        expected = ", ".join(map(str, ("n", *size, 1)))
        raise ValueError(f"images must be [{expected}]; got {list(jnp.shape(x))}")


def central_mask(size: Int[Array, ""], largest: int) -> Bool[Array, " largest"]:
    """The mask of the `size` central positions out of `largest`, both odd.

    >>> central_mask(jnp.array(3), 5).tolist()
    [False, True, True, True, False]
    """
    return jnp.abs(jnp.arange(largest) - largest // 2) <= size // 2


def leading_mask(count: Int[Array, ""], largest: int) -> Bool[Array, " largest"]:
    """The mask of the first `count` positions out of `largest`."""
    return jnp.arange(largest) < count


def kernel_mask(
    rows: Bool[Array, " rows"],
    columns: Bool[Array, " columns"],
    inputs: Bool[Array, " inputs"],
    outputs: Bool[Array, " outputs"],
) -> Bool[Array, "rows columns inputs outputs"]:
    """The mask of a kernel `[height, width, input, output]`, given a mask of each axis."""
    return rows[:, None, None, None] & columns[:, None, None] & inputs[:, None] & outputs


def glorot(key: RandomKey, mask: Bool[Array, "rows columns inputs outputs"]) -> Float[Array, "..."]:
    """Xavier-uniform initial values of a masked kernel, with zeros outside the mask.

    The bound is that of the masked kernel,  sqrt(6 / (area (inputs + outputs))). With the bound of
    the largest kernel, small child networks would have small initial weights, and one inner step
    would change them more, since gradients through a normalisation grow as the weights shrink.
    """
    area = mask.any((2, 3)).sum()
    fans = mask.any((0, 1, 3)).sum() + mask.any((0, 1, 2)).sum()
    bound = jnp.sqrt(6 / jnp.maximum(area * fans, 1))
    return bound * jnp.where(mask, jax.random.uniform(key, mask.shape, minval=-1.0), 0.0)


def convolve(
    x: Float[Array, "n height width inputs"],
    kernel: Float[Array, "size size inputs outputs"],
    stride: int = 1,
) -> Float[Array, "n rows columns outputs"]:
    """The convolution with an odd kernel centred on the pixels 0, stride, 2 stride, ...

    (With SAME padding, a stride on an even side would shift the larger windows by a pixel.) Patches
    are taken along columns only. The products with each row of the kernel are then shifted and
    summed. With wide filters and few channels, complete patches are much larger and take three to
    four times as long.

    Args:
        x: Images, `[n, height, width, inputs]`.
        kernel: Kernel, `[size, size, inputs, outputs]`.
        stride: Distance between neighbourhoods, in pixels.

    Returns:
        The convolved images, `[n, rows, columns, outputs]`.
    """
    size, _, _, outputs = kernel.shape
    columns = jnp.concatenate(list_neighbours(x, size, stride, axis=2), axis=-1)
    products = columns @ kernel.transpose(1, 2, 0, 3).reshape(-1, size * outputs)
    rows = enumerate(jnp.split(products, size, axis=-1))
    return jnp.asarray(
        sum(list_neighbours(product, size, stride, axis=1)[shift] for shift, product in rows)
    )


def list_neighbours(x: Array, size: int, stride: int, axis: int, edge: float = 0.0) -> list[Array]:
    """The `size` neighbours of every stride-th pixel along an axis, in order.

    Args:
        x: Images, `[n, height, width, channels]`.
        size: Number of neighbours including the pixel itself, odd.
        stride: Distance between pixels.
        axis: Axis of the images.
        edge: Value beyond the edge of the images.

    Returns:
        A list of `size` arrays of images, one for each neighbour.
    """
    pads = [(size // 2, size // 2) if a == axis else (0, 0) for a in range(x.ndim)]
    padded, side = jnp.pad(x, pads, constant_values=edge), x.shape[axis]
    return [lax.slice_in_dim(padded, shift, shift + side, stride, axis) for shift in range(size)]


def select_map(
    maps: Sequence[Float[Array, "*shape"]], which: Int[Array, ""]
) -> Float[Array, "*shape"]:
    """The map with the given number, or zeros if there is no such map."""
    return jnp.asarray(sum((which == number) * x for number, x in enumerate(maps)))


def apply_strides(
    x: Float[Array, "n height width channels"], strides: Int[Array, "2"], options: Sequence[int]
) -> Float[Array, "n height width channels"]:
    """Every stride-th row and column, moved to the top left corner and padded with zeros.

    Args:
        x: Images, `[n, height, width, channels]`.
        strides: Strides of rows and of columns, each one of the options.
        options: All possible strides.

    Returns:
        The images, in the same shape.
    """
    for axis, stride in zip((1, 2), strides, strict=True):
        x = select_map(
            [_take_every(x, option, axis) for option in options],
            jnp.argmax(jnp.asarray(options) == stride),
        )
    return x


def _take_every(x: Array, stride: int, axis: int) -> Array:
    """Every stride-th pixel along an axis, padded with zeros at the end."""
    pixels = lax.slice_in_dim(x, 0, None, stride, axis)
    pads = [(0, x.shape[a] - pixels.shape[a]) for a in range(x.ndim)]
    return jnp.pad(pixels, pads)


def flatten_maps(
    x: Float[Array, "n height width channels"], positions: int | Int[Array, ""]
) -> Float[Array, "n features"]:
    """The images as vectors, divided by the square root of the number of positions.

    They are inputs of a linear head. Characters differ in the positions of their strokes, which a
    mean over positions would lose. The division makes the norm of the vectors independent of the
    size of the images, so that one inner learning rate serves all sizes.
    """
    return x.reshape(x.shape[0], -1) / jnp.sqrt(positions)


class MaskedBatchNorm(nn.Module):
    """Batch normalisation of the live positions of images; all other positions are zero.

    It is `tasks.layers.BatchNorm` for images in the corner of an array: mean and (biased) variance
    of each channel are computed from the live positions of the reference rows. It has no running
    averages.

    Attributes:
        epsilon: Number added to the variance; the default is that of MAML's code.
    """

    epsilon: float = 1e-3

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "n height width channels"],
        live: Bool[Array, "height width channels"],
        *,
        reference: Reference = None,
        running: bool = False,
    ) -> Float[Array, "n height width channels"]:
        """Normalises each channel.

        Args:
            x: Products with a kernel, `[n, height, width, channels]`.
            live: Mask of the positions and channels in use, `[height, width, channels]`. The live
                positions are the same in every live channel.
            reference: Number of leading rows whose statistics are used, or the weight of each row,
                `[n]`. None: all rows.
            running: Whether running averages are used; it must be False.

        Returns:
            The normalised x plus bias, zero at positions that are not live.

        Raises:
            ValueError: `running` is True, or there are fewer rows than `reference`.
        """
        if running:
            raise ValueError("masked batch normalisation has no running averages")
        rows, weights = parse_reference(reference, x.shape[0])
        bias = self.param("bias", nn.initializers.zeros_init(), x.shape[-1:])
        rows_used = mask_rows(upcast(x[:rows]), weights)
        number = len(rows_used) if weights is None else nonzero_divisor(weights.sum())
        share = live if weights is None else live * weights[:, None, None, None]
        count = number * jnp.maximum(live.any(-1).sum(), 1)
        mean = jnp.sum(rows_used * share, (0, 1, 2)) / count
        var = jnp.sum(jnp.square(rows_used - mean) * share, (0, 1, 2)) / count
        return (live * ((x - mean) * lax.rsqrt(var + self.epsilon) + bias)).astype(x.dtype)
