"""The network of the convolutional search space, by masks on its largest network."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from maml._checks import check_count
from maml.batch_norm import Reference
from maml.search.space import Tokens, in_range
from tasks._checks import check_is
from tasks.architectures.macro import Macro, choices, decode
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
