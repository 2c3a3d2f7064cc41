"""The space of cells: small graphs that are searched once and stacked as often as one likes.

A network has a stem, normal cells, and reduction cells which halve the image and double the
channels. A cell reads the outputs of the two cells before it, each through ReLU, a 1 x 1
convolution and batch normalisation: its states 0 and 1. Each of its blocks makes one more state out
of two earlier ones: an operation on each, then their sum, or their concatenation, again through
ReLU, 1 x 1 and normalisation. In a reduction cell, operations on the states 0 and 1 have stride 2.
The cell puts out, concatenated, the states of blocks that no block reads; whoever reads them
projects them.

Zoph, Vasudevan, Shlens, Le: Learning transferable architectures for scalable image recognition
(CVPR 2018), whose separable convolutions are plain ones here.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from maml._checks import check_count
from maml.batch_norm import Reference
from maml.search import Space
from maml.search.space import Tokens, check_tokens, within
from tasks.architectures.masked import check_images, flattened, kernel_mask, selected, window
from tasks.architectures.operations import FILTERS, OPERATIONS, PARAMETERLESS, Conv

COMBINERS = ("add", "concatenate")
STRIDES = {"normal": 1, "reduction": 2}  # of a cell, in the order of their tokens


@dataclass(frozen=True)
class Cells:
    """What a network is made of, but for the cells themselves.

    Attributes:
        blocks: of a cell.
        features: channels of the stem and of each state, until a reduction doubles them.
        copies: normal cells in a row.
        reductions: how often there are so many, and a reduction cell after them.
        stride: of the stem, a 3 x 3 convolution.

    Raises:
        ValueError: a count is too small.
    """

    blocks: int = 2
    features: int = 8
    copies: int = 1
    reductions: int = 1
    stride: int = 1

    def __post_init__(self) -> None:
        for field in fields(self):
            check_count(getattr(self, field.name), least=1, of=field.name)


def space(cells: Cells) -> Space:
    """The space: per block two earlier states, two operations and a combiner; two cells.

    >>> space(Cells(blocks=2)).choices[:10]
    (2, 2, 6, 6, 2, 3, 3, 6, 6, 2)
    """
    operations = (len(OPERATIONS),) * 2 + (len(COMBINERS),)
    cell = tuple(c for block in range(cells.blocks) for c in (block + 2, block + 2, *operations))
    return Space(2 * cell)


def plan(cells: Cells) -> Iterator[tuple[str, int]]:
    """Name and features of each cell, from the image to the head."""
    for stage in range(cells.reductions):
        features = cells.features * 2**stage
        for copy in range(cells.copies):
            yield f"normal{stage}_{copy}", features
        yield f"reduction{stage}", 2 * features


def kind_of(name: str) -> str:
    """Normal or reduction: the kind of the cell with this name."""
    return name.rstrip("_0123456789")


class Output(NamedTuple):
    """What a cell puts out.

    Attributes:
        x: the states of its blocks, side by side.
        live: the channels of those that no block of the cell reads; the others are zero.
    """

    x: Float[Array, "n height width channels"]
    live: Bool[Array, " channels"]


class MaskedCell(nn.Module):
    """Every cell of the space, as masks: each block computes each operation once.

    Attributes:
        tokens: of each block.
        features: channels of each state.
        stride: of the operations on the cell's inputs.
    """

    tokens: Int[Array, "block 5"]
    features: int
    stride: int

    @nn.compact
    def __call__(self, older: Output, newer: Output, **statistics: Any) -> Output:
        """The cell on the outputs of the two cells before it. `statistics` are `BatchNorm`'s."""
        inputs = [
            self.joined(name, seen.x, seen.live, ratio(seen.x, newer.x), **statistics)
            for name, seen in (("older", older), ("newer", newer))
        ]
        made: list[Array] = []
        sides = nn.vmap(
            Operation,
            in_axes=0,
            variable_axes={"params": 0},
            split_rngs={"params": True},
        )
        for number, token in enumerate(self.tokens):
            read = jax.vmap(partial(self.parts, inputs, made))(token[:2])
            name = f"block{number}_sides"
            operation = sides(self.features, self.stride, **statistics, name=name)
            first, second = operation(read, token[2:4])
            both = jnp.concatenate([first, second], -1)
            concatenate = jnp.repeat(token[4] == COMBINERS.index("concatenate"), both.shape[-1])
            joined = self.joined(f"block{number}", both, concatenate, 1, **statistics)
            made.append(selected([first + second, joined], token[4]))
        live = jnp.repeat(unread(self.tokens), self.features)
        return Output(jnp.concatenate(made, -1) * live, live)

    def parts(self, inputs: list[Array], made: list[Array], state: Array) -> tuple[Array, ...]:
        """The state with this number: as an input of the cell, and as a state of a block.

        One of the two is zero, whatever the state; where the sizes agree they are one.
        """
        own = [selected(made, state - len(inputs))] if made else []
        both = [selected(inputs, state), *own]
        return tuple(both) if self.stride > 1 else (jnp.asarray(sum(both)),)

    def joined(self, name: str, x: Array, live: Array, stride: int, **statistics: Any) -> Array:
        """The live channels through ReLU, 1 x 1 and normalisation."""
        mask = jnp.broadcast_to(live[:, None], (1, 1, live.size, self.features))
        conv = Conv(self.features, 1, name=name)
        return conv((nn.relu(x), stride), mask=mask, **statistics)


class Operation(nn.Module):
    """Every operation on a state, of which the token lets one through.

    Attributes:
        features: channels of a state.
        stride: of operations on the first part.
        reference: see `BatchNorm`.
        running: see `BatchNorm`.
    """

    features: int
    stride: int
    reference: Reference
    running: bool

    @nn.compact
    def __call__(
        self, parts: tuple[Array, ...], token: Int[Array, ""]
    ) -> Float[Array, "n rows columns features"]:
        """The operation on the sum of the parts, of which at most one is not zero."""
        size = jnp.asarray([FILTERS.get(name, 0) for name in OPERATIONS])[token]
        largest, pools = max(FILTERS.values()), list(PARAMETERLESS)
        line, channels = window(size, largest) & (size > 0), jnp.ones(self.features, bool)
        mask = kernel_mask(line, line, channels, channels)
        strides = (self.stride, 1)[: len(parts)]
        active = [(nn.relu(x), stride) for x, stride in zip(parts, strides, strict=True)]
        statistics = {"reference": self.reference, "running": self.running}
        found = [Conv(self.features, largest, name="conv")(*active, mask=mask, **statistics)]
        for function in PARAMETERLESS.values():
            found.append(jnp.asarray(sum(map(function, parts, strides))))
        order = [0 if name in FILTERS else 1 + pools.index(name) for name in OPERATIONS]
        return selected(found, jnp.asarray(order)[token])


def unread(tokens: Int[Array, "block 5"]) -> Bool[Array, " block"]:
    """Which blocks of a cell no other block reads; the last is one of them."""
    return ~(tokens[:, :2].reshape(-1, 1) == jnp.arange(len(tokens)) + 2).any(0)


def ratio(seen: Float[Array, "n h w c"], wanted: Float[Array, "n r s d"]) -> int:
    """By which stride an older, larger image becomes as small as a newer one."""
    return -(-seen.shape[1] // wanted.shape[1])


def network(
    cells: Cells,
    ways: int,
    cell: Callable[[str, int], nn.Module],
    stem: nn.Module,
    x: Float[Array, "n height width 1"],
    *,
    features: bool,
    **statistics: Any,
) -> Float[Array, "n outputs"]:
    """Stem, cells and head, within a module: the head sees every position, and starts at zero.

    Args:
        cells: how many of what.
        ways: classes.
        cell: the cell of a name, with so many features.
        stem: the convolution before the cells.
        x: images.
        features: give what the head sees instead of the logits.
        statistics: `BatchNorm`'s `reference` and `running`.

    Raises:
        ValueError: `x` are no grey images, or there is no class.
    """
    check_images(x)
    check_count(ways, least=1, of="ways")
    stemmed = stem((x, cells.stride), **statistics)
    older = newer = Output(stemmed, jnp.ones(cells.features, bool))
    for name, width in plan(cells):
        older, newer = newer, cell(name, width)(older, newer, **statistics)
    head = nn.Dense(ways, kernel_init=nn.initializers.zeros_init(), name="head")
    _, height, width, _ = newer.x.shape
    seen = flattened(nn.relu(newer.x), height * width)
    return seen if features else head(seen)


class CellNet(nn.Module):
    """The network of the cells that the tokens describe, as masks on the largest of the space.

    Attributes:
        cells: how many of what.
        tokens: the normal cell and the reduction cell; they may be traced, and what comes is NaN
            where they are none.
        ways: classes.

    Raises:
        ValueError: the tokens are none of the space, when it is called.
    """

    cells: Cells
    tokens: Tokens
    ways: int

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "n height width 1"],
        *,
        reference: Reference = None,
        running: bool = False,
        features: bool = False,
    ) -> Float[Array, "n outputs"]:
        """Logits, or the head's features. `reference` is `BatchNorm`'s; `running` is refused."""
        choices = space(self.cells).choices
        check_tokens(self.tokens, choices)
        rows = dict(zip(STRIDES, self.tokens.reshape(2, -1, 5), strict=True))

        def cell(name: str, features: int) -> nn.Module:
            kind = kind_of(name)
            return MaskedCell(rows[kind], features, STRIDES[kind], name=name)

        stem = Conv(self.cells.features, 3, name="stem")
        options = {"reference": reference, "running": running, "features": features}
        found = network(self.cells, self.ways, cell, stem, x, **options)
        return jnp.where(within(self.tokens, choices), found, jnp.nan)
