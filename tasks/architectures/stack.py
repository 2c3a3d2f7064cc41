"""Transfer of cells, found on a small data set, to deeper and wider networks without masks.

Zoph, Vasudevan, Shlens, Le: Learning transferable architectures for scalable image recognition
(CVPR 2018), section 3: the cells are kept, their number and width are free, and each copy has its
own weights.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from maml.batch_norm import Reference
from maml.search.space import check_tokens
from tasks.architectures.cells import (
    COMBINERS,
    STRIDES,
    Cells,
    Output,
    kind_of,
    network,
    ratio,
    space,
)
from tasks.architectures.operations import FILTERS, OPERATIONS, PARAMETERLESS, Conv

Row = tuple[int, int, int, int, int]  # the tokens of a block


class Cell(nn.Module):
    """One cell, with only the weights that it uses.

    Attributes:
        rows: Tokens of each block.
        features: Number of channels of each state.
        stride: Stride of the operations on the cell's inputs.
        track: Whether batch normalisation has running averages.
        dtype: Type in which it computes. None: that of inputs and parameters.
    """

    rows: tuple[Row, ...]
    features: int
    stride: int
    track: bool = False
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, older: Output, newer: Output, **statistics: Any) -> Output:
        """The cell's output, from those of the two cells before it; `statistics` as `BatchNorm`."""

        def conv(name: str, size: int, x: Array, stride: int) -> Array:
            layer = Conv(self.features, size, self.track, self.dtype, name=name)
            return layer((nn.relu(x), stride), **statistics)

        read = {state for row in self.rows for state in row[:2]}
        states = [
            conv(name, 1, seen.x, ratio(seen.x, newer.x)) if number in read else seen.x
            for number, (name, seen) in enumerate((("older", older), ("newer", newer)))
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
        loose = [state for number, state in enumerate(states) if number > 1 and number not in read]
        x = jnp.concatenate(loose, -1)
        return Output(x, jnp.ones(x.shape[-1], bool))


class Stack(nn.Module):
    """A network of copies of a normal and a reduction cell.

    Attributes:
        cells: Size of the network.
        tokens: Tokens of the normal cell and of the reduction cell.
        ways: Number of classes.
        track: Whether batch normalisation has running averages.
        dtype: Type in which the layers below the head compute, such as bfloat16. None: that of
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
        """Logits, or the inputs of the head; `reference` and `running` are as in `BatchNorm`."""
        choices = space(self.cells).choices
        check_tokens(self.tokens, choices)
        half = len(choices) // 2
        kinds = dict(zip(STRIDES, (self.tokens[:half], self.tokens[half:]), strict=True))
        rows = {kind: tuple(zip(*[iter(own)] * 5, strict=True)) for kind, own in kinds.items()}
        options: dict[str, Any] = {"track": self.track, "dtype": self.dtype}

        def cell(name: str, features: int) -> nn.Module:
            kind = kind_of(name)
            return Cell(rows[kind], features, STRIDES[kind], name=name, **options)

        stem = Conv(self.cells.features, 3, name="stem", **options)
        statistics = {"reference": reference, "running": running}
        return network(self.cells, self.ways, cell, stem, x, features=features, **statistics)
