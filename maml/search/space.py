"""Search spaces: an architecture is a sequence of tokens, each with a number of options.

Constraints are a mask over the options of the next token, given the tokens before it. Therefore a
forbidden architecture has probability zero, and no drawn architecture has to be rejected.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Int

from maml._checks import check_callable, check_count, check_number

Tokens = Int[Array, " token"]
Position = Int[Array, ""]
Options = Bool[Array, " option"]


@dataclass(frozen=True)
class Space:
    """A search space of architectures of T tokens, hashable as a static argument of jit.

    Attributes:
        choices: Number of options of each token.
        allowed: Function `allowed(tokens, position) -> Bool[option]`, the mask of the options of
            the token at `position` given the tokens before it; later entries of `tokens` are zero.
            It should allow at least one option after allowed tokens; if it allows none, the token
            drawn is -1, and the reward of the child is broken. None: all options are allowed.
        names: Names of the options of each token, such as `(("8", "16"), ("relu", "tanh"))` for
            the choices (2, 2). None: the options have no names.

    Raises:
        ValueError: there is no token, or a token without an option; `allowed` is not such a
            function, or allows no option after the first allowed option of every token; the names
            are not a different word for each option of a token.

    >>> steps = Space((3, 3), lambda tokens, position: jnp.arange(3) >= tokens[0])
    >>> steps.options(jnp.array([1, 0]), jnp.array(1)).tolist()
    [False, True, True]
    """

    choices: tuple[int, ...]
    allowed: Callable[[Tokens, Position], Options] | None = None
    names: tuple[tuple[str, ...], ...] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.choices, tuple):
            raise ValueError(
                f"choices must be a tuple with the options of each token; got {self.choices!r}"
            )
        if not self.choices or any(type(count) is int and count == 0 for count in self.choices):
            raise ValueError(
                f"choices must have a token or more, each with an option; got {self.choices}"
            )
        for count in self.choices:
            check_count(count, least=1, of="options")
        if self.names is not None:
            self._check_names(self.names)
        if self.allowed is not None:
            self._check_allowed(self.allowed)

    def _check_names(self, names: Any) -> None:
        tuples = isinstance(names, tuple) and all(isinstance(words, tuple) for words in names)
        counts = tuple(map(len, names)) if tuples else names
        if counts != self.choices:
            raise ValueError(
                f"names must be a tuple with {self.choices} words, a tuple for each token; got"
                f" {counts!r}"
            )
        for words in names:
            if not all(isinstance(word, str) for word in words) or len(set(words)) < len(words):
                raise ValueError(f"the options of a token must be different words; got {words}")

    def _check_allowed(self, allowed: Callable[[Tokens, Position], Options]) -> None:
        check_callable(allowed, "allowed", "tokens, position")
        tokens, position = (
            jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((self.length,), ())
        )
        mask = jax.eval_shape(allowed, tokens, position)
        if getattr(mask, "shape", ()) != (self.max_options,) or mask.dtype != bool:
            raise ValueError(f"allowed must return bool[{self.max_options}], a mask; got {mask}")

        @jax.jit
        def first_architecture() -> Tokens:
            def step(position: Position, tokens: Tokens) -> Tokens:
                options = self.options(tokens, position)
                return tokens.at[position].set(jnp.where(options.any(), jnp.argmax(options), -1))

            return jax.lax.fori_loop(0, self.length, step, jnp.zeros(self.length, jnp.int32))

        with jax.ensure_compile_time_eval():
            check_no_dead_end(first_architecture())

    @property
    def length(self) -> int:
        """The number of tokens, T."""
        return len(self.choices)

    @property
    def max_options(self) -> int:
        """The largest number of options of a token, which is the width of every mask."""
        return max(self.choices)

    def options(self, tokens: Tokens, position: Position) -> Options:
        """The mask of the options of the token at a position, given the tokens before it."""
        check_row(tokens, self.length)
        check_number(position, "the position", least=0, most=self.length - 1)
        exist = jnp.arange(self.max_options) < jnp.array(self.choices)[position]
        if self.allowed is None:
            return exist
        earlier = jnp.where(jnp.arange(self.length) < position, tokens, 0)
        return exist & self.allowed(earlier, position)

    def option_masks(self, tokens: Tokens) -> Bool[Array, "token option"]:
        """The mask of the options of each token of an architecture, given the tokens before it."""
        check_row(tokens, self.length)
        tokens = jnp.asarray(tokens)
        return jax.vmap(self.options, (None, 0))(tokens, jnp.arange(self.length))

    def words(self, tokens: Int[np.ndarray | Array, " token"]) -> tuple[str, ...]:
        """The names of the options that the tokens of an architecture are.

        Raises:
            ValueError: the options have no names, or the tokens are traced or not of the space.

        >>> Space((2, 2), names=(("8", "16"), ("relu", "tanh"))).words(jnp.array([1, 0]))
        ('16', 'relu')
        """
        if self.names is None:
            raise ValueError("the options have no names; Space(choices, allowed, names) would work")
        if isinstance(tokens, Tracer):
            raise ValueError(f"words need tokens with values, outside of jit; got {tokens}")
        check_tokens(tokens, self.choices)
        rows = zip(self.names, np.asarray(tokens).tolist(), strict=True)
        return tuple(words[token] for words, token in rows)

    def contains(self, tokens: Tokens) -> Bool[Array, ""]:
        """Whether every token is one of its options, given the tokens before it."""
        check_row(tokens, self.length)
        one_hot = jnp.arange(self.max_options) == jnp.asarray(tokens)[:, None]
        return (self.option_masks(tokens) & one_hot).any(axis=1).all()


def check_space(space: Any) -> None:
    """Refuses a value that is not a `Space`.

    Raises:
        ValueError: `space` is not a `Space`.
    """
    if not isinstance(space, Space):
        raise ValueError(f"the space must be a Space, such as Space((3, 2)); got {space!r}")


def check_row(tokens: Any, length: int, ndim: int = 1) -> None:
    """Refuses a value that is not an architecture of `length` integers, of any size.

    Args:
        tokens: Value to check.
        length: Number of tokens, T.
        ndim: Number of axes, 1 for one architecture and 2 for a batch of architectures.

    Raises:
        ValueError: the shape differs, or the tokens are not integers.
    """
    array = tokens if isinstance(tokens, jax.Array) else np.asarray(tokens)
    is_integer = jnp.issubdtype(array.dtype, jnp.integer)
    if array.ndim != ndim or array.shape[-1] != length or not is_integer:
        expected = f"{'[child, token] of' if ndim == 2 else ''} {length} integers".strip()
        raise ValueError(f"tokens must be {expected}; got {array.dtype}{list(array.shape)}")


def check_tokens(tokens: Any, choices: Sequence[int], ndim: int = 1) -> None:
    """Refuses tokens that are not among their options; traced tokens always pass.

    Raises:
        ValueError: as `check_row`, or a token is negative or too large.
    """
    check_row(tokens, len(choices), ndim)
    if isinstance(tokens, Tracer):
        return
    values = np.asarray(tokens)
    if (values < 0).any() or (values >= choices).any():
        raise ValueError(
            f"tokens must be >= 0 and each below its limit in {choices}; got {values.tolist()}"
        )


def in_range(tokens: Tokens, choices: Sequence[int]) -> Bool[Array, ""]:
    """Whether each of the tokens, which may be traced, is below its number of options."""
    return ((tokens >= 0) & (tokens < jnp.array(choices))).all()


def check_no_dead_end(tokens: Int[Array, "*child token"]) -> None:
    """Refuses architectures with a token that had no allowed option; traced ones pass.

    Raises:
        ValueError: a token is -1.
    """
    if isinstance(tokens, Tracer):
        return
    for row in np.asarray(tokens).reshape(-1, tokens.shape[-1]).tolist():
        if -1 in row:
            position = row.index(-1)
            raise ValueError(
                f"the space allows no option for token {position} after {row[:position]};"
                " `allowed` must allow an option there, or must not allow these tokens"
            )
