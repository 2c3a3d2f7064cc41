"""The records of child networks whose rewards are known, from which a search resumes."""

import logging
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from maml._checks import check_callable, check_count
from maml.search.rewards import check_reward, is_broken

MAX_FAILURES = 20  # number of consecutive children with an exception after which a search ends
log = logging.getLogger(__name__)


class Child(NamedTuple):
    """A child network and its reward: the record that a search needs to resume after a crash.

    Attributes:
        number: Number of the child in the search, from 0; its random key depends on it.
        tokens: Tokens of its architecture, `[token]`.
        reward: Reward, NaN if it is broken.
        words: Names of its options, which only `best` gives.
    """

    number: int
    tokens: Int[np.ndarray, " token"]
    reward: float
    words: tuple[str, ...] = ()


def outcome_recorder(
    on_child: Callable[[Child], None] | None, max_failures: int
) -> Callable[[int, Int[np.ndarray, " token"], Any], float]:
    """A function that records the outcome of a child and returns its reward, see `search_on_host`.

    Args:
        on_child: Function that is called with each `Child`. None: no function.
        max_failures: Number of consecutive exceptions that end the search, >= 1.

    Returns:
        The function `record_outcome(number, tokens, outcome) -> reward`.

    Raises:
        ValueError: `max_failures` is below 1, or `on_child` is not a function of a child; (when the
            result is called) an outcome is not one real number.
        RuntimeError: (when the result is called) `max_failures` children in a row raised an
            exception.
    """
    if on_child is not None:
        check_callable(on_child, "on_child", "child")
    check_count(max_failures, least=1, of="exceptions in a row")
    failed: list[int] = []

    def record_outcome(number: int, tokens: Int[np.ndarray, " token"], outcome: Any) -> float:
        if isinstance(outcome, Exception):
            failed.append(number)
            log.warning("child %d is broken, it raised %r", number, outcome)
            if len(failed) == max_failures:
                raise RuntimeError(
                    f"{max_failures} children in a row raised an exception, the last {outcome!r};"
                    " once the cause is fixed, resume without the children that were kept from"
                    f" child {min(failed)} on"
                ) from outcome
        else:
            failed.clear()
            if math.isnan(reward_or_nan(outcome)):
                log.warning("child %d is broken, its reward is %s", number, outcome)
        child = Child(number, tokens, reward_or_nan(outcome))
        if on_child is not None:
            on_child(child)
        return child.reward

    return record_outcome


def reward_counter(
    report: Callable[[int, int, float], None] | None, children: int
) -> Callable[[float], None]:
    """The function that counts each reward and calls `report` as `search_on_host` does.

    Raises:
        ValueError: `report` is not a function of three arguments.
    """
    if report is None:
        return lambda reward: None
    check_callable(report, "report", "known, children, best")
    known, best = 0, math.nan

    def count_reward(reward: float) -> None:
        nonlocal known, best
        known, best = known + 1, float(np.fmax(best, reward))
        report(known, children, best)

    return count_reward


def reward_or_nan(outcome: Any) -> float:
    """The reward of an outcome, NaN if it is broken or an exception.

    Raises:
        ValueError: the outcome is not one real number.
    """
    if isinstance(outcome, Exception):
        return math.nan
    check_reward(outcome)
    return math.nan if is_broken(jnp.asarray(outcome)) else float(outcome)


def children_by_number(finished: Iterable[Child]) -> dict[int, Child]:
    """A dictionary of the finished children by their numbers.

    Raises:
        ValueError: one of them is not a `Child`, or occurs twice with different contents.
    """
    if not isinstance(finished, Iterable):
        raise ValueError(f"finished must be the children that were kept, or (); got {finished!r}")
    children: dict[int, Child] = {}
    for child in finished:
        if not isinstance(child, Child):
            raise ValueError(
                f"finished must be of `Child`, the argument of `on_child`; got {child!r}"
            )
        check_count(child.number, least=0, of="a child that was kept")
        check_reward(child.reward)
        other = children.setdefault(child.number, child)
        if not (
            np.array_equal(other.tokens, child.tokens)
            and np.array_equal(other.reward, child.reward, equal_nan=True)
        ):
            raise ValueError(f"a child was kept twice with different contents: {other} and {child}")
    return children


def recorded_reward(child: Child, tokens: np.ndarray) -> float:
    """The reward of a finished child, after a check that it has these tokens."""
    if not np.array_equal(child.tokens, tokens):
        raise ValueError(
            f"child {child.number} was kept as {np.asarray(child.tokens).tolist()}, but this search"
            f" proposes {tokens.tolist()}: child and state are of different searches"
        )
    return reward_or_nan(child.reward)
