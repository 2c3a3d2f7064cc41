"""Tasks that are not finite are left out and counted; sums in half precision do not overflow."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import central_differences, quick

import maml
from maml.trust_region import TrustRegion, trust_region_step

KEY = jax.random.key(0)
TASKS, BAD = 6, (1, 4)


def rooted(theta, batch, key):
    """A loss whose derivative is NaN, and whose value is finite, where theta is the batch."""
    return jnp.sqrt(jnp.square(theta["w"] - batch).sum()), {"distance": jnp.zeros(())}


ALGORITHM = maml.maml(rooted, optax.sgd(0.1), 0)
THETA = {"w": jnp.array([1.0, 2.0])}
CENTERS = jax.random.normal(KEY, (TASKS, 2)).at[jnp.array(BAD)].set(THETA["w"])
EPISODES = maml.Episode(CENTERS, CENTERS)
GOOD = jax.tree.map(lambda leaf: jnp.delete(leaf, jnp.array(BAD), axis=0), EPISODES)


PLAIN = maml.MetaGradient(gradient=partial(maml.task_gradient, ALGORITHM.grad))


@pytest.mark.parametrize("grad", [ALGORITHM.grad, PLAIN], ids=["objective", "gradient"])
@pytest.mark.parametrize("options", [{}, {"chunk": 1}, {"chunk": 3}, {"mesh": maml.task_mesh(2)}])
def test_a_task_without_a_finite_gradient_is_left_out_and_counted(grad, options):
    step = jax.jit(partial(maml.meta_gradient, grad, **options))
    grads, metrics = step(THETA, EPISODES, KEY)
    expected, alone = quick(partial(maml.meta_gradient, grad))(THETA, GOOD, KEY)
    np.testing.assert_allclose(grads["w"], expected["w"], rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"], alone["loss"], rtol=1e-6)
    assert metrics["left_out"] == pytest.approx(len(BAD) / TASKS) and alone["left_out"] == 0


def test_the_mean_is_not_finite_if_no_task_is_finite():
    same = jax.tree.map(lambda leaf: jnp.broadcast_to(THETA["w"], leaf.shape), EPISODES)
    grads, metrics = quick(partial(maml.meta_gradient, ALGORITHM.grad))(THETA, same, KEY)
    assert jnp.isnan(grads["w"]).all() and metrics["left_out"] == 1


def test_mapped_over_seeds_a_task_is_left_out_of_its_own_seed_alone():
    thetas = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf + 1]), THETA)
    mean = partial(maml.meta_gradient, ALGORITHM.grad)
    grads, metrics = quick(jax.vmap(mean, (0, None, None)))(thetas, EPISODES, KEY)
    assert metrics["left_out"].tolist() == pytest.approx([len(BAD) / TASKS, 0])
    one, _ = quick(mean)({"w": THETA["w"] + 1}, EPISODES, KEY)
    np.testing.assert_allclose(grads["w"][1], one["w"], rtol=1e-6)


@pytest.mark.parametrize("chunk", [None, 1])
def test_a_trust_region_step_is_that_of_the_tasks_that_are_finite(chunk):
    def outputs(theta, episode, key):
        return theta["w"] - episode.query

    def objective(theta, episode, key):
        value, _ = rooted(theta, episode.query, key)
        return value, {"far": jnp.square(theta["w"] - THETA["w"]).mean()}

    def divergence(old, new, episode):
        return jnp.square(new - old).mean()

    region = TrustRegion(objective, outputs, divergence, lambda metrics: metrics["far"])
    step = partial(trust_region_step, region)
    after, metrics = quick(partial(step, chunk=chunk))(THETA, EPISODES, KEY)
    expected, _ = quick(step)(THETA, GOOD, KEY)
    assert metrics["region"]["fraction"] > 0
    np.testing.assert_allclose(after["w"], expected["w"], rtol=1e-5)


def hinge(w, batch, key):
    return jnp.square(jnp.maximum(0.0, batch - w)).sum(), {}


def test_one_task_whose_clipped_gradient_is_zero_has_its_meta_gradient(x64):
    optimizer = optax.chain(maml.clip_by_global_norm(1.0), optax.sgd(0.1))
    algorithm = maml.maml(hinge, optimizer, 2)
    w, episode = jnp.array([3.0, -1.0]), maml.Episode(jnp.array([1.0, -5.0]), jnp.array([4.0, 2.0]))
    grads, _ = quick(partial(maml.task_gradient, algorithm.grad))(w, episode, KEY)
    assert grads.tolist() == [-2.0, -6.0]


@pytest.mark.parametrize("norm", [0.5, 5.0])
def test_the_safe_clip_is_the_clip_of_optax_in_value_and_derivative(norm, x64):
    g = jnp.array([0.6, -0.9])

    def update(clip, g):
        return clip.update(g, clip.init(g))[0] @ jnp.array([1.0, 3.0])

    ours, theirs = maml.clip_by_global_norm(norm), optax.clip_by_global_norm(norm)
    np.testing.assert_allclose(update(ours, g), update(theirs, g), rtol=1e-14)
    expected = central_differences(partial(update, ours), g)
    np.testing.assert_allclose(jax.grad(partial(update, ours))(g), expected, rtol=1e-9)


@pytest.mark.parametrize(
    "optimizer",
    [optax.adam(0.1), optax.adamw(0.1), optax.clip_by_global_norm(1.0), optax.radam(0.1)],
    ids=["adam", "adamw", "clip", "radam"],
)
def test_an_inner_optimiser_without_a_derivative_at_zero_is_refused_when_built(optimizer):
    for build in (maml.maml, partial(maml.meta_sgd, rate=0.1)):
        with pytest.raises(ValueError, match=r"is nan where a gradient is zero.*eps_root"):
            build(hinge, optimizer, 1)
    maml.fomaml(hinge, optimizer, 1)  # has no use for that derivative
    maml.reptile(hinge, optimizer, 1)


@pytest.mark.parametrize("rate", [float("nan"), float("inf")])
def test_an_optimiser_with_a_rate_that_is_not_finite_is_refused(rate):
    with pytest.raises(ValueError, match="turns gradients of 1 into updates of"):
        maml.fomaml(hinge, optax.sgd(rate), 1)
    with pytest.raises(ValueError, match="turns gradients of 1 into updates of"):
        maml.init(ALGORITHM, optax.adam(rate), THETA)


def large(w, batch, key):
    return w * batch, {"value": w * batch}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("options", [{}, {"chunk": 1}, {"chunk": 256}, {"mesh": maml.task_mesh(2)}])
@pytest.mark.parametrize(
    "algorithm",
    [maml.maml(large, optax.sgd(0.1), 0), maml.reptile(large, optax.sgd(1.0), 1)],
    ids=["maml", "reptile"],
)
def test_the_mean_over_many_tasks_does_not_overflow_in_the_type_of_the_leaves(
    algorithm, options, dtype
):
    b = jnp.full(1024, 100.0, dtype)
    w = jnp.ones((), dtype)
    grads, metrics = maml.meta_gradient(algorithm.grad, w, maml.Episode(b, b), KEY, **options)
    assert grads.dtype == dtype and grads == 100
    assert metrics["support"]["value"].size == 0 or metrics["support"]["value"][0] == 100
    assert metrics["left_out"] == 0


@pytest.mark.parametrize("chunk", [1, 2, 512, 1024])
def test_the_mean_in_half_precision_is_the_same_for_every_chunk(chunk):
    algorithm = maml.maml(lambda w, b, key: (jnp.square(w - b), {}), optax.sgd(0.1), 1)
    b = jax.random.normal(KEY, (1024,)).astype(jnp.bfloat16) + 3
    w = jnp.ones((), jnp.bfloat16)
    grads, metrics = maml.meta_gradient(algorithm.grad, w, maml.Episode(b, b), KEY, chunk=chunk)
    of_task = partial(maml.task_gradient, algorithm.grad)
    each, _ = jax.vmap(of_task, (None, 0, None))(w, maml.Episode(b, b), KEY)
    assert float(grads) == pytest.approx(float(each.astype(jnp.float32).mean()), rel=2**-8)
    assert metrics["loss"].dtype == jnp.float32
