"""Executors, which compute the rewards of a search in this process, on devices, or elsewhere.

An executor maps a function over items and yields the outcomes in the order of completion. `drive`
is the loop of a search on the host, which passes each batch of child networks to an executor.
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.tree_util import Partial
from jaxtyping import Int

from maml._checks import check_callable, check_count
from maml.mapping import across, in_chunks, share_of
from maml.search.loop import History, Reward, check_search, next_children
from maml.search.space import check_ends
from maml.search.strategies import State, Strategy, check_reward, is_broken
from maml.types import RandomKey

Item = tuple[Any, ...]
"""The arguments of one call; in a search, the tokens of one child and its key."""

Outcome = tuple[int, Any]
"""The index of an item, and its result or the `Exception` that it raised."""

Executor = Callable[[Callable[..., Any], Sequence[Item]], Iterable[Outcome]]
"""`executor(function, items)` yields one outcome for each item, in any order."""

PATIENCE = 20  # number of consecutive children with an exception after which a search ends
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


def in_process(function: Callable[..., Any], items: Sequence[Item]) -> Iterable[Outcome]:
    """Calls the function in this process, for one item after the other; an executor.

    >>> [outcome for _, outcome in in_process(lambda a, b: a / b, [(1, 2), (3, 0)])]
    [0.5, ZeroDivisionError('division by zero')]
    """
    for index, item in enumerate(items):
        try:
            # An error on a device is raised only when the program waits for the result.
            yield index, jax.block_until_ready(function(*item))
        except Exception as error:
            yield index, error


def over_devices(mesh: Mesh | None = None, *, chunk: int = 1) -> Executor:
    """An executor that runs all items in one jitted program, divided among the devices.

    JAX must be able to trace the function; if it is a `jax.tree_util.Partial`, its arrays are
    arguments of the program. An exception is raised, since it concerns the program and not an item.

    Args:
        mesh: Devices that share the items, see `maml.task_mesh`; the number of devices need not
            divide the number of items. None: one device.
        chunk: Number of items that a device maps at once, >= 1.

    Returns:
        The executor.

    Raises:
        ValueError: `chunk` is below 1, or the mesh has another axis than "task"; (when called) the
            function returns values other than numbers and arrays.

    >>> squares = over_devices(chunk=2)(lambda x: x**2, [(1.0,), (2.0,), (3.0,)])
    >>> [float(square) for _, square in squares]
    [1.0, 4.0, 9.0]
    """
    check_count(chunk, least=1, of="items in a chunk")
    share_of(0, mesh)
    devices = 1 if mesh is None else mesh.size

    @jax.jit
    def program(function: Partial, items: Item) -> Any:
        def share(function: Partial, items: Item) -> Any:
            return in_chunks(lambda item: _check_arrays(function(*item)), items, chunk)

        return across(mesh, share, summed=False)(function, items)

    def execute(function: Callable[..., Any], items: Sequence[Item]) -> Iterable[Outcome]:
        if not items:
            return
        if not callable(function):
            raise ValueError(f"an executor needs a function of an item; got {function!r}")
        partial_function = function if isinstance(function, Partial) else Partial(function)
        padding = -len(items) % devices  # these repeat the last item, and their results are ignored
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *items, *[items[-1]] * padding)
        results = jax.device_get(program(partial_function, stacked))
        for index in range(len(items)):
            yield index, jax.tree.map(lambda leaf, at=index: leaf[at], results)

    return execute


def _check_arrays(results: Any) -> Any:
    """The results of a function, after a check that they are numbers and arrays."""
    for leaf in jax.tree.leaves(results):
        if not isinstance(leaf, int | float | complex | np.generic | np.ndarray | jax.Array):
            raise ValueError(f"a function over devices must return numbers or arrays; got {leaf!r}")
    return results


def drive(
    strategy: Strategy,
    reward: Reward,
    state: State,
    key: RandomKey,
    children: int,
    executor: Executor = in_process,
    *,
    done: Iterable[Child] = (),
    keep: Callable[[Child], None] | None = None,
    patience: int = PATIENCE,
) -> tuple[State, History]:
    """Runs `search` on the host, with the same child networks in the same order, on an executor.

    A child with an exception or a broken reward is logged, and its reward is NaN, which counts as
    the worst. The strategy gets the rewards of a batch in the order of the children's numbers,
    whatever the order of completion.

    A search resumes after a crash with bitwise the same result, either from a checkpoint of the
    state and the children kept since, or from the first state and all children.

    Args:
        strategy: Strategy that proposes the children; `drive` jits its functions.
        reward: Reward of one child, `reward(tokens, key)`; `drive` does not jit it.
        state: State before the first of these children; initially `strategy.init(key)`.
        key: Random key of the whole search, the same in every call.
        children: Number of children, a multiple of the batch.
        executor: Executor that computes the rewards.
        done: Children of this search that were kept, in any order; their rewards are not computed
            again.
        keep: Function that is called with each `Child` as soon as its reward is known. None: no
            function.
        patience: Number of consecutive children with an exception after which the search ends,
            >= 1, since they indicate a bug.

    Returns:
        The state after the last child, and the children.

    Raises:
        ValueError: `children` is negative or not a multiple of the batch, `patience` is below 1, a
            kept child is not of this search, the space allows no option for a token, a reward is
            not one real number, or an argument has the wrong type.
        RuntimeError: `patience` children in a row raised an exception, or the executor did not
            yield each outcome exactly once.

    >>> from maml.search import Space, evolution
    >>> strategy, kept = evolution(Space((4, 4, 4))), []
    >>> key = jax.random.key(0)
    >>> def reward(tokens, key):
    ...     return tokens.sum() / 9
    >>> state, _ = drive(strategy, reward, strategy.init(key), key, 30, keep=kept.append)
    >>> again, history = drive(strategy, reward, strategy.init(key), key, 30, done=kept)
    >>> again.told.item(), history.rewards[-1].item() == kept[-1].reward
    (30, True)
    """
    count = check_search(strategy, reward, state, key, children)
    check_callable(executor, "executor", "function, items")
    enter, recorded = ledger(keep, patience), by_number(done)
    ask, tell = jax.jit(next_children, static_argnums=0), jax.jit(strategy.tell)
    batches = []
    for _ in range(count):
        tokens, numbers, keys = ask(strategy, state, key)
        check_ends(tokens)
        proposed = list(enumerate(zip(numbers.tolist(), np.asarray(tokens), strict=True)))
        rewards = {
            i: _recorded_reward(recorded[n], row) for i, (n, row) in proposed if n in recorded
        }
        missing = [i for i, _ in proposed if i not in rewards]
        for index, outcome in outcomes(executor, reward, [(tokens[i], keys[i]) for i in missing]):
            rewards[missing[index]] = enter(*proposed[missing[index]][1], outcome)
        batches.append(History(tokens, jnp.array([rewards[i] for i, _ in proposed]), numbers))
        state = tell(state, tokens, batches[-1].rewards)
    if not batches:
        tokens, numbers, _ = ask(strategy, state, key)
        return state, History(tokens[:0], jnp.zeros(0), numbers[:0])
    return state, jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *batches)


def outcomes(
    executor: Executor, function: Callable[..., Any], items: Sequence[Item]
) -> Iterator[Outcome]:
    """The outcomes of an executor, checked to be one for each item.

    Raises:
        RuntimeError: an outcome is repeated or missing, or its index is not that of an item.
    """
    waiting = set(range(len(items)))
    found = executor(function, items) if items else ()
    if not isinstance(found, Iterable):
        raise RuntimeError(f"an executor must yield (index, outcome) pairs; got {found!r}")
    for pair in found:
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], int)):
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


def ledger(
    keep: Callable[[Child], None] | None, patience: int
) -> Callable[[int, Int[np.ndarray, " token"], Any], float]:
    """A function `enter(number, tokens, outcome) -> reward` that records a child, see `drive`.

    Args:
        keep: Function that is called with each `Child`. None: no function.
        patience: Number of consecutive exceptions that end the search, >= 1.

    Returns:
        The function.

    Raises:
        ValueError: `patience` is below 1, or `keep` is not a function of a child; (in `enter`) an
            outcome is not one real number.
        RuntimeError: (in `enter`) `patience` children in a row raised an exception.
    """
    if keep is not None:
        check_callable(keep, "keep", "child")
    check_count(patience, least=1, of="exceptions in a row")
    failed: list[int] = []

    def enter(number: int, tokens: Int[np.ndarray, " token"], outcome: Any) -> float:
        if isinstance(outcome, Exception):
            failed.append(number)
            log.warning("child %d is broken, it raised %r", number, outcome)
            if len(failed) == patience:
                raise RuntimeError(
                    f"{patience} children in a row raised an exception, the last {outcome!r}; once"
                    " the cause is fixed, resume without the children that were kept from child"
                    f" {min(failed)} on"
                ) from outcome
        else:
            failed.clear()
            if math.isnan(as_float(outcome)):
                log.warning("child %d is broken, its reward is %s", number, outcome)
        child = Child(number, tokens, as_float(outcome))
        if keep is not None:
            keep(child)
        return child.reward

    return enter


def as_float(outcome: Any) -> float:
    """The reward of an outcome, NaN if it is broken or an exception.

    Raises:
        ValueError: the outcome is not one real number.
    """
    if isinstance(outcome, Exception):
        return math.nan
    check_reward(outcome)
    return math.nan if is_broken(jnp.asarray(outcome)) else float(outcome)


def by_number(done: Iterable[Child]) -> dict[int, Child]:
    """A dictionary of the kept children by their numbers.

    Raises:
        ValueError: one of them is not a `Child`, or occurs twice with different contents.
    """
    if not isinstance(done, Iterable):
        raise ValueError(f"done must be the children that were kept, or (); got {done!r}")
    children: dict[int, Child] = {}
    for child in done:
        if not isinstance(child, Child):
            raise ValueError(f"done must be of `Child`, the argument of `keep`; got {child!r}")
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
    """The reward of a kept child, after a check that it has these tokens."""
    if not np.array_equal(child.tokens, tokens):
        raise ValueError(
            f"child {child.number} was kept as {np.asarray(child.tokens).tolist()}, but this search"
            f" proposes {tokens.tolist()}: child and state are of different searches"
        )
    return as_float(child.reward)
