"""Drawing of architectures, token by token: with any choice, at random, and by mutation."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from maml._checks import check_callable, check_key
from maml._returns import check_pair
from maml.search.space import Options, Position, Space, Tokens, check_space, check_tokens
from maml.types import RandomKey

Carry = TypeVar("Carry")


def choose_tokens(
    space: Space,
    choose: Callable[[Carry, Tokens, Options, Position, RandomKey], tuple[Carry, Array]],
    carry: Carry,
    key: RandomKey,
) -> Tokens:
    """An architecture whose tokens are chosen one after the other.

    Args:
        space: Search space of the architectures.
        choose: Function `choose(carry, tokens, options, position, key) -> (carry, token)`, given
            the tokens before `position`.
        carry: Carry of the first choice.
        key: Random key, split into one for each token.

    Returns:
        The tokens, `[token]`.

    Raises:
        ValueError: `space` is not a `Space`, or `key` is not one key.
    """
    check_space(space)
    check_key(key)
    check_callable(choose, "choose", "carry, tokens, options, position, key")

    def step(state: tuple[Carry, Tokens], at: tuple[Position, RandomKey]) -> tuple:
        (carry, tokens), (position, key) = state, at
        options = space.options(tokens, position)
        out = choose(carry, tokens, options, position, key)
        carry, token = check_pair(out, "choose", "carry, token")
        token = jnp.where(options.any(), token, -1).astype(tokens.dtype)
        return (carry, tokens.at[position].set(token)), None

    start = carry, jnp.zeros(space.length, jnp.int32)
    positions_and_keys = jnp.arange(space.length), jax.random.split(key, space.length)
    return jax.lax.scan(step, start, positions_and_keys)[0][1]


def random_option(options: Options, key: RandomKey) -> Array:
    """A random option, with equal probabilities."""
    return jax.random.categorical(key, jnp.where(options, 0.0, -jnp.inf))


def random_architecture(space: Space, key: RandomKey) -> Tokens:
    """A random architecture, in which every option of a token has the same probability."""

    def choose(
        carry: None, tokens: Tokens, options: Options, position: Position, key: RandomKey
    ) -> tuple[None, Array]:
        return carry, random_option(options, key)

    return choose_tokens(space, choose, None, key)


def mutate(space: Space, tokens: Tokens, key: RandomKey) -> Tokens:
    """The architecture with one token changed; the token and its option are drawn uniformly.

    Later tokens that are no longer allowed are drawn again. If no token has another option, the
    architecture is unchanged.

    Args:
        space: Search space of the architectures.
        tokens: Tokens of the architecture, `[token]`.
        key: Random key.

    Returns:
        The tokens of the new architecture, `[token]`.

    Raises:
        ValueError: `space` is not a `Space`, `tokens` are not of it, or `key` is not one key.
    """
    check_space(space)
    check_tokens(tokens, space.choices)
    check_key(key)
    tokens = jnp.asarray(tokens)
    place_key, key = jax.random.split(key)
    mutated = random_option(space.option_masks(tokens).sum(axis=1) > 1, place_key)

    def choose(
        carry: None, new: Tokens, options: Options, position: Position, key: RandomKey
    ) -> tuple[None, Array]:
        old = tokens[position]
        same = options & (jnp.arange(space.max_options) == old)
        others = options & ~same
        keeps_token = same.any() & ((position != mutated) | ~others.any())
        return carry, jnp.where(keeps_token, old, random_option(others, key))

    return choose_tokens(space, choose, None, key)
