"""A wrong or damaged Omniglot raises an error that names the file."""

import shutil
import socket
import threading
import time
import zipfile

import numpy as np
import pytest
from PIL import Image
from tiny_omniglot import (
    BACKGROUND,
    EVALUATED,
    drawing,
    png,
    prepare,
    tiny_files,
    write_folders,
    write_zips,
)

from tasks import glyphs, prepared
from tasks.omniglot import load


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        load(tmp_path / "nowhere")


def test_a_folder_without_omniglot_says_what_it_holds(read, tmp_path):
    folder = write_zips(tmp_path / "zips", tiny_files())
    (folder / f"{EVALUATED}.zip").unlink()
    with pytest.raises(ValueError, match=r"must hold .*; it holds images_background.zip$"):
        read(folder)


def test_an_unknown_resize_is_refused(tmp_path, unchecked):
    with pytest.raises(ValueError, match="nearest, antialias; got 'cubic'"):
        load(tmp_path, resize="cubic")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("place", [3, b"data", True, ["data"]])
def test_arguments_that_are_not_paths_are_refused(tmp_path, unchecked, place):
    with pytest.raises(ValueError, match="path must be a path; got"):
        load(place)
    with pytest.raises(ValueError, match="cache must be a path; got"):
        load(tmp_path, cache=place)
    with pytest.raises(ValueError, match="cache must be a path; got"):
        glyphs.load(cache=place)


@pytest.mark.parametrize("keep", [0, 10, 1000])
def test_a_corrupt_zip_is_named(read, tmp_path, keep):
    folder = write_zips(tmp_path / "zips", tiny_files())
    zipped = folder / f"{EVALUATED}.zip"
    zipped.write_bytes(zipped.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"images_evaluation.zip is a corrupt zip"):
        read(folder)


def test_a_flipped_bit_in_a_zip_is_found(read, tmp_path):
    folder = write_zips(tmp_path / "zips", tiny_files())
    zipped = folder / f"{BACKGROUND}.zip"
    content = bytearray(zipped.read_bytes())
    content[content.index(b"IDAT") + 30] ^= 1
    zipped.write_bytes(content)
    with pytest.raises(ValueError, match=r"images_background.zip is a corrupt zip: Bad CRC"):
        read(folder)


@pytest.mark.parametrize("write", [write_zips, write_folders])
@pytest.mark.parametrize("damage", [lambda c: c[:60], lambda _: b"", lambda _: b"no image" * 20])
def test_a_corrupt_or_truncated_drawing_is_named(read, tmp_path, write, damage):
    where = f"{BACKGROUND}/Latin/character01/0003_02.png"
    files = tiny_files()
    with pytest.raises(ValueError, match=f"cannot read the drawing .*{where}"):
        read(write(tmp_path / "set", files | {where: damage(files[where])}))


@pytest.mark.parametrize("entry", ["../x.png", f"{BACKGROUND}/../../x.png", "/x.png", r"..\x.png"])
def test_a_zip_entry_that_leaves_its_folder_is_refused(read, tmp_path, entry):
    folder = write_zips(tmp_path / "zips", tiny_files())
    with zipfile.ZipFile(folder / f"{BACKGROUND}.zip", "a") as archive:
        archive.writestr(entry, png(drawing(0)))
    with pytest.raises(ValueError, match=r"images_background.zip is refused: its entry .*x.png"):
        read(folder)


def test_the_wrong_number_of_characters_is_said(tmp_path):
    with pytest.raises(ValueError, match="has 1623 characters; got 4"):
        load(write_zips(tmp_path / "zips", tiny_files()), cache=tmp_path / "cache")


def test_the_wrong_number_of_drawings_is_said(read, tmp_path):
    files = tiny_files()
    del files[f"{EVALUATED}/ULOG/character01/0004_03.png"]
    with pytest.raises(ValueError, match="ULOG/character01 must have 3 drawings; got 2"):
        read(write_zips(tmp_path / "zips", files))


def test_the_wrong_size_is_said(read, tmp_path):
    where = f"{EVALUATED}/ULOG/character01/0004_03.png"
    files = tiny_files() | {where: png(Image.new("1", (28, 30)))}
    with pytest.raises(ValueError, match=f"{where}: it must be 105x105; got 28x30"):
        read(write_zips(tmp_path / "zips", files))


def test_a_refused_set_is_not_cached(tmp_path):
    with pytest.raises(ValueError, match="1623"):
        load(write_zips(tmp_path / "zips", tiny_files()), cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_set_prepared_in_another_format_is_refused(read, tmp_path, monkeypatch):
    data_dir = prepare(tmp_path / "tfds", tiny_files(), monkeypatch)
    version = data_dir / "omniglot/3.0.0"
    for record in version.glob("*array_record*"):
        record.rename(str(record).replace("array_record", "tfrecord"))
    info = version / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(ValueError, match=r"cannot read .* as array_record"):
        read(data_dir)


def test_a_damaged_prepared_set_is_refused(read, tmp_path, monkeypatch):
    data_dir = prepare(tmp_path / "tfds", tiny_files(), monkeypatch)
    (record,) = (data_dir / "omniglot/3.0.0").glob("*test.array_record*")
    record.write_bytes(b"")
    with pytest.raises(ValueError, match=r"cannot read .* as array_record"):
        read(data_dir)


def test_a_damaged_description_of_a_prepared_set_is_refused(read, tmp_path, monkeypatch):
    data_dir = prepare(tmp_path / "tfds", tiny_files(), monkeypatch)
    info = data_dir / "omniglot/3.0.0/dataset_info.json"
    info.write_text(info.read_text()[:100])
    with pytest.raises(ValueError, match=r"cannot read the omniglot in .*tfds: "):
        read(data_dir)


def test_the_error_without_a_network_is_immediate_and_names_three_remedies(read, offline):
    start = time.monotonic()
    with pytest.raises(ConnectionError, match=r"images_evaluation.zip .* prepare .* connect"):
        read()
    assert time.monotonic() - start < 15
    assert offline


def test_a_name_server_that_does_not_answer_does_not_delay_the_error(read, offline, monkeypatch):
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait(60) and [])
    monkeypatch.setattr(prepared, "TIMEOUT", 0.3)
    start = time.monotonic()
    with pytest.raises(ConnectionError, match=r"no answer in 0.3 seconds"):
        read()
    over.set()
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("content", [b"PK", None])
def test_a_kept_download_with_a_wrong_checksum_is_downloaded_again(read, served, tmp_path, content):
    """The array is cached by the registered checksums, so that nothing else may be decoded."""
    kept = tmp_path / "cache/omniglot" / f"{BACKGROUND}.zip"
    other = write_zips(tmp_path / "other", {w: png(drawing(1)) for w in tiny_files()})
    kept.parent.mkdir(parents=True)
    for part in (BACKGROUND, EVALUATED):
        shutil.copy(other / f"{part}.zip", kept.parent)
    kept.write_bytes(kept.read_bytes() if content is None else content)
    assert np.array_equal(read().images, read(served, cache=tmp_path / "fresh").images)
    assert kept.read_bytes() == (served / kept.name).read_bytes()


def test_a_missing_download_is_an_immediate_error(read, served):
    (served / f"{EVALUATED}.zip").unlink()
    with pytest.raises(ConnectionError, match="404"):
        read()


def test_a_download_that_is_not_the_registered_one_is_refused(read, served, tmp_path):
    write_zips(served, tiny_files() | {f"{BACKGROUND}/extra": b"!"})
    with pytest.raises(Exception, match="wrong checksum"):
        read()
    assert not list((tmp_path / "cache").rglob("*.zip"))
