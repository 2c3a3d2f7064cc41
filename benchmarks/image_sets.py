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
from tasks.characters import Characters, Split, read_split


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
    rows = np.arange(pixels.shape[1]) < counts[:, None]
    moments = [pixels[i][rows[i]].mean((0, 1, 2)) for i in splits["train"]]
    squares = [np.square(pixels[i][rows[i]] / 255).mean((0, 1, 2)) for i in splits["train"]]
    sizes = counts[splits["train"]]
    mean = np.average(moments, axis=0, weights=sizes) / 255
    deviation = np.sqrt(np.average(squares, axis=0, weights=sizes) - mean**2)
    counts = None if (counts == pixels.shape[1]).all() else counts
    return ImageSet(pixels, counts, names, source, splits, random_photograph(), (mean, deviation))
