"""Images of any classes, from a folder or a zip of pictures, or from arrays.

A data set is a folder `class/picture.png`, or a zip of one, with or without folders train, val and
test above the classes. `load` says which pictures count, and `tasks.pictures` how they are decoded.
Classes may differ in size: all images are in one array, in which rows beyond the number of images
of a class are zeros.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import platformdirs
from jaxtyping import Int, UInt8
from rich.console import Console
from rich.progress import track

from tasks._checks import as_path, check_seed
from tasks.cache_files import load_or_build
from tasks.characters import SPLITS, Split, shuffle_names, split
from tasks.image_files import Pictures, open_pictures
from tasks.pictures import Channels, Fit, Preprocessing, decode, preprocessing, read_image

__all__ = [
    "ImageClasses",
    "fraction_splits",
    "from_arrays",
    "leave_out_small",
    "load",
    "read_image",
]

RECIPE = 1  # version of the images; raise it with every change of them, so that caches are rebuilt
LARGEST = 2**34  # largest size of the array of all images in bytes
WORKERS = min(8, os.cpu_count() or 1)  # threads that decode; each holds one picture of any size


class ImageClasses(NamedTuple):
    """Images by class.

    Attributes:
        images: Images, `[class, image, height, width, channel]`, uint8. Rows beyond the count of a
            class are zeros.
        counts: Number of images of each class, `[class]`.
        names: Names of the classes, sorted, all different: the path of the folder with "/", without
            folders that hold all classes and without train, val and test.
        source: Description of the origin of the images, printed with every result.
        splits: Indices of the classes by "train", "val" and "test", where the images come in such
            folders, or else None.
    """

    images: UInt8[np.ndarray, "class most height width channel"]
    counts: Int[np.ndarray, "class"]
    names: tuple[str, ...]
    source: str
    splits: Split | None


def load(
    path: str | Path,
    *,
    size: int | tuple[int, int],
    channels: Channels = 3,
    fit: Fit = "crop",
    cache: str | Path | None = None,
) -> ImageClasses:
    """The images of a folder or zip, from their cache or else decoded.

    A picture is a PNG, JPEG, WebP, BMP, GIF or TIFF whose name says so in letters of any case; its
    class is its folder, at any depth. Links are followed. Other files, hidden files and folders,
    and __MACOSX are ignored and counted in `source`.

    Args:
        path: Folder or zip with one folder for each class, or with such folders in train, val and
            test.
        size: Side of square images, or height and width, in pixels.
        channels: Number of channels, 3 for colours or 1 for grey. Pictures of the other kind are
            converted.
        fit: Treatment of a picture of another aspect ratio. "crop" keeps the largest rectangle in
            its centre; "pad" keeps all of it, with white at two sides; "stretch" distorts it.
        cache: Folder for the decoded array. It is rebuilt when the content of the zip, or a name,
            size or time of a picture in the folder changes. None: the user's cache folder.

    Returns:
        The images by class.

    Raises:
        ValueError: an argument has another value; or there is no class, a class without pictures, a
            picture without a class, a class in two splits, only some of train, val and test, a
            picture that cannot be read, or more than the limits of `image_files` allow.
        OSError: a folder cannot be read.
    """
    path = as_path(path, "path")
    wanted = preprocessing(size, channels, fit)
    cache = as_path(platformdirs.user_cache_dir("maml") if cache is None else cache, "cache")
    with open_pictures(path) as pictures:
        _check_size(path, pictures, wanted)
        height, width = wanted.height, wanted.width
        options = f"{fit}-{height}x{width}x{channels}"
        file = cache / f"images-{RECIPE}-{options}-{pictures.fingerprint[:32]}.npz"
        images, names = load_or_build(file, lambda: _decode(pictures, wanted), compress=False)
    counts = np.array([len(files) for files in pictures.classes.values()])
    others = f", {pictures.others} other files ignored" if pictures.others else ""
    colours = "colours" if channels == 3 else "grey"
    source = (
        f"{path}: {counts.sum()} images of {len(names)} classes,"
        f" {fit} to {height}x{width} in {colours}{others}"
    )
    return ImageClasses(images, counts, names, source, pictures.splits)


def _check_size(path: Path, pictures: Pictures, wanted: Preprocessing) -> None:
    largest = max(pictures.classes, key=lambda name: len(pictures.classes[name]))
    shape = len(pictures.classes), len(pictures.classes[largest]), *wanted[:3]
    if np.prod(shape, dtype=float) > LARGEST:
        raise ValueError(
            f"the images of {path} would have {np.prod(shape, dtype=float):.3g} bytes, of at most"
            f" {LARGEST}: {shape[0]} classes with room for the {shape[1]} images of {largest!r};"
            " choose a smaller size"
        )


def _decode(
    pictures: Pictures, wanted: Preprocessing
) -> tuple[UInt8[np.ndarray, "class most height width channel"], tuple[str, ...]]:
    most = max(map(len, pictures.classes.values()))
    images = np.zeros((len(pictures.classes), most, *wanted[:3]), np.uint8)
    places = [
        (images[i, j], where)
        for i, files in enumerate(pictures.classes.values())
        for j, where in enumerate(files)
    ]

    def fill(place: tuple[np.ndarray, str]) -> None:
        image, where = place
        image[:] = decode(where, lambda: pictures.read(where), wanted)

    with ThreadPoolExecutor(WORKERS) as pool:
        console = Console(stderr=True)
        filled = pool.map(fill, places)
        for _ in track(filled, "Images", total=len(places), console=console, transient=True):
            pass
    return images, tuple(pictures.classes)


def from_arrays(classes: Mapping[str, Any], *, source: str = "arrays") -> ImageClasses:
    """Images by class from arrays.

    Args:
        classes: Images of each class by its name, `[image, height, width, channel]`: uint8, or
            floating-point numbers from 0 to 1. Classes may differ in their number of images only.
        source: Description of the origin of the images.

    Returns:
        The images by class, sorted by name.

    Raises:
        ValueError: there is no class or a class has no images, other numbers, or another shape.
    """
    if not classes:
        raise ValueError("there must be images of at least one class; got 0 classes")
    names = tuple(sorted(classes))
    arrays = [_to_bytes(name, np.asarray(classes[name])) for name in names]
    for name, array in zip(names, arrays, strict=True):
        if array.shape[1:] != arrays[0].shape[1:]:
            raise ValueError(
                f"all images must have one shape; got {list(arrays[0].shape[1:])} in {names[0]!r}"
                f" and {list(array.shape[1:])} in {name!r}"
            )
    counts = np.array([len(array) for array in arrays])
    images = np.zeros((len(arrays), counts.max(), *arrays[0].shape[1:]), np.uint8)
    for row, array in zip(images, arrays, strict=True):
        row[: len(array)] = array
    return ImageClasses(images, counts, names, source, None)


def _to_bytes(name: str, array: np.ndarray) -> UInt8[np.ndarray, "image height width channel"]:
    if array.ndim != 4 or 0 in array.shape:
        raise ValueError(
            f"the images of {name!r} must be [image, height, width, channel], none of them 0;"
            f" got {list(array.shape)}"
        )
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating) or not np.all((array >= 0) & (array <= 1)):
        is_number = np.issubdtype(array.dtype, np.number)
        values = f" from {array.min()} to {array.max()}" if is_number else ""
        raise ValueError(
            f"the images of {name!r} must be uint8, or floating-point numbers from 0 to 1;"
            f" got {array.dtype}{values}"
        )
    return np.rint(255 * array).astype(np.uint8)


def leave_out_small(
    classes: ImageClasses, least: int | Int[np.ndarray, "class"]
) -> tuple[ImageClasses, dict[str, int]]:
    """The classes with enough images for an episode, and the sizes of the others.

    Args:
        classes: Images by class.
        least: Smallest number of images of a class that stays, which is shots + queries; or such a
            number for each class, `[class]`, where splits have different shots or queries.

    Returns:
        The classes that stay, with their splits and with the number of the others in `source`; and
        the number of images of each class that is left out, by name.

    Raises:
        ValueError: a number is not an integer >= 1, or no class stays, or none of a split.

    >>> images = {"cat": np.zeros((3, 8, 8, 3)), "dog": np.zeros((5, 8, 8, 3))}
    >>> classes, small = leave_out_small(from_arrays(images), 4)
    >>> classes.names, small
    (('dog',), {'cat': 3})
    """
    counts, names, splits = classes.counts, classes.names, classes.splits or {}
    needed = np.asarray(least)
    is_whole = np.issubdtype(needed.dtype, np.integer) and needed.shape in ((), counts.shape)
    if not is_whole or needed.min() < 1:
        raise ValueError(f"least must be an integer >= 1, or one for each class; got {least!r:.99}")
    needed = np.broadcast_to(needed, counts.shape)
    stays = counts >= needed
    for part, rows in {"the data set": np.arange(len(names)), **splits}.items():
        if not stays[rows].any():
            listing = ", ".join(f"{names[i]} ({counts[i]})" for i in rows)
            raise ValueError(
                f"no class of {part} has enough images, {needed[rows].min()} or more; there are"
                f" {listing:.999}"
            )
    small = {names[i]: int(counts[i]) for i in np.flatnonzero(~stays)}
    if not small:
        return classes, {}
    place = np.cumsum(stays) - 1
    kept = ImageClasses(
        classes.images[stays],
        counts[stays],
        tuple(name for name in names if name not in small),
        f"{classes.source}, {len(small)} classes with too few images left out",
        {part: place[rows[stays[rows]]] for part, rows in splits.items()} or None,
    )
    return kept, small


def fraction_splits(
    names: Sequence[str], seed: int, fractions: tuple[float, float, float] = (0.64, 0.16, 0.2)
) -> Split:
    """Indices of the classes of train, val and test, at random by the seed and the names alone.

    Args:
        names: Names of all classes.
        seed: Seed of the random choice.
        fractions: Fractions of the classes of train, val and test. Each gets at least one class.

    Returns:
        The indices of the classes, by "train", "val" and "test".

    Raises:
        ValueError: there are fewer than three classes, two have the same name, the fractions are
            not three positive numbers whose sum is 1, or the seed is not an integer.
    """
    check_seed(seed)
    is_whole = len(fractions) == len(SPLITS) and abs(sum(fractions) - 1) < 1e-6  # not where NaN
    if not is_whole or min(fractions) <= 0:
        raise ValueError(
            f"the fractions must be three positive numbers whose sum is 1; got {fractions!r}"
        )
    if len(names) < len(SPLITS):
        raise ValueError(
            f"train, val and test need at least 3 classes, one for each; got {len(names)}"
        )
    order = shuffle_names(names, seed)
    train = min(max(round(fractions[0] * len(order)), 1), len(order) - 2)
    val = min(max(round(sum(fractions[:2]) * len(order)), train + 1), len(order) - 1)
    return split(names, {"train": order[:train], "val": order[train:val], "test": order[val:]})
