"""Who earns the rewards of a search: this process, the devices at hand, or whoever else can map.

An executor is a function: given what to do and with what, it gives the outcomes as they come, in
any order. `drive` is the loop of a search on the host, which hands each batch of children to one.
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
"""Which item, and what came of it: the result, or the `Exception` that it ended with."""

Executor = Callable[[Callable[..., Any], Sequence[Item]], Iterable[Outcome]]
"""`executor(function, items)` gives one outcome for each item, in any order."""

PATIENCE = 20  # children in a row that end with an exception, before it is taken for a bug
log = logging.getLogger(__name__)


class Child(NamedTuple):
    """A child that has been rewarded: what a search has to keep to go on after a crash.

    Attributes:
        number: in the search, from 0; its key is made of it.
        tokens: what it is.
        reward: NaN where it is broken.
    """

    number: int
    tokens: Int[np.ndarray, " token"]
    reward: float


def in_process(function: Callable[..., Any], items: Sequence[Item]) -> Iterable[Outcome]:
    """The executor that calls the function here, for one item after the other.

    >>> [outcome for _, outcome in in_process(lambda a, b: a / b, [(1, 2), (3, 0)])]
    [0.5, ZeroDivisionError('division by zero')]
    """
    for index, item in enumerate(items):
        try:
            # What fails on a device is only raised when its result is waited for.
            yield index, jax.block_until_ready(function(*item))
        except Exception as error:
            yield index, error


def over_devices(mesh: Mesh | None = None, *, chunk: int = 1) -> Executor:
    """An executor that is one jitted program, its items shared out over the devices.

    The function has to be one that JAX can trace; as a `jax.tree_util.Partial` its arrays are
    arguments of the program. An exception is raised, as it is the program's and not an item's.

    Args:
        mesh: the devices, see `maml.task_mesh`, which need not divide the items. Default: one.
        chunk: how many items a device maps at once.

    Raises:
        ValueError: `chunk` is below 1, or the mesh has another axis than "task"; when called, the
            function gives something else than numbers and arrays.

    >>> squares = over_devices(chunk=2)(lambda x: x**2, [(1.0,), (2.0,), (3.0,)])
    >>> [float(square) for _, square in squares]
    [1.0, 4.0, 9.0]
    """
    check_count(chunk, least=1, of="items in a chunk")
    devices = 1 if mesh is None else mesh.size
    share_of(devices, mesh)

    @jax.jit
    def program(function: Partial, items: Item) -> Any:
        def share(function: Partial, items: Item) -> Any:
            return in_chunks(lambda item: _arrays(function(*item)), items, chunk)

        return across(mesh, share, summed=False)(function, items)

    def execute(function: Callable[..., Any], items: Sequence[Item]) -> Iterable[Outcome]:
        if not items:
            return
        rode = function if isinstance(function, Partial) else Partial(function)
        idle = -len(items) % devices  # these do the last item again, and nobody asks what came
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *items, *[items[-1]] * idle)
        results = jax.device_get(program(rode, stacked))
        for index in range(len(items)):
            yield index, jax.tree.map(lambda leaf, at=index: leaf[at], results)

    return execute


def _arrays(results: Any) -> Any:
    for leaf in jax.tree.leaves(results):
        if not isinstance(leaf, int | float | complex | np.generic | np.ndarray | jax.Array):
            raise ValueError(f"a function over devices gives numbers or arrays; got {leaf!r}")
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
    """`search` on the host: the same children, in the same order, rewarded by an executor.

    A child that ends with an exception or a broken reward is logged, and its reward is NaN: it
    counts as the worst.
    Whatever order the rewards come in, the strategy is told of a batch in the order of its numbers.

    A search goes on after a crash as if there had been none, to the bit: with a state that was
    saved and the children kept since, or with the first state and all of them.

    Args:
        strategy: of what to ask for; it is jitted.
        reward: of one child, `reward(tokens, key)`; jit it, or have the executor do so.
        state: before; `strategy.init(key)` is the first.
        key: of the whole search, the same in every call.
        children: how many, in whole batches.
        executor: who rewards them.
        done: children of this search that were kept, in any order, and are not rewarded again.
        keep: called with each child that was rewarded, as its reward comes.
        patience: so many exceptions of children in a row are taken for a bug, and raised.

    Returns:
        The state after, and the children.

    Raises:
        ValueError: `children` is negative or not in whole batches, `patience` is below 1, a child
            that was kept is not of this search, the space allows nothing where a child is drawn, a
            reward is not one real number, or another argument is not what it should be.
        RuntimeError: the patience ended, or the executor did not give each outcome once.

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
    enter, known = ledger(keep, patience), by_number(done)
    ask, tell = jax.jit(next_children, static_argnums=0), jax.jit(strategy.tell)
    batches = []
    for _ in range(count):
        tokens, numbers, keys = ask(strategy, state, key)
        check_ends(tokens)
        named = list(enumerate(zip(numbers.tolist(), np.asarray(tokens), strict=True)))
        rewards = {i: _kept(known[n], row) for i, (n, row) in named if n in known}
        missing = [i for i, _ in named if i not in rewards]
        for place, outcome in outcomes(executor, reward, [(tokens[i], keys[i]) for i in missing]):
            rewards[missing[place]] = enter(*named[missing[place]][1], outcome)
        batches.append(History(tokens, jnp.array([rewards[i] for i, _ in named]), numbers))
        state = tell(state, tokens, batches[-1].rewards)
    if not batches:
        tokens, numbers, _ = ask(strategy, state, key)
        return state, History(tokens[:0], jnp.zeros(0), numbers[:0])
    return state, jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *batches)


def outcomes(
    executor: Executor, function: Callable[..., Any], items: Sequence[Item]
) -> Iterator[Outcome]:
    """What an executor gives, refused unless it is one outcome for each item.

    Raises:
        RuntimeError: it gave one twice, one of no item, or too few.
    """
    waiting = set(range(len(items)))
    for index, outcome in executor(function, items) if items else ():
        if index not in waiting:
            raise RuntimeError(f"the executor gave item {index} twice, or there is none")
        waiting.remove(index)
        yield index, outcome
    if waiting:
        raise RuntimeError(f"the executor ended without an outcome for items {sorted(waiting)}")


def ledger(
    keep: Callable[[Child], None] | None, patience: int
) -> Callable[[int, Int[np.ndarray, " token"], Any], float]:
    """Makes rewards of outcomes: `enter(number, tokens, outcome) -> reward`, see `drive`.

    Raises:
        ValueError: `patience` is below 1, `keep` no function of a child; in `enter`, an outcome is
            not one real number.
        RuntimeError: in `enter`, the patience ended.
    """
    if keep is not None:
        check_callable(keep, "keep", "child")
    check_count(patience, least=1, of="exceptions in a row")
    failed: list[int] = []

    def enter(number: int, tokens: Int[np.ndarray, " token"], outcome: Any) -> float:
        if isinstance(outcome, Exception):
            failed.append(number)
            log.warning("child %d is broken, it ended with %r", number, outcome)
            if len(failed) == patience:
                raise RuntimeError(
                    f"{patience} children in a row ended with an exception, the last with"
                    f" {outcome!r}; to try them again, go on without those kept from child"
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
    """The reward of an outcome, NaN where it is broken or an exception.

    Raises:
        ValueError: it is not one real number.
    """
    if isinstance(outcome, Exception):
        return math.nan
    check_reward(outcome)
    return math.nan if is_broken(jnp.asarray(outcome)) else float(outcome)


def by_number(done: Iterable[Child]) -> dict[int, Child]:
    """The children that were kept, by their numbers.

    Raises:
        ValueError: one of them is no child, or there twice and not the same.
    """
    if not isinstance(done, Iterable):
        raise ValueError(f"done must be the children that were kept, or (); got {done!r}")
    known: dict[int, Child] = {}
    for child in done:
        if not isinstance(child, Child):
            raise ValueError(f"done must be of `Child`, as `keep` is given them; got {child!r}")
        check_count(child.number, least=0, of="a child that was kept")
        check_reward(child.reward)
        other = known.setdefault(child.number, child)
        if not (
            np.array_equal(other.tokens, child.tokens)
            and np.array_equal(other.reward, child.reward, equal_nan=True)
        ):
            raise ValueError(f"a child was kept twice, and not the same: {other} and {child}")
    return known


def _kept(child: Child, tokens: np.ndarray) -> float:
    if not np.array_equal(child.tokens, tokens):
        raise ValueError(
            f"child {child.number} was kept as {np.asarray(child.tokens).tolist()}, but this search"
            f" asks for {tokens.tolist()}: it is of another search, or of another state of it"
        )
    return as_float(child.reward)
