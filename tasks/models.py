"""The networks of the meta-learning papers, as flax modules."""

from collections.abc import Sequence
from functools import partial

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from maml._checks import check_count, check_counts, check_flags, check_number
from maml.batch_norm import Reference, parse_reference
from maml.layers import max_pool, patches
from maml.rows import MISTAKEN
from tasks._checks import check_dtype, check_images
from tasks.backbones import R2D2Net, ResNet12
from tasks.layers import BatchNorm


class MLP(nn.Module):
    """A fully connected ReLU network without normalisation.

    Attributes:
        widths: Widths of the hidden layers; (40, 40) is the sinusoid network.
        outputs: Number of outputs.
        context: Number of context parameters of CAVIA, which are extra inputs that are the same for
            all rows and start at zero.
        deviation: Standard deviation of the initial weights, which are drawn from a normal
            distribution truncated at 2 deviations; the default is that of MAML's code. Biases start
            at zero.
        dtype: Type in which the layers below the head compute, such as bfloat16. None: the type of
            inputs and parameters.
    """

    widths: Sequence[int] = (40, 40)
    outputs: int = 1
    context: int = 0
    deviation: float = 0.01
    dtype: DTypeLike | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_widths(self.widths)
        check_counts(outputs=self.outputs)
        check_count(self.context, least=0, of="context parameters")
        check_number(self.deviation, "deviation", least=0.0)
        check_dtype(self.dtype)

    @nn.compact
    def __call__(
        self, x: Float[Array, "n inputs"], *, features: bool = False
    ) -> Float[Array, "n outputs"]:
        """Predictions, or with `features` the inputs of the head.

        Raises:
            ValueError: the inputs are not `[n, inputs]`.
        """
        shape = np.shape(x)
        if len(shape) != 2 or 0 in shape:
            hint = f". {MISTAKEN}" if len(shape) == 1 else ""
            raise ValueError(f"inputs must be [n, inputs]; got {list(shape)}{hint}")
        draw = nn.initializers.truncated_normal(self.deviation)
        if self.context:
            context = self.param("context", nn.initializers.zeros_init(), (self.context,))
            x = jnp.concatenate([x, jnp.broadcast_to(context, (x.shape[0], self.context))], axis=1)
        for width in self.widths:
            x = nn.relu(nn.Dense(width, kernel_init=draw, dtype=self.dtype)(x))
        return x if features else nn.Dense(self.outputs, kernel_init=draw, name="head")(x)


class Conv4(nn.Module):
    """Four blocks of 3 x 3 convolution, batch normalisation and ReLU, then a linear head.

    With strides it is the network of MAML for Omniglot: each block halves the image by stride 2,
    and the head reads the mean over the remaining positions and starts as N(0, 1). With pooling it
    is the network for miniImageNet: each block halves the image by 2 x 2 max-pooling, and the head
    reads every position and is Xavier-uniform at the start. All kernels are Xavier-uniform at the
    start. The published networks also have biases before each normalisation, which cancels them.

    Attributes:
        ways: Number of classes.
        features: Number of channels of each block.
        pool: Whether blocks halve the image by max-pooling instead of by stride.
        track: Whether batch normalisation has running averages.
        zero_head: Whether the head starts at zero instead; logits are zero before the first inner
            step then.
        dtype: Type in which the layers below the head compute, such as bfloat16. None: the type of
            inputs and parameters.
    """

    ways: int
    features: int = 64
    pool: bool = False
    track: bool = False
    zero_head: bool = False
    dtype: DTypeLike | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(ways=self.ways, features=self.features)
        check_flags(pool=self.pool, track=self.track, zero_head=self.zero_head)
        check_dtype(self.dtype)

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "n h w c"],
        *,
        reference: Reference = None,
        running: bool = False,
        features: bool = False,
    ) -> Float[Array, "n outputs"]:
        """Logits, or with `features` the inputs of the head.

        The options `reference` and `running` are those of `BatchNorm`.

        Raises:
            ValueError: the images are not `[n, height, width, channels]` or too small to halve four
                times, or there are fewer rows than `reference`.
        """
        check_images(x, 16 if self.pool else 1, reference)
        draw = nn.initializers.glorot_uniform()
        for block in range(4):
            shape = (3, 3, x.shape[-1], self.features)
            kernel = self.param(f"conv{block}", draw, shape).reshape(-1, self.features)
            norm = BatchNorm(self.track, dtype=self.dtype, name=f"norm{block}")
            x = patches(x, 3, stride=1 if self.pool else 2)
            x = nn.relu(norm(x, kernel, reference=reference, running=running))
            x = max_pool(x) if self.pool else x
        x = x.reshape(x.shape[0], -1) if self.pool else x.mean((1, 2))
        draw = draw if self.pool else nn.initializers.normal(1.0)
        draw = nn.initializers.zeros_init() if self.zero_head else draw
        return x if features else nn.Dense(self.ways, kernel_init=draw, name="head")(x)


class FullyConnected(nn.Module):
    """The network of MAML for Omniglot without convolutions, with batch normalisation and ReLU.

    Attributes:
        ways: Number of classes.
        widths: Widths of the hidden layers.
        track: Whether batch normalisation has running averages.
        dtype: Type in which the layers below the head compute, such as bfloat16. None: the type of
            inputs and parameters.
    """

    ways: int
    widths: Sequence[int] = (256, 128, 64, 64)
    track: bool = False
    dtype: DTypeLike | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_widths(self.widths)
        check_counts(ways=self.ways)
        check_flags(track=self.track)
        check_dtype(self.dtype)

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "n *image"],
        *,
        reference: Reference = None,
        running: bool = False,
        features: bool = False,
    ) -> Float[Array, "n outputs"]:
        """Logits, or with `features` the inputs of the head.

        The options `reference` and `running` are those of `BatchNorm`.

        Raises:
            ValueError: the images are not `[n, ...]` or have no pixels, or there are fewer rows
                than `reference`.
        """
        if len(np.shape(x)) < 2 or 0 in np.shape(x)[1:]:
            raise ValueError(f"images must be [n, ...], with pixels; got {list(np.shape(x))}")
        parse_reference(reference, x.shape[0])  # refuses more reference rows than there are rows
        x = x.reshape(x.shape[0], -1)
        draw = nn.initializers.truncated_normal(0.01)
        for layer, width in enumerate(self.widths):
            kernel = self.param(f"dense{layer}", draw, (x.shape[-1], width))
            norm = BatchNorm(self.track, dtype=self.dtype, name=f"norm{layer}")
            x = nn.relu(norm(x, kernel, reference=reference, running=running))
        return x if features else nn.Dense(self.ways, kernel_init=draw, name="head")(x)


def _check_widths(widths: Sequence[int]) -> None:
    if not isinstance(widths, Sequence):
        raise ValueError(f"widths must be a sequence of integers; got {widths!r}")
    for width in widths:
        check_count(width, least=1, of="units of a layer")


# Networks for images by name, each built with `ways`, `track` and `dtype`.
MODELS = {
    "conv4": Conv4,
    "conv4-pool": partial(Conv4, pool=True),
    "fully-connected": FullyConnected,
    "r2d2": R2D2Net,
    "r2d2-equal": partial(R2D2Net, equal=True),
    "resnet12": ResNet12,
}
