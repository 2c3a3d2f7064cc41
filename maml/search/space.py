"""What is searched: architectures as tokens."""

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Array, Bool, Int


class Space(NamedTuple):
    """Sequences of tokens, one option each.

    Attributes:
        choices: how many options each of the T tokens has.
        allowed: `allowed(tokens [T], position) -> Bool[max(choices)]`, what may be sampled at a
            position after the tokens before it; None allows every option.
    """

    choices: tuple[int, ...]
    allowed: Callable[[Int[Array, " token"], Int[Array, ""]], Bool[Array, " option"]] | None = None
