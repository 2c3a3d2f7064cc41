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
from jaxtyping import Array, Bool, Int

from maml._checks import check_count
from maml.search import Space
from maml.search.space import Tokens, check_tokens
from tasks._checks import check_is


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


def names(macro: Macro) -> tuple[tuple[str, ...], ...]:
    """The names of the options of each token: sources, filter size, strides and number of filters.

    >>> names(Macro(layers=2, sizes=(1, 3), filters=(4, 8)))[4:7]
    (('4 filters', '8 filters'), ('skips layer 1', 'reads layer 1'), ('height 1', 'height 3'))
    """
    check_is(macro, "macro", Macro)
    options = {
        "height {}": macro.sizes,
        "width {}": macro.sizes,
        "row stride {}": macro.strides,
        "column stride {}": macro.strides,
        "{} filters": macro.filters,
    }
    rows: list[tuple[str, ...]] = []
    for layer in range(macro.layers):
        rows += [(f"skips layer {n}", f"reads layer {n}") for n in range(1, layer + 1)]
        rows += [tuple(map(name.format, values)) for name, values in options.items()]
    return tuple(rows)


def choices(macro: Macro) -> tuple[int, ...]:
    """The number of options of each token."""
    return tuple(map(len, names(macro)))


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
    return Space(choices(macro), Allowed(macro), names(macro))
