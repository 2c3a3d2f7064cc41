"""The components of a network that computes any network of a space: the largest one, with masks.

An architecture is an array of integers, so that one compiled program serves all architectures.
Whatever an architecture does not use is multiplied by zero: kernels by a mask of their size and
channels, images by a mask of the positions that a stride leaves, branches by a gate. Masked numbers
are exactly zero, forwards and backwards, and never infinite, since 0 x inf is not zero.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from maml.batch_norm import Reference, split
from maml.rows import masked, nonzero, wide
from maml.types import RandomKey


def check_images(x: Any, side: int | None = None) -> None:
    """Refuses anything but grey images, which have the given side unless it is None.

    Raises:
        ValueError: the images have another shape.
    """
    size = ("height", "width") if side is None else (side, side)
    if jnp.ndim(x) != 4 or x.shape[3] != 1 or (side is not None and x.shape[1:3] != size):
        wanted = ", ".join(map(str, ("n", *size, 1)))
        raise ValueError(f"images must be [{wanted}]; got {list(jnp.shape(x))}")


def window(size: Int[Array, ""], largest: int) -> Bool[Array, " largest"]:
    """The mask of the `size` central places of a line of `largest`, both odd.

    >>> window(jnp.array(3), 5).tolist()
    [False, True, True, True, False]
    """
    return jnp.abs(jnp.arange(largest) - largest // 2) <= size // 2


def first(count: Int[Array, ""], largest: int) -> Bool[Array, " largest"]:
    """The mask of the first `count` places of a line of `largest`."""
    return jnp.arange(largest) < count


def kernel_mask(
    rows: Bool[Array, " rows"],
    columns: Bool[Array, " columns"],
    inputs: Bool[Array, " inputs"],
    outputs: Bool[Array, " outputs"],
) -> Bool[Array, "rows columns inputs outputs"]:
    """The mask of a kernel `[height, width, input, output]`, from those of its axes."""
    return rows[:, None, None, None] & columns[:, None, None] & inputs[:, None] & outputs


def glorot(key: RandomKey, mask: Bool[Array, "rows columns inputs outputs"]) -> Float[Array, "..."]:
    """Xavier-uniform initial values of the part of a kernel that the mask leaves, zeros elsewhere.

    The bound is that of the masked kernel,  sqrt(6 / (area (inputs + outputs))). With the bound of
    the largest kernel, small child networks would start with small weights, and one inner step
    would change them more, since a gradient through a normalisation grows as the weights shrink.
    """
    area = mask.any((2, 3)).sum()
    fans = mask.any((0, 1, 3)).sum() + mask.any((0, 1, 2)).sum()
    bound = jnp.sqrt(6 / jnp.maximum(area * fans, 1))
    return bound * jnp.where(mask, jax.random.uniform(key, mask.shape, minval=-1.0), 0.0)


def convolved(
    x: Float[Array, "n height width inputs"],
    kernel: Float[Array, "size size inputs outputs"],
    stride: int = 1,
) -> Float[Array, "n rows columns outputs"]:
    """The convolution centred on the pixels 0, stride, 2 stride, ...; its size is odd.

    (The padding SAME shifts the larger windows by a pixel where a stride meets an even side.)
    Patches are taken along columns only. The products with each row of the kernel are then shifted
    and added up. Where filters are wide and channels few, whole patches are much larger and take
    three to four times as long.
    """
    size, _, _, outputs = kernel.shape
    columns = jnp.concatenate(shifted(x, size, stride, axis=2), axis=-1)
    products = columns @ kernel.transpose(1, 2, 0, 3).reshape(-1, size * outputs)
    rows = enumerate(jnp.split(products, size, axis=-1))
    return jnp.asarray(sum(shifted(own, size, stride, axis=1)[place] for place, own in rows))


def shifted(x: Array, size: int, stride: int, axis: int, edge: float = 0.0) -> list[Array]:
    """The neighbours of every stride-th pixel along an axis, from the first of `size` to the last.

    Args:
        x: Images, `[n, height, width, channels]`.
        size: Number of neighbours, odd; the pixel is one of them.
        stride: Distance between pixels.
        axis: Axis of the images.
        edge: Value beyond the images.

    Returns:
        `size` arrays of images, one for each neighbour.
    """
    pads = [(size // 2, size // 2) if a == axis else (0, 0) for a in range(x.ndim)]
    padded, side = jnp.pad(x, pads, constant_values=edge), x.shape[axis]
    return [lax.slice_in_dim(padded, shift, shift + side, stride, axis) for shift in range(size)]


def selected(
    maps: Sequence[Float[Array, "*shape"]], which: Int[Array, ""]
) -> Float[Array, "*shape"]:
    """The map with the given number, or zeros where no map has it."""
    return jnp.asarray(sum((which == number) * x for number, x in enumerate(maps)))


def strided(
    x: Float[Array, "n height width channels"], strides: Int[Array, "2"], options: Sequence[int]
) -> Float[Array, "n height width channels"]:
    """Every stride-th row and column, moved together into the first corner and padded with zeros.

    Args:
        x: Images, `[n, height, width, channels]`.
        strides: Strides of rows and of columns, each one of the options.
        options: All possible strides.

    Returns:
        Images of the same shape.
    """
    for axis, stride in zip((1, 2), strides, strict=True):
        x = selected(
            [_every(x, option, axis) for option in options],
            jnp.argmax(jnp.asarray(options) == stride),
        )
    return x


def _every(x: Array, stride: int, axis: int) -> Array:
    kept = lax.slice_in_dim(x, 0, None, stride, axis)
    pads = [(0, x.shape[a] - kept.shape[a]) for a in range(x.ndim)]
    return jnp.pad(kept, pads)


def flattened(
    x: Float[Array, "n height width channels"], positions: int | Int[Array, ""]
) -> Float[Array, "n features"]:
    """Every position of images, divided by the square root of their number, for a linear head.

    Characters differ in the positions of their strokes, which a mean would lose. The division gives
    images of every size vectors of one length, so that one inner learning rate fits them all.
    """
    return x.reshape(x.shape[0], -1) / jnp.sqrt(positions)


class MaskedBatchNorm(nn.Module):
    """Batch normalisation of the live positions of images; all others count nothing and are zero.

    It is `tasks.layers.BatchNorm` for images that fill a corner: mean and (biased) variance of each
    channel are taken over the live positions of the reference rows. It has no running averages.

    Attributes:
        epsilon: Number added to the variance; 1e-3 as in MAML's code.
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
            reference: Number of leading rows that give the statistics, or the weight of each row in
                them. None: all rows.
            running: Whether running averages are used; it must be False.

        Returns:
            The normalised x plus bias, zero where it is not live.

        Raises:
            ValueError: `running` is True, or there are fewer rows than `reference`.
        """
        if running:
            raise ValueError("masked batch normalisation has no running averages")
        rows, weights = split(reference, x.shape[0])
        bias = self.param("bias", nn.initializers.zeros_init(), x.shape[-1:])
        seen = masked(wide(x[:rows]), weights)
        number = len(seen) if weights is None else nonzero(weights.sum())
        share = live if weights is None else live * weights[:, None, None, None]
        count = number * jnp.maximum(live.any(-1).sum(), 1)
        mean = jnp.sum(seen * share, (0, 1, 2)) / count
        var = jnp.sum(jnp.square(seen - mean) * share, (0, 1, 2)) / count
        return (live * ((x - mean) * lax.rsqrt(var + self.epsilon) + bias)).astype(x.dtype)
