"""Images of any classes, from a folder or a zip of pictures, tensorflow-datasets, or arrays.

A data set is a folder `class/picture.png`, or a zip of one, with or without folders train, val and
test above the classes. `load` says which pictures count, and `tasks.pictures` how they are decoded.
Classes may differ in size: all images are in one array, in which rows beyond the number of images
of a class are zeros.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import platformdirs
from jaxtyping import UInt8
from rich.console import Console
from rich.progress import track

from tasks._checks import as_path, check_seed
from tasks.cache_files import load_or_build
from tasks.characters import SPLITS, Split, shuffle_names, split
from tasks.image_classes import ImageClasses, channel_moments, from_arrays, leave_out_small
from tasks.image_files import Pictures, open_pictures
from tasks.pictures import Channels, Fit, Preprocessing, decode, preprocessing, read_image
from tasks.prepared_images import PREFIX, open_prepared

__all__ = [
    "ImageClasses",
    "channel_moments",
    "fraction_splits",
    "from_arrays",
    "leave_out_small",
    "load",
    "read_image",
]

RECIPE = 1  # version of the images; raise it with every change of them, so that caches are rebuilt
LARGEST = 2**34  # largest size of the array of all images in bytes
NAMED = 9  # largest number of pictures that an error names
WORKERS = min(8, os.cpu_count() or 1)  # threads that decode; each holds one picture of any size


def load(
    path: str | Path,
    *,
    size: int | tuple[int, int],
    channels: Channels = 3,
    fit: Fit = "crop",
    cache: str | Path | None = None,
) -> ImageClasses:
    """The images of a folder, a zip or a prepared data set, from their cache or else decoded.

    A picture is a PNG, JPEG, WebP, BMP, GIF or TIFF whose name says so in letters of any case; its
    class is its folder, at any depth. Links are followed. Other files, hidden files and folders,
    and __MACOSX are ignored and counted in `source`.

    Args:
        path: Folder or zip with one folder for each class, or with such folders in train, val and
            test; or "tfds:NAME" for a data set that tensorflow-datasets has prepared, with the
            features `image` and `label`, whose splits are joined.
        size: Side of square images, or height and width, in pixels.
        channels: Number of channels, 3 for colours or 1 for grey. Pictures of the other kind are
            converted.
        fit: Treatment of a picture of another aspect ratio. "crop" keeps the largest rectangle in
            its centre; "pad" keeps all of it, with white at two sides; "stretch" distorts it.
        cache: Folder for the decoded array. It is rebuilt when the content of the zip, or a name,
            size or time of a file in the folder changes. None: the user's cache folder.

    Returns:
        The images by class.

    Raises:
        ValueError: an argument has another value; or there is no class, a class without pictures, a
            picture without a class, a class in two splits, only some of train, val and test, a
            picture that cannot be read, or more than the limits of `image_files` allow; or
            `prepared_images.open_prepared` refuses the data set.
        OSError: a folder cannot be read, or a data set cannot be downloaded.
    """
    path = as_path(path, "path")
    wanted = preprocessing(size, channels, fit)
    cache = as_path(platformdirs.user_cache_dir("maml") if cache is None else cache, "cache")
    of_tfds = str(path).startswith(PREFIX)
    name = str(path).removeprefix(PREFIX)
    with open_prepared(name, cache) if of_tfds else open_pictures(path) as pictures:
        _check_size(pictures, wanted)
        height, width = wanted.height, wanted.width
        options = f"{fit}-{height}x{width}x{channels}"
        file = cache / f"images-{RECIPE}-{options}-{pictures.fingerprint[:32]}.npy"
        images, names = load_or_build(file, lambda: _decode(pictures, wanted))
    counts = np.array([len(files) for files in pictures.classes.values()])
    ignored = f", {pictures.ignored} ignored" if pictures.ignored else ""
    colours = "colours" if channels == 3 else "grey"
    source = (
        f"{pictures.words}: {counts.sum()} images of {len(names)} classes,"
        f" {fit} to {height}x{width} in {colours}{ignored}"
    )
    return ImageClasses(images, counts, names, source, pictures.splits)


def _check_size(pictures: Pictures, wanted: Preprocessing) -> None:
    largest = max(pictures.classes, key=lambda name: len(pictures.classes[name]))
    shape = len(pictures.classes), len(pictures.classes[largest]), *wanted[:3]
    if np.prod(shape, dtype=float) > LARGEST:
        raise ValueError(
            f"the images of {pictures.words} would have {np.prod(shape, dtype=float):.3g} bytes, of"
            f" at most {LARGEST}: {shape[0]} classes with room for the {shape[1]} images of"
            f" {largest!r}; choose a smaller size"
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

    def fill(place: tuple[np.ndarray, str]) -> str | None:
        """Decodes a picture, and returns why that failed, if it did."""
        image, where = place
        try:
            image[:] = decode(where, lambda: pictures.read(where), wanted)
        except ValueError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(WORKERS) as pool:
        console = Console(stderr=True)
        filled = pool.map(fill, places)
        shown = track(filled, "Images", total=len(places), console=console, transient=True)
        refused = [failure for failure in shown if failure is not None]
    if refused:
        more = f"; and {len(refused) - NAMED} more" if len(refused) > NAMED else ""
        raise ValueError(
            f"{len(refused)} of {len(places)} pictures of {pictures.words} are refused:"
            f" {'; '.join(refused[:NAMED])}{more}"
        )
    return images, tuple(pictures.classes)


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
    three = isinstance(fractions, Sequence) and len(fractions) == len(SPLITS)
    is_whole = three and abs(sum(fractions) - 1) < 1e-6  # not where NaN
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
