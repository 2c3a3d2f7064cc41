"""Data sets that tensorflow-datasets has prepared become images by class, without TensorFlow."""

import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import constants, registered
from tiny_pictures import BLUE, GREEN, RED, plain
from tiny_prepared import EXAMPLES, NAMES, OTHER_RED, make_builder, write_prepared

from tasks import images, prepared_images
from tasks.images import load, read_image

OF_CLASS = {
    "cat": [plain(RED), plain(BLUE), OTHER_RED],
    "dog": [plain(RED)],
    "owl": [plain(GREEN, (6, 4)), plain(BLUE, format="JPEG")],
}


@pytest.fixture
def data_dir(tmp_path, monkeypatch, offline):
    """The folder of prepared data sets, which is still empty."""
    monkeypatch.setattr(constants, "DATA_DIR", str(tmp_path / "tfds"))
    yield tmp_path / "tfds"
    assert not offline


@pytest.fixture
def read(tmp_path):
    return partial(load, "tfds:tiny_pictures", size=4, cache=tmp_path / "cache")


def assert_same_pictures(got, of_class, **options):
    assert got.names == tuple(of_class)
    assert got.counts.tolist() == [len(pictures) for pictures in of_class.values()]
    for row, pictures in zip(got.images, of_class.values(), strict=True):
        expected = sorted(read_image(p, size=4, **options).tobytes() for p in pictures)
        assert sorted(image.tobytes() for image in row[: len(pictures)]) == expected
        assert not row[len(pictures) :].any()


@pytest.mark.parametrize("options", [{}, {"channels": 1, "fit": "pad"}])
def test_the_pictures_of_all_splits_are_one_set_by_the_names_of_their_labels(
    read, data_dir, options
):
    """The red cat of both splits counts once, and the picture without a label not at all."""
    folder = write_prepared(data_dir)
    got = read(**options)
    assert_same_pictures(got, OF_CLASS, **options)
    assert got.splits is None and got.source.startswith(
        f"tensorflow-datasets, prepared in {folder}"
    )
    assert got.source.endswith("2 examples without a label or of an earlier split ignored")


def test_a_configuration_a_version_and_a_path_name_the_same_set(read, data_dir, tmp_path):
    write_prepared(data_dir)
    for name in ("tfds:tiny_pictures:1.0.0", Path("tfds:tiny_pictures")):
        assert_same_pictures(load(name, size=4, cache=tmp_path / "cache"), OF_CLASS)
    with pytest.raises(ValueError, match="no data set 'tiny_pictures/small'"):
        load("tfds:tiny_pictures/small", size=4, cache=tmp_path / "cache")


def test_the_cache_is_used_until_the_data_set_changes(read, data_dir, monkeypatch):
    folder = write_prepared(data_dir)
    first = read()
    with monkeypatch.context() as patch:
        patch.setattr(images, "decode", lambda *_: pytest.fail("decoded again"))
        patch.setattr(prepared_images, "_index", lambda *_: pytest.fail("read again"))
        second = read()
    assert np.array_equal(first.images, second.images)
    assert (first.names, first.source) == (second.names, second.source)
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    write_prepared(data_dir, {"train": [(0, plain(GREEN))]})
    assert_same_pictures(read(), {"owl": [plain(GREEN)]})


@pytest.mark.parametrize("text", ["", "[]", "[{}, null]", '[{"cat": []}, 0]', "[3, 4]"])
def test_a_corrupt_index_is_made_again_with_a_warning(read, data_dir, tmp_path, text):
    write_prepared(data_dir)
    read()
    (index,) = (tmp_path / "cache").glob("*.json")
    index.write_text(text)
    with pytest.warns(UserWarning, match="json is corrupt and is rebuilt"):
        assert_same_pictures(read(), OF_CLASS)


def test_a_set_whose_builder_needs_no_tensorflow_is_prepared_now(read, data_dir, monkeypatch):
    monkeypatch.setitem(registered._DATASET_REGISTRY, "tiny_pictures", make_builder())
    assert_same_pictures(read(), OF_CLASS)
    assert (data_dir / "tiny_pictures/1.0.0").is_dir() and "tensorflow" not in sys.modules


def test_a_set_that_cannot_be_prepared_says_why(read, data_dir, monkeypatch):
    builder = make_builder({"train": [(99, plain(RED))]})
    monkeypatch.setitem(registered._DATASET_REGISTRY, "tiny_pictures", builder)
    with pytest.raises(ValueError, match=r"(?s)not prepared in .*TFDS_DATA_DIR .*99"):
        read()
    assert not list(data_dir.glob("tiny_pictures/1*"))


@pytest.mark.parametrize("installed", [False, True])
def test_a_set_that_is_not_there_is_refused_within_seconds_and_never_replaced(
    tmp_path, offline, monkeypatch, installed
):
    """Without TensorFlow nothing is asked of the network; with it, the network is missing."""
    monkeypatch.setattr(prepared_images, "find_spec", lambda _: installed or None)
    words = r"not prepared in .*unprepared. Prepare it .* file_format='array_record'\).*copy its"
    start = time.monotonic()
    with pytest.raises(ConnectionError if installed else ValueError, match=words):
        load("tfds:cifar100", size=4, cache=tmp_path / "cache")
    assert time.monotonic() - start < 15
    assert bool(offline) == installed and not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifr100", r"knows no data set 'cifr100' \(did you mean cifar100\?\)"),
        ("no-such/set", r"the name of a data set .* got 'tfds:no-such/set'"),
        ("nothing_like_it", "knows no data set 'nothing_like_it', and none .* in .*tfds"),
        ("", "the name of a data set .* such as tfds:cifar100"),
        ("huggingface:mnist", "got 'tfds:huggingface:mnist'"),
        ("mnist:9.9.9", "cannot be loaded at version 9.9.9, only: 3.0.1"),
        ("imdb_reviews", r"features image, an Image .* label, a ClassLabel; it has text \(Text\)"),
    ],
)
def test_a_name_that_is_no_set_of_pictures_is_refused(data_dir, tmp_path, name, message):
    with pytest.raises(ValueError, match=message) as refusal:
        load(f"tfds:{name}", size=4, cache=tmp_path / "cache")
    assert len(str(refusal.value)) < 500 and not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "features",
    [
        {"image": tfds.features.Image()},
        {"label": tfds.features.ClassLabel(names=NAMES)},
        {"image": tfds.features.Image(), "label": tfds.features.Scalar(np.int64)},
        {
            "image": tfds.features.Image(shape=(None, None, 1), dtype=np.float32),
            "label": tfds.features.ClassLabel(names=NAMES),
        },
    ],
    ids=["no label", "no image", "a label without names", "an image of numbers"],
)
def test_a_set_without_images_or_labels_is_refused_before_it_is_prepared(
    read, data_dir, monkeypatch, features
):
    monkeypatch.setitem(
        registered._DATASET_REGISTRY, "tiny_pictures", make_builder(EXAMPLES, features)
    )
    with pytest.raises(ValueError, match="tfds:tiny_pictures must have the features image, an Im"):
        read()
    assert not data_dir.exists()


def test_a_set_without_any_label_and_one_of_too_many_examples_are_refused(
    read, data_dir, monkeypatch
):
    write_prepared(data_dir, {"train": [(-1, plain(RED))], "test": [(-1, plain(RED))]})
    with pytest.raises(ValueError, match=r"cannot read .*tiny_pictures.*: no example has a label"):
        read()
    monkeypatch.setattr(prepared_images, "LIMITS", prepared_images.LIMITS._replace(entries=1))
    with pytest.raises(ValueError, match="more than 1"):
        read()


@pytest.mark.parametrize("content", [b"", b"no picture"])
def test_a_picture_that_cannot_be_read_is_named(read, data_dir, content):
    write_prepared(data_dir, EXAMPLES | {"test": [(3, content)]})
    with pytest.raises(ValueError, match="cannot read the picture test/0: it is no PNG"):
        read()


def test_a_damaged_set_and_one_of_another_format_are_named(read, data_dir):
    folder = write_prepared(data_dir)
    (record,) = folder.glob("*test.array_record*")
    content = record.read_bytes()
    record.write_bytes(b"")
    with pytest.raises(ValueError, match=f"cannot read {folder} as array_record"):
        read()
    record.write_bytes(content)
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(ValueError, match=f"cannot read {folder} as array_record"):
        read()
    info.write_text(info.read_text()[:100])
    with pytest.raises(ValueError, match="cannot read the tiny_pictures in the data_dir of"):
        read()
