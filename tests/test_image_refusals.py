"""Wrong folders, zips and arguments are refused before a picture is decoded."""

import zipfile
from functools import partial
from pathlib import Path

import pytest
from tiny_pictures import FILES, plain, write, write_zip

from tasks import image_files, images
from tasks.images import load, read_image

MEGABYTE = 2**20
WRITERS = pytest.mark.parametrize("write", [write, write_zip])


@pytest.fixture
def read(tmp_path):
    return partial(load, size=4, cache=tmp_path / "cache")


WRONG = {
    "empty": ({}, r"holds no picture: got 0 classes.*it holds nothing"),
    "no pictures": (
        {"a/1.txt": b"", "b": b""},
        r"got 0 classes.* \.tiff\) into one .*; it holds a/1.txt, b",
    ),
    "no class": (FILES | {"1.png": plain()}, r"the picture '1.png' has no class"),
    "class without pictures": (FILES | {"c/1.heic": b""}, r"its folder 'c' holds no picture"),
    "class in two splits": (
        {f"{part}/dog/1.png": plain() for part in ("train", "val", "test")},
        r"'dog' is in 'train' and again in 'val'",
    ),
    "no val": (
        {f"{part}/{part[1:]}/1.png": plain() for part in ("train", "test")},
        r"splits must be train, val, test and no others; got test, train",
    ),
    "other letters": (
        {f"{part}/{part[1:]}/1.png": plain() for part in ("Train", "Val", "Test")},
        r"splits must be train, val, test and no others; got Test, Train, Val",
    ),
    "other words": (
        {f"{part}/{part[1:]}/1.png": plain() for part in ("training", "validation", "testing")},
        r"no others; got testing, training, validation",
    ),
    "words and others": (
        {f"{part}/{part[1:]}/1.png": plain() for part in ("Train", "Dev", "Extra")},
        r"no others; got Dev, Extra, Train",
    ),
    "only train": ({"train/a/1.png": plain()}, r"no others; got train"),
    "beside splits": (
        {f"{part}/{part[1:]}/1.png": plain() for part in ("train", "val", "test", "dog")},
        r"no others; got dog, test, train, val",
    ),
    "split without classes": (
        {f"{part}/{part}/1.png": plain() for part in ("train", "val")} | {"test/1.png": plain()},
        r"'test' holds pictures itself",
    ),
}


@pytest.fixture
def undecoded(monkeypatch):
    monkeypatch.setattr(images, "decode", lambda *_: pytest.fail("decoded"))


@pytest.mark.usefixtures("undecoded")
@pytest.mark.parametrize("kind", WRONG)
@WRITERS
def test_wrong_folders_are_refused_before_anything_is_decoded(read, tmp_path, write, kind):
    files, message = WRONG[kind]
    (tmp_path / "set").mkdir()
    with pytest.raises(ValueError, match=message):
        read(write(tmp_path / "set", files))


def test_an_empty_class_folder_is_refused(read, tmp_path):
    folder = write(tmp_path / "set", FILES)
    (folder / "c/d").mkdir(parents=True)
    with pytest.raises(ValueError, match="its folder 'c/d' holds no picture"):
        read(folder)
    with zipfile.ZipFile(write_zip(tmp_path, FILES | {"a/": b""}), "a") as archive:
        assert read(Path(str(archive.filename))).counts.sum() == 6
        archive.writestr("c/", b"")
    with pytest.raises(ValueError, match="its folder 'c' holds no picture"):
        read(tmp_path / "set.zip")


@pytest.mark.usefixtures("undecoded")
@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"largest": 999}, r"'b/9.png' has 1000 bytes; a picture has at most 999"),
        ({"most": 99}, r"its pictures have \d+ bytes, more than 99"),
        ({"entries": 6}, "holds more than 6 files"),
        ({"depth": 2}, "under more than 2 (other )?folders"),
    ],
)
@WRITERS
def test_files_beyond_the_limits_are_refused(read, tmp_path, monkeypatch, write, limits, message):
    monkeypatch.setattr(image_files, "LIMITS", image_files.LIMITS._replace(**limits))
    with pytest.raises(ValueError, match=f"set.* is refused: .*{message}"):
        read(write(tmp_path / "set", {"a/deep/er/1.png": b""} | FILES | {"b/9.png": bytes(1000)}))


@pytest.mark.usefixtures("undecoded")
def test_a_zip_that_unpacks_beyond_the_bound_is_refused_by_its_list(read, tmp_path, monkeypatch):
    path = write_zip(tmp_path, FILES | {"b/9.png": bytes(8 * MEGABYTE)})
    assert path.stat().st_size < MEGABYTE
    monkeypatch.setattr(image_files, "LIMITS", image_files.LIMITS._replace(most=MEGABYTE))
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("unpacked"))
    with pytest.raises(ValueError, match=r"set.zip is refused: its pictures have 8[0-9]+ bytes"):
        read(path)


@pytest.mark.usefixtures("undecoded")
@pytest.mark.parametrize("entry", ["../1.png", "/a/1.png", r"C:\a\1.png", r"a\..\..\1.png"])
def test_a_zip_whose_entries_leave_the_folder_is_refused(read, tmp_path, entry):
    with pytest.raises(ValueError, match=r"is refused: its entry .* leaves the archive's folder"):
        read(write_zip(tmp_path, FILES | {entry: plain()}))


@pytest.mark.usefixtures("undecoded")
def test_images_that_would_fill_the_memory_are_refused(read, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "LARGEST", 3 * 3 * 4 * 4 * 3 - 1)
    with pytest.raises(ValueError, match=r"432 bytes, of at most 431: .* 3 images of 'a/deep/er'"):
        read(write(tmp_path / "set", FILES))


@pytest.mark.usefixtures("unchecked", "undecoded")
def test_arguments_of_other_values_are_refused(read, tmp_path):
    folder = write(tmp_path / "set", FILES)
    for size in (0, -1, 2.0, True, None, (4,), (4, 0), (4, 4, 3), "4", 10**9):
        with pytest.raises(ValueError, match="size must be an integer from 1 to 4096"):
            read(folder, size=size)
        with pytest.raises(ValueError, match="size must be an integer from 1 to 4096"):
            read_image(plain(), size=size)  # pyright: ignore[reportArgumentType]
    for channels in (0, 2, 4, 3.0, True, None, "RGB"):
        with pytest.raises(ValueError, match="channels must be 1, for grey, or 3, for colours"):
            read(folder, channels=channels)
    for fit in ("cut", None, ""):
        with pytest.raises(ValueError, match="fit must be one of crop, pad, stretch; got"):
            read(folder, fit=fit)
    for place in (3, None, b"set", [folder]):
        with pytest.raises(ValueError, match="path must be a path; got"):
            read(place)
        if place is not None:
            with pytest.raises(ValueError, match="cache must be a path; got"):
                read(folder, cache=place)
    with pytest.raises(ValueError, match=r"in a folder or a zip; .*nowhere is neither"):
        read(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"1.png is a corrupt zip: File is not a zip file"):
        read(folder / "b/1.png")
