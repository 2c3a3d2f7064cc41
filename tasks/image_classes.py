"""Images by class, of any origin: from arrays, without small classes, and their moments."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from tasks.characters import Split


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
    if not isinstance(classes, Mapping) or not classes:
        got = "0 classes" if isinstance(classes, Mapping) else type(classes).__name__
        raise ValueError(f"there must be images of at least one class by its name; got {got}")
    for name in classes:
        if not isinstance(name, str):
            raise ValueError(f"the names of the classes must be strings; got {name!r:.99}")
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
                f"no class of {part} has the {needed[rows].min()} images that the shots and queries"
                f" of an episode need; there are {listing:.999}"
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


def channel_moments(
    classes: ImageClasses, rows: Sequence[int] | Int[np.ndarray, " class"]
) -> tuple[Float[np.ndarray, " channel"], Float[np.ndarray, " channel"]]:
    """Mean and standard deviation of each channel, the `normalise` of `maml.few_shot`.

    Args:
        classes: Images by class.
        rows: Indices of the classes of the training split.

    Returns:
        Mean and standard deviation over all pixels of these classes, as numbers from 0 to 1.

    Raises:
        ValueError: there is no class.
    """
    if not len(rows):
        raise ValueError("moments need at least one class; got no row")
    counts = np.zeros((classes.images.shape[-1], 256))
    for row in rows:
        pixels = classes.images[row, : classes.counts[row]]
        counts += [
            np.bincount(channel.ravel(), minlength=256) for channel in np.moveaxis(pixels, -1, 0)
        ]
    values, weights = np.arange(256) / 255, counts / counts.sum(axis=1, keepdims=True)
    mean = weights @ values
    return mean, np.sqrt(weights @ values**2 - mean**2)
