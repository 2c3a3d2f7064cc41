"""The operations on a state in a block of a cell: convolutions, pooling and the identity."""

from collections.abc import Callable
from functools import reduce

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from maml.batch_norm import Reference
from maml.layers import maximum
from tasks.architectures.masked import convolve, glorot, list_neighbours
from tasks.layers import BatchNorm

OPERATIONS = ("identity", "conv1", "conv3", "conv5", "average3", "maximum3")
COMBINERS = ("add", "concatenate")  # of the results of the two operations of a block
FILTERS = {"conv1": 1, "conv3": 3, "conv5": 5}


def identity(x: Float[Array, "n height width c"], stride: int) -> Float[Array, "n rows columns c"]:
    """Every stride-th pixel of each row and column."""
    return x[:, ::stride, ::stride]


def average3(x: Float[Array, "n height width c"], stride: int) -> Float[Array, "n rows columns c"]:
    """The mean over the existing 3 x 3 neighbours of every stride-th pixel."""
    total = _pool(jnp.add, x, stride, 0.0)
    return total / _pool(jnp.add, jnp.ones_like(x[:1, ..., :1]), stride, 0.0)


def maximum3(x: Float[Array, "n height width c"], stride: int) -> Float[Array, "n rows columns c"]:
    """The largest of the 3 x 3 neighbours of every stride-th pixel."""
    return _pool(maximum, x, stride, -jnp.inf)


def _pool(pairwise: Callable[[Array, Array], Array], x: Array, stride: int, edge: float) -> Array:
    for axis in (1, 2):
        x = reduce(pairwise, list_neighbours(x, 3, stride, axis, edge))
    return x


PARAMETERLESS = {"identity": identity, "average3": average3, "maximum3": maximum3}


class Conv(nn.Module):
    """A convolution and its batch normalisation, centred on every stride-th pixel.

    Attributes:
        features: Number of output channels.
        size: Height and width of its filters, odd.
        track: Whether batch normalisation has running averages.
        dtype: Type of the computation. None: the type of inputs and parameters.
    """

    features: int
    size: int
    track: bool = False
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self,
        *parts: tuple[Float[Array, "n _ _ inputs"], int],
        mask: Bool[Array, "size size inputs features"] | None = None,
        reference: Reference = None,
        running: bool = False,
    ) -> Float[Array, "n rows columns features"]:
        """The normalised sum of the convolutions of several images.

        Args:
            parts: Pairs of images and stride; all images have the same size after their strides.
            mask: Mask of the kernel, `[size, size, inputs, features]`. None: no mask.
            reference, running: As in `BatchNorm`.

        Returns:
            The normalised images, `[n, rows, columns, features]`.
        """
        shape = (self.size, self.size, parts[0][0].shape[-1], self.features)
        mask = jnp.ones(shape, bool) if mask is None else mask
        kernel = self.param("kernel", lambda key: glorot(key, mask)) * mask
        dtype = self.dtype or jnp.result_type(kernel, *(x for x, _ in parts))
        kernel = kernel.astype(dtype)
        product = sum(convolve(x.astype(dtype), kernel, stride) for x, stride in parts)
        norm = BatchNorm(self.track, dtype=self.dtype, name="norm")
        return norm(jnp.asarray(product), reference=reference, running=running)
