"""An ensemble equals its members side by side, with the mean of their probabilities."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import problem, quick

import maml

KEY = jax.random.key(0)
pytestmark = pytest.mark.usefixtures("x64")


def members(whole, count=3):
    shifts = jax.random.split(KEY, count)
    return [
        jax.tree.map(lambda leaf, key=key: leaf + 0.3 * jax.random.normal(key), whole.params)
        for key in shifts
    ]


def test_each_member_adapts_as_it_does_alone():
    """With rates of its own: the learner depends on the meta-parameters in more than its start."""
    whole = problem("support")
    algorithm = maml.meta_sgd(whole.loss, optax.sgd(1.0), 2, rate=0.3)
    metas = [algorithm.init(member) for member in members(whole)]
    metas = [
        meta._replace(rates=jax.tree.map(lambda r, n=n: r * (1 + n), meta.rates))
        for n, meta in enumerate(metas)
    ]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *metas)
    support = jax.tree.map(lambda leaf: leaf[0], whole.episodes.support)

    def adapted(meta, learner):
        return maml.adapt(learner(meta), support, KEY, 2)[0]

    together = quick(lambda meta: adapted(meta, maml.ensemble(algorithm.learner)))(stacked)
    for number, meta in enumerate(metas):
        alone = quick(lambda meta: adapted(meta, algorithm.learner))(meta)
        for one, all_of in zip(*map(jax.tree.leaves, (alone, together)), strict=True):
            np.testing.assert_allclose(all_of[number], one, rtol=1e-12, atol=1e-13)


def test_an_ensemble_stores_states_as_its_members_do():
    whole = problem("support")
    learner = maml.maml(whole.loss, optax.sgd(0.1), 2, remat=True).learner
    stacked = jax.tree.map(lambda leaf: leaf[None], whole.params)
    assert maml.ensemble(learner)(stacked).remat


def test_the_mixture_has_the_mean_of_the_probabilities():
    logits = jnp.array([[[100.0, 0.0, 0.0]], [[0.0, 1.0, 3.0]]])
    mixed = maml.mixture(lambda params, x: logits[params])(jnp.arange(2), None)
    expected = np.mean([[1.0, 0.0, 0.0], np.exp([0, 1, 3]) / np.exp([0, 1, 3]).sum()], axis=0)
    np.testing.assert_allclose(jnp.exp(mixed[0]), expected, atol=1e-12)
    loss = maml.classification(maml.mixture(lambda params, x: logits[params]))
    value, metrics = loss(jnp.arange(2), (None, jnp.array([2])), KEY)
    np.testing.assert_allclose(value, -np.log(expected[2]), rtol=1e-12)
    assert metrics["accuracy"] == 0


def test_a_class_with_probability_zero_in_every_member_gives_no_nan():
    logits = jnp.array([[[1.0, -jnp.inf, 0.5]], [[-jnp.inf, -jnp.inf, 2.0]]])
    loss = maml.classification(maml.mixture(lambda shift, _: logits[0] + shift))
    shifts = jnp.array([0.0, 1.0])
    batch = None, jnp.array([0])
    value, grads = quick(jax.value_and_grad(lambda s: loss(s, batch, KEY)[0]))(shifts)
    assert jnp.isfinite(value) and jnp.isfinite(grads).all()


def test_a_mixture_of_low_precision_is_that_of_float32():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, 50, 5)), jnp.bfloat16)
    low, high = (
        quick(maml.mixture(lambda member, _: member))(values, None)
        for values in (logits, logits.astype(float))
    )
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, high, atol=1e-6)


def test_a_mixture_passes_weights_to_its_members():
    """So that a member may take its statistics over the rows that count alone."""

    def centered(shift, x, weights=None):
        weights = jnp.ones(len(x)) if weights is None else weights
        return shift + x - jnp.sum(weights[:, None] * x, 0) / weights.sum()

    loss = quick(maml.classification(maml.mixture(centered)))
    x, labels = jnp.arange(8.0).reshape(4, 2) ** 2, jnp.array([0, 1, 1, 0])
    expected = loss(jnp.array([0.0, 1.0]), (x[:3], labels[:3]), KEY)[0]
    got = loss(jnp.array([0.0, 1.0]), (x, labels, jnp.array([1, 1, 1, 0])), KEY)[0]
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_invalid_ensembles_are_refused(unchecked):
    loss = maml.classification(maml.mixture(lambda shift, x: x + shift))
    learner = maml.ensemble(lambda theta: maml.gradient_descent(loss, optax.sgd(0.1), theta))
    for members in (jnp.zeros((0, 3)), jnp.zeros(()), {"a": jnp.zeros(2), "b": jnp.zeros(3)}):
        for call in (learner, lambda members: loss(members, (jnp.ones((2, 3)), jnp.zeros(2)), KEY)):
            with pytest.raises(ValueError, match="one member or more, stacked"):
                call(members)
    for outputs in (jnp.ones((5, 1)), jnp.ones(5)):
        with pytest.raises(ValueError, match=r"needs logits \[n, ways\], at least 2 a row"):
            maml.mixture(lambda w, x, outputs=outputs: outputs * w)(jnp.ones(3), None)
    for build in (maml.ensemble, maml.mixture):
        with pytest.raises(ValueError, match="must be a function of"):
            build(None)  # pyright: ignore[reportArgumentType]
