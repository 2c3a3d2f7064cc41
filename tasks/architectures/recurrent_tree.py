"""The search space of recurrent cells that are trees with a memory, as Zoph and Le searched it.

    leaf i:            a_i = f(W_i x (+) U_i s)
    inner node i:      a_i = f(a_left (+) a_right)

Here x is the input and s is the previous output; the operation (+) is a sum or an elementwise
product, and f is an activation. The tokens choose both for each node. Further tokens connect the
memory c. The value a_i of one node is replaced by g(a_i (+) c), where the tokens choose the node,
the operation and the activation g. The next memory is the value of a node, the same or another one,
before its activation. The output is the root.

    tokens = (operation, f) of each node;  operation, g;  node of the next memory;  replaced node

A binary tree with 8 leaves has 15 nodes, hence 8^16 15^2 = 6.3e16 cells.

Zoph, Le: Neural architecture search with reinforcement learning (ICLR 2017), section 3.4,
https://arxiv.org/abs/1611.01578
"""

from functools import cache

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from maml._checks import check_count
from maml.search import Space
from maml.search.space import Tokens
from tasks.architectures.recurrent_chain import FUNCTIONS, Cell, State, activate

COMBINATIONS = "add", "multiply"


@cache
def tree(leaves: int = 8) -> Cell:
    """The cells of a binary tree; the leaves are its first nodes, and the root is its last.

    Args:
        leaves: Number of leaves, a power of two from 2 on.

    Returns:
        The space and its computation; the weights of the input and those of the state are
        `[width, leaves width]`.

    Raises:
        ValueError: `leaves` is not such a number.

    >>> tree(2).space.choices
    (2, 4, 2, 4, 2, 4, 2, 4, 3, 3)
    >>> tree(2).space.words(jnp.array([0, 0, 1, 1, 1, 2, 0, 1, 1, 0]))[6:]
    ('add', 'relu', 'memory from node 2', 'memory into node 1')
    """
    check_count(leaves, least=2, of="leaves")
    if leaves & (leaves - 1):
        below = 1 << (leaves.bit_length() - 1)
        raise ValueError(f"leaves must be a power of two; got {leaves}: {below} would work")
    numbers = range(1, 2 * leaves)
    words = "memory from", "memory into"
    nodes = (tuple(f"{word} node {number}" for number in numbers) for word in words)
    names = *(COMBINATIONS, FUNCTIONS) * (2 * leaves), *nodes

    def shapes(width: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (width, leaves * width), (width, leaves * width)

    space = Space(tuple(map(len, names)), names=names)
    return Cell(space, _tree_step, shapes, states=2)


def _tree_step(
    tokens: Tokens, weights: Float[Array, "width all"], state: State, x: Float[Array, " all"]
) -> tuple[State, Float[Array, " width"]]:
    rows, source, target = tokens[:-2].reshape(-1, 2), tokens[-2], tokens[-1]
    (operations, functions), inject = rows[:-1].T, rows[-1]
    s, memory = state

    def injected(value: Float[Array, " width"]) -> Float[Array, " width"]:
        return activate(inject[1], combine(inject[0], value, memory))

    one, other = (products.reshape(-1, len(s)) for products in (x, s @ weights))
    before, first = [], 0
    while True:  # a level of the tree
        level = slice(first, first + len(one))
        before.append(combine(operations[level], one, other))
        values = activate(functions[level], before[-1])
        hit = jnp.arange(level.start, level.stop) == target
        values = jnp.where(hit[:, None], jax.vmap(injected)(values), values)
        if len(values) == 1:
            break
        one, other, first = values[::2], values[1::2], level.stop
    return (values[0], jnp.concatenate(before)[source]), values[0]


def combine(
    operation: Int[Array, "*node"], a: Float[Array, "*node width"], b: Float[Array, "*node width"]
) -> Float[Array, "*node width"]:
    """The sum or the elementwise product, by the number of the operation in `COMBINATIONS`.

    Neither the value nor the gradient of a sum depends on the product, which may overflow.

    >>> combine(jnp.array([0, 1]), jnp.array([[2.0], [2.0]]), jnp.array([[5.0], [5.0]])).tolist()
    [[7.0], [10.0]]
    """
    multiply = (operation == 1)[..., None]
    return a * jnp.where(multiply, b, 1.0) + jnp.where(multiply, 0.0, b)
