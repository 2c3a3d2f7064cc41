"""Tables of the accuracies of all architectures of a space, so that a reward costs microseconds.

The reward of an architecture comes from a short or single training run. The accuracy reported for
the best architecture comes from another run, so that it has no selection bias. Accuracies are
fractions of 1.
"""

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Scalar

from maml._leaves import is_real
from maml.search import Space
from maml.search.space import Options, Position, Tokens, check_row, in_range


class Table(NamedTuple):
    """The accuracies of the architectures of a space, NaN for architectures not in the table.

    Attributes:
        space: Search space of the architectures in the table.
        rewards: Rewards of a search, `[*choices]`.
        reported: Accuracies to report for the best architecture of a search, `[*choices]`.
    """

    space: Space
    rewards: Float[Array, "*choice"]
    reported: Float[Array, "*choice"]


def lookup(values: Float[Array, "*choice"], tokens: Tokens) -> Scalar:
    """The entry of an architecture, NaN for tokens outside the table.

    >>> lookup(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([1, 0])).item()
    3.0
    """
    if not is_real(values):
        raise ValueError(f"values must be an array of real numbers; got {values!r}")
    check_row(tokens, values.ndim)
    return jnp.where(in_range(tokens, values.shape), values[tuple(tokens)], jnp.nan)


def space_of_entries(present: np.ndarray) -> Space:
    """The search space of the architectures in a table.

    An option of a token is allowed if the table has an architecture that starts with these tokens.

    Args:
        present: Mask of the architectures in the table, `[*choices]`.

    Returns:
        The space, whose constraint `allowed` is a lookup.

    Raises:
        ValueError: the table has no architecture.

    >>> space = space_of_entries(np.array([[True, False], [False, True]]))
    >>> space.options(jnp.array([1, 0]), jnp.array(1)).tolist()
    [False, True]
    """
    if getattr(present, "dtype", None) != np.bool_:
        raise ValueError(f"present must be an array of bools; got {present!r}")
    if not present.any():
        raise ValueError("a space needs at least one architecture; the table has none")
    choices = present.shape
    widest, steps = max(choices), range(len(choices))
    starts = [present.any(axis=tuple(steps[step + 1 :])) for step in steps]
    rows = [start.reshape(-1, size) for start, size in zip(starts, choices, strict=True)]
    table = np.concatenate([np.pad(row, ((0, 0), (0, widest - row.shape[1]))) for row in rows])
    # The row of a prefix comes after those of all shorter prefixes, ordered by its value.
    first = np.cumsum([0, *map(len, rows[:-1])])
    weights = np.array([[prod(choices[i + 1 : t]) if i < t else 0 for i in steps] for t in steps])

    def allowed(tokens: Tokens, position: Position) -> Options:
        row = jnp.array(first)[position] + jnp.array(weights)[position] @ tokens
        return jnp.array(table)[row]

    return Space(choices, allowed)


def tabulate(
    source: str,
    choices: Sequence[int],
    codes: np.ndarray,
    rewards: np.ndarray,
    reported: np.ndarray,
) -> Table:
    """A table made from entries in any order.

    Args:
        source: Origin of the entries, for error messages.
        choices: Number of options of each token.
        codes: Tokens of each entry, `[entry, token]`.
        rewards: Rewards, fractions of 1, `[entry]`.
        reported: Accuracies to report, fractions of 1, `[entry]`.

    Returns:
        The table, NaN for architectures without an entry.

    Raises:
        ValueError: there are no entries, or the arrays have different lengths; a code is not an
            integer, is outside the options or occurs twice; an accuracy is outside [0, 1].
    """
    choices = tuple(choices)
    if not len(codes) or codes.shape != (len(codes), len(choices)) or codes.dtype.kind not in "iu":
        expected = f"integers of shape [entry, {len(choices)}]"
        raise ValueError(
            f"{source}: codes must be {expected}; got {codes.dtype}{list(codes.shape)}"
        )
    if not rewards.shape == reported.shape == (len(codes),):
        raise ValueError(
            f"{source}: each of {len(codes)} codes needs two accuracies; got"
            f" {rewards.shape} and {reported.shape}"
        )
    if codes.min() < 0 or (codes >= choices).any():
        raise ValueError(f"{source}: a code is outside the {choices} options of the tokens")
    if len(np.unique(codes, axis=0)) < len(codes):
        raise ValueError(f"{source}: an architecture occurs twice")
    values = np.stack([rewards, reported]).astype(np.float32)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"{source}: an accuracy is not between 0 and 1")
    filled = np.full((2, *choices), np.nan, np.float32)
    filled[:, *codes.T] = values
    present = np.isfinite(filled[0])
    space = Space(choices) if present.all() else space_of_entries(present)
    return Table(space, jnp.asarray(filled[0]), jnp.asarray(filled[1]))
