"""The loop of a search on the host, which passes each batch of child networks to an executor."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from maml._checks import check_callable
from maml.search.executors import Executor, Item, Outcome, local_executor
from maml.search.loop import History, Reward, check_search, next_children
from maml.search.records import (
    MAX_FAILURES,
    Child,
    children_by_number,
    outcome_recorder,
    recorded_reward,
    reward_counter,
)
from maml.search.space import check_no_dead_end
from maml.search.strategies import SearchState, Strategy
from maml.types import RandomKey


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
    report: Callable[[int, int, float], None] | None = None,
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
        report: Function `report(known, children, best)` that is called after each child with the
            number of children whose reward is known, `finished` ones among them, the number of all
            and the best reward, NaN if all are broken; for a progress bar. None: no function.
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
    count_reward = reward_counter(report, children)
    ask, tell = jax.jit(next_children, static_argnums=0), jax.jit(strategy.tell)
    batches = []
    for _ in range(count):
        tokens, numbers, keys = ask(strategy, state, key)
        check_no_dead_end(tokens)
        proposed = list(enumerate(zip(numbers.tolist(), np.asarray(tokens), strict=True)))
        rewards = {i: recorded_reward(known[n], row) for i, (n, row) in proposed if n in known}
        for value in rewards.values():
            count_reward(value)
        missing = [i for i, _ in proposed if i not in rewards]
        for index, outcome in checked_outcomes(
            executor, reward, [(tokens[i], keys[i]) for i in missing]
        ):
            rewards[missing[index]] = record_outcome(*proposed[missing[index]][1], outcome)
            count_reward(rewards[missing[index]])
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
