"""The search space of cells, small graphs that are stacked to networks of any depth.

A network has a stem, normal cells, and reduction cells, which halve the image and double the
channels. A cell reads the outputs of the two cells before it, each through ReLU, a 1 x 1
convolution and batch normalisation; the results are its states 0 and 1. Each block of the cell
computes a new state from two earlier states. It applies an operation to each of them and adds the
results, or concatenates them, followed again by ReLU, 1 x 1 convolution and normalisation. In a
reduction cell, operations on the states 0 and 1 have stride 2. The output of a cell is the
concatenation of the states that no other block reads.

Zoph, Vasudevan, Shlens, Le: Learning transferable architectures for scalable image recognition
(CVPR 2018). The separable convolutions of the paper are ordinary convolutions here.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from maml._checks import check_count
from maml.batch_norm import Reference
from maml.search import Space
from maml.search.space import Tokens, check_tokens, in_range
from tasks._checks import check_is
from tasks.architectures.masked import check_images, flatten_maps
from tasks.architectures.masked_cell import MaskedCell, Output
from tasks.architectures.operations import COMBINERS, OPERATIONS, Conv

STRIDES = {"normal": 1, "reduction": 2}  # stride of each kind of cell, in the order of the tokens


@dataclass(frozen=True)
class Cells:
    """The size of a network of cells. All counts are >= 1.

    Attributes:
        blocks: Number of blocks of a cell.
        features: Number of channels of the stem and of each state, until a reduction doubles them.
        copies: Number of normal cells of a stage.
        reductions: Number of stages, each of which ends with a reduction cell.
        stride: Stride of the stem, a 3 x 3 convolution.

    Raises:
        ValueError: a count is below 1.
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
    """The search space of two cells, with two states, two operations and a combiner for each block.

    >>> space(Cells(blocks=2)).choices[:10]
    (2, 2, 6, 6, 2, 3, 3, 6, 6, 2)
    >>> space(Cells(blocks=1)).words(jnp.array([0, 1, 2, 0, 0] * 2))[:5]
    ('state 0', 'state 1', 'conv3', 'identity', 'add')
    """
    check_is(cells, "cells", Cells)
    states = tuple(f"state {number}" for number in range(cells.blocks + 1))
    cell = tuple(
        names
        for block in range(cells.blocks)
        for names in (*(states[: block + 2],) * 2, OPERATIONS, OPERATIONS, COMBINERS)
    )
    return Space(tuple(map(len, 2 * cell)), names=2 * cell)


def plan(cells: Cells) -> Iterator[tuple[str, int]]:
    """Name and number of features of each cell, from the image to the head."""
    for stage in range(cells.reductions):
        features = cells.features * 2**stage
        for copy in range(cells.copies):
            yield f"normal{stage}_{copy}", features
        yield f"reduction{stage}", 2 * features


def cell_kind(name: str) -> str:
    """The kind of the cell with a name, "normal" or "reduction"."""
    return name.rstrip("_0123456789")


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
    """The outputs of stem, cells and head, called within a module.

    The head reads every position, and is zero at the start.

    Args:
        cells: Size of the network.
        ways: Number of classes.
        cell: Function `cell(name, features) -> module` that returns a cell.
        stem: Convolution before the cells.
        x: Grey images, `[n, height, width, 1]`.
        features: Whether the inputs of the head are returned instead of the logits.
        statistics: Options `reference` and `running` of `BatchNorm`.

    Returns:
        The logits, `[n, ways]`, or the inputs of the head.

    Raises:
        ValueError: `x` are not grey images, or `ways` is below 1.
    """
    check_images(x)
    check_count(ways, least=1, of="ways")
    stem_output = stem((x, cells.stride), **statistics)
    older = newer = Output(stem_output, jnp.ones(cells.features, bool))
    for name, width in plan(cells):
        older, newer = newer, cell(name, width)(older, newer, **statistics)
    head = nn.Dense(ways, kernel_init=nn.initializers.zeros_init(), name="head")
    _, height, width, _ = newer.x.shape
    head_inputs = flatten_maps(nn.relu(newer.x), height * width)
    return head_inputs if features else head(head_inputs)


class CellNet(nn.Module):
    """The network of the cells that the tokens describe, by masks on the largest network.

    Attributes:
        cells: Size of the network.
        tokens: Tokens of the normal cell and of the reduction cell. If they are traced and not of
            the space, the output is NaN.
        ways: Number of classes.

    Raises:
        ValueError: (when called) the tokens are not of the space.
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
        """Logits, or with `features` the inputs of the head; `running` must be False."""
        choices = space(self.cells).choices
        check_tokens(self.tokens, choices)
        rows = dict(zip(STRIDES, self.tokens.reshape(2, -1, 5), strict=True))

        def cell(name: str, features: int) -> nn.Module:
            kind = cell_kind(name)
            return MaskedCell(rows[kind], features, STRIDES[kind], name=name)

        stem = Conv(self.cells.features, 3, name="stem")
        options = {"reference": reference, "running": running, "features": features}
        outputs = network(self.cells, self.ways, cell, stem, x, **options)
        return jnp.where(in_range(self.tokens, choices), outputs, jnp.nan)
