"""Few-shot episodes, checked by their pixels: class, image and rotation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.stats import chisquare

import maml
from maml.sampling import few_shot
from tasks.language import markov_chains, text_passages
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
        ((5, 4, 3), r"4 shots \+ 3 queries .* got 6"),
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
