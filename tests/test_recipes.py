"""The recipe for classifiers of images: what adapts, and that each algorithm learns."""

import jax
import jax.numpy as jnp
import pytest
from problems import one_task, quick

import maml
from maml.sampling import Query
from tasks.batch_norm import flax_apply
from tasks.models import FullyConnected
from tasks.recipes import FUNCTIONS, image_classifier, with_ways

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


@pytest.mark.parametrize("name", ["protonet", "r2d2"])
def test_heads_in_closed_form_tell_apart_more_classes_than_they_were_trained_with(name):
    """Six images of one pixel each, which lie in six places, with a network of two classes."""
    images, model = jnp.eye(6).reshape(6, 2, 3, 1), FullyConnected(2, (32,))
    trained = quick(model.init)(KEY, images)
    learned = image_classifier(name, model, trained).init(trained)
    more = model.clone(ways=6)
    learner = image_classifier(name, more, trained).learner
    known = learner, flax_apply(more, "support"), with_ways(learned, 6)
    classifier = maml.fit_classifier(*known, images, jnp.arange(6), inner_steps=1)
    assert classifier.predict_proba(images).shape == (6, 6)
    assert jnp.array_equal(classifier.predict(images), jnp.arange(6))
    with pytest.raises(ValueError, match="classes must be an integer >= 2; got 1"):
        with_ways(trained, 1)
    with pytest.raises(ValueError, match="head"):
        with_ways({"dense": jnp.ones(3)}, 6)
