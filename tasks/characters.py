"""Data sets of drawn characters and their splits, shared by Omniglot and the glyphs."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

SPLITS = ("train", "val", "test")
Images = UInt8[np.ndarray, "class drawing height width"]


class Characters(NamedTuple):
    """Drawings of characters by class, with ink 255 on paper 0.

    Attributes:
        images: Drawings, `[class, drawing, height, width]`, uint8.
        names: Names of the classes, `alphabet/character`, all different.
        source: Description of the origin of the drawings, printed with every result.
    """

    images: Images
    names: tuple[str, ...]
    source: str


Split = dict[str, Int[np.ndarray, "class"]]  # "train", "val" or "test" -> indices of classes


def alphabet(name: str) -> str:
    """The alphabet of a class name.

    >>> alphabet("Greek/character01")
    'Greek'
    """
    return name.partition("/")[0]


def shuffle_names(names: Sequence[str], seed: int) -> list[str]:
    """The names in the order of SHA-256(seed, name), which is the same on every machine.

    The stream of a random generator may change with the version of its library. A hash does not
    change, and does not depend on the order in which a file system lists the classes.

    >>> shuffle_names(["a", "b", "c", "d"], seed=0)
    ['c', 'b', 'd', 'a']
    """
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())


def split(names: Sequence[str], splits: Mapping[str, Sequence[str]]) -> Split:
    """Indices of the classes of train, val and test.

    Args:
        names: Names of all classes of the data set.
        splits: Names of the classes of "train", "val" and "test".

    Returns:
        The indices into `names`, by "train", "val" and "test".

    Raises:
        ValueError: a split is missing, empty or not a list of names; a class is unknown or listed
            twice; or two classes of the data set have the same name.
    """
    check_splits(splits)
    index = {name: i for i, name in enumerate(names)}
    if len(index) < len(names):
        repeated = next(name for i, name in enumerate(names) if index[name] != i)
        raise ValueError(f"the names of the classes must differ; {repeated!r} occurs twice")
    part_of: dict[str, str] = {}
    for split_name in SPLITS:
        if not splits[split_name]:
            raise ValueError(f"the split {split_name!r} is empty")
        for name in splits[split_name]:
            if name not in index:
                raise ValueError(f"the split {split_name!r} names {name!r}, which is not a class")
            if name in part_of:
                raise ValueError(f"{name!r} is in {part_of[name]!r} and again in {split_name!r}")
            part_of[name] = split_name
    return {
        split_name: np.array([index[name] for name in splits[split_name]]) for split_name in SPLITS
    }


def check_splits(splits: object) -> None:
    """Refuses splits that are not lists of names by "train", "val" and "test".

    Raises:
        ValueError: a split is missing or not a list of names, or there is another one.
    """
    if not isinstance(splits, Mapping) or set(splits) != set(SPLITS):
        got = ", ".join(map(str, splits)) if isinstance(splits, Mapping) else type(splits).__name__
        raise ValueError(f"the splits must be {', '.join(SPLITS)}; got {got:.99}")
    for split_name, names in splits.items():
        is_list = isinstance(names, Sequence) and not isinstance(names, str)
        if not is_list or not all(isinstance(name, str) for name in names):
            raise ValueError(f"the split {split_name!r} must be a list of names; got {names!r:.99}")
