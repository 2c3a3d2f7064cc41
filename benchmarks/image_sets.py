"""The sets of images of the few-shot benchmarks, by the options that choose them."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from benchmarks.few_shot import FewShot
from maml.types import RandomKey
from tasks import cifar100, glyphs, images, omniglot
from tasks.augmentation import random_affine, random_photograph
from tasks.characters import Characters, Split
from tasks.split_files import read_split


class ImageSet(NamedTuple):
    """A set of images and what belongs to it.

    Attributes:
        images: Images, `[class, image, height, width, channel]`, uint8.
        counts: Number of images of each class; None where all have as many.
        names: Names of the classes, `group/class` where classes are grouped.
        source: Description of the origin of the images.
        splits: Indices of the classes by "train", "val" and "test".
        augment: Random change of an image of this kind.
        normalise: Mean and standard deviation of each channel over the training split; None leaves
            pixels between 0 and 1.
    """

    images: UInt8[np.ndarray, "class image height width channel"]
    counts: Int[np.ndarray, "class"] | None
    names: tuple[str, ...]
    source: str
    splits: Split
    augment: Callable[[RandomKey, Array], Array]
    normalise: tuple[Float[np.ndarray, " channel"], Float[np.ndarray, " channel"]] | None = None


def load(config: FewShot) -> ImageSet:
    """Loads the data set of the options.

    Raises:
        ValueError: The data are missing, damaged, or do not allow the split.
    """
    if config.dataset == "glyphs":
        characters = glyphs.load()
        return _of_characters(characters, glyphs.splits(characters))
    if config.dataset == "omniglot":
        characters = omniglot.load(config.data, resize=config.resize)
        return _of_characters(characters, omniglot.splits(characters, config.split))
    if config.data is None:
        raise ValueError(f"--dataset {config.dataset} needs the folder of its data: --data FOLDER")
    if config.dataset == "images":
        classes = images.load(config.data, size=config.size, fit=config.fit)
        splits = _split(classes, config.split)
    else:
        classes = cifar100.load(config.data)
        splits = cifar100.splits(classes.names, config.dataset)
    return _of_photographs(classes, splits, config)


def _split(classes: images.ImageClasses, rule: str) -> Split:
    if rule == "random" or (rule == "auto" and classes.splits is None):
        return images.fraction_splits(classes.names, seed=0)
    if rule not in ("folders", "auto"):
        return read_split(Path(rule), classes.names)
    if classes.splits is None:
        raise ValueError(
            f"--split folders needs classes in folders train, val and test; got {classes.source}."
            " --split random would work"
        )
    return classes.splits


def _of_characters(characters: Characters, splits: Split) -> ImageSet:
    drawings, names, source = characters
    return ImageSet(drawings[..., None], None, names, source, splits, random_affine())


def _of_photographs(classes: images.ImageClasses, splits: Split, config: FewShot) -> ImageSet:
    classes = _large_enough(classes._replace(splits=splits), config)
    pixels, counts, names, source, _ = classes
    splits = classes.splits or {}
    if config.dataset == "images":
        _print_classes(classes)
    normalise = images.channel_moments(classes, splits["train"])
    counts = None if (counts == pixels.shape[1]).all() else counts
    return ImageSet(pixels, counts, names, source, splits, random_photograph(), normalise)


def _large_enough(classes: images.ImageClasses, config: FewShot) -> images.ImageClasses:
    """The classes with enough images for an episode; others are refused, or left out with a line.

    Raises:
        ValueError: A class has too few images and may not be left out, or no class is left.
    """
    held_out = config.shots + config.queries
    shots, queries = config.shots_range or (config.shots,), config.train_queries or config.queries
    least = {"train": max(shots) + queries, "val": held_out, "test": held_out}
    needed = np.ones(len(classes.names), int)
    for part, rows in (classes.splits or {}).items():
        needed[rows] = least[part]
    kept, small = images.leave_out_small(classes, needed)
    listing = ", ".join(f"{name} ({count})" for name, count in small.items())
    if small and not config.leave_out_small:
        raise ValueError(
            f"shots + queries need {least['train']} images of each training class, and {held_out}"
            f" of each other one; too few have {listing:.999}, of {classes.source}."
            " --leave-out-small would leave such classes out"
        )
    if small:
        print(f"Classes with too few images are left out: {listing}.")
    return kept


def _print_classes(classes: images.ImageClasses) -> None:
    """Prints the origin of pictures, the classes of each split, and those that are in none."""
    splits = classes.splits or {}
    sizes = ", ".join(f"{len(rows)} for {part}" for part, rows in splits.items())
    print(f"Pictures: {classes.source}. Classes: {sizes}.")
    unused = {*range(len(classes.names))}.difference(*splits.values())
    if unused:
        listing = ", ".join(classes.names[i] for i in sorted(unused))
        print(f"In no split, and so not used ({len(unused)}): {listing:.999}.")
