"""Values of other types that mean the same are accepted, also within a program that is traced."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import maml
from benchmarks.harness.algorithms import build
from maml.search import Space, child_keys, random_search, search_on_host

KEY = jax.random.key(0)
THETA = jnp.array([1.0, -2.0])
EPISODES = maml.Episode(jnp.ones((3, 2)), jnp.zeros((3, 2)))
SGD = optax.sgd(0.1)


def loss(theta, batch, key):
    return jnp.square(theta - batch).sum(), {}


@pytest.mark.parametrize("array", [np.array, jnp.array])
def test_weights_of_the_inner_steps_may_be_constant_arrays(array):
    weights, learner = array([0.25, 0.75]), maml.maml(loss, SGD, 2).learner
    grads = maml.meta_gradient(
        maml.unrolled(learner, loss, 2, weights=lambda step: weights), THETA, EPISODES, KEY
    )[0]
    listed = maml.unrolled(learner, loss, 2, weights=lambda step: jnp.stack([0.25, 0.75]))
    np.testing.assert_array_equal(grads, maml.meta_gradient(listed, THETA, EPISODES, KEY)[0])


def test_arrays_of_the_caller_may_be_numbers_within_jit(unchecked):
    numbers, one, rate = jnp.arange(2), jnp.array(1), jnp.float32(0.1)
    keys = jax.jit(lambda key: child_keys(key, numbers))(KEY)
    assert (keys == child_keys(KEY, numbers)).all()
    options = jax.jit(lambda tokens: Space((2, 3)).options(tokens, one))(jnp.zeros(2, int))
    assert options.tolist() == [True, True, True]
    algorithm = jax.jit(
        lambda theta: (
            maml.meta_gradient(
                maml.meta_sgd(loss, optax.sgd(1.0), 1, rate=rate).grad,
                maml.MetaSGDParams(theta, jnp.full(2, rate)),
                EPISODES,
                KEY,
            )[0].params
        )
    )
    assert jnp.isfinite(algorithm(THETA)).all()
    negative = numbers - 1
    with pytest.raises(ValueError, match="must be >= 0; got -1"):
        jax.jit(lambda key: child_keys(key, negative))(KEY)


def test_a_hyperparameter_may_be_set_to_a_python_number():
    algorithm, outer = maml.maml(loss, SGD, 1), optax.inject_hyperparams(optax.adam)(1e-3)
    state = maml.init(algorithm, outer, THETA)
    state.opt_state.hyperparams["learning_rate"] = 0.5
    after, _ = maml.meta_step(algorithm, outer, state, EPISODES, KEY)
    np.testing.assert_allclose(abs(after.params - THETA), 0.5, rtol=1e-3)


def test_an_executor_may_count_by_numpy(unchecked):
    def backwards(function, items):
        for index in np.argsort(range(len(items)))[::-1]:
            yield index, function(*items[index])

    strategy = random_search(Space((2, 3)))
    _, history = search_on_host(
        strategy,
        lambda tokens, key: 1.0 * tokens.sum(),
        strategy.init(KEY),
        KEY,
        children=2,
        executor=backwards,
    )
    assert (history.rewards == history.tokens.sum(1)).all()


def test_first_order_steps_alone_are_not_maml_plus_plus():
    built = build("maml", loss, 0.1, 1, first_order=3).init(THETA)
    assert jax.tree.leaves(built)[0].shape == THETA.shape
    assert jax.tree.map(jnp.shape, built) == jax.tree.map(
        jnp.shape, build("maml++", loss, 0.1, 1, learn_rates=False).init(THETA)
    )
