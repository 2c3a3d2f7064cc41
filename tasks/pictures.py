"""One picture of any common format as an array of 8 bits: its orientation, transparency and size.

A picture is turned as its EXIF orientation says, laid on white paper where it is transparent, and
brought into colours or grey before it is resized. It is reduced by Lanczos, which averages over all
pixels, and enlarged bilinearly. An animation is represented by its first frame.
"""

import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from tasks._checks import as_path

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
LARGEST = 2**28  # largest size of a picture's file in bytes
LARGEST_SIDE = 2**12  # largest side to which pictures are resized
MOST_PIXELS = 100_000_000  # PIL warns of 89 million pixels and refuses twice as many
FEWEST = 2  # smallest side in pixels

Fit = Literal["crop", "pad", "stretch"]
Channels = Literal[1, 3]
Pixels = UInt8[np.ndarray, "height width channel"]


class Preprocessing(NamedTuple):
    """The way in which pictures become arrays of one shape.

    Attributes:
        height, width: Size of the array in pixels.
        channels: Number of channels, 3 for colours or 1 for grey.
        fit: Treatment of a picture of another aspect ratio. "crop" keeps the largest rectangle in
            its centre; "pad" keeps all of it, with white at two sides; "stretch" distorts it.
    """

    height: int
    width: int
    channels: Channels
    fit: Fit


def preprocessing(size: Any, channels: Any, fit: Any) -> Preprocessing:
    """The preprocessing by these options, after a check of their values.

    Args:
        size: Side of a square, or height and width, in pixels.
        channels: Number of channels, 3 for colours or 1 for grey.
        fit: Treatment of a picture of another aspect ratio, "crop", "pad" or "stretch".

    Returns:
        The preprocessing.

    Raises:
        ValueError: an option has another value.
    """
    sides = tuple(size) if isinstance(size, tuple | list) else (size, size)
    whole = all(isinstance(n, int | np.integer) and not isinstance(n, bool) for n in sides)
    if len(sides) != 2 or not whole or not all(1 <= n <= LARGEST_SIDE for n in sides):
        raise ValueError(
            f"size must be an integer from 1 to {LARGEST_SIDE}, or two, the height and the width;"
            f" got {size!r}"
        )
    if not isinstance(channels, int) or channels is True or channels not in (1, 3):
        raise ValueError(f"channels must be 1, for grey, or 3, for colours; got {channels!r}")
    if fit not in get_args(Fit):
        raise ValueError(f"fit must be one of {', '.join(get_args(Fit))}; got {fit!r}")
    return Preprocessing(int(sides[0]), int(sides[1]), channels, fit)


def read_image(
    file: str | os.PathLike[str] | bytes,
    *,
    size: int | tuple[int, int],
    channels: Channels = 3,
    fit: Fit = "crop",
    name: str | None = None,
) -> Pixels:
    """One picture, with the same preprocessing as the data set of `tasks.images.load`.

    Args:
        file: Path of a PNG, JPEG, WebP, BMP, GIF or TIFF, or the content of one.
        size: Side of a square, or height and width, in pixels.
        channels: Number of channels, 3 for colours or 1 for grey.
        fit: Treatment of a picture of another aspect ratio. "crop" keeps the largest rectangle in
            its centre; "pad" keeps all of it, with white at two sides; "stretch" distorts it.
        name: Name of the picture in messages. None: its path.

    Returns:
        The picture, `[height, width, channel]`, uint8.

    Raises:
        ValueError: an option has another value; or the picture cannot be read, is truncated, or has
            fewer than 2x2 or more than 100 million pixels.
    """
    wanted = preprocessing(size, channels, fit)
    if isinstance(file, bytes):
        return decode(name or "of these bytes", lambda: file, wanted)
    path = as_path(file, "the picture")
    return decode(name or str(path), lambda: _read(path), wanted)


def decode(where: str, read: Callable[[], bytes], wanted: Preprocessing) -> Pixels:
    """One picture as an array.

    Args:
        where: Name of the picture, which the messages use.
        read: Function that returns the content of the file.
        wanted: Preprocessing.

    Returns:
        The picture, `[height, width, channel]`, uint8.

    Raises:
        ValueError: the picture cannot be read, is truncated, or is too small or too large.
    """
    try:
        image = _open(read())
        ImageOps.exif_transpose(image, in_place=True)
        image = on_white(image).convert("L" if wanted.channels == 1 else "RGB")
        pixels = np.array(_resize(image, wanted))
    except Exception as error:  # damage raises OSError, SyntaxError, ValueError and more
        raise ValueError(f"cannot read the picture {where}: {error}") from error
    return pixels.reshape(wanted.height, wanted.width, wanted.channels)


def _read(path: Path) -> bytes:
    size = path.stat().st_size
    if not path.is_file():
        raise ValueError("it is not a regular file")
    if size > LARGEST:
        raise ValueError(f"it has {size} bytes; a picture has at most {LARGEST}")
    return path.read_bytes()


def _open(content: bytes) -> Image.Image:
    """The image, which is not decoded yet, after a check of its size and its kind of pixels."""
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError as error:  # of twice as many pixels as PIL warns of
        pixels = re.findall(r"\d+", str(error))[0]
        raise ValueError(f"it must have at most {MOST_PIXELS} pixels; got {pixels}") from error
    except UnidentifiedImageError as error:
        start = content[:8]
        raise ValueError(f"it is no {', '.join(FORMATS)}; it starts with {start!r}") from error
    width, height = image.size
    if min(width, height) < FEWEST or width * height > MOST_PIXELS:
        raise ValueError(
            f"it must have at least {FEWEST}x{FEWEST} and at most {MOST_PIXELS} pixels;"
            f" got {width}x{height}"
        )
    if image.mode in ("I", "F"):  # no largest value is known that would be white
        raise ValueError("it must have 8 or 16 bits a channel; got 32 bits")
    return image


def on_white(image: Image.Image) -> Image.Image:
    """The image on white paper where it is transparent, and in 8 bits where it is grey of 16."""
    if image.mode.startswith("I"):  # 16 bits, which PIL would clip at 255
        pixels = np.asarray(image)
        paper = pixels == image.info.get("transparency", -1)
        return Image.fromarray(np.where(paper, 255, pixels >> 8).astype(np.uint8))
    if image.has_transparency_data:
        paper = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(paper, image.convert("RGBA"))
    return image


def _resize(image: Image.Image, wanted: Preprocessing) -> Image.Image:
    full = wanted.width, wanted.height
    scales = wanted.width / image.width, wanted.height / image.height
    left, top, size = 0.0, 0.0, full
    if wanted.fit == "crop":  # the part in the centre that becomes the wanted size
        left = (image.width - wanted.width / max(scales)) / 2
        top = (image.height - wanted.height / max(scales)) / 2
    if wanted.fit == "pad":
        size = round(image.width * min(scales)), round(image.height * min(scales))
        size = max(1, size[0]), max(1, size[1])
    reduced = (max if wanted.fit == "crop" else min)(scales) < 1
    method = Image.Resampling.LANCZOS if reduced else Image.Resampling.BILINEAR
    box = left, top, image.width - left, image.height - top
    resized = image.resize(size, method, box)
    if size == full:
        return resized
    paper = Image.new(image.mode, full, "white")
    paper.paste(resized, ((full[0] - size[0]) // 2, (full[1] - size[1]) // 2))
    return paper
