"""The sets of images of the few-shot benchmarks, by the options that choose them."""

from collections.abc import Callable, Iterable
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
        return _of_photographs(classes, _split(classes, config.split))
    classes = cifar100.load(config.data)
    return _of_photographs(classes, cifar100.splits(classes.names, config.dataset))


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


def _of_photographs(classes: images.ImageClasses, splits: Split) -> ImageSet:
    pixels, counts, names, source, _ = classes
    normalise = _moments(pixels[i, : counts[i]] for i in splits["train"])
    counts = None if (counts == pixels.shape[1]).all() else counts
    return ImageSet(pixels, counts, names, source, splits, random_photograph(), normalise)


def _moments(
    classes: Iterable[UInt8[np.ndarray, "image height width channel"]],
) -> tuple[Float[np.ndarray, " channel"], Float[np.ndarray, " channel"]]:
    """Mean and standard deviation of each channel, from the counts of the 256 values."""
    counts = sum(
        np.stack([np.bincount(channel.ravel(), minlength=256) for channel in np.moveaxis(x, -1, 0)])
        for x in classes
    )
    values, weights = np.arange(256) / 255, counts / np.sum(counts, axis=1, keepdims=True)
    mean = weights @ values
    return mean, np.sqrt(weights @ values**2 - mean**2)
