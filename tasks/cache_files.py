"""Files in which results are kept that take long to compute, such as decoded images.

A corrupt file is made again, and one that cannot be written is skipped, each with a warning. A file
is replaced in one step, so that no process reads an incomplete one.
"""

import io
import tempfile
import warnings
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
    file: Path, build: Callable[[], tuple[ByClass, tuple[str, ...]]], *, compress: bool = True
) -> tuple[ByClass, tuple[str, ...]]:
    """Images and names from a cache file, or else built and written to it; pickles are not read.

    Args:
        file: Path of the cache file.
        build: Function that returns images and names.
        compress: Whether the file is compressed; photographs hardly shrink, and are read more
            slowly.

    Returns:
        The images, `[class, drawing, height, width]` or `[class, image, height, width, channel]`,
        and the names of the classes.
    """

    def write(file: Path, arrays: tuple[ByClass, tuple[str, ...]]) -> None:
        images, names = arrays
        save = np.savez_compressed if compress else np.savez
        save(file, images=images, names=np.array(names))

    return cached(file, _read_arrays, build, write)


def _read_arrays(file: Path) -> tuple[ByClass, tuple[str, ...]]:
    with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as arrays:
        images, names = arrays["images"], tuple(arrays["names"].tolist())
    if images.dtype != np.uint8 or images.ndim not in (4, 5) or len(images) != len(names):
        raise ValueError(f"it has {images.dtype} {images.shape} for {len(names)} names")
    return images, names
