"""Algorithms that must coincide do; the meta-gradient of a quadratic is the one on paper."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from problems import (
    ALGORITHMS,
    CONTEXT,
    HEAD,
    OPTIMIZERS,
    RATE,
    TASKS,
    algorithm,
    one_task,
    problem,
    quick,
)

import maml

STEPS = 3
KEY = jax.random.key(0)
pytestmark = pytest.mark.usefixtures("x64")


def assert_equal(got, expected, tolerance=1e-12):
    """Equal to rounding, relative to the largest number."""
    got, expected = ravel_pytree(got)[0], ravel_pytree(expected)[0]
    assert jnp.max(jnp.abs(expected)) > 1e-3  # two zeros would be equal too
    assert jnp.max(jnp.abs(got - expected)) <= tolerance * jnp.max(jnp.abs(expected))


@pytest.fixture
def task():
    """The problem of the finite differences, seen as one task, and a loss of its parameters."""
    chosen = problem("support")
    return chosen._replace(episodes=jax.tree.map(lambda leaf: leaf[0], chosen.episodes))


def one_gradient(chosen, meta, episode):
    return one_task(chosen)(meta, episode, KEY)[0]


def adapted(chosen, meta, episode):
    run = quick(lambda meta, batch: maml.adapt(chosen.learner(meta), batch, KEY, STEPS)[0])
    return run(meta, episode.support)


def gradient(loss, params, batch):
    return jax.grad(lambda p: loss(p, batch, KEY)[0])(params)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_fomaml_is_the_query_gradient_at_the_adapted_parameters(task, optimizer):
    chosen = maml.fomaml(task.loss, OPTIMIZERS[optimizer](), STEPS)
    got = one_gradient(chosen, task.params, task.episodes)
    phi = adapted(chosen, task.params, task.episodes)
    assert_equal(got, gradient(task.loss, phi, task.episodes.query))


def test_one_step_reptile_is_the_rate_times_the_support_gradient(task):
    got = one_gradient(maml.reptile(task.loss, optax.sgd(0.3), 1), task.params, task.episodes)
    support = gradient(task.loss, task.params, task.episodes.support)
    assert_equal(got, jax.tree.map(lambda g: 0.3 * g, support))


def part_adapts(loss, rate, adapts):
    """SGD on the leaves whose path `adapts`, by a Python loop over a flat dictionary."""

    def objective(theta, episode):
        leaves, structure = jax.tree.flatten(theta)
        paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(theta)]
        for _ in range(STEPS):
            grads = jax.tree.leaves(gradient(loss, structure.unflatten(leaves), episode.support))
            leaves = [
                leaf - rate * grad if adapts(path) else leaf
                for path, leaf, grad in zip(paths, leaves, grads, strict=True)
            ]
        return loss(structure.unflatten(leaves), episode.query, KEY)[0]

    return quick(jax.grad(objective))


@pytest.mark.parametrize(
    ("name", "adapts"),
    [("anil", lambda path: HEAD in path), ("boil", lambda path: HEAD not in path)],
)
def test_anil_and_boil_are_maml_with_a_frozen_part(task, name, adapts):
    chosen = algorithm(name, optax.sgd(0.3), STEPS, task.loss, task.params)
    mask = jax.tree.map_with_path(lambda p, _: adapts(jax.tree_util.keystr(p)), task.params)
    masked = maml.maml(task.loss, optax.sgd(0.3), STEPS, mask=mask)
    got = one_gradient(chosen, task.params, task.episodes)
    assert_equal(got, one_gradient(masked, task.params, task.episodes))
    assert_equal(got, part_adapts(task.loss, 0.3, adapts)(task.params, task.episodes))


def test_what_is_frozen_stays_and_still_has_a_meta_gradient(task):
    chosen = algorithm("anil", optax.sgd(0.3), STEPS, task.loss, task.params)
    phi = adapted(chosen, task.params, task.episodes)
    got = one_gradient(chosen, task.params, task.episodes)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), phi, task.params)
    assert moved == maml.mask_by_path(task.params, f"/{HEAD}/")
    assert jnp.linalg.norm(got["params"]["body"]) > 1e-3


def test_meta_sgd_with_constant_rates_is_maml(task):
    learned = maml.meta_sgd(task.loss, optax.sgd(1.0), STEPS, rate=RATE)
    fixed = maml.maml(task.loss, optax.sgd(RATE), STEPS)
    got = one_gradient(learned, learned.init(task.params), task.episodes)
    assert_equal(got.params, one_gradient(fixed, task.params, task.episodes))


def test_one_step_meta_sgd_learns_rates_by_minus_the_product_of_both_gradients(task):
    chosen = maml.meta_sgd(task.loss, optax.sgd(1.0), 1, rate=RATE)
    got = one_gradient(chosen, chosen.init(task.params), task.episodes)
    support = gradient(task.loss, task.params, task.episodes.support)
    phi = jax.tree.map(lambda p, g: p - RATE * g, task.params, support)
    query = gradient(task.loss, phi, task.episodes.query)
    assert_equal(got.rates, jax.tree.map(lambda s, q: -s * q, support, query))


@pytest.mark.parametrize(("rate", "inner_steps"), [(0.0, STEPS), (0.3, 0)])
@pytest.mark.parametrize("name", ["maml", "fomaml", "anil", "boil"])
def test_without_adaptation_meta_learning_is_joint_training(task, name, rate, inner_steps):
    chosen = algorithm(name, optax.sgd(rate), inner_steps, task.loss, task.params)
    got = one_gradient(chosen, task.params, task.episodes)
    assert_equal(got, gradient(task.loss, task.params, task.episodes.query))


def test_imaml_with_very_strong_regularisation_is_joint_training(task):
    chosen = maml.imaml(task.loss, optax.sgd(1e-13), 1, regularisation=1e12, cg_steps=5)
    got = one_gradient(chosen, task.params, task.episodes)
    assert_equal(got, gradient(task.loss, task.params, task.episodes.query), 1e-10)


@pytest.mark.parametrize("damping", [0.0, 1.5])
def test_imaml_solves_with_the_damped_curvature(damping):
    """One leaf and a quadratic loss, so that two conjugate gradients solve exactly."""
    curvature, theta = jnp.array([1.0, -0.2]), jnp.array([1.0, -1.0])

    def loss(phi, batch, key):
        return 0.5 * jnp.vdot(phi - batch, curvature * (phi - batch)), {}

    options = {"regularisation": 0.5, "cg_steps": 2, "damping": damping}
    chosen = maml.imaml(loss, optax.sgd(0.3), 400, **options)
    episode = maml.Episode(jnp.zeros(2), jnp.ones(2))
    got, _ = quick(partial(maml.task_gradient, chosen.grad))(theta, episode, KEY)
    phi = 0.5 * theta / (curvature + 0.5)
    expected = curvature * (phi - 1) / (1 + curvature / (0.5 + damping))
    np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_cavia_forgets_the_context_it_is_given_and_gives_it_no_meta_gradient(task):
    chosen = algorithm("cavia", optax.sgd(0.3), STEPS, task.loss, task.params)
    other = {"params": task.params["params"] | {CONTEXT: jnp.array([7.0, -7.0])}}
    got = one_gradient(chosen, task.params, task.episodes)
    assert_equal(one_gradient(chosen, other, task.episodes), got)
    assert (got["params"][CONTEXT] == 0).all()


def test_cavia_from_a_zero_context_is_maml_on_the_network(task):
    zero = {"params": task.params["params"] | {CONTEXT: jnp.zeros(2)}}
    context = maml.mask_by_path(zero, CONTEXT)
    cavia = one_gradient(
        maml.cavia(task.loss, optax.sgd(0.3), STEPS, context=context), zero, task.episodes
    )
    masked = one_gradient(
        maml.maml(task.loss, optax.sgd(0.3), STEPS, mask=context), zero, task.episodes
    )
    assert_equal(*(maml.partition(grads, context)[1] for grads in (cavia, masked)))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_chunk_is_the_loop_over_tasks(name):
    task, tasks = problem("running"), 2 * TASKS
    episodes = jax.tree.map(lambda a: jnp.concatenate([a, 1 - a]), task.episodes)
    chosen = algorithm(name, optax.sgd(0.3), 1, task.loss, task.params)
    meta, grad = chosen.init(task.params), one_task(chosen)
    keys = jax.random.split(KEY, tasks)
    each = [grad(meta, jax.tree.map(lambda a, i=i: a[i], episodes), keys[i]) for i in range(tasks)]
    looped = jax.tree.map(lambda *outs: sum(outs) / tasks, *each)
    for chunk in (1, 2, 4):
        mapped = quick(partial(maml.meta_gradient, chosen.grad, chunk=chunk))
        grads, metrics = mapped(meta, episodes, KEY)
        assert metrics.pop("left_out") == 0
        assert_equal((grads, metrics), looped)


@pytest.mark.parametrize("inner_steps", [1, 2, 5])
def test_on_a_quadratic_the_meta_gradient_is_a_power_of_one_minus_rate_times_hessian(inner_steps):
    size, rate = 4, 0.1
    keys = jax.random.split(KEY, 4)
    theta, support, query = (jax.random.normal(key, (size,)) for key in keys[:3])
    root = jax.random.normal(keys[3], (size, size))
    hessian = root @ root.T

    def loss(w, center, key):
        return 0.5 * (w - center) @ hessian @ (w - center), {}

    chosen = maml.maml(loss, optax.sgd(rate), inner_steps)
    got = one_gradient(chosen, theta, maml.Episode(support, query))

    contraction = jnp.linalg.matrix_power(jnp.eye(size) - rate * hessian, inner_steps)
    phi = support + contraction @ (theta - support)
    assert_equal(got, contraction @ hessian @ (phi - query))
