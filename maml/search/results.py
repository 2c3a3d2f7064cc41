"""The result of a search: its best child network."""

import jax
import numpy as np

from maml.search.loop import History
from maml.search.records import Child
from maml.search.rewards import best_child
from maml.search.space import Space, check_space


def best(history: History, space: Space | None = None) -> Child:
    """The child with the highest reward, the first of several; broken rewards do not count.

    Args:
        history: Children of one search.
        space: Search space whose options have names. None: the child has no words.

    Returns:
        The child, with its number, tokens and reward, and with its words if there is a space.

    Raises:
        ValueError: `history` is not a `History` of one search, all its rewards are broken, or the
            options of the space have no names.

    >>> import jax.numpy as jnp
    >>> history = History(jnp.array([[0, 1], [1, 0]]), jnp.array([0.25, 0.5]), jnp.arange(2))
    >>> space = Space((2, 2), names=(("8", "16"), ("relu", "tanh")))
    >>> child = best(history, space)
    >>> child.words, child.reward
    (('16', 'relu'), 0.5)
    """
    if not isinstance(history, History):
        raise ValueError(f"the history must be a History, as search returns; got {history!r}")
    if np.ndim(history.rewards) != 1:
        raise ValueError(
            "the history must be of one search, with rewards [child]; got rewards"
            f" {list(np.shape(history.rewards))}: jax.tree.map(lambda leaf: leaf[0], history) would"
            " work"
        )
    if space is not None:
        check_space(space)
    tokens, rewards, numbers = jax.device_get(history)
    place = int(best_child(rewards))
    words = () if space is None else space.words(tokens[place])
    return Child(int(numbers[place]), tokens[place], float(rewards[place]), words)
