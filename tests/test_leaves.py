"""Frozen and non-float leaves, optimisers that need a loss, explicit meshes, inner loops."""

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
from maml.descent import gradient_descent

KEY = jax.random.key(0)


def loss(params, batch, key):
    x, y = batch
    error = jnp.mean(jnp.square(jnp.tanh(x @ params["w"]) - y)) * (1 + 0 * params["count"])
    return error, {"error": error}


def sample_task(key):
    return maml.Episode(*((x, x.sum(axis=1)) for x in jax.random.normal(key, (2, 4, 3))))


W = jnp.array([0.1, -0.2, 0.3])
PARAMS = {"w": W, "count": jnp.int32(0), "key": jax.random.key(5), "chosen": jnp.array([True])}
SAMPLE = maml.batch_tasks(sample_task, 2)
EPISODES = SAMPLE(KEY)
BUILD = {
    "maml": lambda: maml.maml(loss, optax.sgd(0.1), 2),
    "fomaml": lambda: maml.fomaml(loss, optax.sgd(0.1), 2),
    "meta_sgd": lambda: maml.meta_sgd(loss, optax.sgd(1.0), 2, rate=0.1),
    "maml_plus_plus": lambda: maml.maml_plus_plus(loss, optax.sgd(1.0), 2, rate=0.1),
    "reptile": lambda: maml.reptile(loss, optax.sgd(0.1), 2),
    "imaml": lambda: maml.imaml(loss, optax.sgd(0.1), 2, regularisation=1.0, cg_steps=3),
}


@pytest.mark.parametrize("name", BUILD)
def test_leaves_without_a_derivative_stay_as_they_are_and_do_not_disturb(name):
    def trained(params, loss_of):
        algorithm, outer = BUILD[name](), optax.adamw(0.05)
        state = maml.init(algorithm, outer, params)
        return jax.jit(partial(maml.train, algorithm, outer, SAMPLE, meta_steps=3))(state, KEY)[0]

    after = trained(PARAMS, loss)
    params = getattr(after.params, "params", after.params)
    assert params["count"] == 0 and params["chosen"].all()
    assert jax.random.key_data(params["key"]).tolist() == [0, 5]
    alone = trained({"w": W, "count": jnp.zeros(())}, loss)
    expected = getattr(alone.params, "params", alone.params)["w"]
    np.testing.assert_allclose(params["w"], expected, rtol=1e-6)  # a few roundings in float32


def test_a_leaf_without_a_derivative_is_named_where_it_is_told_to_adapt():
    mask = {"w": True, "count": True, "key": False, "chosen": False}
    algorithm = maml.maml(loss, optax.sgd(0.1), 1, mask=mask)
    with pytest.raises(ValueError, match="only floating-point leaves can adapt; got int32 at"):
        maml.init(algorithm, optax.sgd(0.1), PARAMS)


def test_a_leaf_is_kept_from_the_outer_loop_by_a_mask_of_optax():
    params = {"w": W, "count": jnp.ones(())}
    frozen = {"w": False, "count": True}
    outer = optax.selective_transform(optax.adamw(0.1), freeze_mask=frozen)
    algorithm = BUILD["maml"]()
    state = maml.init(algorithm, outer, params)
    state, _ = quick(partial(maml.meta_step, algorithm, outer))(state, EPISODES, KEY)
    assert state.params["count"] == 1 and (state.params["w"] != W).all()


def flat_loss(w, batch, key):
    x, y = batch
    return jnp.mean(jnp.square(jnp.tanh(x @ w) - y)), {}


VALUED: dict[str, Any] = {
    "polyak": lambda: optax.polyak_sgd(0.5),
    "backtracking": lambda: optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(10)),
    "lbfgs": lambda: optax.lbfgs(),
}


@pytest.mark.parametrize("name", VALUED)
def test_an_optimiser_that_asks_for_the_loss_is_given_it_inside_and_outside(name):
    """Inside: as optax's own loop on the support set. Outside: on the mean query loss."""
    optimizer = VALUED[name]()
    episode = jax.tree.map(lambda leaf: leaf[0], EPISODES)
    support = lambda w: flat_loss(w, episode.support, KEY)[0]  # noqa: E731
    inner = gradient_descent(flat_loss, optimizer, W)
    got = quick(lambda support: maml.adapt(inner, support, KEY, 2)[0])(episode.support)

    @quick
    def expected(w):
        state: Any = optimizer.init(w)
        for _ in range(2):
            value, grad = jax.value_and_grad(support)(w)
            given = {"value": value, "grad": grad, "value_fn": support}
            updates, state = optimizer.update(grad, state, w, **given)
            w = w + jnp.asarray(updates)
        return w

    np.testing.assert_allclose(got, expected(W), rtol=1e-5)

    algorithm = maml.maml(flat_loss, optax.sgd(0.1), 1)
    before = maml.init(algorithm, optimizer, W)
    step = jax.jit(partial(maml.meta_step, algorithm, optimizer))
    after, metrics = step(before, EPISODES, KEY)
    _, later = quick(partial(maml.meta_gradient, algorithm.grad))(after.params, EPISODES, KEY)
    assert later["loss"] < metrics["loss"]


@pytest.mark.usefixtures("unchecked")
def test_what_optimisers_cannot_be_given_is_said():
    with pytest.raises(ValueError, match="a loop that has no derivative in reverse mode"):
        maml.maml(flat_loss, optax.lbfgs(), 1)
    multi: Any = optax.MultiSteps(optax.sgd(0.1), 2)
    with pytest.raises(ValueError, match=r"pass optax.MultiSteps\(...\).gradient_transformation"):
        maml.init(BUILD["maml"](), multi, PARAMS)
    with pytest.raises(ValueError, match=r"optax\.lookahead keeps a second set of parameters"):
        maml.maml(flat_loss, optax.lookahead(optax.sgd(0.1), 2, 0.5), 2)
    plain = maml.reptile(flat_loss, optax.sgd(0.1), 2)
    with pytest.raises(ValueError, match="needs a loss; this meta-gradient has none"):
        maml.meta_step(plain, optax.lbfgs(), maml.init(plain, optax.lbfgs(), W), EPISODES, KEY)


def test_multi_steps_outside_average_the_meta_gradients_of_two_meta_steps():
    algorithm = maml.maml(flat_loss, optax.sgd(0.1), 1)
    outer = optax.MultiSteps(optax.sgd(0.1), 2).gradient_transformation()
    state = maml.init(algorithm, outer, W)
    step = quick(partial(maml.meta_step, algorithm, outer))
    first, _ = step(state, EPISODES, KEY)
    second, _ = step(first, EPISODES, KEY)
    grads, _ = quick(partial(maml.meta_gradient, algorithm.grad))(W, EPISODES, KEY)
    np.testing.assert_array_equal(first.params, W)
    np.testing.assert_allclose(second.params, W - 0.1 * grads, rtol=1e-6)


@pytest.mark.parametrize("key", [0, jax.random.key(0)])
def test_the_noise_of_an_inner_optimiser_is_another_in_every_task(key):
    still = lambda w, batch, key: (0.0 * w, {})  # noqa: E731
    inner = gradient_descent(
        still, optax.noisy_sgd(1.0, eta=1.0, gamma=0.0, key=key), jnp.zeros(())
    )
    adapt = quick(jax.vmap(lambda key: maml.adapt(inner, None, key, 2)[0]))
    ends = adapt(jax.random.split(KEY, 4))
    assert len(set(ends.tolist())) == 4


@pytest.mark.parametrize("inner_steps", [1, 2, 7, 12, 97])
@pytest.mark.parametrize("hvp", ["reverse", "forward"])
def test_remat_keeps_about_twice_the_root_of_the_steps_for_every_number(hvp, inner_steps):
    size = 1000

    def loss(w, batch, key):
        return jnp.square(jnp.sin(w) - batch).sum(), {}

    def memory_of(steps):
        grad = maml.maml(loss, optax.sgd(0.1), steps, hvp=hvp, remat=True).grad
        lowered = jax.jit(partial(maml.task_gradient, grad)).lower(
            jnp.ones(size), maml.Episode(0.5, 0.2), KEY
        )
        analysis: Any = lowered.compile().memory_analysis()
        return analysis.temp_size_in_bytes / (4 * size)

    states = memory_of(inner_steps)
    assert states <= 2 * inner_steps**0.5 + 12


@pytest.mark.parametrize("inner_steps", [1, 2, 7, 12])
def test_recomputing_in_blocks_and_a_rest_changes_no_number(inner_steps, x64):
    episode = jax.tree.map(lambda leaf: leaf[0].astype(float), EPISODES)
    grads = [
        quick(partial(maml.task_gradient, algorithm.grad))(W.astype(float), episode, KEY)
        for algorithm in (
            maml.maml(flat_loss, optax.sgd(0.1), inner_steps, remat=remat)
            for remat in (False, True)
        )
    ]
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12), *grads)


@pytest.mark.parametrize("context", [False, True], ids=["without", "within"])
def test_a_mesh_with_explicit_axes_gives_the_same_mean(context):
    algorithm = maml.maml(flat_loss, optax.sgd(0.1), 1)
    expected = quick(partial(maml.meta_gradient, algorithm.grad))(W, EPISODES, KEY)
    explicit = jax.make_mesh((2,), ("task",), devices=jax.devices()[:2])
    within = jax.set_mesh(explicit) if context else jax.enable_x64(False)
    with within:
        for mesh in (explicit, maml.task_mesh(2)):
            got = jax.jit(partial(maml.meta_gradient, algorithm.grad, mesh=mesh))(W, EPISODES, KEY)
            jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), got, expected)
            values, _ = maml.evaluate(algorithm.learner, flat_loss, W, EPISODES, KEY, 1, mesh=mesh)
            assert values.shape == (2, 2)


def test_reptile_goes_on_from_the_state_of_its_inner_optimiser(x64):
    """With one task, many meta-steps of one inner step each are one long run of Adam."""
    episode = jax.tree.map(lambda leaf: leaf[:1].astype(float), EPISODES)
    support = jax.tree.map(lambda leaf: leaf[0], episode.support)
    inner = optax.adam(0.1)
    algorithm = maml.reptile(flat_loss, inner, 1, keep_state=True)
    outer = maml.keep_inner_state(optax.sgd(1.0))
    w = W.astype(float)
    state = maml.init(algorithm, outer, w)
    opt_state: Any = inner.init(w)
    step = quick(partial(maml.meta_step, algorithm, outer))
    for _ in range(3):
        state, _ = step(state, episode, KEY)
        grad = jax.grad(lambda w: flat_loss(w, support, KEY)[0])(w)
        updates, opt_state = inner.update(grad, opt_state, w)
        w = w + jnp.asarray(updates)
    np.testing.assert_allclose(state.params.params, w, rtol=1e-12)
    assert state.params.opt_state[0].count == 3


def test_imaml_takes_a_batch_for_each_step(x64):
    """The curvature is that of their mean loss: of equal batches, that of one."""
    episode = jax.tree.map(lambda leaf: leaf[0].astype(float), EPISODES)
    algorithm = maml.imaml(flat_loss, optax.sgd(0.1), 3, regularisation=1.0, cg_steps=3)
    several = maml.BatchPerStep(jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), episode.support))
    w = W.astype(float)
    grad = quick(partial(maml.task_gradient, algorithm.grad))
    one, _ = grad(w, episode, KEY)
    each, _ = grad(w, maml.Episode(several, episode.query), KEY)
    np.testing.assert_allclose(each, one, rtol=1e-12)


def complex_loss(w, batch, key):
    error = w * batch - (1 + 2j)
    return jnp.sum(error.real**2 + error.imag**2), {}


@pytest.mark.parametrize("name", ["maml", "reptile", "imaml"])
def test_complex_parameters_have_the_gradient_of_their_real_and_imaginary_parts(name, x64):
    """JAX's gradient of a complex number is  dL/dx - i dL/dy."""
    options = {"imaml": {"regularisation": 40.0, "cg_steps": 10}}.get(name, {})
    inner = optax.sgd(0.0) if name == "imaml" else optax.sgd(0.1)
    algorithm = getattr(maml, name)(complex_loss, inner, 1, **options)
    w, support, query = jnp.array([0.3 + 0.1j, -0.5j]), 1.5 - 0.5j, 0.5 + 1j
    episode = maml.Episode(jnp.array(support), jnp.array(query))
    batch = jax.tree.map(lambda leaf: leaf[None], episode)
    got, _ = quick(partial(maml.meta_gradient, algorithm.grad))(w, batch, KEY)

    def adapted(w):
        return w - 0.1 * jax.grad(lambda w: complex_loss(w, support, KEY)[0])(w)

    def real(parts):
        w = parts[:2] + 1j * parts[2:]
        return complex_loss(adapted(w) if name == "maml" else w, query, KEY)[0]

    parts = quick(partial(central_differences, real))(jnp.concatenate([w.real, w.imag]))
    expected = parts[:2] - 1j * parts[2:]
    if name == "reptile":
        expected = w - adapted(w)
    if name == "imaml":  # the Hessian of |w s - c|^2 by the two parts is 2 |s|^2
        expected = expected / (1 + 2 * abs(support) ** 2 / 40.0)
    np.testing.assert_allclose(got, expected, rtol=1e-8)


def test_flat_vectors_of_leaves_of_two_types_keep_their_types():
    params = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(2)}
    algorithm = maml.imaml(
        lambda p, batch, key: (jnp.square(ravel_pytree(p)[0]).sum(), {}),
        optax.sgd(0.1),
        2,
        regularisation=1.0,
        cg_steps=2,
    )
    tasks = maml.Episode(jnp.zeros((2, 1)), jnp.zeros((2, 1)))
    grads, _ = quick(partial(maml.meta_gradient, algorithm.grad))(params, tasks, KEY)
    assert jax.tree.map(lambda leaf: leaf.dtype, grads) == {"a": jnp.bfloat16, "b": jnp.float32}
