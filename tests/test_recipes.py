"""The recipe for classifiers of images: what adapts, and that each algorithm learns."""

import jax
import jax.numpy as jnp
import pytest
from problems import one_task, quick

import maml
from maml.sampling import Query
from tasks.models import FullyConnected
from tasks.recipes import FUNCTIONS, image_classifier

KEY = jax.random.key(0)
MODEL, LABELS = FullyConnected(2, (3,)), jnp.array([0, 1, 0, 1])
IMAGES = jax.random.normal(KEY, (4, 2, 2, 1))
EPISODE = maml.Episode((IMAGES, LABELS), (Query(IMAGES[::-1], IMAGES), LABELS[::-1]))
PARAMS = quick(MODEL.init)(KEY, IMAGES)


@pytest.mark.parametrize("name", sorted(FUNCTIONS.keys() - {"cavia"}))
def test_each_algorithm_has_a_finite_meta_gradient(name):
    chosen = image_classifier(name, MODEL, PARAMS, inner_steps=2)
    grads, _ = one_task(chosen)(chosen.init(PARAMS), EPISODE, KEY)
    leaves = jax.tree.leaves(grads)
    assert all(jnp.isfinite(leaf).all() for leaf in leaves)
    assert any(leaf.any() for leaf in leaves)


@pytest.mark.parametrize(
    ("name", "adapts"),
    [
        ("maml", {"dense0", "head"}),
        ("anil", {"head"}),
        ("boil", {"dense0"}),
        ("reptile", {"dense0", "head", "norm0"}),
    ],
)
def test_the_biases_of_batch_normalisation_adapt_in_reptile_alone(name, adapts):
    learner = image_classifier(name, MODEL, PARAMS, inner_rate=1.0).learner

    @quick
    def adapted(params):
        return maml.adapt(learner(params), EPISODE.support, KEY, 1)[0]

    before, after = PARAMS["params"], adapted(PARAMS)["params"]
    changed = jax.tree.map(lambda old, new: bool((old != new).any()), before, after)
    assert {layer for layer in before if any(jax.tree.leaves(changed[layer]))} == adapts


def test_what_no_algorithm_has_is_refused():
    with pytest.raises(ValueError, match=r"must be one of maml, .*; got 'mamal'"):
        image_classifier("mamal", MODEL, PARAMS)
    with pytest.raises(TypeError, match="no algorithm has an argument 'temprature'"):
        image_classifier("protonet", MODEL, PARAMS, temprature=2.0)
