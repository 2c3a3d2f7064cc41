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
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from maml._checks import check_count
from maml.batch_norm import Reference
from maml.search import Space
from maml.search.space import Tokens, check_tokens, in_range
from tasks._checks import check_is
from tasks.architectures.masked import (
    central_mask,
    check_images,
    flatten_maps,
    kernel_mask,
    select_map,
)
from tasks.architectures.operations import FILTERS, OPERATIONS, PARAMETERLESS, Conv

COMBINERS = ("add", "concatenate")
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
    """
    check_is(cells, "cells", Cells)
    operations = (len(OPERATIONS),) * 2 + (len(COMBINERS),)
    cell = tuple(c for block in range(cells.blocks) for c in (block + 2, block + 2, *operations))
    return Space(2 * cell)


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


class Output(NamedTuple):
    """The output of a cell.

    Attributes:
        x: States of its blocks, concatenated, `[n, height, width, channels]`.
        live: Mask of the channels of states that no block of the cell reads, `[channels]`; the
            other channels are zero.
    """

    x: Float[Array, "n height width channels"]
    live: Bool[Array, " channels"]


class MaskedCell(nn.Module):
    """A cell in which masks select the architecture: each block computes every operation.

    Attributes:
        tokens: Tokens of each block, `[block, 5]`.
        features: Number of channels of each state.
        stride: Stride of the operations on the cell's inputs.
    """

    tokens: Int[Array, "block 5"]
    features: int
    stride: int

    @nn.compact
    def __call__(self, older: Output, newer: Output, **statistics: Any) -> Output:
        """The output of the cell, given the outputs of the two cells before it.

        Args:
            older: Output of the cell before the previous one.
            newer: Output of the previous cell.
            statistics: Options `reference` and `running` of `BatchNorm`.

        Returns:
            The output of the cell.
        """
        inputs = [
            self.project(
                name, output.x, output.live, stride_between(output.x, newer.x), **statistics
            )
            for name, output in (("older", older), ("newer", newer))
        ]
        states: list[Array] = []
        operations = nn.vmap(
            Operation,
            in_axes=0,
            variable_axes={"params": 0},
            split_rngs={"params": True},
        )
        for number, token in enumerate(self.tokens):
            operands = jax.vmap(partial(self.state_parts, inputs, states))(token[:2])
            name = f"block{number}_sides"
            operation = operations(self.features, self.stride, **statistics, name=name)
            first, second = operation(operands, token[2:4])
            pair = jnp.concatenate([first, second], -1)
            concatenate = jnp.repeat(token[4] == COMBINERS.index("concatenate"), pair.shape[-1])
            joined = self.project(f"block{number}", pair, concatenate, 1, **statistics)
            states.append(select_map([first + second, joined], token[4]))
        live = jnp.repeat(unread_blocks(self.tokens), self.features)
        return Output(jnp.concatenate(states, -1) * live, live)

    def state_parts(
        self, inputs: list[Array], made: list[Array], state: Array
    ) -> tuple[Array, ...]:
        """The state with a number, in one part for inputs of the cell and one for blocks.

        The part to which the state does not belong is zero. If both parts have the same size, the
        result is their sum.

        Args:
            inputs: States 0 and 1, the inputs of the cell.
            made: States of the blocks computed before.
            state: Number of the state.

        Returns:
            The parts of the state.
        """
        block_part = [select_map(made, state - len(inputs))] if made else []
        both_parts = [select_map(inputs, state), *block_part]
        return tuple(both_parts) if self.stride > 1 else (jnp.asarray(sum(both_parts)),)

    def project(self, name: str, x: Array, live: Array, stride: int, **statistics: Any) -> Array:
        """The live channels after ReLU, a 1 x 1 convolution and normalisation."""
        mask = jnp.broadcast_to(live[:, None], (1, 1, live.size, self.features))
        conv = Conv(self.features, 1, name=name)
        return conv((nn.relu(x), stride), mask=mask, **statistics)


class Operation(nn.Module):
    """The operation on a state that a token selects among all operations.

    Attributes:
        features: Number of channels of a state.
        stride: Stride of operations on the first part of a state.
        reference, running: As in `BatchNorm`.
    """

    features: int
    stride: int
    reference: Reference
    running: bool

    @nn.compact
    def __call__(
        self, parts: tuple[Array, ...], token: Int[Array, ""]
    ) -> Float[Array, "n rows columns features"]:
        """The operation on the sum of the parts of a state, of which at most one is not zero."""
        size = jnp.asarray([FILTERS.get(name, 0) for name in OPERATIONS])[token]
        largest, pools = max(FILTERS.values()), list(PARAMETERLESS)
        line, channels = central_mask(size, largest) & (size > 0), jnp.ones(self.features, bool)
        mask = kernel_mask(line, line, channels, channels)
        strides = (self.stride, 1)[: len(parts)]
        active = [(nn.relu(x), stride) for x, stride in zip(parts, strides, strict=True)]
        statistics = {"reference": self.reference, "running": self.running}
        results = [Conv(self.features, largest, name="conv")(*active, mask=mask, **statistics)]
        for function in PARAMETERLESS.values():
            results.append(jnp.asarray(sum(map(function, parts, strides))))
        order = [0 if name in FILTERS else 1 + pools.index(name) for name in OPERATIONS]
        return select_map(results, jnp.asarray(order)[token])


def unread_blocks(tokens: Int[Array, "block 5"]) -> Bool[Array, " block"]:
    """The mask of the blocks that no other block of the cell reads, always True for the last."""
    return ~(tokens[:, :2].reshape(-1, 1) == jnp.arange(len(tokens)) + 2).any(0)


def stride_between(larger: Float[Array, "n h w c"], smaller: Float[Array, "n r s d"]) -> int:
    """The stride with which an older, larger image is reduced to the size of a newer one."""
    return -(-larger.shape[1] // smaller.shape[1])


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
