"""Random changes of images: exact maps, all examples of an episode, and nothing else of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import affine_transform

import maml
from tasks.augmentation import random_affine, random_photograph

KEY = jax.random.key(3)
IMAGE = jax.random.uniform(jax.random.key(0), (9, 11, 2))
STILL = {"shift": 0.0, "scale": 0.0, "shear": 0.0, "degrees": 0.0}


def test_no_change_leaves_the_image():
    np.testing.assert_allclose(random_affine(**STILL)(KEY, IMAGE), IMAGE, atol=1e-5)


def test_the_map_is_that_of_its_equation():
    """Against scipy, with the matrix and the offset written out from the same draws."""
    bounds = {"shift": 1.5, "scale": 0.2, "shear": 0.3, "degrees": 20.0}
    draws = np.asarray(jax.random.uniform(KEY, (6,), minval=-1.0, maxval=1.0))
    angle = np.deg2rad(20.0 * draws[0])
    rotation = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    shear = [[1, 0.3 * draws[1]], [0, 1]]
    matrix = np.array(rotation) @ shear @ np.diag(1 + 0.2 * draws[2:4])
    centre = np.array([4.0, 5.0])
    offset = centre + 1.5 * draws[4:] - matrix @ centre
    expected = [
        affine_transform(channel, np.column_stack([matrix, offset]), order=1, mode="nearest")
        for channel in np.moveaxis(np.asarray(IMAGE), 2, 0)
    ]
    np.testing.assert_allclose(
        random_affine(**bounds)(KEY, IMAGE), np.stack(expected, axis=2), atol=1e-5
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shift": -1.0}, "shift must be a finite number >= 0"),
        ({"scale": 1.0}, "scale must be .* < 1"),
        ({"shear": float("nan")}, "shear must be"),
        ({"degrees": "ten"}, "degrees must be"),
    ],
)
def test_bounds_that_make_no_sense_are_refused(change, message, unchecked):
    with pytest.raises(ValueError, match=message):
        random_affine(**change)


@pytest.mark.parametrize("side", [3, 4])
def test_a_cutout_is_a_square_about_any_pixel_in_the_mean_colour(side):
    """All images that it may give are listed; each is given, and about as often as the others."""
    cut = random_photograph(padding=0, jitter=0.0, cutout=side)
    plain = random_photograph(padding=0, jitter=0.0)
    keys = jax.random.split(KEY, 2000)
    got = np.asarray(jax.jit(jax.vmap(cut, (0, None)))(keys, IMAGE))
    before = np.asarray(jax.jit(jax.vmap(plain, (0, None)))(keys, IMAGE))
    holes = (got != before).any(axis=3)
    inside = np.broadcast_to(np.asarray(IMAGE).mean((0, 1)), got.shape)
    np.testing.assert_allclose(got[holes], inside[holes], atol=1e-6)
    expected = {}
    for centre in np.ndindex(9, 11):
        hole = np.zeros((9, 11), bool)
        top, left = (place - side // 2 for place in centre)
        hole[max(top, 0) : top + side, max(left, 0) : left + side] = True
        expected[hole.tobytes()] = expected.get(hole.tobytes(), 0) + len(keys) / 99
    found = {hole.tobytes(): 0 for hole in holes}
    for hole in holes:
        found[hole.tobytes()] += 1
    assert found.keys() == expected.keys()
    deviation = [(found[hole] - n) / np.sqrt(n) for hole, n in expected.items()]
    assert np.abs(deviation).max() < 5


@pytest.mark.parametrize("cutout", [-1, 0.5, 2.0, True, None, "4"])
def test_a_cutout_that_is_no_side_is_refused(cutout, unchecked):
    with pytest.raises(ValueError, match="pixels of the side of a cutout must be an integer >= 0"):
        random_photograph(cutout=cutout)


def test_a_cutout_larger_than_the_image_is_refused():
    with pytest.raises(ValueError, match=r"fit into an image of \(9, 11\); got a side of 10"):
        random_photograph(cutout=10)(KEY, IMAGE)
    sample = maml.few_shot(
        np.zeros((5, 4, 6, 6), np.uint8), 2, 1, 1, augment=(None, random_photograph(cutout=7))
    )
    with pytest.raises(ValueError, match=r"fit into an image of \(6, 6\); got a side of 7"):
        jax.jit(sample)(KEY)


def test_an_episode_has_each_example_augmented_once_and_the_same_choice():
    """The classes and examples are those without augmentation, changed by different draws."""
    images = jnp.arange(1, 41, dtype=jnp.uint8).reshape(8, 5, 1, 1) * jnp.ones((4, 4), jnp.uint8)
    draw = {
        name: maml.few_shot(np.asarray(images), 5, 2, 3, augment=augment)(KEY)
        for name, augment in {
            "plain": None,
            "noisy": lambda key, image: image + jax.random.uniform(key),
        }.items()
    }
    plain, noisy = draw["plain"], draw["noisy"]
    np.testing.assert_array_equal(noisy.query[0].support, noisy.support[0])
    np.testing.assert_array_equal(noisy.query[1], plain.query[1])
    added = np.concatenate(
        [
            (noisy.support[0] - plain.support[0])[:, 0, 0, 0],
            (noisy.query[0].inputs - plain.query[0].inputs)[:, 0, 0, 0],
        ]
    )
    assert len(np.unique(added.round(5))) == 25 and added.min() >= 0 and added.max() < 1


def test_support_and_query_may_be_changed_by_functions_of_their_own():
    """Each set is that of an episode in which its function changes both."""
    images = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 4, 3), np.uint8)
    noise, flip = lambda key, x: x + jax.random.uniform(key, x.shape), lambda key, x: x[::-1]

    def sets(augment):
        sample = maml.few_shot(images, 3, 2, 3, rotate=True, augment=augment)
        (support, _), (query, _) = sample(KEY)
        np.testing.assert_array_equal(query.support, support)
        return np.asarray(support), np.asarray(query.inputs)

    alone = {change: sets(change) for change in (None, noise, flip)}
    for pair in ((noise, None), (None, noise), (noise, flip), (flip, flip)):
        for got, expected in zip(sets(pair), (alone[pair[0]][0], alone[pair[1]][1]), strict=True):
            np.testing.assert_array_equal(got, expected)
    assert (alone[noise][0] != alone[None][0]).all() and (alone[flip][1] != alone[None][1]).any()


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        ((), "augment must be one function or a pair; got 0 of them"),
        ((lambda key, x: x,), "or a pair; got 1"),
        ((None, None, None), "or a pair; got 3"),
        ((None, "flip"), r"augment must be a function of \(key, example\); got 'flip'"),
        ((lambda x: x, None), r"augment must be a function of \(key, example\); got a function of"),
        ([None, None], r"augment must be a function of \(key, example\); got \[None, None\]"),
    ],
)
def test_what_is_no_function_and_no_pair_of_them_is_refused(augment, message, unchecked):
    with pytest.raises(ValueError, match=message):
        maml.few_shot(np.zeros((5, 4, 6, 6), np.uint8), 2, 1, 1, augment=augment)


def test_augmentation_is_independent_of_the_drawn_group():
    """An augmentation that draws a number as groups are drawn agrees by chance alone."""
    images = np.arange(12, dtype=np.uint8)[:, None, None, None] * np.ones((2, 1, 1), np.uint8)
    groups = np.repeat(np.arange(4), 3)
    sample = maml.few_shot(
        *(images, 2, 1, 1),
        augment=lambda key, x: x + 10 * jax.random.randint(key, (), 0, 4),
        groups=groups,
    )
    drawn = jax.jit(maml.batch_tasks(sample, 400))(KEY).support[0][:, :, 0, 0, 0]
    classes = np.rint(255 * (np.asarray(drawn) % 10)).astype(int)
    numbers = (np.asarray(drawn) // 10).astype(int)
    for place in (0, 1):  # a quarter of 400, within five deviations
        assert 57 < (numbers[:, place] == groups[classes[:, 0]]).sum() < 143


def test_an_augmentation_of_another_shape_is_refused():
    sample = maml.few_shot(np.zeros((5, 4, 6, 6), np.uint8), 2, 1, 1, augment=lambda key, x: x[0])
    with pytest.raises(ValueError, match=r"example like its argument, \[6, 6, 1\]; got \[6, 1\]"):
        sample(KEY)
    images = np.zeros((5, 4, 6, 6), np.uint8)
    with pytest.raises(ValueError, match=r"example like its argument, \[6, 6, 1\]; got \[1\]"):
        maml.few_shot(images, 2, 1, 1, augment=(None, lambda key, x: x[0, 0]))(KEY)
