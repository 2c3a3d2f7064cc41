"""Small data sets for architecture search: the smallest alphabets at low resolution."""

from collections import Counter
from typing import Literal, get_args

import numpy as np
from jaxtyping import UInt8

from maml._checks import check_count
from tasks._checks import check_is
from tasks.characters import Characters, Images, alphabet, shuffle_names

Shrink = Literal["largest", "mean"]


def smallest_alphabets(
    characters: Characters, names: list[str], count: int, *, seed: int = 0
) -> dict[str, list[int]]:
    """Indices of the classes of the smallest alphabets, divided into training and held-out classes.

    Args:
        characters: Data set with the classes.
        names: Names of the classes that may be used.
        count: Number of alphabets, >= 1.
        seed: Seed of the choice of held-out classes, a third of the classes of each alphabet.

    Returns:
        The indices `{"train": [...], "held_out": [...]}`.

    Raises:
        ValueError: `count` is below 1 or above the number of alphabets.
    """
    check_is(characters, "characters", Characters)
    sizes = Counter(map(alphabet, names))
    check_count(count, least=1, of="alphabets")
    if count > len(sizes):
        raise ValueError(f"the number of alphabets must be 1 to {len(sizes)}; got {count}")
    index = {name: number for number, name in enumerate(characters.names)}
    indices: dict[str, list[int]] = {"train": [], "held_out": []}
    for script in sorted(sizes, key=lambda name: (sizes[name], name))[:count]:
        classes = shuffle_names([name for name in names if alphabet(name) == script], seed)
        third = len(classes) // 3
        indices["held_out"] += [index[name] for name in classes[:third]]
        indices["train"] += [index[name] for name in classes[third:]]
    return indices


def shrink_images(
    images: Images, side: int, *, by: Shrink = "largest"
) -> UInt8[np.ndarray, "class drawing side side"]:
    """The images at a lower resolution, with one pixel for each block of pixels.

    Args:
        images: Drawings by class, `[class, drawing, side, side]`.
        side: New side in pixels, a divisor of the old one.
        by: Value of a block, its "largest" pixel, which keeps thin strokes, or its "mean".

    Returns:
        The smaller images, uint8.

    Raises:
        ValueError: `side` does not divide the old side, or `by` has another value.

    >>> shrink_images(np.full((1, 1, 28, 28), 8, np.uint8), 14, by="mean").shape
    (1, 1, 14, 14)
    """
    if np.ndim(images) != 4:
        raise ValueError(f"images must be [class, drawing, height, width]; got {np.shape(images)}")
    if by not in get_args(Shrink):
        raise ValueError(f"by must be {' or '.join(get_args(Shrink))}; got {by!r}")
    check_count(side, least=1, of="pixels of a side")
    if images.shape[-1] % side:
        raise ValueError(f"the side must divide {images.shape[-1]}; got {side}")
    block = images.shape[-1] // side
    blocks = images.reshape(*images.shape[:2], side, block, side, block)
    if by == "largest":
        return blocks.max((3, 5))
    return np.rint(blocks.mean((3, 5))).astype(np.uint8)
