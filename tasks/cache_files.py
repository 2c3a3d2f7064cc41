"""Files in which results are kept that take long to compute, such as decoded images.

A corrupt file is made again, and one that cannot be written is skipped, each with a warning. A file
is replaced in one step, so that no process reads an incomplete one.
"""

import io
import tempfile
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8

T = TypeVar("T")
ByClass = UInt8[np.ndarray, "class image height width *channel"]


def cached(
    file: Path, read: Callable[[Path], T], build: Callable[[], T], write: Callable[[Path, T], None]
) -> T:
    """The value that a file holds, or else the value that is built and written to it.

    Args:
        file: Path of the file; its folder is made where there is none.
        read: Function that returns the value in a file, and raises for any other content.
        build: Function that returns the value.
        write: Function that writes a value to a path.

    Returns:
        The value.
    """
    try:
        return read(file)
    except (FileNotFoundError, NotADirectoryError):  # includes removal by another process
        pass
    except Exception as error:  # any corrupt cache can be rebuilt
        warnings.warn(f"the cache {file} is corrupt and is rebuilt: {error}", stacklevel=4)
    value = build()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            partial = Path(folder, file.name)
            write(partial, value)
            partial.replace(file)
    except OSError as error:
        warnings.warn(f"{file} is not cached: it cannot be written ({error})", stacklevel=4)
    return value


def load_or_build(
    file: Path, build: Callable[[], tuple[ByClass, tuple[str, ...]]]
) -> tuple[ByClass, tuple[str, ...]]:
    """Images and names from a cache file, or else built and written to it; pickles are not read.

    Args:
        file: Path of the cache file. A `.npz` is compressed, for drawings. A `.npy` is not, because
            photographs hardly shrink; its images are mapped into the memory instead of read.
        build: Function that returns images and names.

    Returns:
        The images, `[class, drawing, height, width]` or `[class, image, height, width, channel]`,
        and the names of the classes.
    """
    is_mapped = file.suffix == ".npy"
    read, write = (_map, _write_mapped) if is_mapped else (_read, _write_compressed)
    return cached(file, lambda file: _checked(*read(file)), build, write)


def _checked(images: np.ndarray, names: list[str]) -> tuple[ByClass, tuple[str, ...]]:
    if images.dtype != np.uint8 or images.ndim not in (4, 5) or len(images) != len(names):
        raise ValueError(f"it has {images.dtype} {images.shape} for {len(names)} names")
    return images, tuple(names)


def _read(file: Path) -> tuple[np.ndarray, list[str]]:
    with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as arrays:
        return arrays["images"], arrays["names"].tolist()


def _write_compressed(file: Path, arrays: tuple[ByClass, tuple[str, ...]]) -> None:
    images, names = arrays
    np.savez_compressed(file, images=images, names=np.array(names))


def _map(file: Path) -> tuple[np.ndarray, list[str]]:
    """The images and names that `_write_mapped` wrote, after a check of the images' checksum."""
    images = np.load(file, mmap_mode="c", allow_pickle=False)  # writing changes the memory alone
    with file.open("rb") as opened:
        opened.seek(images.offset + images.nbytes)
        names, checksum = (np.load(opened, allow_pickle=False) for _ in range(2))
    if zlib.crc32(images.data) != checksum:
        raise ValueError("the checksum of its images differs")
    return np.asarray(images), names.tolist()


def _write_mapped(file: Path, arrays: tuple[ByClass, tuple[str, ...]]) -> None:
    images, names = arrays
    images = np.ascontiguousarray(images)
    with file.open("wb") as opened:
        for array in (images, np.array(names), np.array(zlib.crc32(images.data))):
            np.save(opened, array, allow_pickle=False)
