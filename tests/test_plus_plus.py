"""Each remedy of MAML++ alone: MAML where it is off, its equation where it is on."""

from functools import partial

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.flatten_util import ravel_pytree
from problems import KEY, RATE, central_differences, descend, problem, quick

import maml
from maml.plus_plus import multi_step_weights

STEPS = 3
pytestmark = pytest.mark.usefixtures("x64")


@pytest.fixture
def task():
    """One task of the problem of the finite differences."""
    chosen = problem("support")
    return chosen._replace(episodes=jax.tree.map(lambda leaf: leaf[0], chosen.episodes))


def build(task, **options):
    options = {"learn_rates": False, "rate": RATE} | options
    return maml.maml_plus_plus(task.loss, optax.sgd(1.0), STEPS, **options)


def at(chosen, step):
    """The meta-gradient of a meta-step."""
    return partial(maml.task_gradient, chosen.grad, step=jnp.array(step))


def gradient(grad, meta, task):
    return quick(grad)(meta, task.episodes, KEY)[0]


def assert_equal(got, expected, tolerance=1e-12):
    got, expected = ravel_pytree(got)[0], ravel_pytree(expected)[0]
    assert jnp.max(jnp.abs(expected)) > 1e-3
    assert jnp.max(jnp.abs(got - expected)) <= tolerance * jnp.max(jnp.abs(expected))


def test_with_all_switches_off_it_is_maml(task):
    plain = maml.maml(task.loss, optax.sgd(RATE), STEPS)
    expected = gradient(at(plain, 0), task.params, task)
    chosen = build(task)
    assert_equal(gradient(at(chosen, 0), chosen.init(task.params), task).params, expected)


def test_the_weights_go_from_all_steps_to_the_last():
    weights = jax.vmap(partial(multi_step_weights, inner_steps=4, until=100))(
        jnp.array([0, 50, 100, 1000])
    )
    assert jnp.allclose(weights[0], 0.25)
    assert jnp.allclose(weights[1], jnp.array([0.125, 0.125, 0.125, 0.625]))
    assert jnp.allclose(weights[2:], jnp.array([0.0, 0.0, 0.0, 1.0]))
    assert jnp.allclose(weights.sum(axis=1), 1)


def test_the_multi_step_gradient_is_that_of_the_weighted_losses(task):
    """Against central differences of a Python loop that knows nothing of the library."""
    flat, unravel = ravel_pytree(task.params)

    def objective(theta, weights):
        phis = [
            descend("maml", optax.sgd(RATE), k, task.loss, unravel(theta), task.episodes.support)
            for k in range(1, STEPS + 1)
        ]
        return weights @ jnp.stack([task.loss(phi, task.episodes.query, KEY)[0] for phi in phis])

    chosen = build(task, multi_step=10)
    for step in (0, 4):
        weights = multi_step_weights(jnp.array(step), STEPS, 10)
        expected = central_differences(lambda theta, w=weights: objective(theta, w), flat)
        got = gradient(at(chosen, step), chosen.init(task.params), task).params
        assert_equal(got, unravel(expected), 1e-7)


def test_the_metrics_are_those_of_the_last_step(task):
    chosen = build(task, multi_step=10)
    meta = chosen.init(task.params)
    _, metrics = quick(at(chosen, 0))(meta, task.episodes, KEY)
    _, plain = quick(at(build(task), 0))(meta, task.episodes, KEY)
    assert_equal(metrics["query"], plain["query"])


@pytest.mark.parametrize("mesh", [pytest.param(None, marks=pytest.mark.slow), 2])
def test_the_order_is_annealed_at_its_meta_step(mesh):
    """One meta-step of first order, then of second, in one program; also over devices."""
    whole = problem("support")
    chosen, outer = build(whole, first_order=1), optax.sgd(1.0)
    state = maml.init(chosen, outer, whole.params)
    step = quick(
        partial(maml.meta_step, chosen, outer, mesh=maml.task_mesh(mesh) if mesh else None)
    )
    for order in (maml.fomaml, maml.maml):
        plain = order(whole.loss, optax.sgd(RATE), STEPS).grad
        mean = quick(partial(maml.meta_gradient, plain))
        expected, _ = mean(state.params.params, whole.episodes, KEY)
        after, _ = step(state, whole.episodes, KEY)
        got = jax.tree.map(jnp.subtract, state.params.params, after.params.params)
        assert_equal(got, expected, 1e-9)
        state = after


def test_of_two_orders_only_one_is_computed(task):
    chosen = build(task, first_order=1)
    lowered = jax.make_jaxpr(partial(maml.meta_step, chosen, optax.sgd(1.0)))(
        maml.init(chosen, optax.sgd(1.0), task.params), problem("support").episodes, KEY
    )
    assert any(equation.primitive.name == "cond" for equation in lowered.eqns)
    assert chosen.grad.early is not None and chosen.grad.early_steps == 1


def test_each_leaf_and_step_has_a_rate(task):
    """phi_2 with rates a and b of one leaf, by hand; more steps go on at the last rate."""
    loss = lambda w, target, key: (0.5 * jnp.sum((w - target) ** 2), {})  # noqa: E731
    chosen = maml.maml_plus_plus(loss, optax.sgd(1.0), 2, rate=0.1)
    meta = chosen.init(jnp.array(1.0))._replace(rates=jnp.array([0.5, 0.25]))
    _, path = maml.adapt(chosen.learner(meta), 0.0, KEY, 3, probe=lambda w: w)
    assert jnp.allclose(path, jnp.array([1.0, 0.5, 0.375, 0.28125]))


def test_leaves_of_each_step_are_those_the_model_sees():
    """A bias that does not adapt has another value after each number of steps."""

    def loss(params, target, key):
        value = params["w"] + params["bias"] - target
        return 0.5 * value**2, {"bias": params["bias"]}

    mask = {"w": True, "bias": False}
    chosen = maml.maml_plus_plus(
        loss, optax.sgd(1.0), 2, rate=0.5, mask=mask, per_step=maml.complement(mask)
    )
    meta = chosen.init({"w": jnp.array(1.0), "bias": jnp.array(0.0)})
    assert meta.params["bias"].shape == (3,)
    meta.params["bias"] = jnp.array([0.0, 1.0, 3.0])
    _, path = maml.adapt(chosen.learner(meta), 0.0, KEY, 3, probe=lambda p: (p["w"], p["bias"]))
    # w: 1 - (1 + 0)/2, 0.5 - (0.5 + 1)/2, -0.25 - (-0.25 + 3)/2; the last bias stays.
    assert path[0].tolist() == [1.0, 0.5, -0.25, -1.625]
    assert path[1].tolist() == [0.0, 1.0, 3.0, 3.0]


def test_running_averages_of_each_step_are_recorded_apart():
    """With a multi-step loss, every step's statistics are pulled towards those it saw."""
    whole = problem("running")
    norm = maml.mask_by_path(whole.params, "averages")
    options = {"mask": maml.complement(norm), "per_step": norm, "multi_step": 10}
    chosen = build(whole, **options)
    meta = chosen.init(whole.params)
    grads, _ = maml.meta_gradient(chosen.grad, meta, whole.episodes, KEY)
    for leaf in jax.tree.leaves(maml.partition(grads.params, norm)[0]):
        assert leaf.shape[0] == STEPS + 1
        moved = jnp.abs(leaf).reshape(STEPS + 1, -1).max(axis=1)
        assert moved[0] == 0 and (moved[1:] > 1e-4).all()


def test_what_adapts_cannot_be_per_step(task):
    everywhere = jax.tree.map(lambda _: True, task.params)
    chosen = build(task, per_step=everywhere)
    with pytest.raises(ValueError, match="cannot have a value for each inner step"):
        chosen.learner(chosen.init(task.params))


@pytest.mark.parametrize("name", ["multi_step", "first_order"])
def test_negative_counts_are_refused(task, name):
    with pytest.raises(ValueError, match="integer >= 0; got -1"):
        build(task, **{name: -1})


def test_there_is_one_weight_for_each_inner_step(task):
    grad = maml.unrolled(build(task).learner, task.loss, STEPS, weights=lambda step: jnp.ones(2))
    meta = build(task).init(task.params)
    with pytest.raises(ValueError, match=r"each of 3 inner steps; got the shape \(2,\)"):
        maml.task_gradient(grad, meta, task.episodes, KEY)
    with pytest.raises(ValueError, match="inner steps with weights must be an integer >= 1; got 0"):
        maml.unrolled(build(task).learner, task.loss, 0, weights=lambda step: jnp.ones(0))
