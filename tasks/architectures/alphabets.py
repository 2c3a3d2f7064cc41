"""Little data to search on: the smallest alphabets, at low resolution."""

from collections import Counter
from typing import Literal, get_args

import numpy as np
from jaxtyping import UInt8

from maml._checks import check_count
from tasks.characters import Characters, Images, alphabet, shuffled

Shrink = Literal["largest", "mean"]


def small(
    characters: Characters, names: list[str], count: int, *, seed: int = 0
) -> dict[str, list[int]]:
    """Indices of the classes of the smallest alphabets, to train on and held out.

    Args:
        characters: all there are.
        names: of the classes that may be used.
        count: how many alphabets.
        seed: of which third of each alphabet's classes is held out.

    Returns:
        `{"train": [...], "held_out": [...]}`.

    Raises:
        ValueError: there are not so many alphabets.
    """
    sizes = Counter(map(alphabet, names))
    check_count(count, least=1, of="alphabets")
    if count > len(sizes):
        raise ValueError(f"the alphabets must be 1 to {len(sizes)}; got {count}")
    index = {name: number for number, name in enumerate(characters.names)}
    found: dict[str, list[int]] = {"train": [], "held_out": []}
    for chosen in sorted(sizes, key=lambda name: (sizes[name], name))[:count]:
        own = shuffled([name for name in names if alphabet(name) == chosen], seed)
        third = len(own) // 3
        found["held_out"] += [index[name] for name in own[:third]]
        found["train"] += [index[name] for name in own[third:]]
    return found


def shrunk(
    images: Images, side: int, *, by: Shrink = "largest"
) -> UInt8[np.ndarray, "class drawing side side"]:
    """The images, in blocks of pixels that become one.

    Args:
        images: drawings by class.
        side: that they get; it divides the one they have.
        by: the largest pixel of a block, which keeps thin strokes, or the mean.

    Raises:
        ValueError: the side does not divide, or there is no such way.

    >>> shrunk(np.full((1, 1, 28, 28), 8, np.uint8), 14, by="mean").shape
    (1, 1, 14, 14)
    """
    if by not in get_args(Shrink):
        raise ValueError(f"images shrink by {' or '.join(get_args(Shrink))}; got {by!r}")
    check_count(side, least=1, of="pixels of a side")
    if images.shape[-1] % side:
        raise ValueError(f"the side must divide {images.shape[-1]}; got {side}")
    block = images.shape[-1] // side
    blocks = images.reshape(*images.shape[:2], side, block, side, block)
    if by == "largest":
        return blocks.max((3, 5))
    return np.rint(blocks.mean((3, 5))).astype(np.uint8)
