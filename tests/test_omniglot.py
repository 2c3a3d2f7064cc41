"""Omniglot from every source gives the same array, cached by content."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_omniglot import (
    BACKGROUND,
    NAMES,
    drawing,
    no_decoding,
    png,
    prepare,
    tiny_files,
    write_folders,
    write_zips,
)

# Sources


def test_ink_is_255_and_paper_0(read, tmp_path):
    images = read(write_zips(tmp_path / "zips", tiny_files())).images
    assert images.dtype == np.uint8 and images.shape == (4, 3, 28, 28)
    assert set(np.unique(images)) == {0, 255}
    assert 0.05 < images.mean() / 255 < 0.2  # one blob in ten is ink


def test_names_are_sorted_and_the_source_is_recorded(read, tmp_path):
    folder = write_zips(tmp_path / "zips", tiny_files())
    characters = read(folder, resize="antialias")
    assert characters.names == NAMES
    assert str(folder) in characters.source and "antialias" in characters.source


def test_nearest_is_what_pil_makes_of_a_1_bit_png_whatever_the_filter(read, tmp_path):
    images = read(write_zips(tmp_path / "zips", tiny_files())).images
    original = drawing(1).resize((28, 28), Image.Resampling.LANCZOS)
    assert any(np.array_equal(image, 255 * ~np.asarray(original)) for image in images[0])


def test_antialias_is_grey(read, tmp_path):
    images = read(write_zips(tmp_path / "zips", tiny_files()), resize="antialias").images
    original = drawing(1).convert("L").resize((28, 28), Image.Resampling.LANCZOS)
    assert any(np.array_equal(image, 255 - np.asarray(original)) for image in images[0])
    assert len(np.unique(images)) > 10


@pytest.mark.parametrize("resize", ["nearest", "antialias"])
def test_folders_and_a_prepared_set_equal_the_zips(read, tmp_path, monkeypatch, resize):
    files = tiny_files()
    zips = read(write_zips(tmp_path / "zips", files), resize=resize)
    folders = read(write_folders(tmp_path / "folders", files), resize=resize)
    prepared = read(prepare(tmp_path / "tfds", files, monkeypatch), resize=resize)
    for other in (folders, prepared):
        assert other.names == zips.names
        assert np.array_equal(other.images, zips.images)


def test_a_copy_saved_again_in_colour_equals_the_original(read, tmp_path):
    colour = {
        where: png(Image.open(io.BytesIO(content)).convert("RGB"))
        for where, content in tiny_files().items()
    }
    original = read(write_zips(tmp_path / "original", tiny_files()))
    copy = read(write_zips(tmp_path / "copy", colour))
    assert np.array_equal(original.images, copy.images)


def test_without_a_path_the_prepared_set_is_read(read, tmp_path, monkeypatch, offline):
    from tensorflow_datasets.core import constants

    data_dir = prepare(tmp_path / "tfds", tiny_files(), monkeypatch)
    monkeypatch.setattr(constants, "DATA_DIR", str(data_dir))
    assert str(data_dir) in read().source
    assert not offline


def test_a_download_is_made_once_for_both_resizes(read, served, monkeypatch):
    expected = read(served, resize="antialias")
    read(resize="nearest")
    for zipped in served.iterdir():
        zipped.unlink()
    again = read(resize="antialias")
    assert np.array_equal(again.images, expected.images)


def test_other_files_are_no_drawings(read, tmp_path):
    files = tiny_files()
    extra = {f"{BACKGROUND}/README.txt": b"hello", f"{BACKGROUND}/Greek/._0001_01.png": b"mac"}
    assert read(write_zips(tmp_path / "zips", files | extra)).names == NAMES


# The cache


def test_a_second_load_does_not_decode(read, tmp_path, monkeypatch):
    folder = write_zips(tmp_path / "zips", tiny_files())
    first = read(folder)
    no_decoding(monkeypatch)
    second = read(folder)
    assert first.names == second.names and np.array_equal(first.images, second.images)


def test_resizes_do_not_share_a_cache(read, tmp_path):
    folder = write_zips(tmp_path / "zips", tiny_files())
    assert not np.array_equal(read(folder).images, read(folder, resize="antialias").images)


def test_a_cached_download_needs_no_network(read, served, offline, monkeypatch):
    read(served)  # the cache is keyed by content: these zips are the registered ones
    no_decoding(monkeypatch)
    assert read().names == NAMES
    assert not offline


@pytest.mark.parametrize("write", [write_zips, write_folders])
def test_a_changed_source_is_not_served_stale(read, tmp_path, write):
    files = tiny_files()
    before = read(write(tmp_path / "set", files)).images
    where = f"{BACKGROUND}/Greek/character01/0001_01.png"
    after = read(write(tmp_path / "set", files | {where: png(drawing(99))})).images
    assert not np.array_equal(before[0], after[0]) and np.array_equal(before[1:], after[1:])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def pickled(file: Path) -> None:
    np.savez(file, images=np.array([{}], dtype=object), names=np.array(NAMES))


def other(file: Path) -> None:
    np.savez(file, images=np.zeros((2, 2)), names=np.array(NAMES))


def plain(file: Path) -> None:
    with file.open("wb") as opened:
        np.save(opened, np.zeros(3))


@pytest.mark.parametrize("damage", [empty, cut, flip, pickled, other, plain])
def test_a_corrupt_cache_is_rebuilt_with_a_warning(read, tmp_path, damage):
    folder = write_zips(tmp_path / "zips", tiny_files())
    expected = read(folder).images
    (cached,) = (tmp_path / "cache").iterdir()
    damage(cached)
    with pytest.warns(UserWarning, match="corrupt and is rebuilt"):
        assert np.array_equal(read(folder).images, expected)
    assert np.array_equal(read(folder).images, expected)  # pytest makes a warning an error


def test_a_cache_that_cannot_be_written_gives_a_warning_only(read, tmp_path):
    (tmp_path / "file").write_text("in the way")
    folder = write_zips(tmp_path / "zips", tiny_files())
    with pytest.warns(UserWarning, match="not cached"):
        assert read(folder, cache=tmp_path / "file" / "cache").names == NAMES


def test_the_cache_holds_nothing_but_the_array(read, tmp_path):
    read(write_zips(tmp_path / "zips", tiny_files()))
    assert len(list((tmp_path / "cache").iterdir())) == 1
