"""Transfer of cells from a small data set to deeper and wider networks, without masks.

The architecture of the cells is fixed, their number and width are free, and each copy has its own
weights.

Zoph, Vasudevan, Shlens, Le: Learning transferable architectures for scalable image recognition
(CVPR 2018), section 3.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from maml.batch_norm import Reference
from maml.search.space import check_tokens
from tasks.architectures.cells import STRIDES, Cells, cell_kind, network, space
from tasks.architectures.masked_cell import Output, stride_between
from tasks.architectures.operations import COMBINERS, FILTERS, OPERATIONS, PARAMETERLESS, Conv

Row = tuple[int, int, int, int, int]  # the tokens of a block


class Cell(nn.Module):
    """A cell that has only the weights that it uses.

    Attributes:
        rows: Tokens of each block.
        features: Number of channels of each state.
        stride: Stride of the operations on the cell's inputs.
        track: Whether batch normalisation has running averages.
        dtype: Type of the computation. None: the type of inputs and parameters.
    """

    rows: tuple[Row, ...]
    features: int
    stride: int
    track: bool = False
    dtype: DTypeLike | None = None

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

        def conv(name: str, size: int, x: Array, stride: int) -> Array:
            layer = Conv(self.features, size, self.track, self.dtype, name=name)
            return layer((nn.relu(x), stride), **statistics)

        states_read = {state for row in self.rows for state in row[:2]}
        states = [
            conv(name, 1, output.x, stride_between(output.x, newer.x))
            if number in states_read
            else output.x
            for number, (name, output) in enumerate((("older", older), ("newer", newer)))
        ]
        for number, row in enumerate(self.rows):
            pair = []
            for side in range(2):
                x, operation = states[row[side]], OPERATIONS[row[2 + side]]
                stride = self.stride if row[side] < 2 else 1
                if operation in FILTERS:
                    x = conv(f"block{number}_{side}", FILTERS[operation], x, stride)
                else:
                    x = PARAMETERLESS[operation](x, stride)
                pair.append(x)
            if COMBINERS[row[4]] == "add":
                states.append(pair[0] + pair[1])
            else:
                states.append(conv(f"block{number}", 1, jnp.concatenate(pair, -1), 1))
        unread = [
            state for number, state in enumerate(states) if number > 1 and number not in states_read
        ]
        x = jnp.concatenate(unread, -1)
        return Output(x, jnp.ones(x.shape[-1], bool))


class Stack(nn.Module):
    """A network of copies of a normal and a reduction cell.

    Attributes:
        cells: Size of the network.
        tokens: Tokens of the normal cell and of the reduction cell.
        ways: Number of classes.
        track: Whether batch normalisation has running averages.
        dtype: Type in which the layers below the head compute, such as bfloat16. None: the type of
            inputs and parameters.

    Raises:
        ValueError: (when called) the tokens are not of the space.
    """

    cells: Cells
    tokens: tuple[int, ...]
    ways: int
    track: bool = False
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "n height width 1"],
        *,
        reference: Reference = None,
        running: bool = False,
        features: bool = False,
    ) -> Float[Array, "n outputs"]:
        """Logits, or with `features` the inputs of the head.

        The options `reference` and `running` are those of `BatchNorm`.
        """
        choices = space(self.cells).choices
        check_tokens(self.tokens, choices)
        half = len(choices) // 2
        kinds = dict(zip(STRIDES, (self.tokens[:half], self.tokens[half:]), strict=True))
        rows = {
            kind: tuple(zip(*[iter(tokens)] * 5, strict=True)) for kind, tokens in kinds.items()
        }
        options: dict[str, Any] = {"track": self.track, "dtype": self.dtype}

        def cell(name: str, features: int) -> nn.Module:
            kind = cell_kind(name)
            return Cell(rows[kind], features, STRIDES[kind], name=name, **options)

        stem = Conv(self.cells.features, 3, name="stem", **options)
        statistics = {"reference": reference, "running": running}
        return network(self.cells, self.ways, cell, stem, x, features=features, **statistics)
