import hashlib
import io
import json
import os
import socket
import threading
import time
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import jaxtyping
import numpy as np
import pytest
from PIL import Image

from tasks import omniglot, omniglot_files
from tasks.characters import Characters, alphabet
from tasks.omniglot import EVALUATION, load, splits

NAMES = ("Greek/character01", "Greek/character02", "Latin/character01", "ULOG/character01")
BACKGROUND, EVALUATED = "images_background", "images_evaluation"
REPOSITORY = Path(__file__).parents[1]


# A tiny Omniglot: 4 characters with 3 drawings each.


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def drawing(seed: int) -> Image.Image:
    blobs = np.random.default_rng(seed).random((21, 21)) < 0.9
    return Image.fromarray(blobs.repeat(5, 0).repeat(5, 1))


def tiny_files() -> dict[str, bytes]:
    files = {}
    for i, name in enumerate(NAMES):
        part = EVALUATED if alphabet(name) in EVALUATION else BACKGROUND
        for drawer in range(1, 4):
            where = f"{part}/{name}/{i + 1:04d}_{drawer:02d}.png"
            files[where] = png(drawing(10 * i + drawer))
    return files


def write_zips(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for part in (BACKGROUND, EVALUATED):
        with zipfile.ZipFile(folder / f"{part}.zip", "w") as archive:
            for where in sorted(where for where in files if where.startswith(part)):
                archive.writestr(zipfile.ZipInfo(where), files[where])
    return folder


def write_folders(folder: Path, files: dict[str, bytes]) -> Path:
    for where, content in files.items():
        (folder / where).parent.mkdir(parents=True, exist_ok=True)
        (folder / where).write_bytes(content)
    return folder


def prepare(data_dir: Path, files: dict[str, bytes], monkeypatch, file_format="array_record"):
    """What tensorflow-datasets' own builder writes, given these files instead of the download."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.image_classification import omniglot as builder

    original = data_dir.parent / f"{data_dir.name}-original"
    for split in (BACKGROUND, EVALUATED):
        chosen = {where: files[where] for where in files if where.startswith(split)}
        write_folders(original / split, chosen)
    background, evaluated = str(original / BACKGROUND), str(original / EVALUATED)
    parts = {"train": background, "eval": evaluated, "small1": background, "small2": background}
    gfile = SimpleNamespace(listdir=os.listdir)
    characters = {where.rpartition("/")[0] for where in files}
    with monkeypatch.context() as patch:
        patch.setattr(builder, "tf", SimpleNamespace(io=SimpleNamespace(gfile=gfile)))
        patch.setattr(builder, "_NUM_CLASSES", len(characters))
        patch.setattr(builder, "_NUM_ALPHABETS", len({c.split("/")[1] for c in characters}))
        manager = tfds.download.DownloadManager
        patch.setattr(manager, "download_and_extract", lambda *_: parts)
        config = tfds.download.DownloadConfig(try_download_gcs=False)
        tfds.builder("omniglot", data_dir=data_dir, file_format=file_format).download_and_prepare(
            download_config=config
        )
    return data_dir


@pytest.fixture
def read(monkeypatch, tmp_path):
    """`load` for tiny sets, with a cache of its own."""
    monkeypatch.setattr(omniglot, "CHARACTERS", len(NAMES))
    monkeypatch.setattr(omniglot, "DRAWINGS", 3)
    return partial(load, cache=tmp_path / "cache")


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network and nothing prepared; gives the names that were looked up."""
    asked = []

    def refuse(host, *_, **__):
        asked.append(host)
        raise socket.gaierror("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    nothing_prepared(monkeypatch, tmp_path)
    return asked


def nothing_prepared(monkeypatch, tmp_path):
    from tensorflow_datasets.core import constants

    monkeypatch.setattr(constants, "DATA_DIR", str(tmp_path / "unprepared"))


@pytest.fixture
def served(monkeypatch, tmp_path):
    """The tiny zips on a server of this machine, registered as the official ones."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.checksums import compute_url_info

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            pass

    folder = write_zips(tmp_path / "served", tiny_files())
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    infos = {f"{address}/{zipped.name}": compute_url_info(zipped) for zipped in folder.iterdir()}
    monkeypatch.setattr(tfds.builder_cls("omniglot"), "url_infos", infos)
    monkeypatch.setenv("NO_PROXY", "*")
    nothing_prepared(monkeypatch, tmp_path)
    yield folder
    server.shutdown()
    server.server_close()
    thread.join()


def no_decoding(monkeypatch):
    def fail(*_):
        raise AssertionError("decoded again")

    monkeypatch.setattr(omniglot, "_decode", fail)


# Sources


def test_ink_is_255_and_paper_0(read, tmp_path):
    images = read(write_zips(tmp_path / "zips", tiny_files())).images
    assert images.dtype == np.uint8 and images.shape == (4, 3, 28, 28)
    assert set(np.unique(images)) == {0, 255}
    assert 0.05 < images.mean() / 255 < 0.2  # one blob in ten is ink


def test_names_are_sorted_and_the_source_is_said(read, tmp_path):
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
def test_a_corrupt_cache_is_rebuilt_aloud(read, tmp_path, damage):
    folder = write_zips(tmp_path / "zips", tiny_files())
    expected = read(folder).images
    (cached,) = (tmp_path / "cache").iterdir()
    damage(cached)
    with pytest.warns(UserWarning, match="corrupt and is rebuilt"):
        assert np.array_equal(read(folder).images, expected)
    assert np.array_equal(read(folder).images, expected)  # pytest makes a warning an error


def test_a_cache_that_cannot_be_written_is_said_and_does_no_harm(read, tmp_path):
    (tmp_path / "file").write_text("in the way")
    folder = write_zips(tmp_path / "zips", tiny_files())
    with pytest.warns(UserWarning, match="not cached"):
        assert read(folder, cache=tmp_path / "file" / "cache").names == NAMES


def test_the_cache_holds_nothing_but_the_array(read, tmp_path):
    read(write_zips(tmp_path / "zips", tiny_files()))
    assert len(list((tmp_path / "cache").iterdir())) == 1


# Errors


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        load(tmp_path / "nowhere")


def test_a_folder_without_omniglot_says_what_it_holds(read, tmp_path):
    folder = write_zips(tmp_path / "zips", tiny_files())
    (folder / f"{EVALUATED}.zip").unlink()
    with pytest.raises(ValueError, match=r"must hold .*; it holds images_background.zip$"):
        read(folder)


def test_an_unknown_resize_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would say it first
    with pytest.raises(ValueError, match="nearest, antialias; got 'cubic'"):
        load(tmp_path, resize="cubic")  # pyright: ignore[reportArgumentType]


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


def test_offline_the_error_comes_at_once_and_names_three_ways_out(read, offline):
    start = time.monotonic()
    with pytest.raises(ConnectionError, match=r"images_evaluation.zip .* prepare .* connect"):
        read()
    assert time.monotonic() - start < 15
    assert offline


def test_a_silent_name_server_cannot_hold_the_error_back(read, offline, monkeypatch):
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait(60) and [])
    monkeypatch.setattr(omniglot_files, "_PATIENCE", 0.3)
    start = time.monotonic()
    with pytest.raises(ConnectionError, match=r"no answer in 0.3 seconds"):
        read()
    over.set()
    assert time.monotonic() - start < 10


def test_an_address_that_is_gone_is_an_error_at_once(read, served):
    (served / f"{EVALUATED}.zip").unlink()
    with pytest.raises(ConnectionError, match="404"):
        read()


def test_a_download_that_is_not_the_registered_one_is_refused(read, served, tmp_path):
    write_zips(served, tiny_files() | {f"{BACKGROUND}/extra": b"!"})
    with pytest.raises(Exception, match="wrong checksum"):
        read()
    assert not list((tmp_path / "cache").rglob("*.zip"))


# Splits


def named(names: tuple[str, ...]) -> Characters:
    return Characters(np.zeros((len(names), 1, 1, 1), np.uint8), names, "names only")


@pytest.fixture(scope="module")
def characters():
    """1,623 names: 30 background alphabets and the 20 real evaluation alphabets."""
    alphabets = sorted(EVALUATION) + [f"Background{i:02d}" for i in range(30)]
    names = [f"{alphabets[i % 50]}/character{i // 50 + 1:02d}" for i in range(1623)]
    return named(tuple(sorted(names)))


def digests(characters: Characters, name: str, seed: int = 0) -> dict[str, str]:
    return {
        part: hashlib.sha256(" ".join(characters.names[i] for i in indices).encode()).hexdigest()[
            :8
        ]
        for part, indices in splits(characters, name, seed=seed).items()
    }


@pytest.mark.parametrize("name", omniglot.SPLITS)
def test_the_parts_of_a_split_are_disjoint_and_hold_everything(characters, name):
    parts = splits(characters, name)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(1623))


def test_the_paper_split_is_1100_100_423(characters):
    sizes = {part: len(indices) for part, indices in splits(characters, "paper").items()}
    assert sizes == {"train": 1100, "val": 100, "test": 423}


def test_no_alphabet_is_in_two_parts_and_the_evaluation_set_is_the_test(characters):
    parts = splits(characters, "alphabets")
    kinds = {k: {alphabet(characters.names[i]) for i in parts[k]} for k in parts}
    assert {k: len(kinds[k]) for k in kinds} == {"train": 25, "val": 5, "test": 20}
    assert kinds["test"] == EVALUATION
    assert not kinds["train"] & kinds["val"]


@pytest.mark.parametrize("name", omniglot.SPLITS)
def test_a_seed_is_another_split(characters, name):
    assert digests(characters, name, seed=0)["val"] != digests(characters, name, seed=1)["val"]


def test_the_splits_are_the_same_for_ever(characters):
    golden = {"train": "00e8faec", "val": "ce258013", "test": "e822716f"}
    assert digests(characters, "paper") == golden
    golden = {"train": "b17429a6", "val": "5f916cd9", "test": "051832e3"}
    assert digests(characters, "alphabets") == golden


def test_a_split_can_be_a_file(characters, tmp_path):
    names = characters.names
    parts = {"train": names[:3], "val": names[3:4], "test": names[7:9]}
    file = tmp_path / "split.json"
    file.write_text(json.dumps(parts))
    assert splits(characters, file)["test"].tolist() == [7, 8]
    assert splits(characters, str(file))["val"].tolist() == [3]


def test_an_unknown_split_names_those_there_are(characters):
    with pytest.raises(ValueError, match=r"no split 'papr': .*paper, alphabets"):
        splits(characters, "papr")


# The real thing


@pytest.fixture(scope="module")
def real():
    folder = Path(os.environ.get("OMNIGLOT_DIR", REPOSITORY.parent / "shared/data/omniglot"))
    if not folder.is_dir():
        pytest.skip(f"no Omniglot in {folder}: set OMNIGLOT_DIR to a folder with its two zips")
    return folder


@pytest.fixture(scope="module")
def omniglot28(real, tmp_path_factory):
    return load(real, cache=tmp_path_factory.mktemp("cache"))


def test_omniglot_is_1623_characters_by_20_drawers_in_two_colours(omniglot28):
    assert omniglot28.images.shape == (1623, 20, 28, 28)
    assert set(np.unique(omniglot28.images)) == {0, 255}
    assert omniglot28.images.mean() / 255 == pytest.approx(0.081, abs=1e-3)


def test_antialiased_omniglot_has_as_much_ink_in_grey(real, tmp_path):
    images = load(real, resize="antialias", cache=tmp_path).images
    assert images.mean() / 255 == pytest.approx(0.083, abs=2e-3)
    assert len(np.unique(images)) == 256


def test_the_evaluation_alphabets_are_those_of_its_zip(real):
    with zipfile.ZipFile(real / f"{EVALUATED}.zip") as archive:
        found = {name.split("/")[1] for name in archive.namelist() if name.endswith(".png")}
    assert found == EVALUATION


def test_the_only_two_equal_drawings_are_of_the_first_braille_character(real):
    files = omniglot_files.read([real / f"{part}.zip" for part in (BACKGROUND, EVALUATED)])
    seen: dict[bytes, str] = {}
    pairs = []
    for where, content in files.items():
        if content in seen:
            pairs.append((Path(seen[content]).name, Path(where).name))
        seen[content] = where
    assert pairs == [("0192_03.png", "0192_19.png")]


def test_the_real_splits_are_the_same_for_ever(omniglot28):
    golden = {"train": "7dd52306", "val": "cc53f29a", "test": "3236f154"}
    assert digests(omniglot28, "paper") == golden
    golden = {"train": "339e266e", "val": "78bc7fd8", "test": "01283721"}
    assert digests(omniglot28, "alphabets") == golden
