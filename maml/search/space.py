"""A space of architectures: a row of tokens, each with a number of options.

What an architecture must not be is said as a mask over the options of the next token, given those
before, so that nothing is drawn and thrown away: an architecture that must not be has probability
zero, and the others have what is left.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from maml.types import RandomKey

Tokens = Int[Array, " token"]
Position = Int[Array, ""]
Options = Bool[Array, " option"]
Carry = TypeVar("Carry")


@dataclass(frozen=True)
class Space:
    """Architectures of T tokens; hashable, so it may be a static argument of jit.

    Attributes:
        choices: how many options each token has.
        allowed: `allowed(tokens, position) -> Bool[option]`, which options the token at `position`
            may have after those before it; the others in `tokens` are zero. After tokens that are
            allowed, at least one option is; where none is, the token drawn is -1. Default: all.

    Raises:
        ValueError: there is no token, or one without an option.

    >>> steps = Space((3, 3), lambda tokens, position: jnp.arange(3) >= tokens[0])  # no way down
    >>> steps.options(jnp.array([1, 0]), jnp.array(1)).tolist()
    [False, True, True]
    """

    choices: tuple[int, ...]
    allowed: Callable[[Tokens, Position], Options] | None = None

    def __post_init__(self) -> None:
        if not self.choices or min(self.choices) < 1:
            raise ValueError(f"each of at least one token needs an option; got {self.choices}")

    @property
    def length(self) -> int:
        """T, the number of tokens."""
        return len(self.choices)

    @property
    def widest(self) -> int:
        """The options of the token that has most: the width of every mask."""
        return max(self.choices)

    def options(self, tokens: Tokens, position: Position) -> Options:
        """Which options the token at a position has, after those before it."""
        exist = jnp.arange(self.widest) < jnp.array(self.choices)[position]
        if self.allowed is None:
            return exist
        before = jnp.where(jnp.arange(self.length) < position, tokens, 0)
        return exist & self.allowed(before, position)

    def along(self, tokens: Tokens) -> Bool[Array, "token option"]:
        """Which options each token of an architecture had."""
        return jax.vmap(self.options, (None, 0))(tokens, jnp.arange(self.length))


def walk(
    space: Space,
    choose: Callable[[Carry, Tokens, Options, Position, RandomKey], tuple[Carry, Array]],
    carry: Carry,
    key: RandomKey,
) -> Tokens:
    """An architecture, token after token.

    Args:
        space: of what.
        choose: `choose(carry, tokens, options, position, key) -> (carry, token)`, given the tokens
            before `position`.
        carry: what the first choice is given.
        key: split into one key a token.
    """

    def step(state: tuple[Carry, Tokens], at: tuple[Position, RandomKey]) -> tuple:
        (carry, tokens), (position, key) = state, at
        options = space.options(tokens, position)
        carry, token = choose(carry, tokens, options, position, key)
        token = jnp.where(options.any(), token, -1).astype(tokens.dtype)
        return (carry, tokens.at[position].set(token)), None

    start = carry, jnp.zeros(space.length, jnp.int32)
    each = jnp.arange(space.length), jax.random.split(key, space.length)
    return jax.lax.scan(step, start, each)[0][1]


def any_of(options: Options, key: RandomKey) -> Array:
    """One of the options, each as likely."""
    return jax.random.categorical(key, jnp.where(options, 0.0, -jnp.inf))


def uniform(space: Space, key: RandomKey) -> Tokens:
    """An architecture of which every token is any of its options, each as likely."""

    def choose(
        carry: None, tokens: Tokens, options: Options, position: Position, key: RandomKey
    ) -> tuple[None, Array]:
        return carry, any_of(options, key)

    return walk(space, choose, None, key)


def mutate(space: Space, tokens: Tokens, key: RandomKey) -> Tokens:
    """The architecture with another option for one token that has one, each as likely.

    Later tokens that are not allowed any more are drawn anew. Where no token has another option,
    it stays as it is.
    """
    place_key, key = jax.random.split(key)
    place = any_of(space.along(tokens).sum(axis=1) > 1, place_key)

    def choose(
        carry: None, new: Tokens, options: Options, position: Position, key: RandomKey
    ) -> tuple[None, Array]:
        old = tokens[position]
        others = options & (jnp.arange(space.widest) != old)
        keeps = options[old] & ((position != place) | ~others.any())
        return carry, jnp.where(keeps, old, any_of(others, key))

    return walk(space, choose, None, key)
