"""Recurrent cells that tokens choose equal the cells written out, in values and gradients."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from maml.search import random_architecture
from tasks.architectures.recurrent_chain import FUNCTIONS, activate, chain
from tasks.architectures.recurrent_lstm import lstm
from tasks.architectures.recurrent_model import RecurrentModel
from tasks.architectures.recurrent_tree import tree

pytestmark = pytest.mark.usefixtures("x64")
WIDTH = 3
CELLS = {"chain": chain(4), "tree": tree(4)}
# The cell of figure 5 of Zoph and Le: a tree of two leaves.
FIGURE = "add", "tanh", "multiply", "relu", "multiply", "sigmoid", "add", "relu"


def functions(xp):
    """The activations by name, with the functions of numpy or of jax.numpy."""
    return {
        "tanh": xp.tanh,
        "relu": lambda x: xp.where(x > 0, x, 0.0),
        "sigmoid": lambda x: 1 / (1 + xp.exp(-x)),
        "identity": lambda x: x,
    }


def chain_written_out(xp, tokens, weights, state, x):
    """One time step of a chain; the tokens are Python integers, and choose by `if` and by index."""
    inputs, matrices = weights
    f, width, nodes = functions(xp), len(x), []
    for number, token in enumerate(tokens[::2]):
        read = nodes[tokens[2 * number - 1]] if number else state[0]
        both = read @ matrices[number]
        if number == 0:
            both = both + x @ inputs
        gate = f["sigmoid"](both[width:])
        nodes.append(gate * f[FUNCTIONS[token]](both[:width]) + (1 - gate) * read)
    loose = [node for number, node in enumerate(nodes) if number not in tokens[1::2]]
    mean = sum(loose) / len(loose)
    return (mean,), mean


def tree_written_out(xp, tokens, weights, state, x):
    """One time step of a tree, whose nodes are computed one after the other."""
    f, width, (s, memory) = functions(xp), len(x), state
    *pairs, (operation, function), (source, target) = np.reshape(tokens, (-1, 2)).tolist()
    leaves = (len(pairs) + 1) // 2
    nodes, before = [], []

    def combine(operation, a, b):
        return a + b if operation == 0 else a * b

    for number, (op, name) in enumerate(pairs):
        if number < leaves:
            columns = slice(number * width, (number + 1) * width)
            a, b = x @ weights[0][:, columns], s @ weights[1][:, columns]
        else:
            a, b = nodes[2 * (number - leaves)], nodes[2 * (number - leaves) + 1]
        before.append(combine(op, a, b))
        node = f[FUNCTIONS[name]](before[-1])
        if number == target:
            node = f[FUNCTIONS[function]](combine(operation, node, memory))
        nodes.append(node)
    return (nodes[-1], before[source]), nodes[-1]


WRITTEN_OUT = {"chain": chain_written_out, "tree": tree_written_out}


def read(step, weights, state, words):
    """The outputs and the last state after all words."""
    outputs = []
    for x in words:
        state, output = step(weights, state, x)
        outputs.append(output)
    return outputs, state


def draw(cell, seed):
    random = np.random.default_rng(seed)
    weights = tuple(random.normal(size=shape) for shape in cell.shapes(WIDTH))
    state = tuple(random.normal(size=(cell.states, WIDTH)))
    return jax.tree.map(jnp.asarray, (weights, state, random.normal(size=(2, WIDTH))))


def total(step, weights, state, words):
    outputs, state = read(step, weights, state, words)
    return sum((output**2).sum() for output in outputs) + sum(x.sum() for x in state)


def compiled(cell, traces):
    """One program of the values and of the gradients of every cell of a space."""

    def value(tokens, weights, state, words):
        def step(weights, state, x):
            return cell.step(tokens, weights[1], state, x @ weights[0])

        return read(step, weights, state, words), total(step, weights, state, words)

    def both(tokens, *arguments):
        traces.append(tokens)
        gradient = jax.grad(lambda *arguments: value(tokens, *arguments)[1], (0, 1, 2))
        return value(tokens, *arguments)[0], gradient(*arguments)

    return jax.jit(both)


@pytest.mark.parametrize("name", CELLS)
def test_one_program_is_every_cell_written_out_with_its_gradients(name):
    cell, written_out = CELLS[name], WRITTEN_OUT[name]
    traces = []
    program = compiled(cell, traces)
    for seed in range(5):
        tokens = np.asarray(random_architecture(cell.space, jax.random.key(seed)))
        arguments = draw(cell, seed)
        values, gradients = program(tokens, *arguments)
        plain = tokens.tolist()
        expected = read(partial(written_out, np, plain), *jax.tree.map(np.asarray, arguments))
        for got, value in zip(jax.tree.leaves(values), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(got, value, rtol=1e-9, atol=1e-12)
        one = jax.grad(partial(total, partial(written_out, jnp, plain)), (0, 1, 2))
        expected = one(*arguments)
        for got, value in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(got, value, rtol=1e-8, atol=1e-10)
    assert len(traces) == 1


def test_the_cell_of_the_papers_figure_is_what_its_caption_says():
    cell = tree(2)
    words = [*FIGURE, "memory from node 2", "memory into node 1"]
    names = cell.space.names or ()
    tokens = [options.index(word) for options, word in zip(names, words, strict=True)]
    weights, (h, c), (x, *_) = draw(cell, 0)
    (w1, w3), (w2, w4) = (np.split(matrix, 2, axis=1) for matrix in weights)
    first = np.maximum(np.tanh(x @ w1 + h @ w2) + c, 0)
    product = (x @ w3) * (h @ w4)
    expected = 1 / (1 + np.exp(-first * np.maximum(product, 0)))
    (output, memory), _ = cell.step(jnp.array(tokens), weights[1], (h, c), x @ weights[0])
    np.testing.assert_allclose(output, expected, rtol=1e-12)
    np.testing.assert_allclose(memory, product, rtol=1e-12)
    assert cell.space.words(np.array(tokens)) == tuple(words)


def test_gradients_are_finite_where_a_function_that_is_not_chosen_overflows():
    for number, (name, function) in enumerate(functions(jnp).items()):
        x = jnp.array([-1e200, -1.0, 2.0, 1e200])
        got = jax.grad(lambda x, n=number: activate(jnp.array(n), x).sum())(x)
        inside = jax.grad(lambda x, f=function: f(x).sum())(x[1:3])
        np.testing.assert_allclose(got[1:3], inside, rtol=1e-12)
        assert np.isfinite(got).all(), name
    cell = CELLS["tree"]
    zeros = jnp.zeros(cell.space.length, int)  # sums everywhere
    weights, state, words = draw(cell, 0)
    huge = tuple(1e200 * vector for vector in state)  # whose products overflow

    def output(matrix, state):
        return cell.step(zeros.at[1:-2:2].set(3), matrix, state, words[0] @ weights[0])[1].sum()

    gradients = jax.jit(jax.grad(output, (0, 1)))(jnp.asarray(weights[1]), huge)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("name", CELLS)
def test_a_model_reads_chunks_as_it_reads_the_whole_and_looks_at_no_later_word(name):
    cell = CELLS[name]
    model = RecurrentModel(cell, jnp.zeros(cell.space.length, int), 11, WIDTH)
    words = jnp.array([3, 1, 10, 0, 5, 5])
    params = model.init(jax.random.key(0), words, model.start())
    whole, end = model.apply(params, words, model.start())
    first, carry = model.apply(params, words[:3], model.start())
    second, last = model.apply(params, words[3:], carry)
    np.testing.assert_allclose(jnp.concatenate([first, second]), whole, rtol=1e-10)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-10), last, end)
    other, _ = model.apply(params, words.at[3].set(7), model.start())
    assert (other[:3] == whole[:3]).all() and (other[3] != whole[3]).any()


def test_cells_and_words_outside_are_refused_or_not_a_number():
    cell = CELLS["chain"]
    model = partial(RecurrentModel, cell, vocabulary=11, width=WIDTH)
    tokens, words = jnp.zeros(cell.space.length, int), jnp.array([3, 1])
    params = model(tokens).init(jax.random.key(0), words, model(tokens).start())

    def logits(tokens, words):
        return model(tokens).apply(params, words, model(tokens).start())[0]

    assert np.isfinite(jax.jit(logits)(tokens, words)).all()
    assert np.isnan(jax.jit(logits)(tokens.at[0].set(4), words)).all()
    assert np.isnan(jax.jit(logits)(tokens, words.at[1].set(11))[1]).all()
    with pytest.raises(ValueError, match="each below its limit"):
        logits(tokens.at[1].set(1), words)
    with pytest.raises(ValueError, match="below 11; got tokens from 3 to 11"):
        logits(tokens, words.at[1].set(11))
    with pytest.raises(ValueError, match="leaves must be a power of two; got 6: 4 would work"):
        tree(6)
    with pytest.raises(ValueError, match="nodes"):
        chain(0)


def test_the_lstm_is_that_of_flax_with_a_forget_bias_of_one_and_no_other():
    keys = jax.random.split(jax.random.key(4), 5)
    inputs, weights = (jax.random.normal(k, (WIDTH, 4 * WIDTH)) for k in keys[:2])
    x, s, memory = (jax.random.normal(k, (WIDTH,)) for k in keys[2:])
    gates = "i", "f", "g", "o"
    parts, params = zip(gates, jnp.split(inputs, 4, 1), jnp.split(weights, 4, 1), strict=True), {}
    for gate, of_input, of_output in parts:
        params[f"i{gate}"] = {"kernel": of_input}
        params[f"h{gate}"] = {"kernel": of_output, "bias": jnp.full(WIDTH, float(gate == "f"))}
    cell = nn.OptimizedLSTMCell(WIDTH, param_dtype=jnp.float64)
    (expected, output), _ = cell.apply({"params": params}, (memory, s), x)
    state, s = lstm().step(jnp.zeros(1, int), weights, (s, memory), x @ inputs)
    np.testing.assert_allclose([*state, s], [output, expected, output], rtol=1e-10)


def test_layers_read_the_outputs_of_the_layer_below():
    cell = CELLS["tree"]
    tokens = random_architecture(cell.space, jax.random.key(5))
    two = RecurrentModel(cell, tokens, 11, WIDTH, layers=2)
    words = jnp.array([3, 1, 10, 0])
    params: Any = two.init(jax.random.key(0), words, two.start())
    applied: Any = two.apply(params, words, two.start())
    logits, after = applied
    weights = params["params"]
    x, expected = WIDTH**0.5 * weights["words"]["embedding"][words], []
    for layer in range(2):
        state, outputs = (jnp.zeros(WIDTH),) * 2, []
        for row in x @ weights["inputs"][layer]:
            state, output = cell.step(tokens, weights["weights"][layer], state, row)
            outputs.append(output)
        x, expected = jnp.stack(outputs), [*expected, *state]
    head = x @ weights["words"]["embedding"].T + weights["bias"]
    np.testing.assert_allclose(logits, head, rtol=1e-10)
    np.testing.assert_allclose(jnp.stack(after), jnp.stack(expected), rtol=1e-10)


def test_dropout_zeroes_some_outputs_and_scales_the_others_and_is_gone_in_a_clone():
    cell = CELLS["chain"]
    model = RecurrentModel(cell, jnp.zeros(cell.space.length, int), 11, WIDTH, dropout=0.25)
    words, ones = jnp.array([3, 1]), (jnp.ones(WIDTH),)
    params: Any = model.clone(dropout=0.0).init(jax.random.key(0), words, ones)
    cleared = {name: jnp.zeros_like(params["params"][name]) for name in ("inputs", "weights")}
    params = {"params": params["params"] | cleared}  # so the cell halves its state at each node

    def outputs(model, seed):
        rngs = {"dropout": jax.random.key(seed)}
        logits, _ = model.apply(params, words, ones, rngs=rngs)
        return jnp.linalg.lstsq(params["params"]["words"]["embedding"], logits.T)[0].T

    whole = outputs(model.clone(dropout=0.0), 0)
    assert (whole > 1e-3).all()
    ratios = np.stack([outputs(model, seed) / whole for seed in range(40)]).round(9)
    assert set(np.unique(ratios)) == {0.0, round(1 / 0.75, 9)}
    assert 0.6 < (ratios > 0).mean() < 0.9
