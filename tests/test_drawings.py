"""Only drawings are read from zips and folders, within bounds."""

import os
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tiny_omniglot import (
    BACKGROUND,
    EVALUATED,
    drawing,
    png,
    tiny_files,
    write_folders,
    write_zips,
)

from tasks import drawings

WHERE = f"{BACKGROUND}/Latin/character01/0003_02.png"
GREEK = f"{BACKGROUND}/Greek"
MEGABYTE = 2**20


def add(folder: Path, entry: str | zipfile.ZipInfo, content: bytes = b"", part=BACKGROUND) -> Path:
    with zipfile.ZipFile(folder / f"{part}.zip", "a") as archive:
        archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return folder


def without(files: dict[str, bytes], where: str) -> dict[str, bytes]:
    return {other: content for other, content in files.items() if other != where}


@pytest.fixture
def zips(tmp_path):
    return write_zips(tmp_path / "zips", tiny_files())


# What is read


def with_film(folder: Path) -> None:
    (folder / f"{GREEK}/film.png").touch()
    os.truncate(folder / f"{GREEK}/film.png", 32 * MEGABYTE)


def with_zipped_film(folder: Path) -> None:
    with (
        zipfile.ZipFile(folder / f"{BACKGROUND}.zip", "a", zipfile.ZIP_DEFLATED) as archive,
        archive.open(f"{BACKGROUND}/film.png", "w") as film,
    ):
        for _ in range(32):
            film.write(bytes(MEGABYTE))


@pytest.mark.parametrize(
    ("write", "add_film"), [(write_folders, with_film), (write_zips, with_zipped_film)]
)
def test_files_that_are_not_drawings_are_not_read(read, tmp_path, write, add_film):
    folder = write(tmp_path / "set", tiny_files())
    expected = read(folder).images
    add_film(folder)
    tracemalloc.start()
    images = read(folder).images
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(images, expected)
    assert peak < 4 * MEGABYTE


def test_backslashes_of_another_system_are_read(read, zips, tmp_path):
    files = {where.replace("/", "\\"): content for where, content in tiny_files().items()}
    other = write_zips(tmp_path / "other", files)
    assert len(zipfile.ZipFile(other / f"{BACKGROUND}.zip").namelist()) == 9
    assert np.array_equal(read(other).images, read(zips).images)


@pytest.mark.parametrize("write", [write_zips, write_folders])
def test_folders_around_the_alphabets_do_not_matter(read, zips, tmp_path, write):
    files = {
        where.replace("/", "/copied/twice/", 1): content for where, content in tiny_files().items()
    }
    assert np.array_equal(read(write(tmp_path / "other", files)).images, read(zips).images)


def test_links_to_folders_and_to_drawings_are_followed(read, zips, tmp_path):
    folder = write_folders(tmp_path / "set", tiny_files())
    for place in (GREEK, f"{BACKGROUND}/Latin/character01", WHERE, EVALUATED):
        moved = tmp_path / "elsewhere" / Path(place).name
        moved.parent.mkdir(exist_ok=True)
        (folder / place).rename(moved)
        (folder / place).symlink_to(moved)
        assert np.array_equal(read(folder).images, read(zips).images)


def test_links_in_a_circle_are_not_followed_for_ever(read, zips, tmp_path):
    folder = write_folders(tmp_path / "set", tiny_files())
    (folder / f"{GREEK}/up").symlink_to(folder / BACKGROUND)
    (folder / f"{BACKGROUND}/itself").symlink_to(folder / f"{BACKGROUND}/itself")
    (folder / f"{BACKGROUND}/0001_01.png").symlink_to(tmp_path / "nowhere")
    assert np.array_equal(read(folder).images, read(zips).images)


def test_a_named_pipe_is_not_opened(read, tmp_path):
    folder = write_folders(tmp_path / "set", without(tiny_files(), WHERE))
    os.mkfifo(folder / WHERE)
    with pytest.raises(ValueError, match="Latin/character01 must have 3 drawings; got 2"):
        read(folder)


# What is refused


def bound(monkeypatch, **bounds):
    for name, value in bounds.items():
        monkeypatch.setattr(drawings, name, value)


def unread(file: Path) -> bytes:
    raise FileNotFoundError(f"{file} would have been read")


@pytest.mark.parametrize("write", [write_zips, write_folders])
@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({}, r"'.*0003_02.png' has 1048577 bytes; a drawing has at most 1048576"),
        ({"LARGEST": 2**21, "MOST": 2**20}, "its drawings have 10[0-9]+ bytes, more than 1048576"),
        ({"ENTRIES": 5}, "holds more than 5 files"),
        ({"DEPTH": 1}, "under more than 1 (other )?folders"),
    ],
)
def test_files_beyond_the_limits_are_refused_before_they_are_read(
    read, tmp_path, monkeypatch, write, bounds, message
):
    folder = write(tmp_path / "set", tiny_files() | {WHERE: bytes(2**20 + 1)})
    bound(monkeypatch, **bounds)
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("unpacked"))
    monkeypatch.setattr(Path, "read_bytes", unread)
    with pytest.raises(ValueError, match=f"{BACKGROUND}.* is refused: .*{message}"):
        read(folder)


def test_a_zip_entry_with_a_false_size_is_refused_as_corrupt(read, tmp_path):
    zipped = write_zips(tmp_path / "set", without(tiny_files(), WHERE)) / f"{BACKGROUND}.zip"
    add(zipped.parent, WHERE, bytes(4 * MEGABYTE))
    size = (4 * MEGABYTE).to_bytes(4, "little")
    zipped.write_bytes(zipped.read_bytes().replace(size, (99).to_bytes(4, "little")))
    with pytest.raises(ValueError, match=r"corrupt zip: Bad CRC.* \(in its entry '.*0003_02.png'"):
        read(zipped.parent)


@pytest.mark.parametrize(
    "entry", ["C:/x.png", r"C:\Greek\x.png", "C:x.png", r"\\host\share\x.png", "/", r"a\..\..\x"]
)
def test_a_zip_entry_with_a_path_outside_its_folder_is_refused(read, zips, entry):
    with pytest.raises(ValueError, match=r"is refused: its entry .* leaves the archive's folder"):
        read(add(zips, entry, png(drawing(0))))


def test_a_link_inside_a_zip_is_refused(read, zips):
    link = zipfile.ZipInfo(f"{BACKGROUND}/Roman")
    link.external_attr = 0o120777 << 16
    with pytest.raises(ValueError, match=r"its entry '.*Roman' is a link; zip the files"):
        read(add(zips, link, b"/elsewhere"))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("where", [WHERE, WHERE.replace("/", "\\")])
def test_an_entry_that_is_there_twice_is_refused(read, zips, where):
    with pytest.raises(ValueError, match=r"its entry '.*0003_02.png' occurs twice"):
        read(add(zips, where, png(drawing(0))))


def test_an_encrypted_entry_is_named(read, zips):
    zipped = zips / f"{BACKGROUND}.zip"
    content = bytearray(zipped.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1  # in the flags of the first entry
    zipped.write_bytes(content)
    with pytest.raises(ValueError, match=r"its entry '.*Greek/.*0001_01.png' is encrypted"):
        read(zips)


def test_a_compression_that_python_does_not_know_is_said(read, zips):
    zipped = zips / f"{BACKGROUND}.zip"
    content = bytearray(zipped.read_bytes())
    for header, place in ((b"PK\3\4", 8), (b"PK\1\2", 10)):
        content[content.index(header) + place] = 9  # deflate64, as Windows makes of large files
    zipped.write_bytes(content)
    with pytest.raises(ValueError, match=r"no zip that Python can read: .*0001_01.png"):
        read(zips)


def test_a_folder_without_drawings_is_refused_with_its_content(read, tmp_path):
    files = {w: content for w, content in tiny_files().items() if w.startswith(BACKGROUND)}
    folder = write_zips(tmp_path / "set", files | {f"{EVALUATED}/all.zip": b"PK"})
    message = r"evaluation.zip holds no drawing: got 0 characters.*it holds images_evaluation/all"
    with pytest.raises(ValueError, match=message):
        read(folder)
    folder = write_folders(tmp_path / "folder", files | {f"{EVALUATED}/ULOG/1.png": b""})
    message = r"images_evaluation holds no drawing: got 0 characters.*; it holds ULOG/1.png"
    with pytest.raises(ValueError, match=message):
        read(folder)


def test_missing_characters_are_refused_with_place_and_names(read, tmp_path):
    files = {where: content for where, content in tiny_files().items() if "Latin" not in where}
    message = r"has 4 characters; got 3 in images_.*set, of the alphabets Greek, ULOG"
    with pytest.raises(ValueError, match=message):
        read(write_zips(tmp_path / "set", files))
