"""An ensemble is its members side by side, and the mean of their probabilities."""

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


def test_the_mixture_has_the_mean_of_the_probabilities():
    logits = jnp.array([[[100.0, 0.0, 0.0]], [[0.0, 1.0, 3.0]]])
    mixed = maml.mixture(lambda params, x: logits[params])(jnp.arange(2), None)
    wanted = np.mean([[1.0, 0.0, 0.0], np.exp([0, 1, 3]) / np.exp([0, 1, 3]).sum()], axis=0)
    np.testing.assert_allclose(jnp.exp(mixed[0]), wanted, atol=1e-12)
    loss = maml.classification(maml.mixture(lambda params, x: logits[params]))
    value, metrics = loss(jnp.arange(2), (None, jnp.array([2])), KEY)
    np.testing.assert_allclose(value, -np.log(wanted[2]), rtol=1e-12)
    assert metrics["accuracy"] == 0
