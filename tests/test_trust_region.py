"""The trust-region step: its metric is the curvature of the divergence, and it stays inside."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from problems import quick

import maml
from maml import trust_region
from maml.trust_region import TrustRegion, trust_region_step

pytestmark = pytest.mark.usefixtures("x64")
KEY = jax.random.key(0)
TASKS, SIZE = 8, 3
ALL = jnp.ones(TASKS, bool)


def predict(w, x):
    return jnp.tanh(x @ w["in"]) @ w["out"]


def loss(w, batch, key):
    x, y = batch
    return jnp.square(predict(w, x) - y).mean(), {}


def problem(inner_steps=2):
    """Regression, with the mean square of how predictions have changed for the divergence."""
    keys = jax.random.split(KEY, 4)
    theta = {
        "in": jax.random.normal(keys[0], (SIZE, 4)),
        "out": jax.random.normal(keys[1], (4, 1)),
    }
    x = jax.random.normal(keys[2], (2, TASKS, 6, SIZE))
    y = jax.random.normal(keys[3], (2, TASKS, 6, 1))
    algorithm = maml.maml(loss, optax.sgd(0.3), inner_steps)
    whole: Any = algorithm.grad.objective

    def outputs(theta, episode, key):
        params, _ = maml.adapt(algorithm.learner(theta), episode.support, key, inner_steps)
        return predict(params, episode.query[0])

    def divergence(old, new, episode):
        return jnp.square(new - old).mean()

    def objective(meta_params, episode, key):
        value, metrics = whole(meta_params, episode, key, 0)
        start = outputs(theta, episode, key)
        far = divergence(start, outputs(meta_params, episode, key), episode)
        return value, metrics | {"far": far}

    region = TrustRegion(objective, outputs, divergence, lambda metrics: metrics["far"])
    return region, theta, maml.Episode(*zip(x, y, strict=True))


@pytest.mark.parametrize("inner_steps", [0, pytest.param(1, marks=pytest.mark.slow), 3])
def test_the_metric_is_the_second_derivative_of_the_divergence_through_the_adaptation(inner_steps):
    region, theta, episodes = problem(inner_steps)
    start, unravel = ravel_pytree(theta)
    keys = jax.random.split(KEY, TASKS)

    def outputs(flat):
        return jax.vmap(region.outputs, (None, 0, 0))(unravel(flat), episodes, keys)

    def divergence(flat):
        each = jax.vmap(region.divergence)(outputs(start), outputs(flat), episodes)
        return each.sum()

    curved = quick(jax.vmap(trust_region._fisher(region, outputs, start, episodes, ALL)))
    expected = quick(jax.hessian(divergence))(start)
    np.testing.assert_allclose(curved(jnp.eye(start.size)), expected, atol=1e-10)


@pytest.mark.parametrize("radius", [1e-4, 1e-2])
def test_a_step_improves_the_objective_within_the_trust_region(radius):
    region, theta, episodes = problem()
    step = jax.jit(partial(trust_region_step, region, radius=radius))
    after, metrics = step(theta, episodes, KEY)
    went = metrics["region"]
    assert radius / 3 < went["divergence"] <= radius
    key = jax.random.split(KEY, TASKS)[0]
    judge = quick(jax.vmap(region.objective, (None, 0, None)))
    before, now = (jnp.mean(judge(params, episodes, key)[0]) for params in (theta, after))
    assert float(before - now) == pytest.approx(float(went["gain"]), rel=1e-9) and went["gain"] > 0


def test_a_small_step_is_along_the_natural_gradient():
    region, theta, episodes = problem()
    start, _ = ravel_pytree(theta)
    options = {"radius": 1e-10, "cg_steps": 40, "damping": 1e-3}
    after, _ = jax.jit(partial(trust_region_step, region, **options))(theta, episodes, KEY)
    moved = ravel_pytree(after)[0] - start
    algorithm = maml.maml(loss, optax.sgd(0.3), 2)
    grads, _ = quick(partial(maml.meta_gradient, algorithm.grad))(theta, episodes, KEY)
    gradient, unravel = ravel_pytree(grads)
    keys = jax.random.split(KEY, TASKS)

    def outputs(flat):
        return jax.vmap(region.outputs, (None, 0, 0))(unravel(flat), episodes, keys)

    curved = quick(jax.vmap(trust_region._fisher(region, outputs, start, episodes, ALL)))(
        jnp.eye(start.size)
    )
    expected = -jnp.linalg.solve(curved / TASKS + 1e-3 * jnp.eye(start.size), gradient)
    cosine = moved @ expected / jnp.linalg.norm(moved) / jnp.linalg.norm(expected)
    assert float(cosine) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("devices", "chunk"), [(1, 1), (1, 4), (2, None), (4, 1)])
def test_devices_and_chunks_share_out_the_tasks_to_the_same_step(devices, chunk):
    """Conjugate gradients that end before they converge blow up rounding, so here they do."""
    region, theta, episodes = problem()
    step = partial(trust_region_step, region, cg_steps=40)
    alone = jax.jit(step)(theta, episodes, KEY)
    mesh = maml.task_mesh(devices)
    shared = jax.jit(partial(step, mesh=mesh, chunk=chunk))(theta, episodes, KEY)
    # A divergence of 0 is one to rounding.
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-30), shared, alone)


@pytest.mark.parametrize("far", [jnp.inf, jnp.nan])
def test_parameters_stay_and_metrics_report_it_if_no_step_is_within_the_region(far):
    region, theta, episodes = problem()
    region = region._replace(measured=lambda metrics: metrics["far"] + far)
    after, metrics = jax.jit(partial(trust_region_step, region))(theta, episodes, KEY)
    jax.tree.map(np.testing.assert_array_equal, after, theta)
    assert metrics["region"] == {"fraction": 0, "divergence": 0, "gain": 0}


def test_parameters_stay_if_the_loss_is_not_finite():
    region, theta, episodes = problem()
    broken = episodes._replace(query=(episodes.query[0] * jnp.nan, episodes.query[1]))
    after, metrics = jax.jit(partial(trust_region_step, region))(theta, broken, KEY)
    jax.tree.map(np.testing.assert_array_equal, after, theta)
    assert metrics["region"]["fraction"] == 0 and jnp.isnan(metrics["loss"])


@pytest.mark.parametrize("option", [{"radius": 0.0}, {"damping": -1.0}, {"shrink": 1.0}])
def test_options_outside_their_range_are_refused(option):
    region, theta, episodes = problem()
    with pytest.raises(ValueError, match="must be a finite number > 0"):
        trust_region_step(region, theta, episodes, KEY, **option)
