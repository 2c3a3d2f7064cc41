"""The convolutional search space of the first architecture search by reinforcement learning.

The tokens of a layer are the earlier layers that it reads, the height and width of its filters, its
strides over rows and columns, and its number of filters. As in the paper, a layer that reads no
earlier layer reads the image; images of different sizes are padded with zeros at the bottom and on
the right to the largest size; and the head reads every layer that no other layer reads. The inputs
of a layer are chosen before its strides, so that the constraints on strides know the input size.

Zoph, Le: Neural architecture search with reinforcement learning (ICLR 2017), section 3.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from maml._checks import check_count
from maml.batch_norm import Reference
from maml.search import Space
from maml.search.space import Tokens, check_tokens, in_range
from tasks._checks import check_is
from tasks.architectures.masked import (
    MaskedBatchNorm,
    apply_strides,
    central_mask,
    check_images,
    convolve,
    flatten_maps,
    glorot,
    kernel_mask,
    leading_mask,
)


@dataclass(frozen=True)
class Macro:
    """The options of the search space.

    Attributes:
        layers: Number of layers of convolution, batch normalisation and ReLU.
        side: Side of the images, in pixels.
        sizes: Heights and widths that filters may have, odd.
        strides: Strides that a layer may have over rows and over columns.
        filters: Numbers of filters that a layer may have.
        least: Smallest number of rows and columns that a layer may have after its strides.

    Raises:
        ValueError: a count is below 1, a filter size is even, no stride is 1, `least` is above
            `side`, or the options of a token are missing or not all different.
    """

    layers: int = 3
    side: int = 14
    sizes: tuple[int, ...] = (1, 3, 5)
    strides: tuple[int, ...] = (1, 2)
    filters: tuple[int, ...] = (4, 8, 16)
    least: int = 2

    def __post_init__(self) -> None:
        check_count(self.layers, least=1, of="layers")
        check_count(self.side, least=1, of="pixels of a side")
        check_count(self.least, least=1, of="rows and columns that a stride must leave")
        if self.least > self.side:
            raise ValueError(f"least must be at most the side, {self.side}; got {self.least}")
        for name in ("sizes", "strides", "filters"):
            _check_options(getattr(self, name), name)
        if any(size % 2 == 0 for size in self.sizes):
            raise ValueError(f"filters must have odd sizes, with a centre; got {self.sizes}")
        if 1 not in self.strides:
            raise ValueError(
                f"the strides must include 1, which is always possible; got {self.strides}"
            )


def _check_options(options: Any, name: str) -> None:
    if not isinstance(options, tuple) or not options:
        raise ValueError(f"{name} must be a tuple of at least one option; got {options!r}")
    for option in options:
        check_count(option, least=1, of=f"an option of {name}")
    if len(set(options)) < len(options):
        raise ValueError(f"{name} must be different from each other; got {options}")


class Layer(NamedTuple):
    """One layer of an architecture.

    Attributes:
        reads: Mask of the sources of the layer, which are the image and earlier layers, `[source]`.
        filter: Height and width of the filters, `[2]`.
        strides: Strides over rows and columns, `[2]`.
        features: Number of filters.
        input_size: Numbers of rows and columns of the input, `[2]`.
        output_size: Numbers of rows and columns of the output,  ceil(seen / strides), `[2]`.
    """

    reads: Bool[Array, " source"]
    filter: Int[Array, "2"]
    strides: Int[Array, "2"]
    features: Int[Array, ""]
    input_size: Int[Array, "2"]
    output_size: Int[Array, "2"]


def _start(layer: int) -> int:
    """The position of the first token of a layer."""
    return 5 * layer + layer * (layer - 1) // 2


def choices(macro: Macro) -> tuple[int, ...]:
    """The number of options of each token: sources, filter size, strides and number of filters."""
    check_is(macro, "macro", Macro)
    sizes, strides = len(macro.sizes), len(macro.strides)
    layer_options = (sizes, sizes, strides, strides, len(macro.filters))
    return tuple(option for layer in range(macro.layers) for option in (2,) * layer + layer_options)


def decode(macro: Macro, tokens: Tokens) -> list[Layer]:
    """The layers that the tokens describe; a layer depends on its own tokens and on earlier ones.

    Args:
        macro: Options of the space.
        tokens: Tokens of the architecture, `[token]`.

    Returns:
        The layers.

    Raises:
        ValueError: the tokens are not of the space.
    """
    check_tokens(tokens, choices(macro))
    layers: list[Layer] = []
    sizes = jnp.full((1, 2), macro.side)
    for number in range(macro.layers):
        skips, rest = jnp.split(tokens[_start(number) : _start(number + 1)], [number])
        skips = skips == 1
        reads = jnp.concatenate([~skips.any(keepdims=True), skips])
        strides = jnp.asarray(macro.strides)[rest[2:4]]
        input_size = jnp.max(sizes * reads[:, None], axis=0)
        output_size = (input_size - 1) // strides + 1
        features = jnp.asarray(macro.filters)[rest[4]]
        layers.append(
            Layer(
                reads,
                jnp.asarray(macro.sizes)[rest[:2]],
                strides,
                features,
                input_size,
                output_size,
            )
        )
        sizes = jnp.concatenate([sizes, output_size[None]])
    return layers


@dataclass(frozen=True)
class Allowed:
    """The mask of allowed options, which excludes strides that leave too few rows or columns.

    Attributes:
        macro: Options of the space.
    """

    macro: Macro

    def __call__(self, tokens: Tokens, position: int | Int[Array, ""]) -> Bool[Array, " option"]:
        """The mask of the options of the token at a position, given the tokens before it."""
        options = choices(self.macro)
        table = jnp.arange(max(options)) < jnp.asarray(options)[:, None]
        strides = jnp.asarray(self.macro.strides)
        for number, layer in enumerate(decode(self.macro, tokens)):
            remaining = (layer.input_size[:, None] - 1) // strides + 1
            position_of_stride = _start(number) + number + 2
            fits = (remaining >= self.macro.least) | (strides == 1)
            table = table.at[
                position_of_stride : position_of_stride + 2, : len(self.macro.strides)
            ].set(fits)
        return table[position]


def space(macro: Macro) -> Space:
    """The search space with these options."""
    return Space(choices(macro), Allowed(macro))


class MacroNet(nn.Module):
    """The network that the tokens describe, by masks on the largest network of the space.

    Convolutions are centred on every stride-th pixel, beginning with the first. The initial kernels
    are Xavier-uniform. The initial head is zero, since a child network has too few meta-steps to
    unlearn a random head.

    Attributes:
        macro: Options of the space.
        tokens: Tokens of the architecture. If they are traced and not of the space, the output is
            NaN.
        ways: Number of classes.

    Raises:
        ValueError: (when called) the tokens or the images are not of the space.
    """

    macro: Macro
    tokens: Tokens
    ways: int

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "n side side 1"],
        *,
        reference: Reference = None,
        running: bool = False,
        features: bool = False,
    ) -> Float[Array, "n outputs"]:
        """Logits, or with `features` the inputs of the head; `running` must be False."""
        check_is(self.macro, "macro", Macro)
        check_images(x, self.macro.side)
        check_count(self.ways, least=1, of="ways")
        side, size, max_filters = self.macro.side, max(self.macro.sizes), max(self.macro.filters)
        layers = decode(self.macro, self.tokens)
        maps, live, flat, unread = [x], [jnp.ones(1, bool)], [], jnp.ones(len(layers) + 1, bool)
        for number, layer in enumerate(layers):
            inputs = jnp.concatenate(
                [channels & read for channels, read in zip(live, layer.reads, strict=True)]
            )
            outputs = leading_mask(layer.features, max_filters)
            height, width = (central_mask(extent, size) for extent in layer.filter)
            mask = kernel_mask(height, width, inputs, outputs)
            kernel = self.param(f"conv{number}", lambda key, mask=mask: glorot(key, mask))
            product = convolve(jnp.concatenate(maps, -1), kernel * mask)
            rows, columns = (leading_mask(extent, side) for extent in layer.output_size)
            live_positions = rows[:, None, None] & columns[:, None] & outputs
            norm = MaskedBatchNorm(name=f"norm{number}")
            product = apply_strides(product, layer.strides, self.macro.strides)
            maps.append(
                nn.relu(norm(product, live_positions, reference=reference, running=running))
            )
            live.append(outputs)
            flat.append(flatten_maps(maps[-1], layer.output_size.prod()))
            unread = unread.at[: number + 1].set(unread[: number + 1] & ~layer.reads)
        unread_outputs = [x * is_unread for x, is_unread in zip(flat, unread[1:], strict=True)]
        head = nn.Dense(self.ways, kernel_init=nn.initializers.zeros_init(), name="head")
        in_space = in_range(self.tokens, choices(self.macro))
        head_inputs = jnp.where(in_space, jnp.concatenate(unread_outputs, -1), jnp.nan)
        return head_inputs if features else head(head_inputs)
