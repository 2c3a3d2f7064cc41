"""Every algorithm keeps its contract from `init` to `evaluate`, on one small problem."""

from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.flatten_util import ravel_pytree
from problems import ALGORITHMS, RATE, STRENGTH, quick

import maml

TASKS, STEPS = 4, 2
KEY = jax.random.key(0)
OUTER = optax.adam(0.03)
pytestmark = pytest.mark.usefixtures("x64")


def features(params, x):
    return jnp.tanh(x @ params["body"]["w"] + params["context"])


def apply(params, x):
    return features(params, x) @ params["head"]["w"] + params["head"]["b"]


LOSS = maml.regression(apply)
with jax.enable_x64(True):
    PARAMS = {
        "body": {"w": 0.5 * jax.random.normal(jax.random.key(1), (2, 8))},
        "context": jnp.zeros(8),
        "head": {"w": 0.5 * jax.random.normal(jax.random.key(2), (8, 1)), "b": jnp.zeros(1)},
    }
OPTIONS = {
    "anil": {"head": maml.mask_by_path(PARAMS, "head")},
    "boil": {"head": maml.mask_by_path(PARAMS, "head")},
    "meta_sgd": {"rate": RATE},
    "maml_plus_plus": {"rate": RATE, "multi_step": 50, "first_order": 5},
    "imaml": {"regularisation": STRENGTH, "cg_steps": 5},
    "cavia": {"context": maml.mask_by_path(PARAMS, "context")},
}


def build(name, loss=LOSS, optimizer=None, inner_steps=STEPS, **options):
    optimizer = optax.sgd(0.1) if optimizer is None else optimizer
    options = OPTIONS.get(name, {}) | options
    return getattr(maml, name)(loss, optimizer, inner_steps, **options)


def sample_task(key):
    """A plane with a bias of its own, and noise-free points of it."""
    bias_key, support_key, query_key = jax.random.split(key, 3)
    bias = 2.0 + 0.3 * jax.random.normal(bias_key)

    def points(key):
        x = jax.random.normal(key, (6, 2))
        return x, x @ jnp.array([[1.0], [-1.0]]) + bias

    return maml.Episode(points(support_key), points(query_key))


sample = maml.batch_tasks(sample_task, TASKS)
with jax.enable_x64(True):
    EPISODES = sample(jax.random.key(3))


class Case(NamedTuple):
    """An algorithm, its first state, and its jitted functions, compiled once for all tests."""

    algorithm: maml.Algorithm
    state: maml.MetaState
    gradient: Any
    train: Any
    evaluate: Any


@cache
def case_of(name) -> Case:
    algorithm = build(name)
    train = partial(maml.train, algorithm, OUTER, sample)
    evaluate = partial(maml.evaluate, algorithm.learner, LOSS, inner_steps=STEPS)
    return Case(
        algorithm,
        maml.init(algorithm, OUTER, PARAMS),
        quick(partial(maml.meta_gradient, algorithm.grad, step=100)),  # beyond what is scheduled
        quick(train, static_argnums=2),
        quick(evaluate),
    )


@pytest.fixture(params=ALGORITHMS)
def case(request, x64) -> Case:
    return case_of(request.param)


def dtype_of(leaf):
    return leaf.dtype


def assert_same(got, expected):
    """The same tree, and bit for bit the same numbers."""
    assert jax.tree.map(dtype_of, got) == jax.tree.map(dtype_of, expected)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), got, expected))


def assert_close(got, expected):
    got, expected = ravel_pytree(got)[0], ravel_pytree(expected)[0]
    assert jnp.linalg.norm(got - expected) <= 1e-12 * jnp.linalg.norm(expected)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_meta_gradient_is_a_tree_like_the_meta_parameters(case, dtype):
    """Also where the head is in another precision than the body."""
    head = jax.tree.map(lambda leaf: leaf.astype(dtype), PARAMS["head"])
    meta = case.algorithm.init(PARAMS | {"head": head})
    grads, _ = case.gradient(meta, EPISODES, KEY)
    assert jax.tree.map(dtype_of, grads) == jax.tree.map(dtype_of, meta)
    assert jax.tree.map(jnp.shape, grads) == jax.tree.map(jnp.shape, meta)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_a_meta_step_is_the_outer_optimiser_on_the_meta_gradient(case):
    step = quick(partial(maml.meta_step, case.algorithm, optax.sgd(0.5)))
    first = maml.init(case.algorithm, optax.sgd(0.5), PARAMS)
    first = first._replace(step=jnp.array(100))  # beyond what is scheduled
    state, _ = step(first, EPISODES, KEY)
    grads, _ = case.gradient(first.params, EPISODES, KEY)
    assert state.step == 101
    assert_close(state.params, jax.tree.map(lambda p, g: p - 0.5 * g, first.params, grads))


def test_jit_changes_nothing(case):
    step = partial(maml.meta_step, case.algorithm, OUTER)
    assert_close(quick(step)(case.state, EPISODES, KEY), step(case.state, EPISODES, KEY))


def test_training_for_zero_steps_leaves_the_state_unchanged(case):
    assert_same(case.train(case.state, KEY, 0)[0], case.state)


def test_training_twice_equals_training_once_for_twice_the_steps(case):
    halfway, first = case.train(case.state, KEY, 3)
    twice, second = case.train(halfway, KEY, 3)
    once, metrics = case.train(case.state, KEY, 6)
    assert_same(twice, once)
    assert_same(jax.tree.map(lambda *m: jnp.concatenate(m), first, second), metrics)


def test_training_lowers_the_loss_after_adaptation(case):
    state, metrics = case.train(case.state, KEY, 100)
    before, _ = case.evaluate(case.state.params, EPISODES, KEY)
    after, _ = case.evaluate(state.params, EPISODES, KEY)
    assert after[:, -1].mean() < 0.5 * before[:, -1].mean()
    assert metrics["loss"][-10:].mean() < 0.5 * metrics["loss"][:10].mean()


def test_evaluation_reads_the_metric_before_during_and_after_adaptation(case):
    meta = jax.tree.map(lambda leaf: leaf + 0.1, case.state.params)
    seen, _ = case.evaluate(meta, EPISODES, KEY)
    inner = case.algorithm.learner(meta)
    step = quick(inner.step)
    for task in range(TASKS):
        episode = jax.tree.map(lambda leaf, task=task: leaf[task], EPISODES)
        state = inner.state
        for value in seen[task]:
            assert_close(value, LOSS(inner.params(state), episode.query, KEY)[0])
            state, _ = step(state, episode.support, KEY)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_too_few_steps_are_refused(name):
    """Without a step, what is differentiated through is joint training; the others are nothing."""
    least = 1 if name in ("reptile", "imaml", "maml_plus_plus") else 0
    with pytest.raises(ValueError, match=f"integer >= {least}; got {least - 1}"):
        build(name, inner_steps=least - 1)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", ALGORITHMS)
def test_values_that_are_not_optimisers_are_refused(name):
    with pytest.raises(ValueError, match="must be an optax transformation; got 'adam'"):
        build(name, optimizer="adam")
    with pytest.raises(ValueError, match=r"must be an optax transformation; got 0\.1"):
        maml.init(build(name), 0.1, PARAMS)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_vector_of_losses_is_refused_with_its_shape(name):
    def vector(params, batch, key):
        x, y = batch
        return jnp.square(apply(params, x) - y).mean(axis=1), {}

    algorithm = build(name, vector)
    with pytest.raises(ValueError, match=r"returns one number; got an array of \(6,\)"):
        maml.meta_gradient(algorithm.grad, algorithm.init(PARAMS), EPISODES, KEY)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_loss_without_metrics_is_refused(name):
    algorithm = build(name, lambda params, batch, key: LOSS(params, batch, key)[0])
    with pytest.raises(ValueError, match=r"returns \(scalar, metrics\)"):
        maml.meta_gradient(algorithm.grad, algorithm.init(PARAMS), EPISODES, KEY)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        *((name, "mask") for name in ("maml", "fomaml", "meta_sgd", "maml_plus_plus")),
        *(("anil", "head"), ("boil", "head"), ("cavia", "context")),
    ],
)
def test_a_mask_of_another_structure_is_refused(name, option):
    algorithm = build(name, LOSS, optax.sgd(0.1), STEPS, **{option: {"head": True, "body": False}})
    with pytest.raises(ValueError, match="the mask has the structure"):
        maml.init(algorithm, OUTER, PARAMS)


@pytest.mark.parametrize("regularisation", [0.0, -1.0, float("nan")])
def test_the_pull_of_imaml_is_positive(regularisation):
    with pytest.raises(ValueError, match=f"must be a finite number > 0; got {regularisation}"):
        build("imaml", regularisation=regularisation)
