"""Weight sharing: one set of weights for every architecture of a space, as in ENAS.

Pham, Guan, Zoph, Le, Dean: Efficient neural architecture search via parameter sharing (ICML 2018).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

import maml
from maml._checks import check_key
from maml.search import Reward, Space, random_architecture
from maml.search.space import Tokens, check_space
from maml.types import Params, RandomKey
from tasks.architectures.masked import glorot
from tasks.architectures.reward import (
    BoundFunction,
    Budget,
    ChildFactory,
    accuracy,
    algorithm,
    check_arguments,
    initial_params,
    optimizer,
)


def shared_weights(
    child: ChildFactory, space: Space, train: maml.Sampler, budget: Budget, key: RandomKey
) -> Params:
    """Weights of the largest network of a space, trained on a random architecture per meta-step.

    Args:
        child: Function `child(tokens) -> model`.
        space: Search space, whose architectures are drawn uniformly token by token.
        train: Sampler of one task of the training classes.
        budget: Budget of all architectures together.
        key: Random key, split for the initial weights, the architectures and the tasks.

    Returns:
        The meta-trained parameters, which all architectures of the space share.

    Raises:
        ValueError: an argument has the wrong type.
    """
    check_arguments(child, budget, train=train)
    check_space(space)
    check_key(key)
    init_key, key = jax.random.split(key)
    largest = jnp.asarray(space.choices) - 1
    params = fill_unused_weights(
        initial_params(child(largest), train, init_key), jax.random.fold_in(init_key, 1)
    )
    adam = optimizer(params, budget)
    sample = maml.batch_tasks(train, budget.meta_batch)

    def draw(key: RandomKey) -> tuple[Tokens, maml.Episode]:
        tokens_key, key = jax.random.split(key)
        return random_architecture(space, tokens_key), sample(key)

    def step(
        state: maml.MetaState, drawn: tuple[Tokens, maml.Episode], key: RandomKey
    ) -> tuple[maml.MetaState, Any]:
        tokens, episodes = drawn
        learner = algorithm(child(tokens), params, budget)
        return maml.meta_step(learner, adam, state, episodes, key, chunk=budget.chunk)

    state = maml.MetaState(params, adam.init(params), jnp.zeros((), int))
    return maml.iterate(step, draw, state, key, budget.meta_steps)[0].params


def fill_unused_weights(params: Params, key: RandomKey) -> Params:
    """The parameters, with random initial values for the zeros of each kernel.

    The zeros are weights that the architecture of the initialisation does not use. No architecture
    uses every weight: the last options are pooling instead of a filter, or every earlier layer
    instead of the image. Weights before a normalisation that start at zero may remain zero.
    """
    leaves, structure = jax.tree.flatten(params)

    def fill(leaf: Array, key: RandomKey) -> Array:
        if leaf.ndim < 4:
            return leaf
        if leaf.ndim > 4:
            return jax.vmap(fill)(leaf, jax.random.split(key, len(leaf)))
        return jnp.where(leaf == 0, glorot(key, jnp.ones(leaf.shape, bool)), leaf)

    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(structure, map(fill, leaves, keys))


def reward_from_shared(
    child: ChildFactory, params: Params, held_out: maml.Sampler, budget: Budget
) -> Reward:
    """The reward of child networks that adapt from shared weights, without their own training.

    Args:
        child: Function `child(tokens) -> model`.
        params: Shared weights, the result of `shared_weights`.
        held_out: Sampler of one task of classes that were not used to train the weights.
        budget: Budget, whose inner steps and held-out tasks are used.

    Returns:
        The function `reward(tokens, key)`, a tree with the weights and the data set as its leaves.
        The reward is NaN if a loss is not finite.

    Raises:
        ValueError: an argument has the wrong type.
    """
    check_arguments(child, budget, held_out=held_out)
    return jax.tree_util.Partial(BoundFunction(accuracy, child, budget), held_out, params)
