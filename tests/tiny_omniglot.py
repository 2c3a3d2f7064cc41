"""A tiny Omniglot: 4 characters with 3 drawings each, written in every way that Omniglot comes."""

import io
import os
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from tasks import omniglot
from tasks.characters import alphabet
from tasks.omniglot import EVALUATION

NAMES = ("Greek/character01", "Greek/character02", "Latin/character01", "ULOG/character01")
BACKGROUND, EVALUATED = "images_background", "images_evaluation"


def png(image: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, **{"format": "PNG"} | options)
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


def inks(files: dict[str, bytes]) -> dict[str, np.ndarray]:
    """Where each drawing has ink."""
    return {where: ~np.asarray(Image.open(io.BytesIO(png))) for where, png in files.items()}


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


def nothing_prepared(monkeypatch, tmp_path):
    from tensorflow_datasets.core import constants

    monkeypatch.setattr(constants, "DATA_DIR", str(tmp_path / "unprepared"))


def no_decoding(monkeypatch):
    def fail(*_):
        raise AssertionError("decoded again")

    monkeypatch.setattr(omniglot, "_decode", fail)
