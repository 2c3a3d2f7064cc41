"""Dynamic evaluation is the rule of its paper, written out step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import KEY

import maml
from tasks.dynamic_evaluation import dynamic_evaluation, mean_squares

RATE, DECAY, EPS = 0.1, 0.5, 1e-3
THETA = {"w": np.array([1.0, -2.0]), "b": np.array(0.5)}
pytestmark = pytest.mark.usefixtures("x64")


def loss(params, batch, key):
    x, h = batch
    h = jnp.tanh(params["w"] * (h + x))
    return jnp.sum(jnp.square(h - params["b"])), (h, {})


def start(params):
    return jnp.zeros(2)


def gradients(params, x, h):
    (_, (h, _)), grads = jax.value_and_grad(loss, has_aux=True)(params, (x, h), KEY)
    return h, grads


def test_mean_squares_are_those_of_the_gradients_of_each_chunk():
    texts = np.random.default_rng(0).normal(size=(3, 4))
    got = jax.jit(lambda theta: mean_squares(loss, start, theta, maml.Episode(texts, None), KEY))(
        THETA
    )
    squares = []
    for text in texts:
        h = start(THETA)
        for x in text:
            h, grads = gradients(THETA, x, h)
            squares.append(jax.tree.map(np.square, grads))
    expected = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *squares)
    jax.tree.map(np.testing.assert_allclose, got, expected)
    batches = maml.Episode(maml.BatchPerStep(texts), None)
    got = jax.jit(lambda theta: mean_squares(loss, start, theta, batches, KEY))(THETA)
    jax.tree.map(np.testing.assert_allclose, got, expected)


def test_reading_takes_the_steps_of_the_rule():
    """One entry has a return that is cut at 1."""
    squares = {"w": np.array([4.0, 0.01]), "b": np.array(0.25)}
    text = np.random.default_rng(1).normal(size=5)
    learner = dynamic_evaluation(loss, squares, rate=RATE, decay=DECAY, eps=EPS)
    got, _ = jax.jit(lambda theta: maml.read(learner(theta), start, text, KEY))(THETA)
    roots = jax.tree.map(np.sqrt, squares)
    mean = np.mean([2.0, 0.1, 0.5])
    phi, h = THETA, start(THETA)
    for x in text:
        h, grads = gradients(phi, x, h)
        phi = {
            name: phi[name]
            - RATE * grads[name] / (roots[name] + EPS)
            + np.minimum(1, DECAY * roots[name] / mean) * (THETA[name] - phi[name])
            for name in phi
        }
    assert DECAY * roots["w"][0] / mean > 1 > DECAY * roots["b"] / mean
    jax.tree.map(np.testing.assert_allclose, got, phi)


def test_arguments_out_of_range_are_refused():
    for options, message in {
        ("rate", -1.0): "rate must be a finite number >= 0; got -1.0",
        ("decay", -1.0): "decay must be a finite number >= 0",
        ("eps", 0.0): "eps must be a finite number > 0",
    }.items():
        with pytest.raises(ValueError, match=message):
            dynamic_evaluation(loss, THETA, **{"rate": 0.1, "decay": 0.1} | dict([options]))
    with pytest.raises(ValueError, match="tree of mean squares has the structure"):
        dynamic_evaluation(loss, {"w": THETA["w"]}, rate=0.1, decay=0.1)(THETA)
