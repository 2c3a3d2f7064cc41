"""A masked child network equals the small network of its tokens, in value and gradient."""

from dataclasses import replace
from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from problems import one_task, quick

import maml
from benchmarks.few_shot import network
from benchmarks.few_shot_experiment import algorithm, experiment
from benchmarks.omniglot import PRESETS
from maml.sampling import Query
from tasks.architectures import cells as cell_space
from tasks.architectures import macro as macro_space
from tasks.architectures.cells import CellNet, Cells
from tasks.architectures.macro import Macro
from tasks.architectures.macro_net import MacroNet
from tasks.architectures.operations import OPERATIONS
from tasks.architectures.stack import Stack

KEY = jax.random.key(0)
MACRO = Macro(layers=3, side=9, filters=(1, 2, 3))
CELLS = Cells(blocks=2, features=2)


def conv(x, kernel, strides=(1, 1)):
    """Of lax, centred on every stride-th pixel."""
    padding = [(side // 2, side // 2) for side in kernel.shape[:2]]
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=layout)


def normed(x, bias, rows=None):
    seen = x[:rows]
    return (x - seen.mean((0, 1, 2))) / jnp.sqrt(seen.var((0, 1, 2)) + 1e-3) + bias


def grid(*axes):
    return np.ix_(*(np.asarray(axis) for axis in axes))


def flat(x):
    n, height, width, _ = x.shape
    return x.reshape(n, -1) / np.sqrt(height * width)


def draw_tokens(space, rng):
    """Tokens by rejection, one position after the other."""
    tokens = np.zeros(len(space.choices), int)
    for position, options in enumerate(space.choices):
        allowed = np.ones(options, bool)
        if space.allowed is not None:
            allowed = np.asarray(space.allowed(jnp.asarray(tokens), position))[:options]
        tokens[position] = rng.choice(np.flatnonzero(allowed))
    return tokens


# The space of 2016, written out.


def macro_layers(tokens):
    """(earlier layers that are read, (height, width), strides, filters) of each layer."""
    tokens = list(tokens)
    layers = []
    for number in range(MACRO.layers):
        skips, tokens = tokens[:number], tokens[number:]
        (height, width, down, right, filters), tokens = tokens[:5], tokens[5:]
        read = [layer for layer, skip in enumerate(skips) if skip]
        shape = MACRO.sizes[height], MACRO.sizes[width]
        strides = MACRO.strides[down], MACRO.strides[right]
        layers.append((read, shape, strides, MACRO.filters[filters]))
    assert not tokens
    return layers


def macro_forward(tokens, p, x, rows=None):
    made, used = [], set()
    for number, (read, _, strides, _) in enumerate(macro_layers(tokens)):
        seen = [made[layer] for layer in read] or [x]
        used |= set(read)
        height, width = (max(image.shape[axis] for image in seen) for axis in (1, 2))
        pads = [((0, 0), (0, height - i.shape[1]), (0, width - i.shape[2]), (0, 0)) for i in seen]
        joined = jnp.concatenate([jnp.pad(i, pad) for i, pad in zip(seen, pads, strict=True)], -1)
        product = conv(joined, p[f"conv{number}"], strides)
        made.append(jax.nn.relu(normed(product, p[f"norm{number}"]["bias"], rows)))
    loose = [flat(made[layer]) for layer in range(len(made)) if layer not in used]
    return jnp.concatenate(loose, -1) @ p["head"]["kernel"] + p["head"]["bias"]


def macro_survivors(tokens, params):
    """Where in each masked array the parameters of the small network are."""
    largest, most = max(MACRO.sizes), max(MACRO.filters)
    layers, where, used, left = macro_layers(tokens), {}, set(), []
    for number, (read, shape, strides, filters) in enumerate(layers):
        seen = [left[layer] for layer in read] or [(MACRO.side, MACRO.side)]
        left.append(
            [-(-max(s) // by) for s, by in zip(zip(*seen, strict=True), strides, strict=True)]
        )
        sides = [range((largest - side) // 2, (largest + side) // 2) for side in shape]
        inputs = [1 + layer * most + c for layer in read for c in range(layers[layer][3])] or [0]
        where[f"conv{number}"] = grid(*sides, inputs, range(filters))
        where[f"norm{number}"] = {"bias": np.arange(filters)}
        used |= set(read)
    loose = [n for n in range(len(layers)) if n not in used]
    places = np.arange(len(layers) * MACRO.side**2 * most)
    places = places.reshape(len(layers), MACRO.side, MACRO.side, most)
    rows = [places[n, : left[n][0], : left[n][1], : layers[n][3]].ravel() for n in loose]
    rows = np.concatenate(rows)
    ways = params["head"]["bias"].shape[0]
    where["head"] = {"kernel": grid(rows, range(ways)), "bias": np.arange(ways)}
    return where


# The space of cells, written out.


def cells_forward(tokens, p, x, rows=None):
    def layer(p, x, stride=1):
        return normed(conv(x, p["kernel"], (stride, stride)), p["norm"]["bias"], rows)

    def neighbours(x, stride, edge):
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=edge)
        height, width = x.shape[1] - 2, x.shape[2] - 2
        return jnp.stack(
            [x[:, i : i + height : stride, j : j + width : stride] for i, j in np.ndindex(3, 3)]
        )

    def operate(p, x, name, stride):
        if name.startswith("conv"):
            return layer(p, jax.nn.relu(x), stride)
        if name == "average3":
            counted = neighbours(jnp.ones_like(x), stride, 0.0).sum(axis=0)
            return neighbours(x, stride, 0.0).sum(axis=0) / counted
        if name == "maximum3":
            return reduce(lambda a, b: jnp.where(a > b, a, b), neighbours(x, stride, -jnp.inf))
        return x[:, ::stride, ::stride]

    older = newer = layer(p["stem"], x, CELLS.stride)
    normal, reduction = tokens.reshape(2, -1, 5).tolist()
    for name, blocks, stride in (("normal0_0", normal, 1), ("reduction0", reduction, 2)):
        own = p[name]
        states = []
        for side, seen in (("older", older), ("newer", newer)):
            states.append(layer(own[side], jax.nn.relu(seen)) if side in own else None)
        read = set()
        for number, (one, two, first, second, combiner) in enumerate(blocks):
            a, b = (
                operate(
                    own.get(f"block{number}_{side}"),
                    states[state],
                    OPERATIONS[operation],
                    stride if state < 2 else 1,
                )
                for side, (state, operation) in enumerate(((one, first), (two, second)))
            )
            both = jax.nn.relu(jnp.concatenate([a, b], -1))
            states.append(layer(own[f"block{number}"], both) if combiner else a + b)
            read |= {one, two}
        loose = [states[n] for n in range(2, len(states)) if n not in read]
        older, newer = newer, jnp.concatenate(loose, -1)
    return flat(jax.nn.relu(newer)) @ p["head"]["kernel"] + p["head"]["bias"]


def cells_survivors(tokens, params):
    normal, reduction = tokens.reshape(2, -1, 5)
    where, width = {"stem": jax.tree.map(whole, params["stem"])}, CELLS.features
    previous = [np.arange(width)] * 2  # the live channels of the outputs of the cells before
    for name, blocks, features in (
        ("normal0_0", normal, width),
        ("reduction0", reduction, 2 * width),
    ):
        own, result = params[name], {}
        read = set(blocks[:, :2].ravel().tolist())
        for state, side in enumerate(("older", "newer")):
            if state in read:
                kernel = grid([0], [0], previous[state], range(features))
                result[side] = {"kernel": kernel, "norm": {"bias": np.arange(features)}}
        for number, block in enumerate(blocks):
            for side in range(2):
                operation = OPERATIONS[block[2 + side]]
                if operation.startswith("conv"):
                    size = int(operation[4:])
                    line = range((5 - size) // 2, (5 + size) // 2)
                    kernel = (side, *grid(line, line, range(features), range(features)))
                    bias = (side, np.arange(features))
                    result[f"block{number}_{side}"] = {"kernel": kernel, "norm": {"bias": bias}}
            if block[4]:
                result[f"block{number}"] = jax.tree.map(whole, own[f"block{number}"])
        loose = [n for n in range(len(blocks)) if n + 2 not in read]
        channels = np.array([n * features + c for n in loose for c in range(features)])
        previous = [previous[1], channels]
        where[name] = result
    head = params["head"]
    places = np.arange(len(head["kernel"])).reshape(-1, len(normal) * 2 * width)
    where["head"] = {
        "kernel": grid(places[:, previous[1]].ravel(), range(head["kernel"].shape[1])),
        "bias": whole(head["bias"]),
    }
    return where


def whole(leaf):
    return grid(*map(range, leaf.shape))


def masked_leaf(params, path):
    """The masked array in which the parameters of this path are: both sides of a block are one."""
    keys = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
    for key in keys:
        name, _, side = key.rpartition("_")
        pair = name.startswith("block") and side in "01"
        params = params[f"{name}_sides"]["conv"] if pair else params[key]
    return params


def is_where(x):
    return not isinstance(x, dict)


def small(params, where):
    return jax.tree.map_with_path(
        lambda path, index: masked_leaf(params, path)[index], where, is_leaf=is_where
    )


def masked(params, where, small):
    """Zeros like the masked parameters, but the small ones where they belong."""
    full = jax.tree.map(lambda leaf: np.zeros(leaf.shape), params)
    places = jax.tree.leaves_with_path(where, is_leaf=is_where)
    for (path, index), leaf in zip(places, jax.tree.leaves(small), strict=True):
        masked_leaf(full, path)[index] = leaf
    return full


SPACES = {
    "macro": (
        macro_space.space(MACRO),
        partial(MacroNet, MACRO, ways=3),
        macro_forward,
        macro_survivors,
        9,
    ),
    "cells": (
        cell_space.space(CELLS),
        partial(CellNet, CELLS, ways=3),
        cells_forward,
        cells_survivors,
        7,
    ),
}


def wave(logits):
    return jnp.sum(jnp.sin(logits) * jnp.arange(1.0, 1 + logits.size).reshape(logits.shape))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("rows", [None, 4])
@pytest.mark.parametrize("name", SPACES)
def test_a_masked_child_is_the_small_network_in_value_and_gradient_and_masked_gradients_are_zero(
    name, rows
):
    """For `rows` the batch-norm statistics are those of the first images alone."""
    space, child, forward, survivors, side = SPACES[name]
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(6, side, side, 1)))

    traced = []

    def value(params, tokens):
        traced.append(tokens)
        logits = child(tokens).apply({"params": params}, x, reference=rows)
        return wave(logits), logits

    shapes = jax.eval_shape(child(jnp.zeros(len(space.choices), int)).init, KEY, x)["params"]
    program = quick(jax.value_and_grad(value, has_aux=True))
    for _ in range(4 if rows is None else 1):
        tokens = draw_tokens(space, rng)
        params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), shapes)
        where = survivors(tokens, params)

        def wanted(p, tokens=tokens):
            logits = forward(tokens, p, x, rows)
            return wave(logits), logits

        (_, expected), gradient = quick(jax.value_and_grad(wanted, has_aux=True))(
            small(params, where)
        )
        (_, logits), grads = program(params, jnp.asarray(tokens))
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-11)
        everywhere = masked(params, where, gradient)
        kept = masked(params, where, jax.tree.map(np.ones_like, gradient))
        for got, full, there in zip(*map(jax.tree.leaves, (grads, everywhere, kept)), strict=True):
            np.testing.assert_allclose(got, full, rtol=0, atol=1e-11 * max(1, np.abs(full).max()))
            assert (np.asarray(got)[there == 0] == 0).all()
    assert len(traced) == 1  # one program for every architecture


@pytest.mark.parametrize("name", SPACES)
def test_the_features_of_a_child_are_what_its_head_sees(name):
    space, child, _, _, side = SPACES[name]
    x = jax.random.normal(KEY, (3, side, side, 1))
    model = child(jnp.asarray(draw_tokens(space, np.random.default_rng(0))))
    shapes = jax.eval_shape(model.init, KEY, x)
    params = jax.tree.map(lambda leaf: jax.random.normal(KEY, leaf.shape), shapes)
    logits, seen = quick(lambda p: [model.apply(p, x, features=f) for f in (False, True)])(params)
    head = params["params"]["head"]
    np.testing.assert_allclose(seen @ head["kernel"] + head["bias"], logits, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("x64")
def test_a_stack_of_one_is_the_child_and_has_its_parameters_and_no_others():
    space, _, forward, survivors, side = SPACES["cells"]
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(3, side, side, 1)))
    shapes = jax.eval_shape(CellNet(CELLS, jnp.zeros(20, int), 3).init, KEY, x)["params"]
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), shapes)
    for _ in range(2):
        tokens = draw_tokens(space, rng)
        model = Stack(CELLS, tuple(tokens.tolist()), 3)
        own = small(params, survivors(tokens, params))
        expected = jax.eval_shape(model.init, KEY, x)["params"]
        assert jax.tree.map(jnp.shape, own) == jax.tree.map(lambda leaf: leaf.shape, expected)
        got = quick(model.apply)({"params": own}, x)
        np.testing.assert_allclose(got, forward(tokens, own, x), rtol=0, atol=1e-11)


def test_what_would_shrink_the_image_to_nothing_is_not_allowed_and_everything_else_is():
    macro = Macro(layers=4, side=8, least=2)
    space = macro_space.space(macro)
    rng, seen = np.random.default_rng(0), set()
    allowed = quick(macro_space.Allowed(macro))
    tokens = np.zeros(len(space.choices), int)
    for _ in range(60):
        position = 0
        sizes = []
        for layer in range(macro.layers):
            skips = rng.integers(0, 2, layer)
            read = [sizes[n] for n in range(layer) if skips[n]] or [(8, 8)]
            tokens[position : position + layer] = skips
            position += layer + 2
            left = []
            for axis in range(2):
                size = max(image[axis] for image in read)
                result = np.asarray(allowed(jnp.asarray(tokens), position))
                assert result.tolist() == [True, -(-size // 2) >= 2, False]
                seen.add(bool(result[1]))
                tokens[position] = rng.choice(np.flatnonzero(result))
                left.append(-(-size // macro.strides[tokens[position]]))
                position += 1
            sizes.append(tuple(left))
            position += 1
    assert seen == {True, False}
    options = np.arange(3) < np.array(space.choices)[:, None]
    strides = [n for n, count in enumerate(space.choices) if count == 2]
    for position in set(range(len(space.choices))) - set(strides):
        assert allowed(jnp.asarray(tokens), position).tolist() == options[position].tolist()


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Macro(layers=0), "layers must be an integer >= 1; got 0"),
        (lambda: Macro(sizes=(2,)), "odd"),
        (lambda: Macro(strides=(2,)), "must include 1"),
        (lambda: Macro(filters=()), "filter"),
        (lambda: Cells(blocks=0), "blocks must be an integer >= 1; got 0"),
    ],
)
def test_an_empty_space_is_refused_with_a_message(build, words):
    with pytest.raises(ValueError, match=words):
        build()


def test_a_stack_of_tokens_of_another_space_is_refused():
    with pytest.raises(ValueError, match="tokens"):
        Stack(CELLS, (0,) * 19, 3).init(KEY, jnp.zeros((2, 7, 7, 1)))
    with pytest.raises(ValueError, match="tokens"):
        Stack(CELLS, (2,) + (0,) * 19, 3).init(KEY, jnp.zeros((2, 7, 7, 1)))


@pytest.mark.parametrize("chosen", ["protonet", pytest.param("fomaml", marks=pytest.mark.slow)])
def test_cells_that_were_found_are_meta_trained_as_every_other_model_is(chosen):
    """In the benchmark, on larger images, each copy with weights of its own."""
    tokens = "0,1,2,5,1,1,0,4,1,0"
    options = {"model": "cells", "tokens": tokens, "features": 2, "batch_norm": "support"}
    config = replace(PRESETS["maml-paper-5-way-1-shot"], algorithm=chosen, **options)
    images, labels = jax.random.uniform(KEY, (5, 28, 28, 1)), jnp.arange(5)
    twice = network(replace(config, copies=2), ways=5)
    copies = {
        name for name in jax.eval_shape(twice.init, KEY, images)["params"] if "normal" in name
    }
    assert copies == {"normal0_0", "normal0_1", "normal1_0", "normal1_1"}
    model = network(config, ways=5)
    params = quick(model.init)(KEY, images)
    learner = algorithm(config, model, params)
    episode = maml.Episode((images, labels), (Query(images[::-1], images), labels[::-1]))
    grads, metrics = one_task(learner)(params, episode, KEY)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert metrics["query"]["accuracy"] == 1.0  # the queries are the support, in another order
    with pytest.raises(ValueError, match="tokens is used only with model cells"):
        experiment(replace(config, model="conv4"))
    for broken in ("", "0,1", "0,1,x"):
        with pytest.raises(ValueError, match=r"tokens|blocks"):
            network(replace(config, tokens=broken), ways=5).init(KEY, images)
