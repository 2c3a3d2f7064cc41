"""Policies: from an observation to a distribution of actions, of one of two families.

An observation is any tree of arrays; the networks here put its leaves into one vector.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from maml._checks import check_count, check_number
from maml.types import Params, RandomKey
from tasks.rl.distributions import Family, Gaussian, categorical, gaussian

SMALLEST = 1e-6  # standard deviation, as in MAML's code


class Policy(NamedTuple):
    """What acts.

    Attributes:
        init: `init(key, observation) -> params`.
        apply: `apply(params, observation, memory) -> (distribution, memory)`.
        family: of the distribution.
        memory: before the first step of a trajectory, `apply` keeps its shapes and types; () is
            none, and steps are independent.
    """

    init: Callable[[RandomKey, PyTree], Params]
    apply: Callable[[Params, PyTree, PyTree], tuple[PyTree, PyTree]]
    family: Family
    memory: PyTree = ()

    def along(self, params: Params, observations: PyTree) -> PyTree:
        """The distributions of a trajectory's actions, `[time, ...]`."""
        if not jax.tree.leaves(self.memory):
            return jax.vmap(lambda x: self.apply(params, x, self.memory)[0])(observations)

        def step(memory: PyTree, x: PyTree) -> tuple[PyTree, PyTree]:
            distribution, memory = self.apply(params, x, memory)
            return memory, distribution

        return jax.lax.scan(step, self.memory, observations)[1]


def check_policy(policy: Any) -> None:
    """Refuses what is not a `Policy`.

    Raises:
        ValueError: saying how one is made.
    """
    if not isinstance(policy, Policy):
        raise ValueError(
            "a Policy is wanted, as gaussian_policy(model) or categorical_policy(model) makes it;"
            f" got {type(policy).__name__}"
        )


def vector(observation: PyTree) -> Array:
    """All numbers of an observation in one vector.

    >>> vector({"place": jnp.zeros((2, 2)), "time": jnp.array(3.0)}).tolist()
    [0.0, 0.0, 0.0, 0.0, 3.0]
    """
    return ravel_pytree(observation)[0]


def _check_sizes(**sizes: Any) -> None:
    for name, size in sizes.items():
        check_count(size, least=1, of=name)


def _check_widths(widths: Any) -> None:
    if not isinstance(widths, Sequence):
        raise ValueError(f"the widths must be a sequence of integers >= 1; got {widths!r}")
    for width in widths:
        check_count(width, least=1, of="units of a layer")


class GaussianMLP(nn.Module):
    """Means by a ReLU network, Xavier-uniform; standard deviations learned, the same everywhere.

    Attributes:
        actions: how many numbers an action is, >= 1.
        widths: of the hidden layers, each >= 1.
        std: the standard deviations at the start, > 0.
    """

    actions: int
    widths: Sequence[int] = (100, 100)
    std: float = 1.0

    def __post_init__(self) -> None:
        _check_sizes(actions=self.actions)
        _check_widths(self.widths)
        check_number(self.std, "std", above=0)
        super().__post_init__()

    @nn.compact
    def __call__(self, observation: PyTree) -> Gaussian:
        """The distribution of the action."""
        mean = _hidden(observation, self.widths, self.actions)
        start = nn.initializers.constant(jnp.log(self.std))
        log_std = self.param("log_std", start, (self.actions,))
        return Gaussian(mean, jnp.maximum(log_std, jnp.log(SMALLEST)))


class CategoricalMLP(nn.Module):
    """Logits by a ReLU network, Xavier-uniform.

    Attributes:
        actions: how many there are to choose from, >= 1.
        widths: of the hidden layers, each >= 1.
    """

    actions: int
    widths: Sequence[int] = (100, 100)

    def __post_init__(self) -> None:
        _check_sizes(actions=self.actions)
        _check_widths(self.widths)
        super().__post_init__()

    @nn.compact
    def __call__(self, observation: PyTree) -> Float[Array, " actions"]:
        """Logits."""
        return _hidden(observation, self.widths, self.actions)


def _hidden(observation: PyTree, widths: Sequence[int], outputs: int) -> Array:
    draw, x = nn.initializers.glorot_uniform(), vector(observation)
    for width in widths:
        x = nn.relu(nn.Dense(width, kernel_init=draw)(x))
    return nn.Dense(outputs, kernel_init=draw)(x)


class CategoricalGRU(nn.Module):
    """Logits by a gated recurrent unit, which remembers what came before.

    Attributes:
        actions: how many there are to choose from, >= 1.
        size: of the memory, >= 1.
    """

    actions: int
    size: int = 128

    def __post_init__(self) -> None:
        _check_sizes(actions=self.actions, numbers=self.size)
        super().__post_init__()

    @nn.compact
    def __call__(self, observation: PyTree, memory: Array) -> tuple[Array, Array]:
        """Logits, and the memory after."""
        memory, out = nn.GRUCell(self.size)(memory, vector(observation))
        return nn.Dense(self.actions)(out), memory


class GaussianGRU(nn.Module):
    """As `CategoricalGRU`, with a learned standard deviation for each number of the action."""

    actions: int
    size: int = 128

    def __post_init__(self) -> None:
        _check_sizes(actions=self.actions, numbers=self.size)
        super().__post_init__()

    @nn.compact
    def __call__(self, observation: PyTree, memory: Array) -> tuple[Gaussian, Array]:
        """The distribution of the action, and the memory after."""
        memory, out = nn.GRUCell(self.size)(memory, vector(observation))
        log_std = self.param("log_std", nn.initializers.zeros, (self.actions,))
        mean = nn.Dense(self.actions)(out)
        return Gaussian(mean, jnp.maximum(log_std, jnp.log(SMALLEST))), memory


def memoryless(
    init: Callable[[RandomKey, PyTree], Params],
    apply: Callable[[Params, PyTree], PyTree],
    family: Family,
) -> Policy:
    """The policy of a function of the observation alone."""
    return Policy(init, lambda params, x, memory: (apply(params, x), memory), family)


def gaussian_policy(model: nn.Module) -> Policy:
    """The policy of a module that gives a `Gaussian`."""
    _check_module(model)
    return memoryless(model.init, lambda params, x: model.apply(params, x), gaussian)


def categorical_policy(model: nn.Module) -> Policy:
    """The policy of a module that gives logits."""
    _check_module(model)
    return memoryless(model.init, lambda params, x: model.apply(params, x), categorical)


def _check_module(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise ValueError(f"a policy needs a flax.linen module; got {model!r}")


def table_policy(actions: int) -> Policy:
    """Logits linear in the observation, zeros at first: a table, where one state is observed.

    Args:
        actions: how many there are to choose from, >= 1.
    """
    _check_sizes(actions=actions)

    def init(key: RandomKey, x: PyTree) -> Params:
        return jnp.zeros((vector(x).size, actions))

    return memoryless(init, lambda params, x: vector(x) @ params, categorical)


def recurrent_policy(model: CategoricalGRU | GaussianGRU) -> Policy:
    """The policy of a module with a memory, zeros before the first step."""
    if not isinstance(model, CategoricalGRU | GaussianGRU):
        raise ValueError(f"the model must be a CategoricalGRU or a GaussianGRU; got {model!r}")
    family = categorical if isinstance(model, CategoricalGRU) else gaussian

    def init(key: RandomKey, x: PyTree) -> Params:
        return model.init(key, x, jnp.zeros(model.size))

    def apply(params: Params, x: PyTree, memory: PyTree) -> tuple[PyTree, PyTree]:
        return model.apply(params, x, jnp.asarray(memory))  # pyright: ignore[reportReturnType]

    # With numpy: no device is touched before the first use, where it gets JAX's default precision.
    return Policy(init, apply, family, np.zeros(model.size))
