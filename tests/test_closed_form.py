"""Prototypes and ridge heads: their solutions and the derivative through them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from problems import HEAD, KEY, central_differences, one_task, problem, quick

import maml
from maml.closed_form import prototypes, ridge
from maml.linear import solve
from tasks.batch_norm import flax_apply

pytestmark = pytest.mark.usefixtures("x64")


def features(params, x):
    return jnp.tanh(x @ params["body"])


def apply(params, x):
    return features(params, x) @ params["head"]["kernel"] + params["head"]["bias"]


@pytest.fixture
def model():
    """A layer of 6 features, a head of 3 outputs, and a task for it."""
    rng = np.random.default_rng(0)
    head = {"kernel": jnp.zeros((6, 3)), "bias": jnp.zeros(3)}
    params = {"body": jnp.asarray(rng.normal(size=(2, 6))), "head": head}
    support, query = jnp.asarray(rng.normal(size=(2, 5, 2)))
    labels = jnp.array([0, 1, 2, 1, 0])
    return params, maml.Episode((support, labels), (query, labels))


def head_of(params):
    return maml.mask_by_path(params, "head")


BUILD = {"protonet": maml.protonet, "r2d2": partial(maml.r2d2, regularisation=0.3, scale=4.0)}


def test_a_system_is_solved_and_its_derivative_is_that_of_the_inverse():
    rng = np.random.default_rng(0)
    root, b = rng.normal(size=(6, 6)), jnp.asarray(rng.normal(size=(6, 2)))
    a = jnp.asarray(root @ root.T + np.eye(6))
    assert jnp.allclose(solve(a, b), jnp.linalg.inv(a) @ b, rtol=1e-10)
    assert jnp.allclose(solve(a, b[:, 0]), jnp.linalg.inv(a) @ b[:, 0], rtol=1e-10)

    def through(solver, a, b):
        return jnp.sin(solver(a + a.T, b)).sum()  # symmetric wherever it is differentiated

    got = jax.grad(partial(through, solve), (0, 1))(a, b)
    expected = jax.grad(partial(through, lambda a, b: jnp.linalg.inv(a) @ b), (0, 1))(a, b)
    for one, other in zip(got, expected, strict=True):
        assert jnp.allclose(one, other, rtol=1e-8)


@pytest.mark.parametrize("count", [4, 9])
def test_ridge_is_the_minimiser_by_either_normal_equation(count):
    rng = np.random.default_rng(count)
    seen, targets = (
        jnp.asarray(rng.normal(size=(count, 6))),
        jnp.asarray(rng.normal(size=(count, 2))),
    )
    result = ridge(seen, targets, jnp.array(0.7))

    def objective(matrix):
        return jnp.sum((seen @ matrix - targets) ** 2) + 0.7 * jnp.sum(matrix**2)

    assert jnp.abs(jax.grad(objective)(result)).max() < 1e-12
    assert jnp.abs(jax.grad(objective)(result + 0.1)).max() > 0.1


@pytest.mark.parametrize("temperature", [1.0, 7.0])
def test_prototypes_are_nearest_class_means(temperature):
    rng = np.random.default_rng(0)
    seen, labels = jnp.asarray(rng.normal(size=(6, 4))), jnp.array([2, 0, 1, 1, 0, 2])
    matrix, bias = prototypes(seen, labels, 3, temperature=temperature)
    x = jnp.asarray(rng.normal(size=(5, 4)))
    centers = jnp.stack([seen[labels == k].mean(axis=0) for k in range(3)])
    distances = jnp.sum((x[:, None] - centers) ** 2, axis=-1)
    logits = x @ matrix + bias
    assert jnp.allclose(jax.nn.softmax(logits), jax.nn.softmax(-distances / temperature))


@pytest.mark.parametrize("name", BUILD)
def test_the_meta_gradient_goes_through_the_closed_form(model, name):
    """Against central differences of the closed form, written out with numpy's own solver."""
    params, episode = model
    loss = maml.classification(apply)
    chosen = BUILD[name](loss, features, head=head_of(params))
    meta = chosen.init(params)
    flat, unravel = ravel_pytree(meta)
    one_hot = jnp.eye(3)[episode.support[1]]

    def objective(flat):
        meta = unravel(flat)
        theta = meta.params if name == "r2d2" else meta
        seen, asked = (features(theta, part[0]) for part in episode)
        if name == "r2d2":
            gram = seen.T @ seen + jnp.exp(meta.log_regularisation) * jnp.eye(6)
            outputs = asked @ jnp.linalg.inv(gram) @ seen.T @ one_hot
            logits = jnp.exp(meta.log_scale) * outputs + meta.shift
        else:
            centers = one_hot.T @ seen / one_hot.sum(axis=0)[:, None]
            logits = -jnp.sum((asked[:, None] - centers) ** 2, axis=-1)
        chances = jax.nn.log_softmax(logits)[jnp.arange(5), episode.query[1]]
        return -chances.mean()

    expected = quick(partial(central_differences, objective))(flat)
    got, _ = one_task(chosen)(meta, episode, KEY)
    assert jnp.abs(expected).max() > 1e-2
    assert jnp.abs(ravel_pytree(got)[0] - expected).max() < 1e-8


@pytest.mark.parametrize("name", BUILD)
def test_classes_that_a_task_does_not_have_are_never_answered(model, name):
    """A head for three classes in a task of two is a head for two."""
    params, episode = model
    narrow = params | {"head": {"kernel": jnp.zeros((6, 2)), "bias": jnp.zeros(2)}}
    labels = jnp.array([0, 1, 1, 1, 0])
    pairs = maml.Episode((episode.support[0], labels), (episode.query[0], labels))
    result = []
    for theta in (params, narrow):
        chosen = BUILD[name](maml.classification(apply), features, head=head_of(theta))
        grads, metrics = one_task(chosen)(chosen.init(theta), pairs, KEY)
        result.append((ravel_pytree(grads)[0], metrics["loss"]))
    (wide, loss), (expected, same) = result
    assert jnp.allclose(loss, same, rtol=1e-12)
    assert jnp.allclose(jnp.sort(wide[wide != 0]), jnp.sort(expected[expected != 0]), rtol=1e-9)


@pytest.mark.parametrize("name", BUILD)
def test_further_inner_steps_change_nothing(model, name):
    params, episode = model
    chosen = BUILD[name](maml.classification(apply), features, head=head_of(params))
    episodes = jax.tree.map(lambda leaf: leaf[None], episode)
    loss = maml.classification(apply)
    evaluate = quick(partial(maml.evaluate, chosen.learner, loss, inner_steps=3))
    values, _ = evaluate(chosen.init(params), episodes, KEY)
    assert jnp.allclose(values[0, 0], jnp.log(3.0))  # a head of zeros
    assert values[0, 1] < values[0, 0]
    assert jnp.allclose(values[0, 1:], values[0, 1], rtol=1e-12)


def test_regression_on_the_true_features_is_exact():
    """Four points of a plane determine it, and a weak ridge finds it."""
    params = {"body": jnp.eye(3), "head": {"kernel": jnp.zeros((3, 1)), "bias": jnp.zeros(1)}}
    linear = lambda p, x: x @ p["body"]  # noqa: E731
    loss = maml.regression(lambda p, x: linear(p, x) @ p["head"]["kernel"] + p["head"]["bias"])
    chosen = maml.r2d2(loss, linear, head=head_of(params), regularisation=1e-10)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)))
    y = x @ jnp.array([[1.0], [-2.0], [0.5]])
    episodes = maml.Episode((x[None, :4], y[None, :4]), (x[None, 4:], y[None, 4:]))
    values, _ = maml.evaluate(chosen.learner, loss, chosen.init(params), episodes, KEY, 1)
    assert values[0, 0] > 1 and values[0, 1] < 1e-12


@pytest.mark.parametrize("name", BUILD)
@pytest.mark.parametrize("batch_norm", ["transductive", "support"])
def test_tasks_over_devices_give_the_same_meta_gradient(name, batch_norm):
    """With a network that normalises a batch, whose head has been named by a mask."""
    whole = problem(batch_norm)
    seen = flax_apply(whole.model, batch_norm, features=True)
    chosen = BUILD[name](whole.loss, seen, head=maml.mask_by_path(whole.params, f"/{HEAD}/"))
    meta = chosen.init(whole.params)
    gradient = partial(maml.meta_gradient, chosen.grad)
    one, _ = quick(gradient)(meta, whole.episodes, KEY)
    two, _ = quick(partial(gradient, mesh=maml.task_mesh(2)))(meta, whole.episodes, KEY)
    one, two = ravel_pytree(one)[0], ravel_pytree(two)[0]
    assert jnp.abs(one).max() > 1e-3 and jnp.allclose(one, two, rtol=1e-10, atol=1e-12)


def test_training_teaches_features_in_which_the_head_generalises(model):
    params, episode = model
    loss = maml.classification(apply)
    for name, build in BUILD.items():
        chosen, outer = build(loss, features, head=head_of(params)), optax.adam(0.03)
        state = maml.init(chosen, outer, params)
        sample = maml.batch_tasks(lambda key: episode, 1)
        state, metrics = quick(partial(maml.train, chosen, outer, sample, meta_steps=300))(
            state, KEY
        )
        assert metrics["loss"][-1] < 0.7 * metrics["loss"][0], name


def test_a_head_that_is_no_matrix_and_bias_is_refused(model):
    params, _ = model
    loss = maml.classification(apply)
    with pytest.raises(ValueError, match=r"one matrix and one bias; got the shapes \[\(2, 6\)\]"):
        maml.protonet(loss, features, head=maml.mask_by_path(params, "body")).init(params)


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, "warm"])
def test_a_temperature_that_is_not_positive_is_refused(model, value, unchecked):
    loss, head = maml.classification(apply), head_of(model[0])
    with pytest.raises(ValueError, match="temperature must be a finite number > 0"):
        maml.protonet(loss, features, head=head, temperature=value)


@pytest.mark.parametrize("option", ["regularisation", "scale"])
@pytest.mark.parametrize("value", [0.0, -1.0, jnp.inf, jnp.nan, "1"])
def test_a_start_that_is_not_positive_is_refused(model, option, value, unchecked):
    params, _ = model
    with pytest.raises(ValueError, match=f"{option} must be a finite number > 0; got"):
        maml.r2d2(maml.classification(apply), features, head=head_of(params), **{option: value})


@pytest.mark.parametrize("name", BUILD)
def test_heads_and_labels_that_do_not_fit_are_refused(model, name, unchecked):
    params, (support, _) = model
    build, loss, head = BUILD[name], maml.classification(apply), head_of(params)

    def step(batch, features=features, head=head, params=params):
        chosen = build(loss, features, head=head)
        inner = chosen.learner(chosen.init(params))
        return inner.step(inner.state, batch, KEY)

    x, labels = support
    wide = {**params, "head": {"kernel": jnp.zeros((6, 3)), "bias": jnp.zeros(4)}}
    text = jax.tree.map(str, head)
    one = {**params, "head": {"kernel": jnp.zeros((6, 1)), "bias": jnp.zeros(1)}}
    for run, error in (
        (partial(step, support, head=text), "head must be True or False at 'body'; got 'False'"),
        (partial(step, support, params=wide), r"one bias; got the shapes \[\(4,\), \(6, 3\)\]"),
        (partial(step, support, lambda p, x: x), r"a matrix \(6, 3\).*got features \(5, 2\)"),
        (partial(step, (x, labels.at[1].set(-1))), r"labels must be in 0 .. 2; got -1"),
        (partial(step, (x, labels.at[1].set(3))), r"labels must be in 0 .. 2; got 3"),
        (partial(step, (x, labels[:, None])), r"labels must be integers \[5\]"),
        (partial(step, (x, jnp.eye(3, dtype=int)[labels])), "jnp.argmax"),
        (partial(step, (x, labels), params=one), "regression must be floating-point"),
        (partial(step, (x, labels[:, None]), params=one), "regression must be floating-point"),
        (partial(step, (x, labels * 1.0)), r"got float64\[5\]"),
        (lambda: build(None, features, head=head), "loss must be a function"),
        (lambda: build(loss, None, head=head), "features must be a function"),
    ):
        with pytest.raises(ValueError, match=error):
            run()


@pytest.mark.parametrize("name", BUILD)
def test_a_traced_label_that_is_no_class_makes_the_head_nan(model, name):
    params, (support, _) = model
    chosen = BUILD[name](maml.classification(apply), features, head=head_of(params))
    inner = chosen.learner(chosen.init(params))
    for wrong in (-1, 3):
        batch = support[0], support[1].at[1].set(wrong)
        fitted, _ = quick(inner.step)(inner.state, batch, KEY)
        assert jnp.isnan(apply(fitted, support[0])).all()


def test_a_weight_is_a_number_of_rows_in_a_head():
    rng = np.random.default_rng(0)
    weights, labels = np.array([2, 0, 1, 3, 1]), jnp.array([0, 7, 1, 2, 1])
    seen, targets = rng.normal(size=(5, 4)), rng.normal(size=(5, 2))
    counts = np.repeat(np.arange(5), weights)
    bad = seen.copy()
    bad[1] = np.nan
    for size in (2, 4):  # either normal equation
        fits = [
            lambda x, y, w, n=size: ridge(x[:, :n], y, jnp.array(0.7), w),
            lambda x, y, w: prototypes(x, labels if w is not None else labels[counts], 3, w),
        ]
        for fit in fits:
            expected = quick(fit)(seen[counts], targets[counts], None)
            got = quick(fit)(bad, targets, 1.0 * weights)
            for one, other in zip(*map(jax.tree.leaves, (got, expected)), strict=True):
                np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", BUILD)
@pytest.mark.parametrize("empty", [[1], [0, 1, 2]])
def test_a_class_without_rows_that_count_is_never_the_answer_and_never_nan(model, name, empty):
    """Nor in the derivative, not even where a query is of that class, or no class is left."""
    params, (support, query) = model
    chosen = BUILD[name](maml.classification(apply), features, head=head_of(params))
    support = (*support, ~jnp.isin(support[1], jnp.array(empty)))
    inner = chosen.learner(chosen.init(params))
    fitted, _ = quick(inner.step)(inner.state, support, KEY)
    answers = apply(fitted, query[0]).argmax(axis=1)
    assert len(empty) == 3 or not jnp.isin(answers, jnp.array(empty)).any()
    for labels in (jnp.zeros(5, int), query[1]):
        grads, metrics = one_task(chosen)(
            chosen.init(params), maml.Episode(support, (query[0], labels)), KEY
        )
        assert jnp.isfinite(ravel_pytree(grads)[0]).all()
        expected = jnp.inf if len(empty) == 1 and (labels == 1).any() else 100.0
        assert metrics["loss"] == jnp.inf if expected == jnp.inf else metrics["loss"] < expected


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_heads_of_low_precision_are_those_of_the_same_numbers_in_float64(dtype):
    """Features far from zero: 2 f.c - |c|^2 would cancel."""
    rng = np.random.default_rng(0)
    labels = np.arange(20) % 4
    centers = rng.normal(size=(4, 16))[labels]
    seen = (40 + centers + 0.3 * rng.normal(size=(20, 16))).astype(dtype)
    wide, offset = seen.astype(float), seen.astype(float).mean(0)
    matrix, bias = prototypes(jnp.asarray(seen), jnp.asarray(labels), 4)
    assert matrix.dtype == jnp.float32
    logits = wide.astype(np.float32) @ np.asarray(matrix) + np.asarray(bias)
    means = np.stack([wide[labels == k].mean(0) for k in range(4)])
    expected = -np.sum((wide[:, None] - means) ** 2, -1) + np.sum((wide - offset) ** 2, -1)[:, None]
    np.testing.assert_allclose(logits, expected, atol=5e-3)
    seen, targets = (rng.normal(size=(20, size)).astype(dtype) for size in (16, 2))
    got = ridge(jnp.asarray(seen), jnp.asarray(targets), jnp.asarray(0.5, dtype))
    seen, targets = seen.astype(float), targets.astype(float)
    expected = np.linalg.solve(seen.T @ seen + 0.5 * np.eye(16), seen.T @ targets)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    a = (seen.T @ seen + 5 * np.eye(16)).astype(dtype)
    got = solve(jnp.asarray(a), jnp.ones(16, dtype))
    np.testing.assert_allclose(got, np.linalg.solve(a.astype(float), np.ones(16)), atol=1e-5)


@pytest.mark.parametrize("name", BUILD)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_a_model_of_lower_precision_adapts_in_any_number_of_steps(model, name, dtype):
    """The head is float32 at least, and meta-parameters keep their types."""
    params, episode = jax.tree.map(
        lambda leaf: leaf.astype(dtype) if leaf.dtype == float else leaf, model
    )
    loss = maml.classification(apply)
    chosen = BUILD[name](loss, features, head=head_of(params))
    meta = chosen.init(params)
    phi, _ = quick(lambda meta: maml.adapt(chosen.learner(meta), episode.support, KEY, 7))(meta)
    assert {leaf.dtype for leaf in jax.tree.leaves(phi["head"])} == {jnp.dtype("float32")}
    assert phi["body"].dtype == dtype
    grads, _ = one_task(chosen)(meta, episode, KEY)
    types = [[leaf.dtype for leaf in jax.tree.leaves(part)] for part in (meta, grads)]
    assert types[0] == types[1] and jnp.isfinite(ravel_pytree(grads)[0]).all()
