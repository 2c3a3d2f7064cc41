"""Search strategies: which architectures to ask for, and what to learn from their rewards.

Each is a `Strategy` of pure functions, whose state has arrays only: it can be saved, mapped over
and used in another process. Higher rewards are better. A broken reward, see `is_broken`, counts as
the worst, and the broken ones are counted.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree, Real

from maml._checks import check_count, check_key
from maml.rows import wide
from maml.search.space import (
    Space,
    Tokens,
    check_ends,
    check_row,
    check_space,
    check_tokens,
    mutate,
    uniform,
)
from maml.types import RandomKey

Batch = Int[Array, "child token"]
Rewards = Float[Array, " child"]
LARGEST = 1e18  # reward whose sums and squares are still finite in float32


class State(NamedTuple):
    """The whole state of a search between two batches of child networks.

    Attributes:
        learned: What the strategy has learned, a tree of arrays.
        told: Number of children whose rewards the strategy was told.
        broken: Number of those whose reward was broken.
    """

    learned: PyTree
    told: Int[Array, ""]
    broken: Int[Array, ""]


class Strategy(NamedTuple):
    """A search strategy.

    Attributes:
        batch: Number of children that it asks for at once.
        init: `init(key) -> state`.
        ask: `ask(state, key) -> tokens[batch, token]`.
        tell: `tell(state, tokens, rewards) -> state`, for any number of children >= 1.
    """

    batch: int
    init: Callable[[RandomKey], State]
    ask: Callable[[State, RandomKey], Batch]
    tell: Callable[[State, Batch, Rewards], State]


def is_broken(rewards: Real[Array, "*child"]) -> Bool[Array, "*child"]:
    """Whether each reward is not finite, or has an absolute value above 1e18.

    >>> is_broken(jnp.array([0.5, -jnp.inf, jnp.nan, 1e38])).tolist()
    [False, True, True, True]
    """
    return ~(jnp.abs(wide(rewards)) <= LARGEST)


def check_reward(reward: Any, *, children: tuple[int, ...] = ()) -> None:
    """Refuses anything but one real number for each child; NaN, for a broken child, passes.

    Args:
        reward: Value to be checked.
        children: Expected shape, `(children,)` for a batch and `()` for one child.

    Raises:
        ValueError: the value is a string, a bool or complex, or has another shape.
    """
    found = reward if isinstance(reward, jax.Array) else np.asarray(reward)
    if found.shape != children:
        wanted = f"an array of {children}, one for each child" if children else "one number"
        raise ValueError(f"a reward is {wanted}; got an array of {found.shape}")
    if not any(jnp.issubdtype(found.dtype, kind) for kind in (np.integer, np.floating)):
        raise ValueError(f"a reward is a real number; got {reward!r}")


def check_own_state(state: Any, init: Callable[[RandomKey], State]) -> None:
    """Refuses anything but a state with the structure and shapes of `init(key)`.

    Raises:
        ValueError: `state` is not a `State`, or is of another strategy, space or optimiser.
    """
    if not isinstance(state, State):
        raise ValueError(f"a state is wanted, as strategy.init(key) makes it; got {state!r}")
    found, wanted = (
        jax.tree.map(lambda leaf: list(np.shape(leaf)), tree)
        for tree in (state, jax.eval_shape(init, jax.random.key(0)))
    )
    if jax.tree.flatten(found) != jax.tree.flatten(wanted):
        raise ValueError(
            f"the state is of another strategy, space or optimiser: its shapes are {found}; those"
            f" of strategy.init(key) are {wanted}"
        )


def strategy(
    space: Space,
    batch: int,
    init: Callable[[RandomKey], PyTree],
    child: Callable[[State, RandomKey], Tokens],
    learn: Callable[[Any, Batch, Rewards, Array], PyTree],
) -> Strategy:
    """A strategy from the functions that draw one child and learn from a batch.

    A broken reward is minus infinity in `learn`. A child outside the space is refused or, where it
    is traced, broken.

    Args:
        space: Search space of the architectures.
        batch: Number of children asked for at once, >= 1.
        init: `init(key) -> learned`.
        child: `child(state, key) -> tokens`.
        learn: `learn(learned, tokens, rewards, told) -> learned`.

    Returns:
        The strategy.

    Raises:
        ValueError: `space` is not a `Space`, or `batch` is below 1.
    """
    check_space(space)
    check_count(batch, least=1, of="children in a batch")

    def begin(key: RandomKey) -> State:
        check_key(key)
        none = jnp.zeros((), jnp.int32)
        return State(init(key), none, none)

    def ask(state: State, key: RandomKey) -> Batch:
        check_own_state(state, begin)
        check_key(key)
        return jax.vmap(child, (None, 0))(state, jax.random.split(key, batch))

    def tell(state: State, tokens: Batch, rewards: Rewards) -> State:
        check_own_state(state, begin)
        check_row(tokens, space.length, 2)
        check_ends(tokens)
        check_tokens(tokens, space.choices, 2)
        check_count(len(tokens), least=1, of="children that are told")
        check_reward(rewards, children=(len(tokens),))
        broken = is_broken(jnp.asarray(rewards)) | ~jax.vmap(space.contains)(tokens)
        rewards = jnp.where(broken, -jnp.inf, rewards)
        learned = learn(state.learned, tokens, rewards, state.told)
        lost = broken.sum(dtype=state.broken.dtype)
        return State(learned, state.told + len(rewards), state.broken + lost)

    return Strategy(batch, begin, ask, tell)


def random(space: Space, *, batch: int = 1) -> Strategy:
    """Random search: each token is drawn uniformly from its options, and nothing is learned.

    Raises:
        ValueError: `space` is not a `Space`, or `batch` is below 1.
    """

    def child(state: State, key: RandomKey) -> Tokens:
        return uniform(space, key)

    return strategy(space, batch, lambda key: (), child, lambda nothing, *_: nothing)


class Population(NamedTuple):
    """The latest P children, of which the oldest is the next to be overwritten.

    Attributes:
        tokens: Tokens of the members, `[member, token]`; child n is in row n modulo P.
        rewards: Rewards of the members, `[member]`; minus infinity in rows without a child.
    """

    tokens: Int[Array, "member token"]
    rewards: Float[Array, " member"]


def evolution(space: Space, *, population: int = 10, sample: int = 3, batch: int = 1) -> Strategy:
    """Regularised evolution: a mutation of the best of a few of the latest P children.

    The first P children are random. Every later child is a mutation of one token of the best of S
    members, drawn with replacement, or random where all of them are broken. The oldest member is
    removed, however good it is.

    Args:
        space: Search space of the architectures.
        population: Number of members P, >= 1.
        sample: Number of members S that are compared for each child, >= 1.
        batch: Number of children asked for at once, from the same population, >= 1.

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

    def child(state: State, key: RandomKey) -> Tokens:
        fresh_key, sample_key, mutation_key = jax.random.split(key, 3)
        members = state.learned
        drawn = jax.random.randint(sample_key, (sample,), 0, population)
        best = drawn[jnp.argmax(members.rewards[drawn])]
        return jnp.where(
            (state.told < population) | (members.rewards[best] == -jnp.inf),
            uniform(space, fresh_key),
            mutate(space, members.tokens[best], mutation_key),
        )

    def learn(members: Population, tokens: Batch, rewards: Rewards, told: Array) -> Population:
        rows = ((told + jnp.arange(len(rewards))) % population)[-population:]
        return Population(
            members.tokens.at[rows].set(tokens[-population:]),
            members.rewards.at[rows].set(rewards[-population:]),
        )

    return strategy(space, batch, init, child, learn)
