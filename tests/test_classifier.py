"""A classifier answers for one image or many, each as if alone, and refuses what is no image."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import maml
from maml.batch_norm import Mode

LABELS = np.array([0, 0, 0, 1, 2, 2])
KEY = jax.random.key(0)


def network(params, inputs, reference=None):
    """A dense layer, batch normalisation and a head."""
    hidden = inputs.reshape(len(inputs), -1) @ params["dense"]
    hidden = jax.nn.relu(maml.batch_normalise(hidden, reference=reference))
    return hidden @ params["head"]["w"] + params["head"]["b"]


def features(params, inputs, reference=None):
    return network(params | {"head": {"w": jnp.eye(6), "b": 0.0}}, inputs, reference)


@pytest.fixture
def theta():
    head = {"w": jnp.zeros((6, 3)), "b": jnp.zeros(3)}
    return {"dense": jax.random.normal(KEY, (48, 6)), "head": head}


@pytest.fixture
def images():
    """Six images, which are red, green or blue like their class, and noise."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 60, (6, 4, 4, 3), np.uint8)
    noise[np.arange(6), :, :, LABELS] += 190
    return noise


def fit(theta, images, labels=LABELS, *, mode: Mode = "support", inner_steps=2, **options):
    apply = maml.few_shot_apply(network, mode)
    learner = maml.maml(maml.classification(apply), optax.sgd(3.0), 2).learner
    options["inner_steps"] = inner_steps
    return maml.fit_classifier(learner, apply, theta, images, labels, **options)


@pytest.fixture
def classifier(theta, images):
    """The classifier, compiled, since that takes less time than each of its operations."""
    return jax.jit(lambda images: fit(theta, images))(images)


predict_proba = jax.jit(maml.Classifier.predict_proba)


def test_one_image_gets_the_answer_that_it_gets_among_others(classifier, images):
    many = predict_proba(classifier, images)
    assert many.shape == (6, 3) and classifier.predict(images).tolist() == LABELS.tolist()
    np.testing.assert_allclose(many.sum(axis=1), 1, rtol=1e-5)
    for image, probabilities in zip(images, many, strict=True):
        np.testing.assert_allclose(predict_proba(classifier, image), probabilities, atol=1e-5)
    assert classifier.predict(images[3]).shape == () and int(classifier.predict(images[3])) == 1


@pytest.mark.usefixtures("unchecked")
def test_labels_may_be_a_list(theta, images, classifier):
    listed = fit(theta, images, LABELS.tolist())  # pyright: ignore[reportArgumentType]
    expected = predict_proba(classifier, images)
    np.testing.assert_allclose(listed.predict_proba(images), expected, rtol=1e-5)


def test_bytes_are_numbers_from_0_to_1_and_normalised(theta, images):
    scaling = np.full(3, 0.4), np.full(3, 0.2)
    classifier = fit(theta, images, normalise=scaling, inner_steps=0)
    np.testing.assert_allclose(classifier.support, (images / 255 - 0.4) / 0.2, atol=1e-5)
    floats = np.float32(images / 255)
    same = fit(theta, floats, normalise=scaling, inner_steps=0)
    np.testing.assert_allclose(same.support, classifier.support, atol=1e-6)
    answers = predict_proba(classifier, images), predict_proba(classifier, floats)
    np.testing.assert_allclose(*answers, atol=1e-5)


def test_protonet_has_prototypes_of_any_number_of_images(theta, images):
    apply = maml.few_shot_apply(network, "support")
    body = maml.few_shot_apply(features, "support")
    head = maml.mask_by_path(theta, "head/")
    learner = maml.protonet(maml.classification(apply), body, head=head).learner
    keep = LABELS > 0  # class 0 has no image
    classifier = maml.fit_classifier(
        learner, apply, theta, images[keep], LABELS[keep], inner_steps=1
    )
    assert classifier.predict(images[keep]).tolist() == LABELS[keep].tolist()
    assert classifier.predict_proba(images)[:, 0].tolist() == [0] * 6


def test_a_class_without_images_has_probability_0_for_a_trained_head(theta, images):
    keep = LABELS < 2
    classifier = fit(theta, images[keep], LABELS[keep], inner_steps=0)
    probabilities = predict_proba(classifier, images)
    assert probabilities[:, 2].tolist() == [0] * 6
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("head", ["trained", "prototypes"])
def test_images_of_weight_0_have_no_effect(theta, images, head):
    """Neither on the inner steps, nor on batch normalisation, nor on the classes that there are."""
    apply = maml.few_shot_apply(network, "support")
    learner = maml.maml(maml.classification(apply), optax.sgd(3.0), 1).learner
    if head == "prototypes":
        body, mask = maml.few_shot_apply(features, "support"), maml.mask_by_path(theta, "head/")
        learner = maml.protonet(maml.classification(apply), body, head=mask).learner

    @jax.jit
    def answer(support, labels, **weights):
        fit = maml.fit_classifier(learner, apply, theta, support, labels, inner_steps=1, **weights)
        return fit.predict_proba(images)

    keep = LABELS < 2
    filled = np.where(keep[:, None, None, None], images, 255 - images)
    padded = answer(filled, LABELS, weights=np.float32(keep))
    np.testing.assert_allclose(padded, answer(images[keep], LABELS[keep]), atol=1e-5)
    assert padded[:, 2].tolist() == [0] * 6


def test_a_model_that_compares_the_queries_is_warned_of(theta, images):
    with pytest.warns(UserWarning, match="depends on the other queries") as warned:
        fit(theta, images, mode="transductive", inner_steps=1)
    assert len(warned) == 1


def test_the_key_reaches_the_loss(theta, images):
    apply = maml.few_shot_apply(network, "support")

    def noisy(params, batch, key):
        value, metrics = maml.classification(apply)(params, batch, key)
        return value * jax.random.uniform(key), metrics

    learner = maml.maml(noisy, optax.sgd(1.0), 1).learner
    fit = partial(maml.fit_classifier, learner, apply, theta, images, LABELS, inner_steps=1)
    first, same, other = (
        np.asarray(fit(key=key).params["head"]["b"]) for key in (None, KEY, jax.random.key(1))
    )
    assert (first == same).all() and (first != other).any()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"labels": np.zeros(6, int)}, "images of at least 2 classes; got images of class 0 alone"),
        ({"labels": LABELS + 1}, r"labels must be in 0 .. 2; got 3"),
        ({"labels": LABELS - 1}, r"labels must be in 0 .. 2; got -1"),
        ({"labels": LABELS / 1}, r"labels must be integers \[6\], in 0 .. 2; got float"),
        ({"labels": LABELS[:5]}, r"labels must be \[6\], one an image; got \[5\]"),
        ({"weights": np.ones(5)}, r"weights must be \[6\], one a row; got \[5\]"),
        ({"weights": np.float32(LABELS == 2)}, "at least 2 classes; got images of class 2 alone"),
        ({"weights": np.zeros(6)}, "at least 2 classes; got no image of weight > 0"),
        (
            {"images": np.zeros((6, 4, 4))},
            r"height, width, channels\]; got \[6, 4, 4\]",
        ),
        ({"images": np.full((6, 4, 4, 3), 200.0)}, "from 0 to 1; got float64 from 200 to 200"),
        ({"images": np.full((6, 4, 4, 3), np.nan)}, "from 0 to 1; got float64 from nan to nan"),
        ({"images": np.zeros((6, 4, 4, 3), int)}, "uint8, or floating-point from 0 to 1; got int"),
        ({"normalise": (0.5, 0.0)}, "a standard deviation must be > 0"),
    ],
)
def test_support_sets_are_refused(theta, images, change, says):
    with pytest.raises(ValueError, match=says):
        fit(theta, **({"images": images} | change))


def test_what_is_known_within_jit_is_checked_there(theta, images):
    fitted = jax.jit(lambda: fit(theta, jnp.asarray(images), inner_steps=0))()
    assert fitted.has_images.all()
    with pytest.raises(ValueError, match="of class 0 alone"):
        jax.jit(lambda x: fit(theta, x, np.zeros(6, int), inner_steps=0))(images)
    with pytest.raises(ValueError, match="got float32 from"):
        jax.jit(lambda: fit(theta, np.float32(images), inner_steps=0))()


def test_queries_are_refused(classifier, images):
    for query in (images[:, :3], images[..., :1], images[0, 0], images[:0]):
        with pytest.raises(ValueError, match=r"one image \[4, 4, 3\], as in the support set"):
            classifier.predict(query)
    for query in (images / 100, np.where(images > 200, np.nan, 0)):
        with pytest.raises(ValueError, match="images of the query must be uint8"):
            classifier.predict_proba(query)


def test_a_model_of_images_alone_is_told_how_to_read_a_query(theta, images):
    """Its functions of arrays, and its methods of arrays, find a query set instead."""
    query = maml.Query(images / 255, images / 255)
    for as_array in (jnp.asarray, np.asarray):
        with pytest.raises(TypeError, match=r"a maml.Query, and .* maml.few_shot_apply\(model\)"):
            as_array(query)
    with pytest.raises(AttributeError, match=r"no attribute 'reshape': .*few_shot_apply"):
        network(theta, query)
    assert not hasattr(query, "shape") and jax.tree.leaves(query)[0].shape == (6, 4, 4, 3)


def test_images_of_another_shape_than_the_model_takes_are_named(theta, images):
    with pytest.raises(TypeError) as refused:
        fit(theta, images[..., :1])
    said = "The model was called with images of the shape [6, 4, 4, 1]."
    assert said in refused.value.__notes__
