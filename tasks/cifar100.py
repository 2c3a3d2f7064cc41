"""CIFAR-100 for few-shot learning: 100 classes of 600 colour images, and two splits of the classes.

Krizhevsky, "Learning multiple layers of features from tiny images" (2009). The images of a class
are those of CIFAR's training and test sets together. The splits are CIFAR-FS (Bertinetto et al.
2019, https://arxiv.org/abs/1805.08136) and FC100 (Oreshkin et al. 2018,
https://arxiv.org/abs/1805.10123), which divides superclasses, so that test classes resemble no
training class.
"""

import gzip
import hashlib
import io
import tarfile
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import platformdirs
from jaxtyping import UInt8
from PIL import Image

from tasks._checks import as_path
from tasks.bounded_files import (
    LimitedStream,
    Limits,
    check_sizes,
    open_zip,
    read_entry,
    sha256,
    zip_entries,
)
from tasks.cache_files import load_or_build
from tasks.characters import SPLITS, Split, split
from tasks.images import ImageClasses

SplitName = Literal["cifar-fs", "fc100"]
EACH, SIDE, COLUMNS = 600, 32, 25  # images of a class, pixels of a side, images in a row of a sheet
LIMITS = Limits("sheet", largest=2**23, most=2**29, entries=1000, depth=8)
ARCHIVE = "cifar-100-binary.tar.gz"  # as its author publishes it
PARTS = {
    "cifar-100-binary/train.bin": 50_000,
    "cifar-100-binary/test.bin": 10_000,
}  # images in each
MOST = 2**28  # bytes to which the archive may unpack; it has 185 million
RECORD = 2 + SIDE * SIDE * 3  # bytes of an image: superclass, class, and the planes of its colours
PIXELS = "8a0ca92acc1afaab9763c4b1318626129692e482c04eccd97ecc4d4975d65d0b"  # SHA-256 of all pixels

_SUPERCLASSES = """
    aquatic_mammals: beaver dolphin otter seal whale
    fish: aquarium_fish flatfish ray shark trout
    flowers: orchid poppy rose sunflower tulip
    food_containers: bottle bowl can cup plate
    fruit_and_vegetables: apple mushroom orange pear sweet_pepper
    household_electrical_devices: clock keyboard lamp telephone television
    household_furniture: bed chair couch table wardrobe
    insects: bee beetle butterfly caterpillar cockroach
    large_carnivores: bear leopard lion tiger wolf
    large_man-made_outdoor_things: bridge castle house road skyscraper
    large_natural_outdoor_scenes: cloud forest mountain plain sea
    large_omnivores_and_herbivores: camel cattle chimpanzee elephant kangaroo
    medium_mammals: fox porcupine possum raccoon skunk
    non-insect_invertebrates: crab lobster snail spider worm
    people: baby boy girl man woman
    reptiles: crocodile dinosaur lizard snake turtle
    small_mammals: hamster mouse rabbit shrew squirrel
    trees: maple_tree oak_tree palm_tree pine_tree willow_tree
    vehicles_1: bicycle bus motorcycle pickup_truck train
    vehicles_2: lawn_mower rocket streetcar tank tractor
"""
SUPERCLASSES = {
    name.strip(): tuple(classes.split())
    for name, classes in (line.split(":") for line in _SUPERCLASSES.strip().splitlines())
}
NAMES = tuple(sorted(f"{name}/{label}" for name in SUPERCLASSES for label in SUPERCLASSES[name]))

# The classes of CIFAR-FS and the superclasses of FC100 that are not for training.
_CIFAR_FS = {
    "val": """
    beaver beetle butterfly camel cattle crab crocodile flatfish lamp maple_tree motorcycle
    otter sea shark television tractor
    """,
    "test": """
    baby bed bicycle chimpanzee fox leopard man pickup_truck plain poppy rocket rose snail
    sweet_pepper table telephone wardrobe whale woman worm
    """,
}
_FC100 = {
    "val": "large_carnivores large_omnivores_and_herbivores non-insect_invertebrates small_mammals",
    "test": "aquatic_mammals insects medium_mammals people",
}


def load(path: str | Path, *, cache: str | Path | None = None) -> ImageClasses:
    """The 60,000 images of CIFAR-100, from its author's archive or a zip of sheets.

    The archive is `cifar-100-binary.tar.gz` of https://www.cs.toronto.edu/~kriz/cifar.html. The zip
    has a sheet for each class, a lossless picture `label.webp` or `label.png` of 24 rows of 25
    images. Both give the same array, in which the images of a class are sorted by their bytes.

    Args:
        path: The archive, a file `cifar100.zip`, or a folder that holds one of them.
        cache: Folder for the decoded array. None: the user's cache folder.

    Returns:
        The images by class, whose names are `superclass/label`, with `splits` None.

    Raises:
        ValueError: the file is missing, is neither of them, or has other pixels than CIFAR-100.
    """
    path = as_path(path, "path")
    files = [path / name for name in ("cifar100.zip", ARCHIVE)] if path.is_dir() else [path]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise ValueError(
            f"CIFAR-100 must be a file {ARCHIVE} or cifar100.zip, or a folder with one of them; got"
            f" {path}"
        )
    cache = as_path(platformdirs.user_cache_dir("maml") if cache is None else cache, "cache")
    stored = cache / f"cifar100-{sha256(file)[:32]}.npy"
    images, names = load_or_build(stored, lambda: (_read(file), NAMES))
    return ImageClasses(images, np.full(len(names), EACH), names, f"CIFAR-100: {file}", None)


def splits(names: tuple[str, ...], which: SplitName) -> Split:
    """The classes of train, val and test of CIFAR-FS or FC100.

    Args:
        names: Names of all classes, `superclass/label`.
        which: Name of the split: "cifar-fs", with 64, 16 and 20 classes, or "fc100", with 60, 20
            and 20.

    Returns:
        The indices into `names`, by "train", "val" and "test".

    Raises:
        ValueError: another name of a split is given, or the names are not those of CIFAR-100.

    >>> {name: len(classes) for name, classes in splits(NAMES, "cifar-fs").items()}
    {'train': 64, 'val': 16, 'test': 20}
    """
    if which not in get_args(SplitName):
        raise ValueError(f"a split must be {' or '.join(get_args(SplitName))}; got {which!r}")
    held_out = _CIFAR_FS if which == "cifar-fs" else _FC100
    place = 1 if which == "cifar-fs" else 0  # the label, or the superclass, decides
    of_name = {word: part for part, words in held_out.items() for word in words.split()}
    parts: dict[str, list[str]] = {part: [] for part in SPLITS}
    for name in NAMES:
        parts[of_name.get(name.split("/")[place], "train")].append(name)
    return split(names, parts)


def _read(file: Path) -> UInt8[np.ndarray, "class image side side channel"]:
    """The images in the order of `NAMES`, after a check of their pixels."""
    labels = sorted(name.split("/")[1] for name in NAMES)
    images = _read_sheets(file, labels) if file.suffix == ".zip" else _read_archive(file)
    if hashlib.sha256(images.data).hexdigest() != PIXELS:
        raise ValueError(f"the images of {file} are not those of CIFAR-100: their SHA-256 differs")
    return images[[labels.index(name.split("/")[1]) for name in NAMES]]


def _read_archive(file: Path) -> UInt8[np.ndarray, "class image side side channel"]:
    """The images in the author's archive, in the order of the labels."""
    try:
        records = np.concatenate(list(_read_parts(file).values()))
    except Exception as error:  # different kinds of damage raise different types
        raise ValueError(f"{file} cannot be read as {ARCHIVE}: {error}") from error
    planes = records[:, 2:].reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    classes = []
    for label in range(len(NAMES)):
        images = planes[records[:, 1] == label]
        if len(images) != EACH:
            raise ValueError(f"{file} has {len(images)} images of class {label} instead of {EACH}")
        classes += sorted(image.tobytes() for image in images)
    shape = len(NAMES), EACH, SIDE, SIDE, 3
    return np.frombuffer(b"".join(classes), np.uint8).reshape(shape)


def _read_parts(file: Path) -> dict[str, UInt8[np.ndarray, "image record"]]:
    """The records of the two parts of the archive: superclass, class and pixels of each image."""
    parts: dict[str, np.ndarray] = {}
    with (
        gzip.open(file) as content,
        io.BufferedReader(LimitedStream(content, MOST)) as limited,
        tarfile.open(fileobj=limited, mode="r|") as archive,
    ):
        for info in archive:
            if info.name not in PARTS:
                continue
            expected = PARTS[info.name] * RECORD
            part = archive.extractfile(info) if info.isreg() else None
            if part is None or info.size != expected:
                kind = f"{info.size} bytes" if part else "a link or folder"
                raise ValueError(f"{info.name} must be a file of {expected} bytes; got {kind}")
            parts[info.name] = np.frombuffer(part.read(), np.uint8).reshape(-1, RECORD)
    if missing := PARTS.keys() - parts.keys():
        raise ValueError(f"it has no {min(missing)}; the binary version of CIFAR-100 has it")
    return {name: parts[name] for name in PARTS}


def _read_sheets(
    file: Path, labels: list[str]
) -> UInt8[np.ndarray, "class image side side channel"]:
    """The images in a zip of sheets, in the order of the labels."""
    with open_zip(file) as archive:
        entries = zip_entries(file, archive, LIMITS)
        check_sizes(file, {where: info.file_size for where, info in entries.items()}, LIMITS)
        where_of = {Path(where).stem: where for where in entries}
        sheets = []
        for label in labels:
            if label not in where_of:
                raise ValueError(f"{file} must hold a sheet of each class; there is no {label!r}")
            where = where_of[label]
            sheets.append(_cut(read_entry(file, archive, where, entries[where]), where))
    return np.stack(sheets)


def _cut(content: bytes, where: str) -> UInt8[np.ndarray, "image side side channel"]:
    rows, wanted = EACH // COLUMNS, (COLUMNS * SIDE, EACH // COLUMNS * SIDE)
    try:
        with Image.open(io.BytesIO(content)) as sheet:
            if sheet.size != wanted:
                raise ValueError(f"it has {sheet.size} pixels instead of {wanted}")
            pixels = np.asarray(sheet.convert("RGB"))
    except Exception as error:  # different kinds of damage raise different types
        raise ValueError(f"the sheet {where} cannot be read: {error}") from error
    cells = pixels.reshape(rows, SIDE, COLUMNS, SIDE, 3).swapaxes(1, 2)
    return cells.reshape(EACH, SIDE, SIDE, 3)
