"""Division of a policy's parameters into flat vectors, one for each server."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

from maml._checks import check_count
from maml._optimizers import check_optimizer
from maml._updates import init_state
from maml.search.policies import ArchitecturePolicy, check_policy
from maml.search.space import Tokens
from maml.types import Params, RandomKey


def shard_parameters(
    policy: ArchitecturePolicy, optimizer: optax.GradientTransformation, shards: int
) -> tuple[ArchitecturePolicy, optax.GradientTransformation]:
    """The policy with its parameters in S flat vectors, and an optimiser for each of them.

    If the optimiser treats each number separately, as SGD and Adam do, the result is the same as
    without shards. Clipping by norm uses the norm of a shard.

    Args:
        policy: Policy with parameters of any structure.
        optimizer: Optimiser, an optax transformation.
        shards: Number of shards S, from 1 to the number of parameters.

    Returns:
        The policy and the optimiser of the sharded parameters.

    Raises:
        ValueError: `shards` is below 1 or above the number of parameters, `policy` is not a
            `ArchitecturePolicy`, or the optimiser is not optax's.
    """
    check_policy(policy)
    check_optimizer(optimizer)
    check_count(shards, least=1, of="shards")
    shapes = jax.eval_shape(policy.init, jax.random.key(0))
    size = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    if shards > size:
        raise ValueError(f"{size} parameters cannot be in {shards} shards; 1 to {size} would work")

    def unshard(parts: Params) -> Params:
        sizes = [jnp.size(part) for part in parts] if isinstance(parts, tuple) else None
        if sizes != [part.size for part in np.array_split(np.zeros(size), shards)]:
            raise ValueError(
                f"parameters must be a tuple of {shards} shards of {size} numbers in all; got the"
                f" sizes {sizes}"
            )
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return ravel_pytree(zeros)[1](jnp.concatenate(parts))

    def init(key: RandomKey) -> Params:
        return tuple(jnp.array_split(ravel_pytree(policy.init(key))[0], shards))

    def sample(parts: Params, key: RandomKey) -> Tokens:
        return policy.sample(unshard(parts), key)

    def log_probs(parts: Params, tokens: Tokens) -> jax.Array:
        return policy.log_probs(unshard(parts), tokens)

    def start_shards(params: Params) -> PyTree:
        return tuple(init_state(optimizer, part) for part in params)

    def update(updates: Params, state: PyTree, params: Params | None = None) -> tuple:
        parts = [None] * len(updates) if params is None else params
        return tuple(zip(*map(optimizer.update, updates, state, parts), strict=True))

    return ArchitecturePolicy(init, sample, log_probs, policy.space), optax.GradientTransformation(
        start_shards, update
    )
