"""Tiny pictures, in folders and in zips."""

import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def content(image: Image.Image, format="PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format=format, **options)
    return file.getvalue()


def plain(colour=RED, size=(4, 4), format="PNG", **options) -> bytes:
    return content(Image.new("RGB", size, colour), format, **options)


def array(values, dtype: type = np.uint8) -> Image.Image:
    return Image.fromarray(np.array(values, dtype))


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for where, data in files.items():
        (folder / where).parent.mkdir(parents=True, exist_ok=True)
        (folder / where).write_bytes(data)
    return folder


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for where, data in files.items():
            archive.writestr(where, data)
    return path


def write_zip(folder: Path, files: dict[str, bytes]) -> Path:
    return zipped(folder / "set.zip", files)


def large(width: int, height: int) -> bytes:
    """A small PNG whose header says that it has this size."""
    header = b"IHDR" + struct.pack(">II5B", width, height, 8, 2, 0, 0, 0)
    return plain()[:12] + header + struct.pack(">I", zlib.crc32(header)) + plain()[33:]


FILES = {
    "b/2.PNG": plain(GREEN),
    "b/1.png": plain(RED),
    "a/x.y.gif": plain(BLUE, format="GIF"),
    "a/deep/er/1.Tiff": plain(GREEN, format="TIFF"),
    "a/deep/er/2.bmp": plain(RED, format="BMP"),
    "a/deep/er/3.webp": plain(BLUE, format="WEBP", lossless=True),
}
