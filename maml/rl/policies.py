"""Policies: functions from an observation to a distribution of actions.

A policy holds functions of its parameters, so any network will do: a flax module, or any other
object with `init` and `apply`, becomes a policy by `gaussian_policy` or `categorical_policy`.
An observation is any tree of arrays.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from maml._checks import check_count
from maml.rl.distributions import Family, categorical, gaussian
from maml.types import Params, RandomKey


@runtime_checkable
class Network(Protocol):
    """Anything with the two functions of a flax module."""

    def init(self, key: RandomKey, observation: PyTree, /) -> Any:
        """Parameters of the network for observations of this shape."""
        ...

    def apply(self, params: Any, observation: PyTree, /) -> Any:
        """The distribution of the action after an observation."""
        ...


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


def memoryless(
    init: Callable[[RandomKey, PyTree], Params],
    apply: Callable[[Params, PyTree], PyTree],
    family: Family,
) -> Policy:
    """The policy of a function of the observation alone."""
    return Policy(init, lambda params, x, memory: (apply(params, x), memory), family)


def gaussian_policy(network: Network) -> Policy:
    """A policy whose network returns a `Gaussian` of the observation.

    Args:
        network: A flax module, or any other object with `init(key, observation) -> params` and
            `apply(params, observation) -> Gaussian`.

    Returns:
        The policy, without memory.

    Raises:
        ValueError: the network has no such functions.
    """
    return _of_network(network, gaussian)


def categorical_policy(network: Network) -> Policy:
    """A policy whose network returns the logits of the actions, `[action]`.

    Args:
        network: As of `gaussian_policy`, with `apply(params, observation) -> logits`.

    Returns:
        The policy, without memory.

    Raises:
        ValueError: the network has no such functions.
    """
    return _of_network(network, categorical)


def _of_network(network: Network, family: Family) -> Policy:
    for name in ("init", "apply"):
        if not callable(getattr(network, name, None)):
            raise ValueError(
                "a policy needs a network with init(key, observation) and apply(params,"
                f" observation), such as a flax module; got {network!r}"
            )
    return memoryless(network.init, lambda params, x: network.apply(params, x), family)


def table_policy(actions: int) -> Policy:
    """Logits that are linear in the observation and zero at the start.

    Where each state is observed as a unit vector this is a table.

    Args:
        actions: Number of actions, >= 1.

    Returns:
        The policy, with parameters `[observation, action]`.

    Raises:
        ValueError: `actions` is below 1.
    """
    check_count(actions, least=1, of="actions")

    def init(key: RandomKey, x: PyTree) -> Params:
        return jnp.zeros((vector(x).size, actions))

    return memoryless(init, lambda params, x: vector(x) @ params, categorical)
