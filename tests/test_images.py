"""Folders, zips and arrays become images by class, which are cached until a picture changes."""

import os
from functools import partial

import numpy as np
import pytest
from PIL import Image
from tiny_pictures import BLUE, FILES, GREEN, RED, array, content, plain, write, write_zip

from tasks import image_files, images
from tasks.images import (
    channel_moments,
    fraction_splits,
    from_arrays,
    leave_out_small,
    load,
    read_image,
)

WRITERS = pytest.mark.parametrize("write", [write, write_zip])


@pytest.fixture
def read(tmp_path):
    return partial(load, size=4, cache=tmp_path / "cache")


# The classes


@WRITERS
def test_classes_are_folders_and_rows_beyond_their_count_are_zeros(read, tmp_path, write):
    got = read(write(tmp_path / "set", FILES))
    assert got.names == ("a", "a/deep/er", "b")
    assert got.counts.tolist() == [1, 3, 2]
    assert got.images.shape == (3, 3, 4, 4, 3)
    assert got.images.dtype == np.uint8
    colours = [[BLUE, (0, 0, 0), (0, 0, 0)], [GREEN, RED, BLUE], [RED, GREEN, (0, 0, 0)]]
    assert np.array_equal(got.images, np.array(colours)[:, :, None, None] + np.zeros((4, 4, 1)))
    assert got.splits is None
    assert "6 images of 3 classes, crop to 4x4 in colours" in got.source


@WRITERS
def test_folders_above_all_classes_are_left_out_of_the_names(read, tmp_path, write):
    files = {f"download/set/{where}": data for where, data in FILES.items()}
    got, expected = read(write(tmp_path / "deep", files)), read(write(tmp_path / "set", FILES))
    assert got.names == expected.names
    assert np.array_equal(got.images, expected.images)


@WRITERS
def test_folders_train_val_and_test_are_the_splits(read, tmp_path, write):
    parts = {"train": ("z", "a/b"), "val": ("m",), "test": ("k", "c")}
    files = {f"set/{part}/{n}/1.png": plain() for part, names in parts.items() for n in names}
    got = read(write(tmp_path / "set", files))
    assert got.names == ("a/b", "c", "k", "m", "z")
    assert got.splits is not None
    indices = {part: numbers.tolist() for part, numbers in got.splits.items()}
    assert indices == {"train": [0, 4], "val": [3], "test": [1, 2]}


@WRITERS
def test_a_class_may_be_called_train(read, tmp_path, write):
    got = read(write(tmp_path / "set", {"car/1.png": plain(), "train/1.png": plain()}))
    assert (got.names, got.splits) == (("car", "train"), None)


@WRITERS
def test_other_files_are_ignored_and_counted(read, tmp_path, write):
    others = ("a/.DS_Store", "__MACOSX/a/._1.png", "a/._1.png", "read me.txt", ".git/x/1.png")
    files = FILES | dict.fromkeys(others, b"no picture")
    got = read(write(tmp_path / "set", files))
    assert got.names == ("a", "a/deep/er", "b")
    assert got.source.endswith("in colours, 5 other files ignored")


def test_links_are_followed_but_not_in_a_circle(read, tmp_path):
    folder = write(tmp_path / "set", FILES)
    elsewhere = write(tmp_path / "elsewhere", {"c/1.png": plain(BLUE)})
    (folder / "c").symlink_to(elsewhere / "c")
    (folder / "b/3.png").symlink_to(elsewhere / "c/1.png")
    (folder / "b/up").symlink_to(folder)
    (folder / "b/nowhere.png").symlink_to(tmp_path / "nowhere")
    (folder / "b/itself.png").symlink_to(folder / "b/itself.png")
    os.mkfifo(folder / "b/pipe.png")
    got = read(folder)
    assert got.names == ("a", "a/deep/er", "b", "c")
    assert got.counts.tolist() == [1, 3, 3, 1]
    assert np.array_equal(got.images[2, 2], got.images[3, 0])
    assert got.source.endswith("3 other files ignored")


def test_a_path_and_its_content_give_the_image_of_the_data_set(read, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (9, 13, 3), np.uint8)
    folder = write(tmp_path / "set", {"a/1.png": content(Image.fromarray(noise))})
    expected = read(folder, fit="pad").images[0, 0]
    file = folder / "a/1.png"
    for given in (file, str(file), file.read_bytes()):
        assert np.array_equal(read_image(given, size=4, fit="pad"), expected)


# The cache


@WRITERS
def test_the_cache_is_used_until_a_picture_changes(read, tmp_path, monkeypatch, write):
    place = write(tmp_path / "set", FILES)
    first = read(place)
    with monkeypatch.context() as patch:
        patch.setattr(images, "decode", lambda *_: pytest.fail("decoded again"))
        patch.setattr(image_files, "_read", lambda *_: pytest.fail("read again"))
        second = read(place)
    assert np.array_equal(first.images, second.images)
    assert (first.names, first.source) == (second.names, second.source)
    assert first.counts.tolist() == second.counts.tolist()
    write(tmp_path / "set", FILES | {"b/1.png": plain(BLUE)})
    assert np.array_equal(read(place).images[2, 0], np.full((4, 4, 3), BLUE))


def test_a_picture_of_the_same_size_is_noticed_by_its_time(read, tmp_path):
    folder = write(tmp_path / "set", {"a/1.bmp": plain(RED, format="BMP")})
    read(folder)
    write(folder, {"a/1.bmp": plain(BLUE, format="BMP")})
    os.utime(folder / "a/1.bmp", (1, 1))
    assert np.array_equal(read(folder).images[0, 0, 0, 0], BLUE)


def test_options_have_caches_of_their_own(read, tmp_path):
    folder = write(tmp_path / "set", {"a/1.png": content(array([[RED] * 4 + [BLUE] * 4] * 2))})
    options = [{}, {"size": (4, 3)}, {"channels": 1}, {"fit": "pad"}, {"fit": "stretch"}]
    for _ in range(2):
        assert len({read(folder, **option).images.tobytes() for option in options}) == 5
    assert len([*(tmp_path / "cache").iterdir()]) == 5


def test_a_new_file_of_another_kind_is_counted_from_the_cache(read, tmp_path):
    folder = write(tmp_path / "set", FILES)
    read(folder)
    write(folder, {"notes.txt": b""})
    assert read(folder).source.endswith("1 other files ignored")
    assert len([*(tmp_path / "cache").iterdir()]) == 1


# Arrays


def test_arrays_are_sorted_by_name_and_padded():
    a, b = np.full((1, 2, 3, 1), 0.4), np.arange(12, dtype=np.uint8).reshape(2, 2, 3, 1)
    got = from_arrays({"b": b, "a": a}, source="mine")
    assert (got.names, got.source, got.splits) == (("a", "b"), "mine", None)
    assert got.counts.tolist() == [1, 2]
    assert np.array_equal(got.images[0], np.stack([np.full((2, 3, 1), 102), np.zeros((2, 3, 1))]))
    assert np.array_equal(got.images[1], b)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((2, 4, 4)), r"must be \[image, height, width, channel\], .* got \[2, 4, 4\]"),
        (np.zeros((0, 4, 4, 3)), r"none of them 0; got \[0, 4, 4, 3\]"),
        (np.zeros((2, 4, 5, 3)), r"one shape; got \[4, 4, 3\] in 'a' and \[4, 5, 3\] in 'b'"),
        (np.full((2, 4, 4, 3), 1.5), "numbers from 0 to 1; got float64 from 1.5 to 1.5"),
        (np.full((2, 4, 4, 3), np.nan), "got float64 from nan to nan"),
        (np.full((2, 4, 4, 3), 200, np.int64), "got int64 from 200 to 200"),
        (np.full((2, 4, 4, 3), "x"), "got <U1"),
    ],
)
def test_other_arrays_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        from_arrays({"a": np.zeros((1, 4, 4, 3), np.uint8), "b": wrong})


@pytest.mark.usefixtures("unchecked")
def test_no_class_and_arrays_without_names_are_refused():
    for none, got in (({}, "0 classes"), ([np.zeros((1, 4, 4, 3))], "list")):
        with pytest.raises(ValueError, match=f"by its name; got {got}"):
            from_arrays(none)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="must be strings; got 1"):
        from_arrays({"a": np.zeros((1, 4, 4, 3)), 1: np.zeros((1, 4, 4, 3))})  # pyright: ignore[reportArgumentType]


def test_moments_are_those_of_the_images_of_some_classes():
    images = np.random.default_rng(0).uniform(0, 1, (3, 4, 5, 6, 2)).astype(np.float32)
    data = from_arrays({"a": images[0], "b": images[1, :2], "c": images[2]})
    mean, deviation = channel_moments(data, [0, 1])
    pixels = np.concatenate([images[0], images[1, :2]]).reshape(-1, 2)
    np.testing.assert_allclose(mean, pixels.mean(axis=0), atol=1e-3)
    np.testing.assert_allclose(deviation, pixels.std(axis=0), atol=1e-3)
    with pytest.raises(ValueError, match="at least one class"):
        channel_moments(data, [])


# Small classes

SIZES = {"a": 3, "b": 1, "c": 4, "d": 2, "e": 5}
OF_SIZES = from_arrays({n: np.full((k, 2, 2, 1), k, np.uint8) for n, k in SIZES.items()})
IN_PARTS = OF_SIZES._replace(
    splits={"train": np.array([4, 1, 0]), "val": np.array([2]), "test": np.array([3])}
)


def test_small_classes_are_left_out_and_the_splits_name_the_same_classes():
    kept, small = leave_out_small(IN_PARTS, 2)
    assert (kept.names, small) == (("a", "c", "d", "e"), {"b": 1})
    assert kept.counts.tolist() == [3, 4, 2, 5]
    assert np.array_equal(kept.images, OF_SIZES.images[[0, 2, 3, 4]])
    assert kept.splits is not None
    named = {part: [kept.names[i] for i in rows] for part, rows in kept.splits.items()}
    assert named == {"train": ["e", "a"], "val": ["c"], "test": ["d"]}
    assert leave_out_small(OF_SIZES, 2)[0].splits is None


def test_each_class_may_need_another_number_and_large_enough_ones_are_as_before():
    kept, small = leave_out_small(IN_PARTS, np.array([4, 1, 4, 2, 6]))
    assert (kept.names, small) == (("b", "c", "d"), {"a": 3, "e": 5})
    assert leave_out_small(IN_PARTS, 1) == (IN_PARTS, {})


@pytest.mark.usefixtures("unchecked")
def test_a_split_without_classes_and_other_numbers_are_refused():
    with pytest.raises(
        ValueError, match=r"no class of the data set has the 6 images that .* a \(3\), b"
    ):
        leave_out_small(OF_SIZES, 6)
    with pytest.raises(ValueError, match=r"no class of test has the 3 images .* there are d \(2\)"):
        leave_out_small(IN_PARTS, 3)
    for least in (0, 2.0, None, "2", [1, 2], [1, 2, 3, 4, 0]):
        with pytest.raises(ValueError, match="least must be an integer >= 1, or one for each"):
            leave_out_small(IN_PARTS, least)  # pyright: ignore[reportArgumentType]


# Splits by fractions


def test_fractions_are_rounded_and_every_split_has_a_class():
    names = [f"class {i}" for i in range(100)]
    sizes = {part: len(found) for part, found in fraction_splits(names, 0).items()}
    assert sizes == {"train": 64, "val": 16, "test": 20}
    for count in range(3, 30):
        parts = fraction_splits(names[:count], 1, (0.9, 0.05, 0.05))
        assert sorted(np.concatenate([*parts.values()])) == [*range(count)]
        assert min(map(len, parts.values())) >= 1


def test_the_split_is_one_of_names_and_seed():
    names = [f"class {i}" for i in range(20)]
    first, again, other = (
        fraction_splits(n, s) for n, s in ((names, 3), (names[::-1], 3), (names, 4))
    )
    assert {names[i] for i in first["test"]} == {names[::-1][i] for i in again["test"]}
    assert first["train"].tolist() != other["train"].tolist()


@pytest.mark.usefixtures("unchecked")
def test_impossible_splits_are_refused():
    with pytest.raises(ValueError, match="need at least 3 classes, one for each; got 2"):
        fraction_splits(["a", "b"], 0)
    with pytest.raises(ValueError, match="'a' occurs twice"):
        fraction_splits(["a", "b", "a"], 0)
    with pytest.raises(ValueError, match=r"the seed must be an integer; got 0.5"):
        fraction_splits(["a", "b", "c"], 0.5)  # pyright: ignore[reportArgumentType]
    for fractions in (0.5, (0.5, 0.5), (1.0, 0.5, -0.5), (0.5, 0.5, 0.5), (float("nan"), 0.5, 0.5)):
        with pytest.raises(ValueError, match="three positive numbers whose sum is 1; got"):
            fraction_splits(["a", "b", "c"], 0, fractions)  # pyright: ignore[reportArgumentType]
