"""Search strategies, which propose architectures and learn from their rewards.

Each is a `Strategy` of pure functions whose state has only arrays, so that it can be saved, mapped
over and used in another process. Higher rewards are better. A broken reward, see `is_broken`, is
treated as the worst; the number of broken rewards is part of the state.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from maml._checks import check_count, check_key
from maml._contracts import check_step
from maml.search.architectures import mutate, random_architecture
from maml.search.rewards import check_reward, is_broken
from maml.search.space import (
    Space,
    Tokens,
    check_no_dead_end,
    check_row,
    check_space,
    check_tokens,
)
from maml.types import RandomKey

Batch = Int[Array, "child token"]
Rewards = Float[Array, " child"]


class SearchState(NamedTuple):
    """The complete state of a search between two batches of child networks.

    Attributes:
        strategy_state: State of the strategy itself, a tree of arrays.
        num_rewards: Number of children whose rewards the strategy has received.
        num_broken: Number of these children whose reward was broken.
    """

    strategy_state: PyTree
    num_rewards: Int[Array, ""]
    num_broken: Int[Array, ""]


class Strategy(NamedTuple):
    """A search strategy.

    Attributes:
        batch: Number of children proposed at once.
        init: Function `init(key) -> state`.
        ask: Function `ask(state, key) -> tokens[batch, token]`, which proposes children.
        tell: Function `tell(state, tokens, rewards) -> state`, which learns from the rewards of any
            number of children >= 1.
    """

    batch: int
    init: Callable[[RandomKey], SearchState]
    ask: Callable[[SearchState, RandomKey], Batch]
    tell: Callable[[SearchState, Batch, Rewards], SearchState]


def check_own_state(state: Any, init: Callable[[RandomKey], SearchState]) -> None:
    """Refuses a value that is not a state with the structure and shapes of `init(key)`.

    Raises:
        ValueError: `state` is not a `SearchState`, or is of another strategy, space or optimiser.
    """
    if not isinstance(state, SearchState):
        raise ValueError(
            f"the state must be a SearchState, as strategy.init(key) returns; got {state!r}"
        )
    shapes, expected = (
        jax.tree.map(lambda leaf: list(np.shape(leaf)), tree)
        for tree in (state, jax.eval_shape(init, jax.random.key(0)))
    )
    if jax.tree.flatten(shapes) != jax.tree.flatten(expected):
        raise ValueError(
            f"the state is of another strategy, space or optimiser; got the shapes {shapes}, and"
            f" strategy.init(key) has {expected}"
        )
    check_step(state.num_rewards, "num_rewards")


def make_strategy(
    space: Space,
    batch: int,
    init: Callable[[RandomKey], PyTree],
    child: Callable[[SearchState, RandomKey], Tokens],
    learn: Callable[[Any, Batch, Rewards, Array], PyTree],
) -> Strategy:
    """A strategy made from functions that draw one child and learn from a batch.

    A broken reward is minus infinity in `learn`. A child outside the space is refused or, if it is
    traced, counts as broken.

    Args:
        space: Search space of the architectures.
        batch: Number of children proposed at once, >= 1.
        init: Function `init(key) -> strategy_state`.
        child: Function `child(state, key) -> tokens`.
        learn: Function `learn(strategy_state, tokens, rewards, num_rewards) -> strategy_state`.

    Returns:
        The strategy.

    Raises:
        ValueError: `space` is not a `Space`, or `batch` is below 1.
    """
    check_space(space)
    check_count(batch, least=1, of="children in a batch")

    def checked_init(key: RandomKey) -> SearchState:
        check_key(key)
        zero = jnp.zeros((), jnp.int32)
        return SearchState(init(key), zero, zero)

    def ask(state: SearchState, key: RandomKey) -> Batch:
        check_own_state(state, checked_init)
        check_key(key)
        return jax.vmap(child, (None, 0))(state, jax.random.split(key, batch))

    def tell(state: SearchState, tokens: Batch, rewards: Rewards) -> SearchState:
        check_own_state(state, checked_init)
        check_row(tokens, space.length, 2)
        check_no_dead_end(tokens := jnp.asarray(tokens))
        check_tokens(tokens, space.choices, 2)
        check_count(len(tokens), least=1, of="children with rewards")
        check_reward(rewards, children=(len(tokens),))
        rewards = jnp.asarray(rewards)
        broken = is_broken(rewards) | ~jax.vmap(space.contains)(tokens)
        rewards = jnp.where(broken, -jnp.inf, rewards)
        strategy_state = learn(state.strategy_state, tokens, rewards, state.num_rewards)
        total = state.num_broken + broken.sum(dtype=state.num_broken.dtype)
        return SearchState(strategy_state, state.num_rewards + len(rewards), total)

    return Strategy(batch, checked_init, ask, tell)


def random_search(space: Space, *, batch: int = 1) -> Strategy:
    """Random search: each token is drawn uniformly from its options, and nothing is learned.

    Args:
        space: Search space of the architectures.
        batch: Number of children proposed at once, >= 1.

    Returns:
        The strategy.

    Raises:
        ValueError: `space` is not a `Space`, or `batch` is below 1.
    """

    def child(state: SearchState, key: RandomKey) -> Tokens:
        return random_architecture(space, key)

    return make_strategy(
        space, batch, lambda key: (), child, lambda strategy_state, *_: strategy_state
    )


class Population(NamedTuple):
    """The latest P children, of which the oldest is replaced next.

    Attributes:
        tokens: Tokens of the members, `[member, token]`; child n is in row n modulo P.
        rewards: Rewards of the members, `[member]`; minus infinity in rows without a child.
    """

    tokens: Int[Array, "member token"]
    rewards: Float[Array, " member"]


def evolution(space: Space, *, population: int = 10, sample: int = 3, batch: int = 1) -> Strategy:
    """Regularised evolution: mutations of the best of a sample of the latest P children.

    The first P children are random. Every later child is the best of S members, drawn with
    replacement, with one token mutated, or random if all S members are broken. The oldest member
    is removed, whatever its reward.

    Args:
        space: Search space of the architectures.
        population: Number of members P, >= 1.
        sample: Number of members S that are compared for each child, >= 1.
        batch: Number of children proposed at once, from the same population, >= 1.

    Returns:
        The strategy.

    Raises:
        ValueError: `space` is not a `Space`, or a count is below 1.

    Real, Aggarwal, Huang, Le: Regularized evolution for image classifier search (AAAI 2019).
    """
    check_space(space)
    check_count(population, least=1, of="members")
    check_count(sample, least=1, of="members of a sample")

    def init(key: RandomKey) -> Population:
        tokens = jnp.zeros((population, space.length), jnp.int32)
        return Population(tokens, jnp.full(population, -jnp.inf))

    def child(state: SearchState, key: RandomKey) -> Tokens:
        fresh_key, sample_key, mutation_key = jax.random.split(key, 3)
        members = state.strategy_state
        drawn = jax.random.randint(sample_key, (sample,), 0, population)
        best = drawn[jnp.argmax(members.rewards[drawn])]
        return jnp.where(
            (state.num_rewards < population) | (members.rewards[best] == -jnp.inf),
            random_architecture(space, fresh_key),
            mutate(space, members.tokens[best], mutation_key),
        )

    def learn(
        members: Population, tokens: Batch, rewards: Rewards, num_rewards: Array
    ) -> Population:
        rows = ((num_rewards + jnp.arange(len(rewards))) % population)[-population:]
        return Population(
            members.tokens.at[rows].set(tokens[-population:]),
            members.rewards.at[rows].set(rewards[-population:]),
        )

    return make_strategy(space, batch, init, child, learn)
