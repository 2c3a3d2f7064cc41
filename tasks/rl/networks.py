"""The networks of policies, as flax modules."""

from collections.abc import Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, PyTree

from maml._checks import check_count, check_number
from maml.rl.distributions import Gaussian, categorical, gaussian
from maml.rl.policies import Policy, flatten_observation
from maml.types import Params, RandomKey

ACTIVATIONS = {"relu": nn.relu, "tanh": nn.tanh}
SMALLEST = 1e-6  # smallest standard deviation, as in MAML's code


def _check_sizes(**sizes: Any) -> None:
    for name, size in sizes.items():
        check_count(size, least=1, of=name)


def _check_widths(widths: Any) -> None:
    if not isinstance(widths, Sequence):
        raise ValueError(f"the widths must be a sequence of integers >= 1; got {widths!r}")
    for width in widths:
        check_count(width, least=1, of="units of a layer")


class GaussianMLP(nn.Module):
    """A Gaussian policy network, a network for the means with learned standard deviations.

    The initial weights are Xavier-uniform. The standard deviations do not depend on the
    observation.

    Attributes:
        actions: Number of dimensions of an action, >= 1.
        widths: Widths of the hidden layers, each >= 1.
        std: Initial standard deviation of each dimension, > 0.
        activation: Activation of the hidden layers, "relu" or "tanh".
    """

    actions: int
    widths: Sequence[int] = (100, 100)
    std: float = 1.0
    activation: Literal["relu", "tanh"] = "relu"

    def __post_init__(self) -> None:
        _check_sizes(actions=self.actions)
        _check_widths(self.widths)
        check_number(self.std, "std", above=0)
        if self.activation not in tuple(ACTIVATIONS):
            names = " or ".join(ACTIVATIONS)
            raise ValueError(f"activation must be {names}; got {self.activation!r}")
        super().__post_init__()

    @nn.compact
    def __call__(self, observation: PyTree) -> Gaussian:
        """The distribution of the action."""
        mean = _hidden(observation, self.widths, self.actions, self.activation)
        start = nn.initializers.constant(jnp.log(self.std))
        log_std = self.param("log_std", start, (self.actions,))
        return Gaussian(mean, jnp.maximum(log_std, jnp.log(SMALLEST)))


def _hidden(
    observation: PyTree, widths: Sequence[int], outputs: int, activation: str = "relu"
) -> Array:
    draw, x = nn.initializers.glorot_uniform(), flatten_observation(observation)
    for width in widths:
        x = ACTIVATIONS[activation](nn.Dense(width, kernel_init=draw)(x))
    return nn.Dense(outputs, kernel_init=draw)(x)


class CategoricalGRU(nn.Module):
    """A recurrent categorical policy network, a gated recurrent unit with linear logits.

    Attributes:
        actions: Number of actions, >= 1.
        size: Number of units of the memory, >= 1.
    """

    actions: int
    size: int = 128

    def __post_init__(self) -> None:
        _check_sizes(actions=self.actions, numbers=self.size)
        super().__post_init__()

    @nn.compact
    def __call__(self, observation: PyTree, memory: Array) -> tuple[Array, Array]:
        """Logits of the actions, and the memory after the step."""
        memory, out = nn.GRUCell(self.size)(memory, flatten_observation(observation))
        return nn.Dense(self.actions)(out), memory


class GaussianGRU(nn.Module):
    """A recurrent Gaussian policy network, a gated recurrent unit with linear means.

    The standard deviations are learned, start at 1 and do not depend on the observation.

    Attributes:
        actions: Number of dimensions of an action, >= 1.
        size: Number of units of the memory, >= 1.
    """

    actions: int
    size: int = 128

    def __post_init__(self) -> None:
        _check_sizes(actions=self.actions, numbers=self.size)
        super().__post_init__()

    @nn.compact
    def __call__(self, observation: PyTree, memory: Array) -> tuple[Gaussian, Array]:
        """The distribution of the action, and the memory after the step."""
        memory, out = nn.GRUCell(self.size)(memory, flatten_observation(observation))
        log_std = self.param("log_std", nn.initializers.zeros, (self.actions,))
        mean = nn.Dense(self.actions)(out)
        return Gaussian(mean, jnp.maximum(log_std, jnp.log(SMALLEST))), memory


def recurrent_policy(model: CategoricalGRU | GaussianGRU) -> Policy:
    """The policy of a recurrent network, whose memory is zero before the first step.

    Args:
        model: Network, a `CategoricalGRU` or a `GaussianGRU`.

    Returns:
        The policy.

    Raises:
        ValueError: `model` is neither a `CategoricalGRU` nor a `GaussianGRU`.
    """
    if not isinstance(model, CategoricalGRU | GaussianGRU):
        raise ValueError(f"the model must be a CategoricalGRU or a GaussianGRU; got {model!r}")
    family = categorical if isinstance(model, CategoricalGRU) else gaussian

    def init(key: RandomKey, x: PyTree) -> Params:
        return model.init(key, x, jnp.zeros(model.size))

    def apply(params: Params, x: PyTree, memory: PyTree) -> tuple[PyTree, PyTree]:
        return model.apply(params, x, jnp.asarray(memory))  # pyright: ignore[reportReturnType]

    # A numpy array does not occupy a device, and gets the default precision of JAX when it is used.
    return Policy(init, apply, family, np.zeros(model.size))
