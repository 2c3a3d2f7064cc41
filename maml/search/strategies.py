"""Ways to search: which architectures to ask for, and what to learn from their rewards.

All are one `Strategy`, pure functions of a state that is arrays alone: it can be saved, mapped over
and given back to a loop in another process. A reward is the higher the better; one that is not
finite counts as the worst, and is counted.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from maml._checks import check_count
from maml.search.space import Space, Tokens, mutate, uniform
from maml.types import RandomKey

Batch = Int[Array, "child token"]
Rewards = Float[Array, " child"]


class State(NamedTuple):
    """All the state there is between two batches of children.

    Attributes:
        learned: what the strategy knows.
        told: how many children it was told the reward of.
        broken: how many of these rewards were not finite.
    """

    learned: PyTree
    told: Int[Array, ""]
    broken: Int[Array, ""]


class Strategy(NamedTuple):
    """A way to search.

    Attributes:
        batch: how many children it asks for at once.
        init: `init(key) -> state`.
        ask: `ask(state, key) -> tokens[batch, token]`.
        tell: `tell(state, tokens, rewards) -> state`, for any number of children.
    """

    batch: int
    init: Callable[[RandomKey], State]
    ask: Callable[[State, RandomKey], Batch]
    tell: Callable[[State, Batch, Rewards], State]


def strategy(
    batch: int,
    init: Callable[[RandomKey], PyTree],
    child: Callable[[State, RandomKey], Tokens],
    learn: Callable[[Any, Batch, Rewards, Array], PyTree],
) -> Strategy:
    """From what it draws of one child and what it learns, broken rewards being minus infinity."""
    check_count(batch, least=1, of="children in a batch")

    def begin(key: RandomKey) -> State:
        none = jnp.zeros((), jnp.int32)
        return State(init(key), none, none)

    def ask(state: State, key: RandomKey) -> Batch:
        return jax.vmap(child, (None, 0))(state, jax.random.split(key, batch))

    def tell(state: State, tokens: Batch, rewards: Rewards) -> State:
        broken = ~jnp.isfinite(rewards)
        rewards = jnp.where(broken, -jnp.inf, rewards)
        learned = learn(state.learned, tokens, rewards, state.told)
        return State(learned, state.told + len(rewards), state.broken + broken.sum())

    return Strategy(batch, begin, ask, tell)


def random(space: Space, *, batch: int = 1) -> Strategy:
    """Random search: every token any of its options, each as likely. It learns nothing.

    Raises:
        ValueError: `batch` is below 1.
    """

    def child(state: State, key: RandomKey) -> Tokens:
        return uniform(space, key)

    return strategy(batch, lambda key: (), child, lambda nothing, *_: nothing)


class Population(NamedTuple):
    """The latest children: the oldest is the next to be overwritten.

    Attributes:
        tokens: theirs; child n is in row n modulo P.
        rewards: theirs, minus infinity where there is none yet.
    """

    tokens: Int[Array, "member token"]
    rewards: Float[Array, " member"]


def evolution(space: Space, *, population: int = 10, sample: int = 3, batch: int = 1) -> Strategy:
    """Regularised evolution: a mutation of the best of a few of the latest P children.

    The first P children are random. Every other is like the best of S members, drawn with
    replacement, but for one token; the oldest member dies, however good it is.

    Args:
        space: of what.
        population: P.
        sample: S.
        batch: children asked for at once, from the same population.

    Raises:
        ValueError: one of them is below 1.

    Real, Aggarwal, Huang, Le: Regularized evolution for image classifier search (AAAI 2019).
    """
    check_count(population, least=1, of="members")
    check_count(sample, least=1, of="members of a sample")

    def init(key: RandomKey) -> Population:
        tokens = jnp.zeros((population, space.length), jnp.int32)
        return Population(tokens, jnp.full(population, -jnp.inf))

    def child(state: State, key: RandomKey) -> Tokens:
        fresh_key, sample_key, mutation_key = jax.random.split(key, 3)
        members = state.learned
        drawn = jax.random.randint(sample_key, (sample,), 0, population)
        parent = members.tokens[drawn[jnp.argmax(members.rewards[drawn])]]
        return jnp.where(
            state.told < population,
            uniform(space, fresh_key),
            mutate(space, parent, mutation_key),
        )

    def learn(members: Population, tokens: Batch, rewards: Rewards, told: Array) -> Population:
        rows = ((told + jnp.arange(len(rewards))) % population)[-population:]
        return Population(
            members.tokens.at[rows].set(tokens[-population:]),
            members.rewards.at[rows].set(rewards[-population:]),
        )

    return strategy(batch, init, child, learn)
