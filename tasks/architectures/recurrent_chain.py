"""The search space of recurrent cells that are chains of nodes, as in ENAS.

    h_1 = s + t * (f(W_f [x, s]) - s),         t = sigmoid(W_t [x, s])
    h_i = h_j + t * (f(W_f h_j) - h_j),        t = sigmoid(W_t h_j)

Here x is the input, s is the state, and each node i has matrices W_f and W_t of its own. The tokens
choose the function f of each node and, from the second node on, the earlier node j that it reads.
The new state, which is the output too, is the mean of the nodes that no other node reads.

The tokens are arrays, so one compiled program computes every cell. The module `recurrent_tree` has
the other space of recurrent cells, and `recurrent_model` the language models with such a cell.

Pham, Guan, Zoph, Le, Dean: Efficient neural architecture search via parameter sharing (ICML 2018),
https://arxiv.org/abs/1802.03268
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from maml._checks import check_count
from maml.search import Space
from maml.search.space import Tokens

FUNCTIONS = "tanh", "relu", "sigmoid", "identity"

State = tuple[Float[Array, " width"], ...]
Step = Callable[
    [Tokens, Float[Array, "..."], State, Float[Array, " products"]],
    tuple[State, Float[Array, " width"]],
]


class Cell(NamedTuple):
    """A search space of recurrent cells, and the computation of each of its cells.

    Attributes:
        space: Search space of the cells.
        step: Function `step(tokens, weights, state, x @ inputs) -> (state, output[width])` of one
            time step, where `inputs` are the weights of the input x, and `weights` are the others.
            The products `x @ inputs` of all time steps can be computed at once.
        shapes: Function from the width to the shapes of `inputs` and `weights`, `[..., in, out]`.
        states: Number of vectors in the state.
    """

    space: Space
    step: Step
    shapes: Callable[[int], tuple[tuple[int, ...], tuple[int, ...]]]
    states: int


@cache
def chain(nodes: int = 8) -> Cell:
    """The cells of a chain of nodes; the tokens are the input and the function of each node.

    The first node has no token of an input. The second has one option, the first node.

    Args:
        nodes: Number of nodes, >= 1.

    Returns:
        The space and its computation; the weights of the input are `[width, 2 width]`, and the
        others `[node, width, 2 width]`.

    Raises:
        ValueError: `nodes` is below 1.

    >>> chain(3).space.choices
    (4, 1, 4, 2, 4)
    >>> chain(3).space.words(jnp.array([0, 0, 1, 1, 3]))
    ('tanh', 'node 1', 'relu', 'node 2', 'identity')
    """
    check_count(nodes, least=1, of="nodes")
    earlier = tuple(f"node {number}" for number in range(1, nodes))
    names = FUNCTIONS, *(words for i in range(1, nodes) for words in (earlier[:i], FUNCTIONS))

    def shapes(width: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (width, 2 * width), (nodes, width, 2 * width)

    space = Space(tuple(map(len, names)), names=names)
    return Cell(space, _chain_step, shapes, states=1)


def _chain_step(
    tokens: Tokens, weights: Float[Array, "node width both"], state: State, x: Float[Array, " both"]
) -> tuple[State, Float[Array, " width"]]:
    functions, inputs = tokens[::2], tokens[1::2]
    (read,) = state
    nodes, products = [], x
    for number, matrix in enumerate(weights):
        if number:
            read, products = jnp.stack(nodes)[inputs[number - 1]], 0.0
        h, gate = jnp.split(products + read @ matrix, 2)
        nodes.append(read + jax.nn.sigmoid(gate) * (activate(functions[number], h) - read))
    unread = ~(inputs[:, None] == jnp.arange(len(nodes))).any(axis=0)
    output = unread / unread.sum() @ jnp.stack(nodes)
    return (output,), output


def activate(
    function: Int[Array, "*node"], x: Float[Array, "*node width"]
) -> Float[Array, "*node width"]:
    """The activation with this number in `FUNCTIONS`; no other one has a part in the gradient.

    >>> activate(jnp.array([1, 3]), jnp.array([[-2.0], [-2.0]])).ravel().tolist()
    [0.0, -2.0]
    """
    branches = jnp.tanh(x), jax.nn.relu(x), jax.nn.sigmoid(x), x
    return jax.lax.select_n(jnp.broadcast_to(function[..., None], x.shape), *branches)
