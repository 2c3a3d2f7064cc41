"""Omniglot: 1,623 handwritten characters of 50 alphabets, each drawn once by 20 people.

Lake, Salakhutdinov and Tenenbaum, "Human-level concept learning through probabilistic program
induction", Science 350 (2015). The drawings come from the authors' two archives,
`images_background.zip` (30 alphabets) and `images_evaluation.zip` (20 alphabets). They are read
from a folder or from a data set prepared by tensorflow-datasets, or downloaded with the addresses
and checksums registered in tensorflow-datasets. TensorFlow itself is not needed.

Every source gives the same array. Classes are sorted by name. Drawings of one class are sorted by
the SHA-256 of their pixels, because a prepared data set does not record the drawers.

Copies saved in grey of 8 or 16 bits, in colours, with a palette or on transparent paper give the
same array: on white paper, every pixel darker than half is ink.
"""

import hashlib
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import platformdirs
from jaxtyping import UInt8
from PIL import Image
from rich.console import Console
from rich.progress import track

from tasks._checks import as_path, check_is, check_seed
from tasks.cache_files import load_or_build
from tasks.characters import (
    Characters,
    Images,
    Split,
    alphabet,
    shuffle_names,
    split,
)
from tasks.drawings import Files
from tasks.omniglot_files import Source, find
from tasks.pictures import on_white, read_image
from tasks.split_files import read_split

RECIPE = 2  # version of the images; raise it with every change of them, so that caches are rebuilt
CHARACTERS, DRAWINGS, SIDE, SIZE = 1623, 20, 105, 28
MAX_INK = 0.5  # largest fraction of ink in a drawing; the maximum in Omniglot is 0.22
MIN_CONTRAST = 32  # smallest difference between the greys of ink and paper in a drawing
SPLIT_RULES = ("paper", "alphabets")
_EVALUATION = """
    Angelic Atemayar_Qelisayer Atlantean Aurek-Besh Avesta Ge_ez Glagolitic Gurmukhi Kannada Keble
    Malayalam Manipuri Mongolian Old_Church_Slavonic_(Cyrillic) Oriya Sylheti Syriac_(Serto)
    Tengwar Tibetan ULOG
"""
EVALUATION = frozenset(_EVALUATION.split())

Resize = Literal["nearest", "antialias"]


def load(
    path: Path | None = None, *, resize: Resize = "nearest", cache: Path | None = None
) -> Characters:
    """The complete Omniglot data set, 28x28 pixels, with ink 255 on paper 0.

    Args:
        path: Folder with the two zips or the two unpacked folders, or a data_dir of
            tensorflow-datasets in which omniglot is prepared as array_record. None: the prepared
            data set in the default data_dir, or else the download.
        resize: Method of resizing. "nearest" is that of the MAML code, which asks for Lanczos;
            but PIL resizes 1-bit PNGs by nearest neighbour whatever the filter, so that the images
            stay binary. "antialias" converts them to grey first, so that Lanczos is applied.
        cache: Folder for the resized array and the download. None: the user's cache folder.

    Returns:
        The characters, 1,623 classes of 20 drawings.

    Raises:
        ValueError: an argument has another value; or the source is damaged, exceeds the limits of
            `drawings`, is not the complete Omniglot, or has a drawing that is not black on white.
        FileNotFoundError: `path` is not a folder.
        ConnectionError: the data set is not on the disk and cannot be downloaded.
    """
    if resize not in get_args(Resize):
        raise ValueError(f"resize must be one of {', '.join(get_args(Resize))}; got {resize!r}")
    cache = as_path(platformdirs.user_cache_dir("maml") if cache is None else cache, "cache")
    source = find(path, cache)
    file = cache / f"omniglot-{RECIPE}-{resize}-{source.fingerprint[:32]}.npz"
    images, names = load_or_build(file, lambda: _decode(source, resize))
    return Characters(images, names, f"Omniglot: {source.words}, {resize} to {SIZE}x{SIZE}")


def read_drawing(
    file: str | os.PathLike[str] | bytes, *, name: str | None = None
) -> UInt8[np.ndarray, "height width 1"]:
    """One drawing of any size, prepared like those of the data set: ink 255 on paper 0.

    Colours become grey and transparent pixels paper. The drawing is padded to a square and resized
    to 105x105; a pixel is ink if it is nearer to the darkest grey than to the lightest. It is then
    resized to 28x28 with "antialias", since "nearest" leaves gaps in thin strokes.

    Args:
        file: Path of a picture with dark ink on light paper, or its content.
        name: Name of the drawing in messages. None: its path.

    Returns:
        The drawing, `[28, 28, 1]`.

    Raises:
        ValueError: the picture cannot be read, as `tasks.pictures.read_image` says; or it is blank
            or inverted.
    """
    grey = read_image(file, size=SIDE, channels=1, fit="pad", name=name)[..., 0]
    darkest, lightest = int(grey.min()), int(grey.max())
    paper = 2 * grey.astype(int) >= darkest + lightest
    ink = 1 - paper.mean()
    if lightest - darkest < MIN_CONTRAST or ink > MAX_INK:
        name = name or ("of these bytes" if isinstance(file, bytes) else str(file))
        raise ValueError(
            f"the drawing {name} must be dark ink on light paper, and at most {MAX_INK:.0%} of it"
            f" dark; got {ink:.0%}, and greys from {darkest} to {lightest}: is it inverted, blank,"
            " or a photograph? Weights of photographs read photographs"
        )
    return 255 - np.asarray(_resize(Image.fromarray(paper), "antialias"))[..., None]


def splits(characters: Characters, name_or_path: str | Path, *, seed: int = 0) -> Split:
    """Indices of the classes of train, val and test, by a named rule or by a file.

    Args:
        characters: Characters that `load` returned.
        name_or_path: Name of a rule, or path of a file that `split_files.read_split` reads. "paper"
            takes 1100/100/423 characters at random, like Finn et al. (their list depended on the
            order of a file system and is lost); "alphabets" tests on the 20 evaluation alphabets
            and validates on 5 of the 30 background alphabets.
        seed: Seed of the random choice.

    Returns:
        The indices of the classes, by "train", "val" and "test".

    Raises:
        ValueError: the name is unknown, the file does not fit the characters, or the seed is not an
            integer.
    """
    check_seed(seed)
    check_is(characters, "characters", Characters)
    names = characters.names
    if name_or_path == "paper":
        order = shuffle_names(names, seed)
        return split(names, {"train": order[:1100], "val": order[1100:1200], "test": order[1200:]})
    if name_or_path == "alphabets":
        background = shuffle_names(list({alphabet(name) for name in names} - EVALUATION), seed)
        kinds = {"train": background[5:], "val": background[:5], "test": EVALUATION}
        return split(names, {k: [n for n in names if alphabet(n) in kinds[k]] for k in kinds})
    file = as_path(name_or_path, "the split")
    if file.is_file():
        return read_split(file, names)
    raise ValueError(
        f"no split {str(name_or_path)!r}: it is neither a file nor one of {', '.join(SPLIT_RULES)}"
    )


def _decode(source: Source, resize: Resize) -> tuple[Images, tuple[str, ...]]:
    files = source.read()
    classes: dict[str, list[str]] = {}
    for where in files:
        classes.setdefault("/".join(where.split("/")[-3:-1]), []).append(where)
    if len(classes) != CHARACTERS:
        alphabets = ", ".join(sorted({alphabet(name) for name in classes})) or "none"
        raise ValueError(
            f"Omniglot has {CHARACTERS} characters; got {len(classes)} in {source.words}, of the"
            f" alphabets {alphabets}"
        )
    for name, drawings in classes.items():
        if len(drawings) != DRAWINGS:
            raise ValueError(f"{name} must have {DRAWINGS} drawings; got {len(drawings)}")
    names = tuple(sorted(classes))
    progress = track(names, "Omniglot", console=Console(stderr=True), transient=True)
    return np.stack([_character(classes[name], files, resize) for name in progress]), names


def _character(
    drawings: Iterable[str], files: Files, resize: Resize
) -> UInt8[np.ndarray, "drawing height width"]:
    images = [_image(where, files[where]) for where in drawings]
    images.sort(key=lambda image: hashlib.sha256(image.tobytes()).digest())
    return np.stack([255 - np.asarray(_resize(image, resize)) for image in images])


def _image(where: str, png: bytes) -> Image.Image:
    try:
        image = _open(png)
        black = on_white(image).convert("L").convert("1", dither=Image.Dither.NONE)
    except Exception as error:  # damage raises OSError, SyntaxError, ValueError and more
        raise ValueError(f"cannot read the drawing {where}: {error}") from error
    ink = 1 - np.asarray(black).mean()
    if not 0 < ink <= MAX_INK:
        raise ValueError(
            f"the drawing {where} must be dark ink on light paper, at most {MAX_INK:.0%} of it;"
            f" got {ink:.0%} (mode {image.mode}): is it inverted, blank or too pale?"
        )
    return black


def _open(png: bytes) -> Image.Image:
    """The image of a PNG, after a check of its size and checksums."""
    if not png.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ValueError(f"it is not a PNG; it starts with {png[:8]!r}")
    image = Image.open(io.BytesIO(png), formats=["PNG"])
    if image.size != (SIDE, SIDE):
        raise ValueError(f"it must be {SIDE}x{SIDE}; got {image.width}x{image.height}")
    if getattr(image, "is_animated", False):
        raise ValueError("it must be one picture; got an animation")
    image.verify()  # decoding would not check the checksums; then the file must be reopened
    return Image.open(io.BytesIO(png), formats=["PNG"])


def _resize(image: Image.Image, resize: Resize) -> Image.Image:
    if resize == "antialias":
        return image.convert("L").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    return image.resize((SIZE, SIZE), Image.Resampling.NEAREST).convert("L")
