"""The loop of a search: ask, reward, tell.

All randomness comes from the key of the search and the number of the child network. Therefore a
search resumes from a checkpoint with the same result, and a child that is trained again has the
same reward.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, Scalar

from maml._checks import check_callable, check_count, check_key
from maml._contracts import check_step
from maml.search.rewards import check_reward, is_broken
from maml.search.space import Tokens
from maml.search.strategies import Batch, SearchState, Strategy, check_own_state
from maml.types import RandomKey, RandomKeys

NEEDS_VALUES = (
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)
Reward = Callable[[Tokens, RandomKey], Scalar]
"""`reward(tokens, key) -> scalar` of ONE child network, the higher the better."""


class History(NamedTuple):
    """The child networks of a search, in the order in which they were proposed.

    Attributes:
        tokens: Tokens of their architectures, `[child, token]`.
        rewards: Rewards, `[child]`, NaN for broken children.
        numbers: Numbers of the children, `[child]`, which determine their keys, see `child_keys`.
    """

    tokens: Int[Array, "child token"]
    rewards: Float[Array, " child"]
    numbers: Int[Array, " child"]


def ask_key(key: RandomKey, num_rewards: Int[Array, ""] | int) -> RandomKey:
    """The key with which a batch is proposed.

    Args:
        key: Key of the whole search.
        num_rewards: Number of children whose rewards the strategy has been told.

    Returns:
        The key of this batch.
    """
    check_key(key)
    check_step(num_rewards, "num_rewards")
    return jax.random.fold_in(jax.random.fold_in(key, 0), num_rewards)


def child_keys(key: RandomKey, numbers: Int[Array, " child"]) -> RandomKeys:
    """The keys with which children are rewarded.

    Args:
        key: Key of the whole search.
        numbers: Numbers of the children, counted from 0 over the whole search, `[child]`.

    Returns:
        A key for each child, `[child]`.
    """
    check_key(key)
    dtype, shape = getattr(numbers, "dtype", type(numbers)), np.shape(numbers)
    if len(shape) != 1 or not jnp.issubdtype(dtype, jnp.integer):
        raise ValueError(f"numbers of children must be integers [child]; got {dtype}{list(shape)}")
    if not isinstance(numbers, Tracer) and (least := np.asarray(numbers).min(initial=0)) < 0:
        raise ValueError(f"numbers of children must be >= 0; got {least}")
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, 1), numbers)


def next_children(
    strategy: Strategy, state: SearchState, key: RandomKey
) -> tuple[Batch, Int[Array, " child"], RandomKeys]:
    """The next batch of a search.

    Args:
        strategy: Strategy that proposes the children.
        state: State of the strategy.
        key: Key of the whole search.

    Returns:
        The tokens of the children, `[child, token]`, their numbers and the keys of their rewards,
        both `[child]`.
    """
    numbers = state.num_rewards + jnp.arange(strategy.batch)
    return strategy.ask(state, ask_key(key, state.num_rewards)), numbers, child_keys(key, numbers)


def count_batches(children: int, batch: int) -> int:
    """The number of batches of a number of children.

    Raises:
        ValueError: `children` is negative or not a multiple of `batch`.
    """
    check_count(children, least=0, of="children")
    if children % batch:
        raise ValueError(
            f"batches of {batch} children do not divide {children} children; multiples of {batch}"
            " would work"
        )
    return children // batch


def check_search(strategy: Any, reward: Any, state: Any, key: Any, children: int) -> int:
    """The number of batches of a search, after its arguments have been checked.

    Raises:
        ValueError: an argument has the wrong type.
    """
    if not isinstance(strategy, Strategy):
        raise ValueError(
            f"the strategy must be a Strategy, such as random_search(space); got {strategy!r}"
        )
    check_callable(reward, "reward", "tokens, key")
    check_key(key)
    check_own_state(state, strategy.init)
    check_count(children, least=0, of="children")
    if not isinstance(state.num_rewards, Tracer):
        check_step(int(state.num_rewards) + children, "the number of children of a search")
    return count_batches(children, strategy.batch)


def search(
    strategy: Strategy, reward: Reward, state: SearchState, key: RandomKey, children: int
) -> tuple[SearchState, History]:
    """Searches for architectures in one scan of ask, reward and tell, for use under jit and vmap.

    `maml.search.search_on_host` does the same on the host, with rewards from any executor.

    Args:
        strategy: Strategy that proposes the child networks.
        reward: Reward of one child, `reward(tokens, key)`, mapped over the children of a batch.
        state: State before the first of these children; initially `strategy.init(key)`.
        key: Random key of the whole search, the same in every call.
        children: Number of children, a multiple of the batch.

    Returns:
        The state after the last child, and the children.

    Raises:
        ValueError: `children` is negative or not a multiple of the batch, the state is of another
            strategy, `key` is not one key, the reward is no JAX function, or a reward is not one
            real number.

    >>> from maml.search import Space, evolution
    >>> strategy = evolution(Space((4, 4, 4)))
    >>> key = jax.random.key(0)
    >>> _, history = search(strategy, lambda t, _: t.sum() / 9, strategy.init(key), key, 100)
    >>> history.tokens[-20:].sum(axis=1).max().item()
    9
    """
    batches = check_search(strategy, reward, state, key, children)

    def child_reward(tokens: Tokens, key: RandomKey) -> Scalar:
        value = _traced_reward(reward, tokens, key)
        check_reward(value)
        value = jnp.asarray(value)
        value = value.astype(jnp.promote_types(value.dtype, jnp.float32))
        return jnp.where(is_broken(value) | (tokens < 0).any(), jnp.nan, value)

    def step(state: SearchState, _: None) -> tuple[SearchState, History]:
        tokens, numbers, keys = next_children(strategy, state, key)
        rewards = jax.vmap(child_reward)(tokens, keys)
        return strategy.tell(state, tokens, rewards), History(tokens, rewards, numbers)

    state, history = jax.lax.scan(step, state, length=batches)
    return state, jax.tree.map(lambda leaf: leaf.reshape(children, *leaf.shape[2:]), history)


def _traced_reward(reward: Reward, tokens: Tokens, key: RandomKey) -> Any:
    """The reward of traced tokens; one that needs their values is refused."""
    try:
        return reward(tokens, key)
    except Exception as error:
        # An error of Python names the type of the tracer, as a lookup in a dictionary does.
        if not isinstance(error, NEEDS_VALUES) and "Tracer" not in str(error):
            raise
        raise ValueError(
            "within search the reward is a JAX function, whose tokens have no values yet; got one"
            f" that raised {type(error).__name__}: maml.search.search_on_host, which takes the same"
            " arguments, would work with any Python function"
        ) from error
