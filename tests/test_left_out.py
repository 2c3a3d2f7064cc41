"""Outer optimisers where a task has no finite gradient: tasks left out, steps skipped, clipping."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from problems import quick

import maml
from maml.trust_region import TrustRegion, trust_region_step

KEY = jax.random.key(0)


def square(w, batch, key):
    return jnp.square(w - batch).sum(), {}


ONE_BROKEN = maml.Episode(jnp.zeros((3, 2)), jnp.ones((3, 2)).at[1].set(jnp.nan))
TWO_GOOD = jax.tree.map(lambda leaf: leaf[::2], ONE_BROKEN)
ASKING = {
    "polyak_sgd": optax.polyak_sgd,
    "momo": lambda: optax.contrib.momo(0.1),
    "lbfgs": optax.lbfgs,
}


def stepped(algorithm, optimizer, episodes=TWO_GOOD, **options):
    state = maml.init(algorithm, optimizer, jnp.zeros(2))
    return quick(partial(maml.meta_step, algorithm, optimizer, **options))(state, episodes, KEY)[0]


@pytest.mark.parametrize("tasks", [5, 20, 25])
def test_no_task_is_left_out_by_rounding(tasks):
    """1 - 25 / 25 is 2e-8 within a compiled program."""
    episodes = maml.Episode(jnp.zeros((tasks, 2)), jnp.ones((tasks, 2)))
    algorithm = maml.maml(square, optax.sgd(0.1), 1)
    gradient = jax.jit(partial(maml.meta_gradient, algorithm.grad))
    assert gradient(jnp.zeros(2), episodes, KEY)[1]["left_out"] == 0


@pytest.mark.parametrize(
    ("name", "options"),
    [("momo", {}), ("polyak_sgd", {"chunk": 1}), ("lbfgs", {"mesh": maml.task_mesh(3)})],
)
def test_an_optimiser_that_asks_for_the_loss_is_given_that_of_the_tasks_that_are_kept(
    name, options
):
    algorithm, optimizer = maml.maml(square, optax.sgd(0.1), 1), ASKING[name]()
    after = stepped(algorithm, optimizer, ONE_BROKEN, **options)
    expected = stepped(algorithm, optimizer)
    np.testing.assert_allclose(after.params, expected.params, rtol=1e-5)
    assert (expected.params > 0).all()


@pytest.mark.parametrize("name", ["momo", "polyak_sgd"])
def test_an_optimiser_that_asks_for_the_loss_is_given_that_of_the_phase(name):
    optimizer, build = ASKING[name](), partial(maml.maml_plus_plus, square, optax.sgd(1.0), 1)
    options = {"rate": 0.1, "learn_rates": False}
    early, late = build(first_order=2, **options), build(**options)
    first = maml.fomaml(square, optax.sgd(0.1), 1)
    after = stepped(early, optimizer)
    np.testing.assert_allclose(after.params.params, stepped(first, optimizer).params, rtol=1e-6)
    state = maml.init(late, optimizer, jnp.zeros(2))._replace(step=jnp.int32(2))
    steps = [quick(partial(maml.meta_step, a, optimizer)) for a in (early, late)]
    both = [step(state, TWO_GOOD, KEY)[0] for step in steps]
    np.testing.assert_allclose(both[0].params.params, both[1].params.params, rtol=1e-6)


@pytest.mark.parametrize(
    ("optimizer", "extra", "gradient"),
    [
        (optax.polyak_sgd(), {"value": jnp.nan}, 1.0),
        (optax.polyak_sgd(), {"value": 1.0}, jnp.inf),
        (optax.scale(1e30), {}, 1e30),
        (optax.noisy_sgd(0.1, key=0), {}, jnp.nan),
    ],
    ids=["value", "gradient", "updates", "noise"],
)
def test_a_step_with_a_value_or_an_update_that_is_not_finite_is_skipped_and_counted(
    optimizer, extra, gradient
):
    safe: Any = maml.skip_nonfinite(optimizer)
    w = jnp.ones(2)
    before = safe.init(w)
    updates, after = safe.update(jnp.full(2, gradient), before, w, **extra)
    assert updates.tolist() == [0, 0] and maml.skip_report(after)[:2] == (1, 1)
    for old, new in zip(*map(jax.tree.leaves, (before[1][-1], after[1][-1])), strict=True):
        assert (old == new).all()
    good = {"value": 1.0} if extra else {}
    updates, after = safe.update(jnp.ones(2), after, w, **good)
    assert (updates != 0).all() and maml.skip_report(after)[:2] == (1, 0)


@pytest.mark.parametrize(
    ("g", "norm", "wanted"),
    [
        (jnp.array([300.0, 400.0], jnp.float16), 1.0, [0.6, 0.8]),
        (jnp.array([3e20, -4e20]), 1.0, [0.6, -0.8]),
        (jnp.array([3e38, 3e38]), 1.0, [0.5**0.5, 0.5**0.5]),
        (jnp.zeros(2), 1e-30, [0.0, 0.0]),
        (jnp.array([3e-20, 4e-20]), 1e-20, [0.6e-20, 0.8e-20]),
        (jnp.array([3e-20, 4e-20]), 1.0, [3e-20, 4e-20]),
        (jnp.array([3e20 + 0j, 4e20j]), 1.0, [0.6, 0.8j]),
    ],
)
def test_the_norm_of_a_clip_neither_overflows_nor_vanishes(g, norm, wanted):
    clip = maml.clip_by_global_norm(norm)
    got: Any = clip.update(g, clip.init(g))[0]
    assert got.dtype == g.dtype
    np.testing.assert_allclose(got, jnp.array(wanted, g.dtype), rtol=1e-3, atol=0)


def test_implicit_gradients_in_half_precision_are_solved_in_float32():
    """(1 + 2 / lambda)^-1 grad, with a gradient whose square is beyond float16."""
    algorithm = maml.imaml(square, optax.sgd(0.1), 1, regularisation=2.0, cg_steps=2)
    w = jnp.zeros(2, jnp.float16)
    episode = maml.Episode(jnp.zeros(2, jnp.float16), jnp.array([-150.0, -100.0], jnp.float16))
    grads, _ = maml.task_gradient(algorithm.grad, w, episode, KEY)
    assert grads.dtype == jnp.float16 and grads.tolist() == [150.0, 100.0]


def test_an_implicit_gradient_that_is_not_finite_is_no_gradient_of_zero():
    algorithm = maml.imaml(square, optax.sgd(0.1), 1, regularisation=1.0, cg_steps=2)
    mean = quick(partial(maml.meta_gradient, algorithm.grad))
    grads, metrics = mean(jnp.zeros(2), ONE_BROKEN, KEY)
    expected, _ = mean(jnp.zeros(2), TWO_GOOD, KEY)
    np.testing.assert_allclose(grads, expected, rtol=1e-6)
    assert metrics["left_out"] == pytest.approx(1 / 3)


REGRESSION = maml.regression(lambda w, x: x * w)
X, WEIGHTS = jnp.arange(12.0).reshape(4, 3) / 6, jnp.ones((4, 3))
NO_ROW = WEIGHTS.at[1].set(0)


@pytest.mark.parametrize("chunk", [None, 1])
@pytest.mark.parametrize(
    "algorithm",
    [
        maml.maml(REGRESSION, optax.sgd(0.1), 1),
        maml.imaml(REGRESSION, optax.sgd(0.1), 1, regularisation=1.0, cg_steps=2),
    ],
    ids=["maml", "imaml"],
)
def test_a_task_whose_query_set_counts_nothing_is_left_out(algorithm, chunk):
    good = (X, 2 * X, WEIGHTS)
    episodes = maml.Episode(good, (X, 2 * X, NO_ROW))
    three = jax.tree.map(lambda leaf: jnp.delete(leaf, 1, axis=0), maml.Episode(good, good))
    w = jnp.array(0.5)
    mean = partial(maml.meta_gradient, algorithm.grad)
    grads, metrics = quick(partial(mean, chunk=chunk))(w, episodes, KEY)
    expected, alone = quick(mean)(w, three, KEY)
    np.testing.assert_allclose(grads, expected, rtol=1e-6)
    np.testing.assert_allclose(metrics["query"]["mse"], alone["query"]["mse"], rtol=1e-6)
    assert metrics["left_out"] == 0.25


@pytest.mark.parametrize("build", [maml.maml, maml.reptile])
def test_a_metric_that_is_nan_in_a_task_that_counts_is_the_mean_over_the_others(build):
    algorithm = build(REGRESSION, optax.sgd(0.1), 1)
    episodes = maml.Episode((X, 2 * X, NO_ROW), (X, 2 * X, WEIGHTS))
    mean = quick(partial(maml.meta_gradient, algorithm.grad))
    grads, metrics = mean(jnp.array(0.5), episodes, KEY)
    of_task = partial(maml.task_gradient, algorithm.grad)
    each, seen = quick(jax.vmap(of_task, (None, 0, None)))(jnp.array(0.5), episodes, KEY)
    assert metrics["left_out"] == 0 and jnp.isnan(seen["support"]["mse"][1])
    np.testing.assert_allclose(grads, each.mean(), rtol=1e-6)
    expected = jnp.nanmean(seen["support"]["mse"], axis=0)
    np.testing.assert_allclose(metrics["support"]["mse"], expected, rtol=1e-6)


@pytest.mark.parametrize("mesh", [None, maml.task_mesh(3)])
def test_a_task_whose_divergence_is_nan_does_not_block_the_step_of_the_others(mesh):
    """Nor does a device that has no other task."""

    def objective(theta, episode, key):
        far = jnp.square(theta - 1).mean() + 0 * episode.support.sum()
        return jnp.square(theta - episode.query).sum(), {"far": far}

    def outputs(theta, episode, key):
        return theta - episode.query

    def divergence(old, new, episode):
        return jnp.square(new - old).mean()

    region = TrustRegion(objective, outputs, divergence, lambda metrics: metrics["far"])
    episodes = maml.Episode(ONE_BROKEN.query, jnp.zeros((3, 2)))
    step = quick(partial(trust_region_step, region, mesh=mesh))
    after, metrics = step(jnp.ones(2), episodes, KEY)
    assert metrics["left_out"] == pytest.approx(1 / 3) and metrics["region"]["fraction"] > 0
    np.testing.assert_allclose(jnp.square(after - 1).mean(), 0.01, rtol=0.3)


ONES = jnp.ones(3)


@pytest.mark.parametrize(
    "apply",
    [
        lambda weights, x: x * weights,
        lambda w, weights: weights * w,
        lambda w, x, *weights: x * w,
        lambda w, x, **weights: x * w,
        lambda w, x, weights=ONES: x * w + 0 * weights[:, None],
        lambda *args, weights=ONES: args[0] * args[1] + 0 * weights[:, None],
    ],
)
def test_a_model_may_call_its_own_parameters_weights(apply):
    """The row that does not count has the squared error that would show."""
    batch = jnp.ones((3, 1)), jnp.array([[1.0], [1.0], [9.0]]), jnp.array([1.0, 1.0, 0.0])
    value, _ = maml.regression(apply)(jnp.array(3.0), batch, KEY)
    assert value == 4
