"""Few-shot episodes, checked by their pixels: class, image and rotation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from scipy.stats import chisquare

import maml
from maml.episodes import few_shot
from tasks.batch_norm import flax_apply
from tasks.language import markov_chains
from tasks.models import Conv4
from tasks.passages import text_passages
from tasks.sinusoid import draw_wave, few_points

CLASSES, DRAWINGS, SIDE = 7, 6, 4
WAYS, SHOTS, QUERIES = 3, 1, 2
EPISODES = 4000
KEY = jax.random.key(0)
IMAGES = np.random.default_rng(0).integers(0, 256, (CLASSES, DRAWINGS, SIDE, SIDE), np.uint8)
ORIGIN = {
    np.rot90(IMAGES[c, d], turn).tobytes(): (c, d, turn)
    for c in range(CLASSES)
    for d in range(DRAWINGS)
    for turn in range(4)
}


def origins(images):
    """Class, drawing and quarter turns of images whose pixels are n / 255 within one ulp."""
    pixels = np.rint(np.asarray(images)[..., 0] * 255).astype(np.uint8)
    np.testing.assert_array_max_ulp(images[..., 0], np.float32(pixels) / np.float32(255))
    result = [ORIGIN[image.tobytes()] for image in pixels.reshape(-1, SIDE, SIDE)]
    return np.reshape(result, (*images.shape[:-3], 3))


def by_class(episodes):
    """Origins `[episode, way, support then query, 3]`."""
    parts = (episodes.support[0], episodes.query[0].inputs)
    return np.concatenate([origins(x).reshape(len(x), WAYS, -1, 3) for x in parts], axis=2)


def draw(rotate=True):
    sample = maml.batch_tasks(few_shot(IMAGES, WAYS, SHOTS, QUERIES, rotate=rotate), EPISODES)
    return jax.jit(sample)(KEY)


@pytest.fixture(scope="module")
def episodes():
    return draw()


@pytest.fixture(scope="module")
def drawn(episodes):
    return by_class(episodes)


def assert_uniform(rows, outcomes):
    counts = np.unique(rows, axis=0, return_counts=True)[1]
    assert len(counts) == outcomes
    assert chisquare(counts).pvalue > 0.01


def test_support_and_query_of_a_label_share_class_and_rotation(episodes, drawn):
    assert (episodes.support[1] == np.repeat(np.arange(WAYS), SHOTS)).all()
    assert (episodes.query[1] == np.repeat(np.arange(WAYS), QUERIES)).all()
    assert (drawn[..., (0, 2)] == drawn[:, :, :1, (0, 2)]).all()


def test_classes_are_distinct_and_every_order_of_them_is_equally_likely(drawn):
    classes = drawn[:, :, 0, 0]
    assert all(len(set(episode)) == WAYS for episode in classes)
    assert_uniform(classes, 7 * 6 * 5)


def test_support_and_query_are_distinct_drawings_and_all_choices_equally_likely(drawn):
    drawings = drawn[..., 1].reshape(-1, SHOTS + QUERIES)
    assert all(len(set(of_class)) == SHOTS + QUERIES for of_class in drawings)
    assert_uniform(drawings, 6 * 5 * 4)


def test_the_four_rotations_are_equally_likely_and_independent_for_each_class(drawn):
    assert_uniform(drawn[:, :, 0, 2], 4**WAYS)


def test_class_drawing_and_rotation_are_independent(drawn):
    assert_uniform(drawn[:, 0, 0], CLASSES * DRAWINGS * 4)
    assert_uniform(drawn[:, :2, 0, 1], DRAWINGS**2)


def test_without_rotation_the_same_drawings_are_sampled_upright(drawn):
    upright = by_class(draw(rotate=False))
    assert (upright[..., 2] == 0).all()
    assert (upright[..., :2] == drawn[..., :2]).all()


def test_the_query_carries_a_copy_of_the_support(episodes):
    assert (episodes.query[0].support == episodes.support[0]).all()


def test_an_episode_may_be_the_whole_set():
    episode = few_shot(IMAGES, CLASSES, 2, DRAWINGS - 2, rotate=True)(KEY)
    result = np.concatenate([origins(x) for x in (episode.support[0], episode.query[0].inputs)])
    assert len({(c, d) for c, d, _ in result.tolist()}) == CLASSES * DRAWINGS


def test_an_episode_is_a_function_of_its_key():
    sample = few_shot(IMAGES, WAYS, SHOTS, QUERIES, rotate=True)
    one, again, other = (ravel_pytree(sample(k))[0] for k in (KEY, KEY, jax.random.key(1)))
    assert (one == again).all()
    assert (one != other).any()


@pytest.mark.parametrize("num_tasks", [None, 2])
def test_a_program_that_samples_does_not_hold_the_data_set(num_tasks):
    def program(classes):
        sample = few_shot(np.zeros((classes, 20, 9, 9), np.uint8), 5, 1, 1)
        sample = sample if num_tasks is None else maml.batch_tasks(sample, num_tasks)
        return jax.jit(lambda sample, key: sample(key)).lower(sample, KEY).as_text()

    assert len(program(900)) == len(program(100))


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ((8, 1, 1), "8 ways .* got a split of 7"),
        ((5, 4, 3), r"4 shots \+ 3 queries need 7 .* has 6"),
        ((0, 1, 1), "number of ways must .* >= 1; got 0"),
        ((5, 0, 1), "number of shots must .* >= 1; got 0"),
        ((5, 1, -2), "number of queries must .* >= 1; got -2"),
    ],
)
def test_impossible_counts_are_refused_with_the_numbers(counts, message):
    with pytest.raises(ValueError, match=message):
        few_shot(IMAGES, *counts)


@pytest.mark.parametrize(
    ("examples", "options", "message"),
    [
        (
            IMAGES[..., :3],
            {"rotate": True},
            r"square images.* got \[7, 6, 4, 3\]: rotate=False would",
        ),
        (IMAGES[0], {"rotate": True}, r"square images.* got \[6, 4, 4\]"),
        (IMAGES[0, 0], {}, r"\[class, example, ...\]; got uint8 \[4, 4\]"),
        (IMAGES[..., :0, :0], {}, r"got uint8 \[7, 6, 0, 0\]"),
        (IMAGES[:0], {}, r"got uint8 \[0, 6, 4, 4\]"),
        (IMAGES[:, :0], {}, r"got uint8 \[7, 0, 4, 4\]"),
        (IMAGES * 1j, {}, r"real numbers .*; got complex128"),
        (IMAGES > 0, {}, r"real numbers .*; got bool"),
        (np.where(IMAGES > 9, np.nan, 1.0), {}, r"must be finite; got NaN or infinity in class"),
        (IMAGES.tolist(), {}, r"got list \[7, 6, 4, 4\]"),
        (None, {}, r"got NoneType \[\]"),
    ],
)
def test_arrays_not_grouped_by_class_are_refused(examples, options, message, unchecked):
    with pytest.raises(ValueError, match=message):
        few_shot(examples, 5, 1, 1, **options)


def test_any_array_of_classes_gives_episodes():
    vectors = np.arange(7 * 6 * 3).reshape(7, 6, 3)
    episode = few_shot(vectors, WAYS, SHOTS, QUERIES)(KEY)
    rows = np.concatenate([episode.support[0], episode.query[0].inputs])
    assert rows.dtype == np.float32 and len(np.unique(rows[:, 0])) == WAYS * (SHOTS + QUERIES)
    classes = {*(row[0] // 18 for row in rows)}
    assert len(classes) == WAYS and set(map(tuple, rows)) <= set(map(tuple, vectors.reshape(-1, 3)))
    whole = few_shot(IMAGES, WAYS, SHOTS, QUERIES, rotate=True)(KEY)
    for examples in (
        IMAGES[..., None],
        (IMAGES / 255)[..., None],
    ):  # the same images, otherwise given
        same = few_shot(examples, WAYS, SHOTS, QUERIES, rotate=True)(KEY)
        np.testing.assert_allclose(ravel_pytree(whole)[0], ravel_pytree(same)[0], rtol=1e-6)


# What every sampler refuses

SAMPLERS = {
    "few_shot": (partial(few_shot, IMAGES), ("ways", "shots", "queries"), ("rotate",)),
    "few_points": (few_points, ("shots", "queries"), ("oracle", "frequencies")),
    "synthetic": (
        partial(markov_chains, length=2),
        ("shots", "queries", "length", "vocabulary", "branches"),
        (),
    ),
    "passages": (partial(text_passages, "text" * 9), ("shots", "queries", "length"), ()),
}
CASES = [
    (name, option, value)
    for name, (_, counts, flags) in SAMPLERS.items()
    for options, values in ((counts, "count"), (flags, "flag"))
    for option in options
    for value in {
        "count": (True, None, "2", 1.5, np.float64(2), jnp.array(2), np.array([2]), 0, -1),
        "flag": (None, 1, "yes", np.array([True])),
    }[values]
]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("name", "option", "value"), CASES)
def test_a_count_is_an_integer_and_a_flag_a_bool(name, option, value):
    make, counts, flags = SAMPLERS[name]
    expected = r"must be (an integer >= 1|True or False); got "
    with pytest.raises(ValueError, match=expected) as refusal:
        make(**dict.fromkeys(counts, 2) | dict.fromkeys(flags, False) | {option: value})
    assert repr(value) in str(refusal.value)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("key", "message"),
    [
        (0, "key must be a key as jax.random.key.* makes it; got 0"),
        ("a", "got 'a'"),
        (None, "got None"),
        (1.5, "got 1.5"),
        (np.random.default_rng(0), "got Generator"),
        (jax.random.PRNGKey(0), r"got an array of uint32\[2\]"),
        (jax.random.split(KEY, 3), r"must be one key; got a batch .* \(3,\)"),
        (jax.random.split(KEY, 1), r"must be one key; got a batch .* \(1,\)"),
    ],
)
def test_the_key_of_a_sampler_is_one_typed_key(key, message):
    samplers = [make(**dict.fromkeys(counts, 2)) for make, counts, _ in SAMPLERS.values()]
    for sample in (*samplers, draw_wave):
        with pytest.raises(ValueError, match=message):
            sample(key)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("text", [None, 5, ["text"], np.arange(99)])
def test_text_passages_refuses_what_is_not_text(text):
    with pytest.raises(ValueError, match="the text must be bytes or a string; got"):
        text_passages(text, 1, 1, 1)


def test_the_classes_of_an_episode_are_of_one_group_that_has_enough():
    """The value of a pixel is the class; the group of two classes is never drawn."""
    groups = np.array([4, 4, 4, 0, 0, 9, 9, 9, 9])
    images = np.arange(9, dtype=np.uint8)[:, None, None, None] * np.ones((3, 2, 2), np.uint8)
    sample = maml.batch_tasks(few_shot(images, 3, 1, 2, groups=groups), 200)
    inputs = jax.jit(lambda sample, key: sample(key))(sample, KEY).support[0]
    drawn = np.rint(255 * np.asarray(inputs[:, :, 0, 0, 0])).astype(int)
    of_episode = groups[drawn]
    assert (of_episode == of_episode[:, :1]).all()
    assert all(len({*classes}) == 3 for classes in drawn.tolist())
    # Groups are drawn alike, whatever their number of classes: 100 of 200, within 4 deviations.
    assert 72 < (of_episode[:, 0] == 4).sum() < 128 and {*of_episode[:, 0]} == {4, 9}
    assert {*drawn.ravel()} == {0, 1, 2, 5, 6, 7, 8}


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (np.zeros(8, int), r"integers, one for each of 9 classes; got int64 \[8\]"),
        (np.zeros(9), r"integers, one for each of 9 classes; got float64 \[9\]"),
        (np.arange(9) // 2, "3 ways need a group of as many classes; got 2 at most"),
    ],
)
def test_groups_that_cannot_serve_are_refused(groups, message, unchecked):
    with pytest.raises(ValueError, match=message):
        few_shot(np.zeros((9, 3, 2, 2), np.uint8), 3, 1, 2, groups=groups)


def test_examples_beyond_the_count_of_a_class_are_never_drawn():
    """The value of a pixel is 10 times the class plus the example."""
    values = 10 * np.arange(4)[:, None] + np.arange(6)
    images = (values[..., None, None] * np.ones((2, 2))).astype(np.uint8)
    counts = np.array([3, 6, 4, 5])
    sample = maml.batch_tasks(few_shot(images, 3, 1, 2, counts=counts), 300)
    episodes = jax.jit(lambda sample, key: sample(key))(sample, KEY)
    drawn = np.concatenate([episodes.support[0], episodes.query[0].inputs], axis=1)[:, :, 0, 0, 0]
    seen = sorted({*np.rint(255 * drawn).astype(int).ravel().tolist()})
    assert seen == [10 * label + n for label in range(4) for n in range(counts[label])]
    assert all(len({*row}) == 9 for row in drawn.tolist())


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (np.full(8, 6), r"integers, one for each of 7 classes; got int64 \[8\]"),
        (np.full(7, 6.0), r"integers, one for each of 7 classes; got float64 \[7\]"),
        (np.array([6, 6, 2, 6, 6, 6, 6]), "need 3 examples or more .* counts of 2 for class 2"),
        (np.full(7, 7), "the array has 6; got counts of 7 for class 0"),
    ],
)
def test_counts_that_cannot_serve_are_refused(counts, message, unchecked):
    with pytest.raises(ValueError, match=message):
        few_shot(IMAGES, 5, 1, 2, counts=counts)


def test_a_range_of_shots_gives_weights_of_as_many_rows_of_each_class():
    sample = maml.batch_tasks(few_shot(IMAGES, 3, (1, 4), 2), 200)
    episodes = jax.jit(lambda sample, key: sample(key))(sample, KEY)
    inputs, labels, weights = episodes.support
    assert inputs.shape[:2] == (200, 12) and labels[0].tolist() == 4 * [0] + 4 * [1] + 4 * [2]
    by_class = np.asarray(weights).reshape(200, 3, 4)
    shots = by_class.sum(axis=2)
    assert (shots == shots[:, :1]).all() and (np.diff(by_class) <= 0).all()
    assert {*shots.ravel()} == {1, 2, 3, 4} and 27 < (shots[:, 0] == 1).sum() < 75
    np.testing.assert_array_equal(episodes.query[0].support_weights, weights)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["maml", "protonet", "r2d2"])
def test_padded_shots_give_the_meta_gradient_of_the_episode_without_padding(name):
    """Batch norm by the support set, whose statistics must leave out the padding too."""
    model = Conv4(3, features=4)
    few = few_shot(np.random.default_rng(0).integers(0, 256, (7, 6, 8, 8), np.uint8), 3, (2, 4), 2)
    keys = (jax.random.key(n) for n in range(99))
    drawn = next(e for e in map(few, keys) if e.support[2].sum() == 6)
    padded = jax.tree.map(lambda a: a.astype(float) if a.dtype == jnp.float32 else a, drawn)
    rows = np.flatnonzero(padded.support[2])
    support, labels = padded.support[0][rows], padded.support[1][rows]
    query, query_labels = padded.query
    short = maml.Episode((support, labels), (maml.Query(query.inputs, support), query_labels))
    params = model.init(jax.random.key(1), support)
    apply = flax_apply(model, "support")
    loss = maml.classification(apply)
    if name == "maml":
        algorithm = maml.maml(loss, optax.sgd(0.1), inner_steps=1)
    else:
        features = flax_apply(model, "support", features=True)
        head = maml.mask_by_path(params, "/head/")
        algorithm = getattr(maml, name)(loss, features, head=head)
    state = jax.tree.map(lambda leaf: leaf.astype(float), algorithm.init(params))
    gradients = [
        maml.meta_gradient(algorithm.grad, state, jax.tree.map(lambda a: a[None], e), KEY)[0]
        for e in (padded, short)
    ]
    for got, expected in zip(*map(jax.tree.leaves, gradients), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("shots", [(3, 2), (0, 2), (1, 2, 3)])
def test_a_range_of_shots_is_two_growing_counts(shots, unchecked):
    with pytest.raises(ValueError, match="shots must"):
        few_shot(IMAGES, 3, shots, 2)


def test_examples_are_normalised_by_channel():
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 2, 3, 3), np.uint8)
    mean, std = np.array([0.5, 0.4, 0.3]), np.array([0.2, 0.3, 0.4])
    plain, scaled = (few_shot(images, 2, 1, 1, normalise=n)(KEY) for n in (None, (mean, std)))
    np.testing.assert_allclose(scaled.support[0], (plain.support[0] - mean) / std, rtol=1e-5)


@pytest.mark.parametrize(
    ("normalise", "message"),
    [
        (0.5, "a mean and a standard deviation; got 0.5"),
        ((0.5, 0.0), "must be > 0"),
        ((np.nan, 1.0), "both finite"),
        ((np.zeros(5), 1.0), r"against an example, \[4, 4, 1\]; got \[5\] and \[\]"),
    ],
)
def test_a_normalisation_that_does_not_fit_is_refused(normalise, message, unchecked):
    with pytest.raises(ValueError, match=message):
        few_shot(IMAGES, 3, 1, 1, normalise=normalise)
