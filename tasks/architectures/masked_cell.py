"""A cell in which masks select the architecture, so that one program serves every cell."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from maml.batch_norm import Reference
from tasks.architectures.masked import central_mask, kernel_mask, select_map
from tasks.architectures.operations import COMBINERS, FILTERS, OPERATIONS, PARAMETERLESS, Conv


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
