"""The pieces of a network that is every network of a space: the largest one, and masks.

An architecture is an array of integers, so one compiled program serves all of them. What an
architecture does not use is multiplied by zero: kernels by a mask of their size and channels,
images by a mask of the positions that a stride leaves, branches by a gate. Whatever is masked is
exactly zero, forwards and backwards, and never infinite: 0 x inf is no zero.
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
    """Refuses what are not grey images, of this side if there is one.

    Raises:
        ValueError: saying which shape was given.
    """
    size = ("height", "width") if side is None else (side, side)
    if jnp.ndim(x) != 4 or x.shape[3] != 1 or (side is not None and x.shape[1:3] != size):
        wanted = ", ".join(map(str, ("n", *size, 1)))
        raise ValueError(f"images must be [{wanted}]; got {list(jnp.shape(x))}")


def window(size: Int[Array, ""], largest: int) -> Bool[Array, " largest"]:
    """Which places of a line of `largest` the centred `size` of them are, both odd.

    >>> window(jnp.array(3), 5).tolist()
    [False, True, True, True, False]
    """
    return jnp.abs(jnp.arange(largest) - largest // 2) <= size // 2


def first(count: Int[Array, ""], largest: int) -> Bool[Array, " largest"]:
    """Which places of a line of `largest` the first `count` of them are."""
    return jnp.arange(largest) < count


def kernel_mask(
    rows: Bool[Array, " rows"],
    columns: Bool[Array, " columns"],
    inputs: Bool[Array, " inputs"],
    outputs: Bool[Array, " outputs"],
) -> Bool[Array, "rows columns inputs outputs"]:
    """The product of the masks of each axis of an HWIO kernel."""
    return rows[:, None, None, None] & columns[:, None, None] & inputs[:, None] & outputs


def glorot(key: RandomKey, mask: Bool[Array, "rows columns inputs outputs"]) -> Float[Array, "..."]:
    """A Xavier-uniform start of the kernel that the mask leaves, and zeros around it.

    The bound is that of the small kernel,  sqrt(6 / (area (inputs + outputs))). With that of the
    largest, small children would start small, and one inner step would turn them further: a
    gradient through a normalisation grows as the weights shrink.
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

    (SAME moves the larger windows by a pixel where a stride meets an even side.) Only columns
    become patches, and each row of the kernel has products of its own, which are shifted by its
    place and added up. Where filters are wide and channels few, whole patches are much larger than
    that, and take three to four times as long.
    """
    size, _, _, outputs = kernel.shape
    columns = jnp.concatenate(shifted(x, size, stride, axis=2), axis=-1)
    products = columns @ kernel.transpose(1, 2, 0, 3).reshape(-1, size * outputs)
    rows = enumerate(jnp.split(products, size, axis=-1))
    return jnp.asarray(sum(shifted(own, size, stride, axis=1)[place] for place, own in rows))


def shifted(x: Array, size: int, stride: int, axis: int, edge: float = 0.0) -> list[Array]:
    """The neighbours of every stride-th pixel along an axis, from the first of `size` to the last.

    Args:
        x: images.
        size: how many neighbours, odd; the pixel is one of them.
        stride: between pixels.
        axis: of the images.
        edge: the value beyond the images.
    """
    pads = [(size // 2, size // 2) if a == axis else (0, 0) for a in range(x.ndim)]
    padded, side = jnp.pad(x, pads, constant_values=edge), x.shape[axis]
    return [lax.slice_in_dim(padded, shift, shift + side, stride, axis) for shift in range(size)]


def selected(
    maps: Sequence[Float[Array, "*shape"]], which: Int[Array, ""]
) -> Float[Array, "*shape"]:
    """The map with this number; zeros if there is none."""
    return jnp.asarray(sum((which == number) * x for number, x in enumerate(maps)))


def strided(
    x: Float[Array, "n height width channels"], strides: Int[Array, "2"], options: Sequence[int]
) -> Float[Array, "n height width channels"]:
    """Every so many rows and columns, moved together in the corner, and zeros in their place.

    Args:
        x: images.
        strides: of rows and of columns, each one of the options.
        options: the strides that there are.
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
    """Every position of images, over the square root of their number, for a linear head.

    Where a character's strokes are is what tells it from another, and a mean would forget it. Over
    the root, images of every size are vectors of one length, which one inner rate fits.
    """
    return x.reshape(x.shape[0], -1) / jnp.sqrt(positions)


class MaskedBatchNorm(nn.Module):
    """Batch normalisation in which only what is live counts, and only what is live comes out.

    `tasks.layers.BatchNorm` for images that fill a corner: mean and (biased) variance of each
    channel are taken over the live positions of the reference rows. There are no running averages.

    Attributes:
        epsilon: added to the variance; 1e-3 as in MAML's code.
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
            x: products with a kernel.
            live: what exists; a channel lives at the positions where the first one does.
            reference: How many leading rows give the statistics (default: all), or the weight of
                each row in them.
            running: refused.

        Raises:
            ValueError: running averages are asked for, or rows that there are not.
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
