"""The outer loop: means over tasks, keys of meta-steps, and compiled chunks."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import maml
from maml import total

KEY = jax.random.key(0)
TASKS = 6
OUTER = optax.adam(0.1)
pytestmark = pytest.mark.usefixtures("x64")


def noisy_loss(w, center, key):
    """A quadratic whose value and gradient depend on the key."""
    noise = jax.random.normal(key, w.shape)
    return 0.5 * jnp.sum(jnp.square(w - center - 0.1 * noise)), {"noise": noise.sum()}


def sample_task(key):
    return maml.Episode(*jax.random.normal(key, (2, 3)))


ALGORITHM = maml.maml(noisy_loss, optax.sgd(0.3), 2)
sample = maml.batch_tasks(jax.tree_util.Partial(sample_task), TASKS)


def start(algorithm=ALGORITHM):
    return maml.init(algorithm, OUTER, jnp.ones(3))


PLAIN = maml.MetaGradient(gradient=partial(maml.task_gradient, ALGORITHM.grad))


@pytest.mark.parametrize("grad", [ALGORITHM.grad, PLAIN])
@pytest.mark.parametrize("chunk", [None, 1, 2, 3, 6])
def test_gradient_and_metrics_are_means_over_tasks_with_a_key_each(chunk, grad):
    episodes, theta = sample(KEY), jnp.arange(3.0)
    grads, metrics = jax.jit(partial(maml.meta_gradient, grad, chunk=chunk))(theta, episodes, KEY)
    assert metrics.pop("left_out") == 0
    of_task = jax.jit(partial(maml.task_gradient, ALGORITHM.grad))
    each = [
        of_task(theta, jax.tree.map(lambda a, i=i: a[i], episodes), key)
        for i, key in enumerate(jax.random.split(KEY, TASKS))
    ]
    assert len({float(metrics["query"]["noise"]) for _, metrics in each}) == TASKS
    expected = jax.tree.map(lambda *outs: np.mean(outs, axis=0), *each)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-13), (grads, metrics), expected)


@pytest.mark.parametrize("inner_steps", [1, 2])
def test_tasks_share_the_meta_parameters_without_a_copy_for_each(inner_steps):
    def loss(w, x, key):
        return jnp.square(x @ w).sum(), {}

    grad = maml.maml(loss, optax.sgd(0.1), inner_steps).grad
    assert grad.objective
    w, x = jnp.ones((4, 5)), jnp.ones((TASKS, 3, 4))
    tasks = maml.Episode(x, x), jax.random.split(KEY, TASKS)
    program = str(
        jax.make_jaxpr(partial(total.values_and_total_gradient, grad.objective, 0))(w, tasks)
    )
    made = set(re.findall(rf"f64\[{TASKS},4,5\] = (\w+)", program))
    assert "add" in made  # the adapted parameters
    assert "broadcast_in_dim" not in made


@pytest.mark.parametrize("chunk", [4, 5, 7, 12])
def test_a_chunk_divides_the_meta_batch(chunk):
    with pytest.raises(ValueError, match=f"a chunk of {chunk} does not divide .* {TASKS} tasks"):
        maml.meta_gradient(ALGORITHM.grad, jnp.ones(3), sample(KEY), KEY, chunk=chunk)


def test_an_empty_chunk_is_refused():
    with pytest.raises(ValueError, match="tasks in a chunk must be an integer >= 1; got 0"):
        maml.meta_gradient(ALGORITHM.grad, jnp.ones(3), sample(KEY), KEY, chunk=0)


@pytest.mark.parametrize(
    ("support", "got"), [(jnp.ones((5, 3)), r"\[\(5,\), \(6,\)\]"), (1.0, r"\[\(\), \(6,\)\]")]
)
def test_leaves_agree_about_the_task_axis(support, got):
    episodes = maml.Episode(support, jnp.ones((6, 3)))
    with pytest.raises(ValueError, match=f"leading sizes {got}"):
        maml.meta_gradient(ALGORITHM.grad, jnp.ones(3), episodes, KEY)
    with pytest.raises(ValueError, match=f"leading sizes {got}"):
        maml.evaluate(ALGORITHM.learner, noisy_loss, jnp.ones(3), episodes, KEY, 1)


def test_counts_that_are_not_natural_numbers_are_refused():
    with pytest.raises(ValueError, match="number of tasks must be an integer >= 1; got 0"):
        maml.batch_tasks(sample_task, 0)
    with pytest.raises(ValueError, match="number of meta-steps must be an integer >= 0; got -1"):
        maml.train(ALGORITHM, OUTER, sample, start(), KEY, -1)
    with pytest.raises(ValueError, match="number of inner steps must be an integer >= 0; got -1"):
        maml.evaluate(ALGORITHM.learner, noisy_loss, jnp.ones(3), sample(KEY), KEY, -1)


def test_the_keys_of_a_step_are_folded_from_its_number():
    """A run begun again from a state in the middle is the straight run."""
    run = jax.jit(partial(maml.train, ALGORITHM, OUTER, sample, meta_steps=1))
    states = [start()]
    for _ in range(5):
        states.append(run(states[-1], KEY)[0])
    train = jax.jit(partial(maml.train, ALGORITHM, OUTER, sample, meta_steps=3))
    resumed, metrics = train(states[2], KEY)
    assert resumed.step == 5
    assert (resumed.params == states[-1].params).all()
    assert len(set(metrics["query"]["noise"].tolist())) == 3

    sample_key, grad_key = jax.random.split(jax.random.fold_in(KEY, 2))
    episodes = sample(sample_key)
    step = jax.jit(partial(maml.meta_step, ALGORITHM, OUTER))
    by_hand, _ = step(states[2], episodes, grad_key)
    np.testing.assert_allclose(by_hand.params, states[3].params, rtol=1e-13)


def test_chunks_of_training_share_one_program_that_the_host_does_not_disturb():
    traces = []

    def counted(params, batch, key):
        traces.append(None)
        return noisy_loss(params, batch, key)

    algorithm = maml.maml(counted, optax.sgd(0.3), 2)
    run = jax.jit(partial(maml.train, algorithm, OUTER, meta_steps=4), donate_argnums=1)
    state, _ = run(sample, start(algorithm), KEY)
    traced, given_up = len(traces), state.params
    with jax.transfer_guard("disallow"):
        for _ in range(3):
            state, _ = run(sample, state, KEY)
    assert given_up.is_deleted()
    assert (state.step, len(traces)) == (16, traced)
    assert run._cache_size() == 1  # pyright: ignore[reportAttributeAccessIssue]


def test_a_data_set_in_a_partial_is_an_argument_and_not_a_constant():
    data = jnp.arange(100.0)
    drawn = jax.tree_util.Partial(lambda data, key: maml.Episode(*data[:6].reshape(2, 3)), data)
    drawn = maml.batch_tasks(drawn, TASKS)
    run = jax.jit(partial(maml.train, ALGORITHM, OUTER, meta_steps=1))
    others = jax.tree.map(jnp.negative, drawn)
    moved = [run(chosen, start(), KEY)[0].params for chosen in (drawn, others)]
    assert run._cache_size() == 1  # pyright: ignore[reportAttributeAccessIssue]
    assert (moved[0] != moved[1]).any()


@pytest.mark.parametrize("chunk", [2, 4, 6, 10])
def test_evaluation_does_not_depend_on_the_chunk(chunk):
    run = partial(maml.evaluate, ALGORITHM.learner, noisy_loss, jnp.ones(3), sample(KEY), KEY, 3)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-13), run(chunk=chunk), run())


def test_evaluation_gives_a_task_the_same_key_at_every_step():
    _, metrics = maml.evaluate(ALGORITHM.learner, noisy_loss, jnp.ones(3), sample(KEY), KEY, 3)
    assert (metrics["noise"] == metrics["noise"][:, :1]).all()
    assert len(set(metrics["noise"][:, 0].tolist())) == TASKS


def test_mean_and_interval_are_numpy_s():
    values = np.random.default_rng(0).normal(size=(50, 4))
    mean, ci95 = maml.mean_ci95(jnp.asarray(values))
    np.testing.assert_allclose(mean, values.mean(0), rtol=1e-13)
    np.testing.assert_allclose(ci95, 1.96 * values.std(0, ddof=1) / np.sqrt(50), rtol=1e-13)


def test_one_task_has_no_interval():
    mean, ci95 = maml.mean_ci95(jnp.array([3.0]))
    assert (mean == 3) & jnp.isnan(ci95)


trees = st.recursive(
    st.floats(allow_nan=False) | st.integers(),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3)
        | st.dictionaries(st.text("abc", min_size=1), inner, min_size=1, max_size=3)
        | st.tuples(inner, st.none())
    ),
)


@settings(deadline=None)
@given(st.data(), trees)
def test_combine_undoes_partition(data, params):
    mask = jax.tree.map(lambda _: data.draw(st.booleans()), params)
    chosen, others = maml.partition(params, mask)
    assert maml.combine(chosen, others) == params
    assert maml.partition(params, maml.complement(mask)) == (others, chosen)
    kept = [leaf for leaf, keep in zip(*map(jax.tree.leaves, (params, mask)), strict=True) if keep]
    assert jax.tree.leaves(chosen) == kept


def test_a_pattern_that_matches_nothing_is_refused_with_the_paths():
    params = {"body": [1.0, 2.0], "head": {"w": 3.0}}
    assert maml.mask_by_path(params, r"/1$|^head") == {"body": [False, True], "head": {"w": True}}
    with pytest.raises(
        ValueError, match=r"'haed' matches none of the paths body/0, body/1, head/w"
    ):
        maml.mask_by_path(params, "haed")


def test_predictions_and_targets_that_would_broadcast_are_refused():
    loss = maml.regression(lambda w, x: w * x)
    with pytest.raises(ValueError, match=r"shape of the targets, \(3, 1\); got \(3,\)"):
        loss(1.0, (jnp.ones(3), jnp.ones((3, 1))), KEY)


def test_classification_is_the_mean_negative_log_likelihood():
    logits, labels = np.random.default_rng(0).normal(size=(20, 5)), np.arange(20) % 5
    value, metrics = maml.classification(lambda p, x: x)(
        None, (jnp.array(logits), jnp.array(labels)), KEY
    )
    likelihood = np.exp(logits)[np.arange(20), labels] / np.exp(logits).sum(1)
    np.testing.assert_allclose(value, -np.log(likelihood).mean(), rtol=1e-13)
    assert metrics["accuracy"] == np.float32((logits.argmax(1) == labels).mean())


def test_proximal_pulls_the_gradient_towards_the_centre():
    params, center = {"a": jnp.arange(3.0), "b": 2.0}, {"a": jnp.ones(3), "b": -1.0}

    def loss(p, batch, key):
        return jnp.sum(p["a"]) * p["b"], {}

    plain, pulled = (
        jax.grad(lambda p, f=f: f(p, None, KEY)[0])(params)
        for f in (loss, maml.proximal(loss, center, 4.0))
    )
    pull = jax.tree.map(lambda p, c: 4.0 * (p - c), params, center)
    assert jax.tree.all(jax.tree.map(lambda g, h, f: jnp.allclose(g, h + f), pulled, plain, pull))
