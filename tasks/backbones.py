"""The wider networks of few-shot classification, which end in flat features and a linear head."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from maml._checks import check_counts, check_flags
from maml.batch_norm import Reference
from maml.layers import max_pool, patches
from tasks._checks import check_dtype, check_images
from tasks.layers import BatchNorm

SIDE = 16  # height and width of the smallest images, of which all poolings leave one pixel
SLOPE = 0.1  # of the leaky ReLU


class R2D2Net(nn.Module):
    """The network of R2D2: four blocks, of which the outputs of the last two are the features.

    A block is a 3 x 3 convolution, batch normalisation, 2 x 2 max-pooling and a leaky ReLU. The
    first three blocks halve the image. The fourth pools with stride 1, as does a further pooling of
    the third block's output, and both results are flattened and concatenated, as in the authors'
    code. The blocks have 96, 192, 384 and 512 channels if the first has 96. The published network
    also has dropout in the last two blocks, which is left out here.

    Attributes:
        ways: Number of classes.
        features: Number of channels of the first block; the others have 2, 4 and 16/3 times it,
            rounded down.
        equal: Whether the other blocks have as many channels as the first, as in the smaller one of
            the authors' networks, with 64.
        track: Whether batch normalisation has running averages.
        zero_head: Whether the head starts at zero instead of Xavier-uniform.
        dtype: Type in which the layers below the head compute, such as bfloat16. None: the type of
            inputs and parameters.

    Bertinetto, Henriques, Torr, Vedaldi: Meta-learning with differentiable closed-form solvers
    (ICLR 2019), https://arxiv.org/abs/1805.08136
    """

    ways: int
    features: int = 96
    equal: bool = False
    track: bool = False
    zero_head: bool = False
    dtype: DTypeLike | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flags(equal=self.equal)
        _check_options(self)

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
        check_images(x, SIDE, reference)
        draw = nn.initializers.glorot_uniform()
        outputs = []
        for block, times in enumerate((3, 6, 12, 16)):
            width = self.features if self.equal else self.features * times // 3
            kernel = self.param(f"conv{block}", draw, (3, 3, x.shape[-1], width))
            norm = BatchNorm(self.track, dtype=self.dtype, name=f"norm{block}")
            x = norm(
                patches(x, 3, 1), kernel.reshape(-1, width), reference=reference, running=running
            )
            x = nn.leaky_relu(max_pool(x, stride=1 if block == 3 else 2), SLOPE)
            outputs.append(x)
        parts = max_pool(outputs[2], stride=1), outputs[3]
        x = jnp.concatenate([part.reshape(part.shape[0], -1) for part in parts], axis=1)
        return x if features else _head(self)(x)


class ResNet12(nn.Module):
    """Four residual blocks of three 3 x 3 convolutions, and the mean over the positions.

    Each convolution is followed by batch normalisation and a leaky ReLU; the last one of a block by
    the sum with a 1 x 1 convolution of the block's input, normalised as well, before the ReLU.
    Each block ends in 2 x 2 max-pooling. The blocks have 64, 128, 256 and 512 channels if the
    first has 64. The published networks also have dropout or DropBlock, which is left out here.

    Attributes:
        ways: Number of classes.
        features: Number of channels of the first block; each further one has twice as many.
        track: Whether batch normalisation has running averages.
        zero_head: Whether the head starts at zero instead of Xavier-uniform.
        dtype: Type in which the layers below the head compute, such as bfloat16. None: the type of
            inputs and parameters.

    Oreshkin, Rodríguez López, Lacoste: TADAM (NeurIPS 2018), https://arxiv.org/abs/1805.10123
    """

    ways: int
    features: int = 64
    track: bool = False
    zero_head: bool = False
    dtype: DTypeLike | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_options(self)

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
        check_images(x, SIDE, reference)

        def normed(x: Array, name: str, width: int, size: int = 3) -> Array:
            draw, shape = nn.initializers.he_normal(), (size, size, x.shape[-1], width)
            kernel = self.param(f"conv{name}", draw, shape).reshape(-1, width)
            norm = BatchNorm(self.track, dtype=self.dtype, name=f"norm{name}")
            return norm(patches(x, size, 1), kernel, reference=reference, running=running)

        for block in range(4):
            width = self.features * 2**block
            shortcut = normed(x, f"{block}_shortcut", width, size=1)
            for layer in range(2):
                x = nn.leaky_relu(normed(x, f"{block}_{layer}", width), SLOPE)
            x = nn.leaky_relu(normed(x, f"{block}_2", width) + shortcut, SLOPE)
            x = max_pool(x)
        x = x.mean((1, 2))
        return x if features else _head(self)(x)


def _check_options(model: R2D2Net | ResNet12) -> None:
    check_counts(ways=model.ways, features=model.features)
    check_flags(track=model.track, zero_head=model.zero_head)
    check_dtype(model.dtype)


def _head(model: R2D2Net | ResNet12) -> Callable[[Array], Array]:
    init = nn.initializers
    draw = init.zeros_init() if model.zero_head else init.glorot_uniform()
    return nn.Dense(model.ways, kernel_init=draw, name="head")
