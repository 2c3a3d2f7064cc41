"""Policies: from an observation to a distribution of actions, of one of two families."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, PyTree, Scalar

from maml.types import Params, RandomKey

SMALLEST = 1e-6  # standard deviation, as in MAML's code


class Family(NamedTuple):
    """Distributions of one action.

    Attributes:
        sample: `sample(distribution, key) -> action`.
        log_prob: `log_prob(distribution, action)`, in nats.
        kl: `kl(p, q)`, the Kullback-Leibler divergence of q from p, in nats.
        actions: how many actions there are to choose from, or the shape of one.
    """

    sample: Callable[[PyTree, RandomKey], Array]
    log_prob: Callable[[PyTree, Array], Scalar]
    kl: Callable[[PyTree, PyTree], Scalar]
    actions: Callable[[PyTree], int | tuple[int, ...]]


class Gaussian(NamedTuple):
    """Independent normal numbers.

    Attributes:
        mean: of each.
        log_std: logarithm of the standard deviation of each.
    """

    mean: Float[Array, " size"]
    log_std: Float[Array, " size"]


def _gaussian_log_prob(p: Gaussian, action: Array) -> Scalar:
    z = (action - p.mean) * jnp.exp(-p.log_std)
    return -jnp.sum(0.5 * jnp.square(z) + p.log_std + 0.5 * jnp.log(2 * jnp.pi))


def _gaussian_kl(p: Gaussian, q: Gaussian) -> Scalar:
    ratio = jnp.exp(2 * (p.log_std - q.log_std))
    distance = jnp.square(p.mean - q.mean) * jnp.exp(-2 * q.log_std)
    return jnp.sum(q.log_std - p.log_std + 0.5 * (ratio + distance - 1))


def _categorical_kl(p: Array, q: Array) -> Scalar:
    p, q = jax.nn.log_softmax(p), jax.nn.log_softmax(q)
    return jnp.sum(jnp.exp(p) * (p - q))


gaussian = Family(
    sample=lambda p, key: p.mean + jnp.exp(p.log_std) * jax.random.normal(key, p.mean.shape),
    log_prob=_gaussian_log_prob,
    kl=_gaussian_kl,
    actions=lambda p: p.mean.shape,
)

categorical = Family(
    sample=lambda logits, key: jax.random.categorical(key, logits),
    log_prob=lambda logits, action: jax.nn.log_softmax(logits)[action],
    kl=_categorical_kl,
    actions=lambda logits: logits.shape[-1],
)


class Policy(NamedTuple):
    """What acts.

    Attributes:
        init: `init(key, observation) -> params`.
        apply: `apply(params, observation, memory) -> (distribution, memory)`.
        family: of the distribution.
        memory: before the first step of a trajectory; () is none, and steps are independent.
    """

    init: Callable[[RandomKey, Array], Params]
    apply: Callable[[Params, Array, PyTree], tuple[PyTree, PyTree]]
    family: Family
    memory: PyTree = ()

    def along(self, params: Params, observations: Float[Array, "time *observation"]) -> PyTree:
        """The distributions of a trajectory's actions, `[time, ...]`."""
        if not jax.tree.leaves(self.memory):
            return jax.vmap(lambda x: self.apply(params, x, self.memory)[0])(observations)

        def step(memory: PyTree, x: Array) -> tuple[PyTree, PyTree]:
            distribution, memory = self.apply(params, x, memory)
            return memory, distribution

        return jax.lax.scan(step, self.memory, observations)[1]


class GaussianMLP(nn.Module):
    """Means by a ReLU network, Xavier-uniform; standard deviations learned, the same everywhere.

    Attributes:
        actions: how many numbers an action is.
        widths: of the hidden layers.
        std: the standard deviations at the start.
    """

    actions: int
    widths: Sequence[int] = (100, 100)
    std: float = 1.0

    @nn.compact
    def __call__(self, observation: Float[Array, " size"]) -> Gaussian:
        """The distribution of the action."""
        mean = _hidden(observation, self.widths, self.actions)
        start = nn.initializers.constant(jnp.log(self.std))
        log_std = self.param("log_std", start, (self.actions,))
        return Gaussian(mean, jnp.maximum(log_std, jnp.log(SMALLEST)))


class CategoricalMLP(nn.Module):
    """Logits by a ReLU network, Xavier-uniform.

    Attributes:
        actions: how many there are to choose from.
        widths: of the hidden layers.
    """

    actions: int
    widths: Sequence[int] = (100, 100)

    @nn.compact
    def __call__(self, observation: Float[Array, " size"]) -> Float[Array, " actions"]:
        """Logits."""
        return _hidden(observation, self.widths, self.actions)


def _hidden(x: Array, widths: Sequence[int], outputs: int) -> Array:
    draw = nn.initializers.glorot_uniform()
    for width in widths:
        x = nn.relu(nn.Dense(width, kernel_init=draw)(x))
    return nn.Dense(outputs, kernel_init=draw)(x)


class CategoricalGRU(nn.Module):
    """Logits by a gated recurrent unit, which remembers what came before.

    Attributes:
        actions: how many there are to choose from.
        size: of the memory.
    """

    actions: int
    size: int = 128

    @nn.compact
    def __call__(self, observation: Array, memory: Array) -> tuple[Array, Array]:
        """Logits, and the memory after."""
        memory, out = nn.GRUCell(self.size)(memory, observation)
        return nn.Dense(self.actions)(out), memory


class GaussianGRU(nn.Module):
    """As `CategoricalGRU`, with a learned standard deviation for each number of the action."""

    actions: int
    size: int = 128

    @nn.compact
    def __call__(self, observation: Array, memory: Array) -> tuple[Gaussian, Array]:
        """The distribution of the action, and the memory after."""
        memory, out = nn.GRUCell(self.size)(memory, observation)
        log_std = self.param("log_std", nn.initializers.zeros, (self.actions,))
        mean = nn.Dense(self.actions)(out)
        return Gaussian(mean, jnp.maximum(log_std, jnp.log(SMALLEST))), memory


def memoryless(
    init: Callable[[RandomKey, Array], Params],
    apply: Callable[[Params, Array], PyTree],
    family: Family,
) -> Policy:
    """The policy of a function of the observation alone."""
    return Policy(init, lambda params, x, memory: (apply(params, x), memory), family)


def gaussian_policy(model: nn.Module) -> Policy:
    """The policy of a module that gives a `Gaussian`."""
    return memoryless(model.init, lambda params, x: model.apply(params, x), gaussian)


def categorical_policy(model: nn.Module) -> Policy:
    """The policy of a module that gives logits."""
    return memoryless(model.init, lambda params, x: model.apply(params, x), categorical)


def table_policy(actions: int) -> Policy:
    """Logits linear in the observation, zeros at first: a table, where one state is observed."""

    def init(key: RandomKey, x: Float[Array, " size"]) -> Params:
        return jnp.zeros((x.size, actions))

    return memoryless(init, lambda params, x: x @ params, categorical)


def recurrent_policy(model: CategoricalGRU | GaussianGRU) -> Policy:
    """The policy of a module with a memory, zeros before the first step."""
    family = categorical if isinstance(model, CategoricalGRU) else gaussian

    def init(key: RandomKey, x: Array) -> Params:
        return model.init(key, x, jnp.zeros(model.size))

    def apply(params: Params, x: Array, memory: PyTree) -> tuple[PyTree, PyTree]:
        return model.apply(params, x, jnp.asarray(memory))  # pyright: ignore[reportReturnType]

    # With numpy: no device is touched before the first use.
    return Policy(init, apply, family, np.zeros(model.size, np.float32))
