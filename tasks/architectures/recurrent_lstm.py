"""Long short-term memory as a recurrent cell, with which found cells are compared.

    i, f, g, o = W x + U s
    c <- sigmoid(f + 1) c + sigmoid(i) tanh(g),    s <- sigmoid(o) tanh(c)

Here x is the input, s is the output and c is the memory. Like the cells of the search spaces it has
no biases but the 1 of the forget gate.

Hochreiter, Schmidhuber: Long short-term memory (Neural Computation 1997),
https://doi.org/10.1162/neco.1997.9.8.1735; the 1 of the forget gate: Jozefowicz, Zaremba,
Sutskever: An empirical exploration of recurrent network architectures (ICML 2015),
https://proceedings.mlr.press/v37/jozefowicz15.html
"""

from functools import cache

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from maml.search import Space
from maml.search.space import Tokens
from tasks.architectures.recurrent_chain import Cell, State


@cache
def lstm() -> Cell:
    """The space whose only cell is long short-term memory, with the single token 0.

    Returns:
        The space and its computation; the weights of the input and those of the output are
        `[width, 4 width]`, with the columns of i, f, g and o.

    >>> lstm().space.words(jnp.array([0]))
    ('LSTM',)
    """

    def shapes(width: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (width, 4 * width), (width, 4 * width)

    return Cell(Space((1,), names=(("LSTM",),)), _lstm_step, shapes, states=2)


def _lstm_step(
    tokens: Tokens, weights: Float[Array, "width all"], state: State, x: Float[Array, " all"]
) -> tuple[State, Float[Array, " width"]]:
    s, memory = state
    i, f, g, o = jnp.split(x + s @ weights, 4)
    memory = jax.nn.sigmoid(f + 1) * memory + jax.nn.sigmoid(i) * jnp.tanh(g)
    s = jax.nn.sigmoid(o) * jnp.tanh(memory)
    return (s, memory), s
