"""A set of drawn characters and its splits: what Omniglot and glyphs have in common."""

import hashlib
import io
import json
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

PARTS = ("train", "val", "test")
Images = UInt8[np.ndarray, "class drawing height width"]


class Characters(NamedTuple):
    """Drawings by class: ink is 255, paper is 0.

    Attributes:
        images: `[class, drawing, height, width]`, uint8.
        names: `alphabet/character`, one a class, all different.
        source: where the drawings came from, in words, printed with every result.
    """

    images: Images
    names: tuple[str, ...]
    source: str


Split = dict[str, Int[np.ndarray, "class"]]  # part ("train", "val", "test") -> indices of classes


def cached(
    file: Path, build: Callable[[], tuple[Images, tuple[str, ...]]]
) -> tuple[Images, tuple[str, ...]]:
    """Images and names as the file keeps them, or else built and kept; never a pickle.

    A file that is corrupt is built anew, and one that cannot be written is done without: both
    with a warning. It is written in one step, so that no process ever reads half of it.
    """
    if file.is_file():
        try:
            with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as arrays:
                images, names = arrays["images"], tuple(arrays["names"].tolist())
            if images.dtype != np.uint8 or images.ndim != 4 or len(images) != len(names):
                raise ValueError(f"it holds {images.dtype} {images.shape} for {len(names)} names")
            return images, names
        except Exception as error:  # whatever is wrong with it, it can be built again
            warnings.warn(f"the cache {file} is corrupt and is rebuilt: {error}", stacklevel=3)
    images, names = build()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            partial = Path(folder, file.name)
            np.savez_compressed(partial, images=images, names=np.array(names))
            partial.replace(file)
    except OSError as error:
        warnings.warn(f"{file} is not cached: it cannot be written ({error})", stacklevel=3)
    return images, names


def alphabet(name: str) -> str:
    """The alphabet of a class name.

    >>> alphabet("Greek/character01")
    'Greek'
    """
    return name.partition("/")[0]


def shuffled(names: Sequence[str], seed: int) -> list[str]:
    """The names in the order of SHA-256(seed, name): one order on every machine, for ever.

    A random generator's stream may change with its library; a hash cannot, and it does not
    depend on the order in which a file system lists the classes.

    >>> shuffled(["a", "b", "c", "d"], seed=0)
    ['c', 'b', 'd', 'a']
    """
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())


def split(names: Sequence[str], parts: Mapping[str, Sequence[str]]) -> Split:
    """Indices into `names` of the classes in each part.

    Raises:
        ValueError: a part is missing or empty, a class is unknown, or a class is listed twice.
    """
    if set(parts) != set(PARTS):
        raise ValueError(f"a split has the parts {', '.join(PARTS)}; got {', '.join(parts)}")
    index = {name: i for i, name in enumerate(names)}
    seen: dict[str, str] = {}
    for part in PARTS:
        if not parts[part]:
            raise ValueError(f"the part {part!r} of the split is empty")
        for name in parts[part]:
            if name not in index:
                raise ValueError(f"the part {part!r} names {name!r}, which is no class of the set")
            if name in seen:
                raise ValueError(f"{name!r} is in {seen[name]!r} and again in {part!r}")
            seen[name] = part
    return {part: np.array([index[name] for name in parts[part]]) for part in PARTS}


def read_split(path: Path, names: Sequence[str]) -> Split:
    """The split in a JSON file `{"train": [names], "val": [names], "test": [names]}`.

    Raises:
        ValueError: the file is missing, is not such a JSON, or `split` refuses what it holds.
    """
    try:
        parts = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read the split file {path}: {error}") from error
    if not isinstance(parts, dict) or not all(map(_is_list_of_names, parts.values())):
        raise ValueError(f'{path} must hold {{"train": [names], "val": [names], "test": [names]}}')
    return split(names, parts)


def _is_list_of_names(part: object) -> bool:
    return isinstance(part, list) and all(isinstance(name, str) for name in part)
