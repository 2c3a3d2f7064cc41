"""Losses with weights, invalid labels and low precision, and the arguments that they refuse."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from problems import quick

import maml
from maml import rows

KEY = jax.random.key(0)
NAN, INF = jnp.nan, jnp.inf
RNG = np.random.default_rng(0)
X, W, Y = RNG.normal(size=(6, 3)), RNG.normal(size=(3, 4)), RNG.normal(size=(6, 4))
LABELS, WEIGHTS = np.array([0, 1, 2, 1, 0, 3]), np.array([2, 1, 0, 1, 0, 3])
pytestmark = pytest.mark.usefixtures("x64")


def padded(values, bad):
    """The values with something else in the two rows of weight zero."""
    return np.where((WEIGHTS == 0).reshape(-1, *[1] * (values.ndim - 1)), bad, values)


def linear(w, x):
    return x @ w


def unit(w, x):
    """Of a row of zeros this is NaN."""
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True) @ w


LOSSES = {
    "classification": (maml.classification, LABELS, -1),
    "regression": (maml.regression, Y, NAN),
}


def close(got, expected, rtol=1e-12):
    got, expected = ravel_pytree(got)[0], ravel_pytree(expected)[0]
    np.testing.assert_allclose(got, expected, rtol, atol=1e-13)


def differentiated(loss, w, batch):
    return quick(jax.value_and_grad(loss, has_aux=True))(w, batch, KEY)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("apply", [linear, unit])
def test_a_weight_is_a_number_of_rows_and_a_row_of_weight_zero_may_hold_anything(name, apply):
    build, targets, garbage = LOSSES[name]
    counts = np.repeat(np.arange(6), WEIGHTS)
    expected = differentiated(build(apply), W, (X[counts], targets[counts]))
    program = quick(jax.value_and_grad(build(apply), has_aux=True))
    for bad in (NAN, INF, 0.0):
        batch = padded(X, bad), padded(targets, garbage)
        close(program(W, (*batch, 1.0 * WEIGHTS), KEY), expected)
        close(program(W, (*batch, 0.25 * WEIGHTS), KEY), expected)


@pytest.mark.parametrize("name", LOSSES)
def test_predictions_of_rows_that_do_not_count_may_be_anything(name):
    """Also where they do not come from the inputs."""
    build, targets, _ = LOSSES[name]
    some, loss = WEIGHTS > 0, build(lambda table, _: table)
    gradient = quick(jax.grad(lambda table: loss(table, (None, targets, some), KEY)[0]))
    plain, *others = (gradient(padded(X @ W, bad)) for bad in (0.0, NAN, INF))
    assert jnp.isfinite(plain).all() and (plain[some] != 0).all()
    assert all((grad == plain).all() for grad in others)


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_of_weight_zero_has_gradient_zero_and_metrics_nan(name):
    build, targets, _ = LOSSES[name]
    batch = np.full_like(X, NAN), targets, np.zeros(6)
    (value, metrics), grad = differentiated(build(unit), W, batch)
    assert value == 0 and (grad == 0).all()
    assert all(jnp.isnan(metric) for metric in metrics.values())


def test_a_label_that_is_no_class_is_refused_or_makes_value_and_derivative_nan():
    logits = np.array([[2.0, 0, 0], [0, 2, 0], [0, 0, 2], [0, 0, 2]])
    loss = maml.classification(lambda w, x: w * x)
    program = quick(jax.value_and_grad(loss, has_aux=True))
    expected = differentiated(loss, 1.0, (logits[:2], np.array([0, 1])))
    for wrong in (-1, 3, 100):
        labels = np.array([0, 1, wrong, wrong])
        with pytest.raises(ValueError, match=rf"labels must be in 0 .. 2; got {wrong}"):
            loss(1.0, (logits, labels), KEY)
        (value, metrics), grad = program(1.0, (logits, labels), KEY)
        assert np.isnan([value, grad, *metrics.values()]).all()
        close(program(1.0, (logits, labels, np.array([1, 1, 0, 0])), KEY), expected)
    many = loss(1.0, (jnp.ones((2, 300)), jnp.array([1, 200], jnp.uint8)), KEY)[0]
    close(many, np.log(300.0))


def test_logits_that_are_not_a_number_are_a_wrong_answer():
    logits = np.array([[NAN, NAN], [0.0, 1.0]])
    loss = quick(maml.classification(lambda w, x: x))
    _, metrics = loss(None, (logits, np.array([0, 1])), KEY)
    assert metrics["accuracy"] == 0.5 and jnp.isnan(metrics["cross_entropy"])


def test_a_class_that_cannot_be_answered_makes_no_nan():
    logits = np.array([[1.0, -INF, 0.5], [0.0, -INF, 3.0]])
    loss = maml.classification(lambda w, x: x + w)

    def objective(labels, w):
        return loss(w, (logits, labels), KEY)[0]

    derivatives = quick(lambda *at: (jax.grad(objective, 1)(*at), jax.hessian(objective, 1)(*at)))
    for labels, expected in ((np.array([0, 2]), 0.0), (np.array([1, 2]), INF)):
        value, metrics = quick(loss)(np.zeros(3), (logits, labels), KEY)
        assert jnp.isfinite(value) if expected == 0 else value == expected
        assert metrics["accuracy"] == (1 if expected == 0 else 0.5)
        assert np.isfinite(ravel_pytree(derivatives(labels, np.zeros(3)))[0]).all()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_losses_of_low_precision_are_means_in_float32(dtype):
    """The right value is that of the same numbers in float64; 300^2 is no float16."""
    x, y = (np.asarray(RNG.normal(size=(500, 5)), dtype) for _ in range(2))
    labels = np.arange(500) % 5
    for build, x, y in (  # noqa: B020
        (maml.classification, x, labels),
        (maml.regression, dtype(300) * x, dtype(300) * y),
    ):
        loss = quick(build(lambda w, x: x))
        got, expected = loss(None, (x, y), KEY)[0], loss(None, (x.astype(float), y), KEY)[0]
        assert got.dtype == jnp.float32
        close(got, expected, rtol=1e-6)
    loss = maml.proximal(lambda w, *_: (jnp.zeros(()), {}), np.ones(3, dtype), 2.0)
    close(loss(np.full(3, 300, dtype), None, KEY)[0], 3 * 299.0**2, rtol=1e-6)
    values = np.arange(1000).astype(dtype)
    got, expected = (maml.mean_ci95(jnp.asarray(v)) for v in (values, values.astype(float)))
    close(got, expected, rtol=1e-6)


def test_a_loss_has_the_floating_type_of_its_inputs():
    for dtype in (jnp.float32, jnp.float64):
        x, w, y = X.astype(dtype), W.astype(dtype), Y.astype(dtype)
        for build, targets in ((maml.regression, y), (maml.classification, LABELS)):
            for weights in ((), (WEIGHTS,), (WEIGHTS > 0,), (1.0 * WEIGHTS,)):
                out = jax.eval_shape(build(linear), w, (x, targets, *weights), KEY)
                assert out[0].dtype == dtype
    loss = maml.regression(lambda w, x: w * x)
    batch = jnp.ones(3), jnp.array([2, 0, 255], jnp.uint8)
    close(loss(1.0, batch, KEY)[0], (1 + 1 + 254**2) / 3)


def test_proximal_pulls_complex_parameters_and_leaves_counters_alone():
    center = {"z": jnp.array([1 + 1j]), "count": jnp.int32(7)}
    loss = maml.proximal(lambda w, batch, key: (jnp.zeros(()), {}), center, 3.0)
    params = {"z": jnp.array([3 - 1j]), "count": jnp.int32(9)}
    pulled = quick(jax.value_and_grad(lambda z: loss(params | {"z": z}, None, KEY)[0]))
    value, grads = pulled(params["z"])
    close(value, 1.5 * 8)
    close(grads.conj(), 3.0 * (params["z"] - center["z"]))


@pytest.mark.parametrize("build", [maml.regression, maml.classification])
def test_invalid_batches_are_refused(build, unchecked):
    loss, y = build(linear), LABELS if build is maml.classification else Y
    negative = np.where(np.arange(6) == 3, -1, WEIGHTS)
    for batch, error in (
        ((X, y, WEIGHTS, WEIGHTS), "or .inputs, targets, weights.; got 4 members"),
        (X, "got ndarray"),
        ((X, y[0] if y.ndim == 1 else y[0, 0]), "are mistaken for tasks"),
        ((X[:0], y[:0]), "at least one row"),
        ((X[:5], y), r"as many rows as targets; got the shapes \(5, .*are mistaken for tasks"),
        ((X, [0, 1]), "targets must be an array; got list"),
        ((X, y, WEIGHTS[:4]), r"weights must be \[6\], one a row; got \[4\]"),
        ((X, y, WEIGHTS[:, None]), r"got \[6, 1\]"),
        ((X, y, negative), "finite and >= 0; got -1 at row 3"),
        ((X, y, np.full(6, NAN)), "finite and >= 0; got nan at row 0"),
        ((X, y, 1j * WEIGHTS), "bools or real numbers"),
        ((X, y, 1.0), "bools or real numbers; got 1.0"),
    ):
        with pytest.raises(ValueError, match=error):
            loss(W, batch, KEY)
    traced = quick(loss)(W, (X, y, negative), KEY)[0]
    assert jnp.isnan(traced)
    for apply in (None, "mse", lambda w: w):
        with pytest.raises(ValueError, match=r"apply must be a function of \(params, inputs\)"):
            build(apply)


def test_invalid_labels_are_refused():
    loss = maml.classification(linear)
    for w, labels, error in (
        (W, LABELS.astype(float), r"labels must be integers \[6\], in 0 .. 3; got float64\[6\]"),
        (W, LABELS * NAN, "must be integers"),
        (W, np.eye(4)[LABELS], r"must be \[6\]; got float64\[6, 4\]: their jnp.argmax"),
        (W, LABELS[:, None], r"integers \[6\].*got int64\[6, 1\]"),
        (W[:, :1], LABELS * 0, r"at least 2 classes.*for outputs \[6, 1\]"),
        (W[:, 0], LABELS * 0, "at least 2 classes"),
    ):
        with pytest.raises(ValueError, match=error):
            loss(w, (X, labels), KEY)
    with pytest.raises(ValueError, match="logits must be floating-point"):
        loss(W.astype(int), (X.astype(int), LABELS), KEY)


def test_predictions_that_have_no_derivative_are_refused():
    loss = maml.regression(lambda w, x: x)
    with pytest.raises(ValueError, match="predictions must be floating-point; got uint8"):
        loss(None, (jnp.zeros(3, jnp.uint8), jnp.ones(3, jnp.uint8)), KEY)


def test_an_invalid_strength_or_centre_of_the_proximal_term_is_refused(unchecked):
    def loss(w, batch, key):
        return jnp.zeros(()), {}

    strengths: Any = (NAN, INF, -1.0, "1", True)
    for regularisation in strengths:
        with pytest.raises(ValueError, match="regularisation must be a finite number"):
            maml.proximal(loss, 1.0, regularisation)
    for center in (jnp.ones(()), jnp.ones((1, 3))):
        with pytest.raises(ValueError, match=r"the centre has the shape .* parameters have \(3,\)"):
            maml.proximal(loss, {"w": center}, 1.0)({"w": jnp.ones(3)}, None, KEY)
    with pytest.raises(ValueError, match="the centre has the structure"):
        maml.proximal(loss, {"v": 1.0}, 1.0)({"w": 1.0}, None, KEY)


def test_a_mean_over_no_tasks_is_refused(unchecked):
    for values in (jnp.zeros((0,)), jnp.zeros((0, 3)), jnp.zeros(())):
        with pytest.raises(ValueError, match="needs at least one"):
            maml.mean_ci95(values)


def test_a_model_that_takes_weights_is_told_of_them():
    """As one that normalises by a mean over its rows."""

    def centered(w, x, weights=None):
        return (x - rows.weighted_mean(x[:, 0], weights)) @ w

    kept, loss = WEIGHTS > 0, maml.regression(centered)
    got = differentiated(loss, W, (X, Y, kept))
    close(got, differentiated(loss, W, (X[kept], Y[kept])))
