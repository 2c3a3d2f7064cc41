"""Policies: functions from an observation to a distribution of actions.

A policy holds functions of its parameters, and can be made from any network: `gaussian_policy` and
`categorical_policy` make one from a flax module or any other object with `init` and `apply`. An
observation is any tree of arrays.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from maml._checks import check_callable, check_count
from maml.rl.distributions import Family, categorical, gaussian
from maml.types import Params, RandomKey


@runtime_checkable
class Network(Protocol):
    """An object with the two functions of a flax module."""

    def init(self, key: RandomKey, observation: PyTree, /) -> Any:
        """Parameters of the network for observations of this shape."""
        ...

    def apply(self, params: Any, observation: PyTree, /) -> Any:
        """The distribution of the action after an observation."""
        ...


class Policy(NamedTuple):
    """A policy, with or without memory.

    Attributes:
        init: Function `init(key, observation) -> params`.
        apply: Function `apply(params, observation, memory) -> (distribution, memory)`.
        family: Family of the distribution.
        memory: Memory before the first step of a trajectory, whose shapes and types `apply` keeps;
            () for a policy without memory.
    """

    init: Callable[[RandomKey, PyTree], Params]
    apply: Callable[[Params, PyTree, PyTree], tuple[PyTree, PyTree]]
    family: Family
    memory: PyTree = ()

    def apply_sequence(self, params: Params, observations: PyTree) -> PyTree:
        """The distributions of a trajectory's actions, `[time, ...]`."""
        if not jax.tree.leaves(self.memory):
            return jax.vmap(lambda x: self.apply(params, x, self.memory)[0])(observations)

        def step(memory: PyTree, x: PyTree) -> tuple[PyTree, PyTree]:
            distribution, memory = self.apply(params, x, memory)
            return memory, distribution

        return jax.lax.scan(step, self.memory, observations)[1]


def check_policy(policy: Any) -> None:
    """Refuses a value that is not a `Policy`.

    Raises:
        ValueError: the value is not a `Policy`.
    """
    if not isinstance(policy, Policy):
        raise ValueError(
            "the policy must be a Policy, such as the result of gaussian_policy(model) or"
            f" categorical_policy(model); got {type(policy).__name__}"
        )
    check_callable(policy.apply, "apply of a Policy", "params, observation, memory")
    if not isinstance(policy.family, Family):
        raise ValueError(f"the family of a Policy must be a Family; got {policy.family!r}")


def flatten_observation(observation: PyTree) -> Array:
    """The numbers of an observation, concatenated to a vector.

    >>> flatten_observation({"place": jnp.zeros((2, 2)), "time": jnp.array(3.0)}).tolist()
    [0.0, 0.0, 0.0, 0.0, 3.0]
    """
    return ravel_pytree(observation)[0]


def memoryless_policy(
    init: Callable[[RandomKey, PyTree], Params],
    apply: Callable[[Params, PyTree], PyTree],
    family: Family,
) -> Policy:
    """A policy without memory.

    Args:
        init: Function `init(key, observation) -> params`.
        apply: Function `apply(params, observation) -> distribution`.
        family: Family of the distribution.

    Returns:
        The policy.
    """
    check_callable(init, "init", "key, observation")
    check_callable(apply, "apply", "params, observation")
    policy = Policy(init, lambda params, x, memory: (apply(params, x), memory), family)
    check_policy(policy)
    return policy


def gaussian_policy(network: Network) -> Policy:
    """A policy whose network returns a `Gaussian` of the observation.

    Args:
        network: A flax module, or any other object with `init(key, observation) -> params` and
            `apply(params, observation) -> Gaussian`.

    Returns:
        The policy, without memory.

    Raises:
        ValueError: the network lacks one of these functions.
    """
    return _from_network(network, gaussian)


def categorical_policy(network: Network) -> Policy:
    """A policy whose network returns the logits of the actions, `[action]`.

    Args:
        network: A network as for `gaussian_policy`, with `apply(params, observation) -> logits`.

    Returns:
        The policy, without memory.

    Raises:
        ValueError: the network lacks one of these functions.
    """
    return _from_network(network, categorical)


def _from_network(network: Network, family: Family) -> Policy:
    for name in ("init", "apply"):
        if isinstance(network, type) or not callable(getattr(network, name, None)):
            raise ValueError(
                "a policy needs a network with init(key, observation) and apply(params,"
                f" observation), such as a flax module; got {network!r}"
            )
    return memoryless_policy(network.init, lambda params, x: network.apply(params, x), family)


def table_policy(actions: int) -> Policy:
    """A policy whose logits are linear in the observation and initially zero.

    If each state is observed as a unit vector, its parameters are a table of logits.

    Args:
        actions: Number of actions, >= 1.

    Returns:
        The policy, with parameters `[observation, action]`.

    Raises:
        ValueError: `actions` is below 1.
    """
    check_count(actions, least=1, of="actions")

    def init(key: RandomKey, x: PyTree) -> Params:
        return jnp.zeros((flatten_observation(x).size, actions))

    return memoryless_policy(init, lambda params, x: flatten_observation(x) @ params, categorical)
