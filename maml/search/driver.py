"""The loop of a search on the host, which passes each batch of child networks to an executor."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from maml._checks import check_callable, check_count
from maml.search.executors import Executor, Item, Outcome, local_executor
from maml.search.loop import History, Reward, check_search, next_children
from maml.search.rewards import check_reward, is_broken
from maml.search.space import check_no_dead_end
from maml.search.strategies import SearchState, Strategy
from maml.types import RandomKey

MAX_FAILURES = 20  # number of consecutive children with an exception after which a search ends
log = logging.getLogger(__name__)


class Child(NamedTuple):
    """A child network and its reward: the record that a search needs to resume after a crash.

    Attributes:
        number: Number of the child in the search, from 0; its random key depends on it.
        tokens: Tokens of its architecture, `[token]`.
        reward: Reward, NaN if it is broken.
    """

    number: int
    tokens: Int[np.ndarray, " token"]
    reward: float


def search_on_host(
    strategy: Strategy,
    reward: Reward,
    state: SearchState,
    key: RandomKey,
    children: int,
    executor: Executor = local_executor,
    *,
    finished: Iterable[Child] = (),
    on_child: Callable[[Child], None] | None = None,
    max_failures: int = MAX_FAILURES,
) -> tuple[SearchState, History]:
    """Runs `search` on the host, with the same child networks in the same order, on an executor.

    A child with an exception or a broken reward is logged, and its reward is NaN, which counts as
    the worst. The strategy gets the rewards of a batch in the order of the children's numbers,
    whatever the order of completion.

    A search resumes after a crash with bitwise the same result, either from a checkpoint of the
    state and the children finished since, or from the first state and all children.

    Args:
        strategy: Strategy that proposes the children; `search_on_host` jits its functions.
        reward: Reward of one child, `reward(tokens, key)`; `search_on_host` does not jit it.
        state: State before the first of these children; initially `strategy.init(key)`.
        key: Random key of the whole search, the same in every call.
        children: Number of children, a multiple of the batch.
        executor: Executor that computes the rewards.
        finished: Children of this search whose rewards are known, in any order; these are not
            computed again.
        on_child: Function that is called with each `Child` as soon as its reward is known. None: no
            function.
        max_failures: Number of consecutive children with an exception after which the search ends,
            >= 1, since they indicate a bug.

    Returns:
        The state after the last child, and the children.

    Raises:
        ValueError: `children` is negative or not a multiple of the batch, `max_failures` is below
            1, a finished child is not of this search, the space allows no option for a token, a
            reward is not one real number, or an argument has the wrong type.
        RuntimeError: `max_failures` children in a row raised an exception, or the executor did not
            yield each outcome exactly once.

    >>> from maml.search import Space, evolution
    >>> strategy, key, finished = evolution(Space((4, 4, 4))), jax.random.key(0), []
    >>> def reward(tokens, key):
    ...     return tokens.sum() / 9
    >>> start = strategy.init(key)
    >>> state, _ = search_on_host(strategy, reward, start, key, 30, on_child=finished.append)
    >>> again, history = search_on_host(strategy, reward, start, key, 30, finished=finished)
    >>> again.num_rewards.item(), history.rewards[-1].item() == finished[-1].reward
    (30, True)
    """
    count = check_search(strategy, reward, state, key, children)
    check_callable(executor, "executor", "function, items")
    record_outcome, known = outcome_recorder(on_child, max_failures), children_by_number(finished)
    ask, tell = jax.jit(next_children, static_argnums=0), jax.jit(strategy.tell)
    batches = []
    for _ in range(count):
        tokens, numbers, keys = ask(strategy, state, key)
        check_no_dead_end(tokens)
        proposed = list(enumerate(zip(numbers.tolist(), np.asarray(tokens), strict=True)))
        rewards = {i: _recorded_reward(known[n], row) for i, (n, row) in proposed if n in known}
        missing = [i for i, _ in proposed if i not in rewards]
        for index, outcome in checked_outcomes(
            executor, reward, [(tokens[i], keys[i]) for i in missing]
        ):
            rewards[missing[index]] = record_outcome(*proposed[missing[index]][1], outcome)
        batches.append(History(tokens, jnp.array([rewards[i] for i, _ in proposed]), numbers))
        state = tell(state, tokens, batches[-1].rewards)
    if not batches:
        tokens, numbers, _ = ask(strategy, state, key)
        return state, History(tokens[:0], jnp.zeros(0), numbers[:0])
    return state, jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *batches)


def checked_outcomes(
    executor: Executor, function: Callable[..., Any], items: Sequence[Item]
) -> Iterator[Outcome]:
    """The outcomes of an executor, checked to be one for each item.

    Raises:
        RuntimeError: an outcome is repeated or missing, or its index is not that of an item.
    """
    waiting = set(range(len(items)))
    yielded = executor(function, items) if items else ()
    if not isinstance(yielded, Iterable):
        raise RuntimeError(f"an executor must yield (index, outcome) pairs; got {yielded!r}")
    for pair in yielded:
        if not (
            isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], int | np.integer)
        ):
            raise RuntimeError(f"an executor must yield (index, outcome) pairs; got {pair!r}")
        index, outcome = pair
        if index not in waiting:
            raise RuntimeError(
                f"the executor returned item {index} twice, or there is no such item"
            )
        waiting.remove(index)
        yield index, outcome
    if waiting:
        raise RuntimeError(f"the executor ended without an outcome for items {sorted(waiting)}")


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


def _recorded_reward(child: Child, tokens: np.ndarray) -> float:
    """The reward of a finished child, after a check that it has these tokens."""
    if not np.array_equal(child.tokens, tokens):
        raise ValueError(
            f"child {child.number} was kept as {np.asarray(child.tokens).tolist()}, but this search"
            f" proposes {tokens.tolist()}: child and state are of different searches"
        )
    return reward_or_nan(child.reward)
