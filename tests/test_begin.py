"""A learner may make the state before its first step from the support set and a random key."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from problems import central_differences, quick

import maml
from maml import rl

KEY = jax.random.key(0)
# Numbers of inner steps, done one by one and in a scan, with options of memory.
MODES = {2: ({}, {"hvp": "forward"}), 6: ({"remat": True},)}
pytestmark = pytest.mark.usefixtures("x64")


def network(key):
    """The random network of a task."""
    first, second = jax.random.normal(key, (2, 2, 3))
    return {"in": first, "out": second[0]}


loss = maml.regression(lambda params, x: jnp.tanh(x @ params["in"]) @ params["out"])
with jax.enable_x64(True):
    DRAWS = jax.random.normal(jax.random.key(1), (4, 8, 3))
    EPISODES = maml.Episode(*((points[..., :2], points[..., 2]) for points in (DRAWS, DRAWS + 0.3)))
    EPISODE = jax.tree.map(lambda leaf: leaf[0], EPISODES)
    META = dict(
        zip(("in", "bias", "out"), jax.random.normal(jax.random.key(2), (3, 4)), strict=True)
    )


def update_of(meta, grad):
    """The update of the learned optimiser, a small network of each entry of the gradient."""
    return 0.1 * jnp.tanh(grad[..., None] * meta["in"] + meta["bias"]) @ meta["out"]


def learner(meta, **memory) -> Any:
    """A learned optimiser, which starts from a random network in each task."""
    rule = optax.stateless(lambda grads, _: jax.tree.map(partial(update_of, meta), grads))

    def descent(params):
        return maml.gradient_descent(loss, rule, params, **memory)

    def begin(state, batch, key):
        return descent(network(key)).state

    return descent(network(KEY))._replace(begin=begin)


def by_hand(meta, episode, key, inner_steps):
    """The outer loss of a task, and the network before the first step."""
    support_key, _ = jax.random.split(key)
    begin_key, _ = jax.random.split(support_key)
    start = network(begin_key)

    def step(_, params):
        grads = jax.grad(lambda params: loss(params, episode.support, KEY)[0])(params)
        return jax.tree.map(lambda p, g: p + update_of(meta, g), params, grads)

    return loss(jax.lax.fori_loop(0, inner_steps, step, start), episode.query, KEY)[0], start


def assert_close(got, expected, rtol=1e-12):
    got, expected = ravel_pytree(got)[0], ravel_pytree(expected)[0]
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("inner_steps", MODES)
def test_the_meta_gradient_of_a_learned_optimiser_is_the_finite_difference(inner_steps):
    """The network differs between tasks; the meta-parameters are the optimiser's alone."""
    flat, unravel = ravel_pytree(META)

    @quick
    def gradients(flat):
        def value(flat):
            keys = jax.random.split(KEY, len(DRAWS))
            hand = partial(by_hand, unravel(flat), inner_steps=inner_steps)
            return jax.vmap(lambda episode, key: hand(episode, key)[0])(EPISODES, keys).mean()

        grads = []
        for memory in MODES[inner_steps]:
            grad = maml.unrolled(partial(learner, **memory), loss, inner_steps)
            grads.append(maml.meta_gradient(grad, unravel(flat), EPISODES, KEY)[0])
        return grads, central_differences(value, flat)

    grads, expected = gradients(flat)
    for got in grads:
        assert jnp.linalg.norm(ravel_pytree(got)[0] - expected) <= 1e-6 * jnp.linalg.norm(expected)


def test_adaptation_equals_that_of_a_learner_with_the_same_state_by_hand():
    begin_key, steps_key = jax.random.split(KEY)
    whole, plain = learner(META), learner(META)._replace(begin=None)
    start = plain._replace(state=whole.begin(whole.state, EPISODE.support, begin_key))

    def path(inner, key):
        return maml.adapt(inner, EPISODE.support, key, 3, probe=lambda params: params)

    got, expected = quick(lambda: (path(whole, KEY), path(start, steps_key)))()
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), got, expected))
    assert_close(jax.tree.map(lambda leaf: leaf[0], got[1]), network(begin_key))


def test_tasks_with_other_keys_start_from_other_networks_whatever_the_number_of_steps():
    """The tasks are equal, so that their keys alone differ."""
    twice = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), EPISODE)

    def value(params, batch, key):
        return params

    def networks(inner_steps):
        return maml.evaluate(learner, value, META, twice, KEY, inner_steps)

    few, many = quick(lambda: (networks(0), networks(2)))()
    for task, key in enumerate(jax.random.split(KEY, 2)):
        start = by_hand(META, EPISODE, key, 0)[1]
        for steps in few, many:
            assert_close(jax.tree.map(lambda leaf, n=task: leaf[n, 0], steps), start)
    assert (jnp.abs(few["in"][0] - few["in"][1]) > 1e-3).all()


def mean_of_targets(theta):
    """Gradient descent on a bias, which starts theta above the mean of the support set."""
    inner = maml.gradient_descent(maml.regression(lambda b, x: b + 0 * x), optax.sgd(0.25), theta)

    def begin(state, batch, key):
        batch = batch.batches if isinstance(batch, maml.BatchPerStep) else batch
        return (theta + batch[1].mean(), *state[1:])

    return inner._replace(begin=begin)


def test_a_start_may_be_computed_from_the_support_set_and_has_a_meta_gradient():
    """A step halves the distance to the mean, from theta to theta / 2 after one step."""
    x, support, query = (
        jnp.zeros(4),
        jnp.array([1.0, 3.0, 4.0, 4.0]),
        jnp.array([5.0, 5.0, 5.0, 5.0]),
    )
    theta = jnp.array(2.0)

    @quick
    def path(batch):
        return maml.adapt(mean_of_targets(theta), batch, KEY, 2, probe=lambda b: b)[1]

    batches = maml.BatchPerStep((jnp.stack([x, x]), jnp.stack([support, support])))
    assert_close(path((x, support)), [5.0, 4.0, 3.5])
    assert_close(path(batches), [5.0, 4.0, 3.5])
    grad = maml.unrolled(mean_of_targets, maml.regression(lambda b, x: b + 0 * x), 2)
    episode = maml.Episode((x, support), (x, query))
    got, _ = quick(partial(maml.task_gradient, grad))(theta, episode, KEY)
    assert_close(got, 2 * (3.5 - 5.0) / 4)


def quadratic(theta, center, key):
    return 0.5 * jnp.sum((theta - center) ** 2 * jnp.array([1.0, 2.0])), {}


def anywhere(loss, theta):
    """Gradient descent that starts at a random place, whatever theta."""
    inner = maml.gradient_descent(loss, optax.sgd(0.2), theta)
    return inner._replace(begin=lambda state, _, key: (jax.random.normal(key, (2,)), *state[1:]))


def test_implicit_and_displacement_gradients_start_there_as_well():
    theta, episode = jnp.array([1.0, -1.0]), maml.Episode(jnp.zeros(2), jnp.ones(2))
    start = jax.random.normal(jax.random.split(jax.random.split(KEY)[0])[0], (2,))
    moved = maml.displacement(partial(anywhere, quadratic), quadratic, 3)
    got, _ = quick(partial(maml.task_gradient, moved))(theta, episode, KEY)
    assert_close(got, theta - start * jnp.array([0.8, 0.6]) ** 3)

    def regularised(theta):
        return anywhere(maml.proximal(quadratic, theta, 1.0), theta)

    implicit = maml.implicit(regularised, quadratic, 200, regularisation=1.0, cg_steps=2)
    got, _ = quick(partial(maml.task_gradient, implicit))(theta, episode, KEY)
    shrunk = 1 / (1 + jnp.array([1.0, 2.0]))  # the minimiser is theta times this
    assert_close(got, shrunk * jnp.array([1.0, 2.0]) * (theta * shrunk - 1))


def test_members_of_an_ensemble_start_from_networks_of_their_own():
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), META)

    def path(inner, key):
        return maml.adapt(inner, EPISODE.support, key, 2, probe=lambda params: params)[1]

    together = quick(lambda: path(maml.ensemble(learner)(stacked), KEY))()

    @quick
    def alone(key):
        inner = learner(META)
        return path(inner._replace(state=inner.begin(None, None, key), begin=None), KEY)

    for number, key in enumerate(jax.random.split(jax.random.split(KEY)[0], 2)):
        assert_close(jax.tree.map(lambda leaf, n=number: leaf[:, n], together), alone(key))


def test_a_classifier_is_fitted_from_the_start():
    def apply(params, inputs):
        images = inputs.inputs if isinstance(inputs, maml.Query) else inputs
        return images.reshape(len(images), -1) @ params

    def head(theta):
        inner = maml.gradient_descent(maml.classification(apply), optax.sgd(0.5), theta)
        return inner._replace(begin=lambda s, _, key: (jax.random.normal(key, (4, 2)), *s[1:]))

    images, labels = jax.random.uniform(KEY, (3, 2, 2, 1)), jnp.array([0, 1, 1])
    fitted = maml.fit_classifier(head, apply, jnp.zeros((4, 2)), images, labels, inner_steps=0)
    assert_close(fitted.params, jax.random.normal(jax.random.split(jax.random.key(0))[0], (4, 2)))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("begin", "message"),
    [
        ("start", "begin of an Inner must be a function"),
        (lambda state: state, r"begin of an Inner .* got a function of \(state\)"),
        (lambda state, batch, key: None, "state that begin returns has the structure PyTreeDef"),
        (lambda state, batch, key: (jnp.ones(2), *state[1:]), r"the shape \(2,\) .* has \(\)"),
    ],
)
def test_what_is_no_start_is_refused(begin, message):
    inner = maml.gradient_descent(lambda w, x, key: (w, {}), optax.sgd(0.1), 1.0)
    with pytest.raises(ValueError, match=message):
        maml.adapt(inner._replace(begin=begin), 0.0, KEY, 1)


def test_recorded_trajectories_need_the_policy_that_acted():
    """Collected with one key and used with another, they would be of another policy."""
    inner: Any = mean_of_targets(jnp.array(0.0))
    episode = rl.collect_episode(lambda meta: inner, lambda *_: inner, 1)
    with pytest.raises(ValueError, match="an Inner with begin starts from another policy each"):
        episode(jnp.array(0.0), (jnp.zeros(1), jnp.zeros(1)), KEY)
