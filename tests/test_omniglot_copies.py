"""Copies of Omniglot in other PNG formats give the same array or raise ValueError."""

import io
import re
import struct
import zlib
from functools import partial

import numpy as np
import pytest
from PIL import Image, ImageFilter
from tiny_omniglot import (
    BACKGROUND,
    NAMES,
    drawing,
    inks,
    png,
    tiny_files,
    write_folders,
    write_zips,
)

from tasks import omniglot

WHERE = f"{BACKGROUND}/Latin/character01/0003_02.png"


def grey(ink, dark=0, light=255, dtype: type = np.uint8, **options) -> bytes:
    return png(Image.fromarray(np.where(ink, dark, light).astype(dtype)), **options)


deep = partial(grey, dtype=np.uint16)


def layers(*channels, **options) -> bytes:
    stacked = np.stack(np.broadcast_arrays(*channels), -1)
    return png(Image.fromarray(stacked.astype(np.uint8)), **options)


def palette(ink, *colours, **options) -> bytes:
    """Paper has the first colour, ink the second."""
    image = Image.fromarray(ink.astype(np.uint8)).convert("P")
    image.putpalette([channel for colour in colours for channel in colour])
    return png(image, **options)


def noisy(ink) -> bytes:
    noise = np.random.default_rng(0).integers(0, 60, ink.shape)
    return grey(ink, noise, 255 - noise)


def antialiased(ink) -> bytes:
    soft = Image.fromarray(~ink).convert("L").filter(ImageFilter.GaussianBlur(0.4))
    assert len(np.unique(np.asarray(soft))) > 4
    return png(soft)


BLACK, WHITE = (0, 0, 0), (255, 255, 255)
SAME = {
    "1-bit": ("1", lambda ink: png(Image.fromarray(~ink))),
    "1-bit, white is transparent": ("1", lambda ink: png(Image.fromarray(~ink), transparency=1)),
    "grey": ("L", grey),
    "grey, with noise": ("L", noisy),
    "grey, with soft edges": ("L", antialiased),
    "grey, black paper is transparent": ("L", lambda ink: grey(ink, 9, 0, transparency=0)),
    "16-bit grey": ("I;16", lambda ink: deep(ink, 3000, 60000)),
    "16-bit grey, dark paper is transparent": (
        "I;16",
        lambda ink: deep(ink, 3000, 7, transparency=7),
    ),
    "grey and alpha": ("LA", lambda ink: layers(0, 255 * ink)),
    "colours": ("RGB", lambda ink: layers(*[np.where(ink, 0, 255)] * 3)),
    "colours, black paper is transparent": (
        "RGB",
        lambda ink: layers(9 * ink, 0, 0, transparency=BLACK),
    ),
    "black on transparent black": ("RGBA", lambda ink: layers(0, 0, 0, 255 * ink)),
    "black on transparent white": (
        "RGBA",
        lambda ink: layers(*[np.where(ink, 0, 255)] * 3, 255 * ink),
    ),
    "palette": ("P", lambda ink: palette(ink, WHITE, BLACK)),
    "palette, black first": ("P", lambda ink: palette(~ink, BLACK, WHITE)),
    "palette, paper is transparent": (
        "P",
        lambda ink: palette(ink, BLACK, BLACK, transparency=0),
    ),
}
WRONG = {
    "inverted 1-bit": lambda ink: png(Image.fromarray(ink)),
    "inverted grey": lambda ink: grey(ink, 255, 0),
    "inverted 16-bit grey": lambda ink: deep(ink, 60000, 3000),
    "16-bit grey in which 8 bits are used": lambda ink: deep(ink, 0, 255),
    "inverted colours": lambda ink: layers(*[255 * ink] * 3),
    "inverted palette": lambda ink: palette(ink, BLACK, WHITE),
    "white on transparent paper": lambda ink: layers(255, 255, 255, 255 * ink),
    "all transparent": lambda ink: layers(0, 0, 0, 0 * ink),
    "blank": lambda ink: grey(ink, 255, 255),
    "black": lambda ink: grey(ink, 0, 0),
    "pale ink": lambda ink: grey(ink, 200, 255),
    "dark paper": lambda ink: grey(ink, 0, 100),
}


@pytest.mark.parametrize("resize", ["nearest", "antialias"])
@pytest.mark.parametrize("form", SAME)
def test_a_copy_of_another_form_is_the_same_array(read, tmp_path, form, resize):
    mode, save = SAME[form]
    copies = {where: save(ink) for where, ink in inks(tiny_files()).items()}
    assert {Image.open(io.BytesIO(copy)).mode for copy in copies.values()} == {mode}
    original = read(write_zips(tmp_path / "original", tiny_files()), resize=resize)
    copy = read(write_folders(tmp_path / "copy", copies), resize=resize)
    assert np.array_equal(copy.images, original.images)


@pytest.mark.parametrize("form", WRONG)
def test_a_drawing_that_is_not_dark_on_light_is_refused_and_not_cached(read, tmp_path, form):
    files = tiny_files()
    copy = WRONG[form](inks(files)[WHERE])
    with pytest.raises(ValueError, match=f"{WHERE} must be dark ink on light paper.*is it inv"):
        read(write_zips(tmp_path / "set", files | {WHERE: copy}))
    assert not (tmp_path / "cache").exists()


def test_a_cache_of_the_time_when_transparent_paper_was_ink_is_not_read(read, tmp_path):
    folder = write_zips(tmp_path / "set", tiny_files())
    expected = read(folder).images
    (cached,) = (tmp_path / "cache").iterdir()
    cached.unlink()
    old = cached.with_name(re.sub("omniglot-[0-9]+-", "omniglot-1-", cached.name))
    np.savez(old, images=255 - expected, names=np.array(NAMES))
    assert np.array_equal(read(folder).images, expected)
    assert old.is_file()


# What is no PNG of one picture


def animation() -> bytes:
    return png(drawing(1), save_all=True, append_images=[drawing(2)])


def as_large_as(side: int) -> bytes:
    """A PNG that says it has another size, which PIL looks at before it decodes anything."""
    header = struct.pack(">II", side, side) + png(drawing(1))[24:29]
    checksum = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return png(drawing(1))[:16] + header + checksum + png(drawing(1))[33:]


NO_PICTURE = {
    "GIF": (png(drawing(1).convert("P"), format="GIF"), "it is not a PNG; it starts with b'GIF8"),
    "CMYK": (
        png(drawing(1).convert("CMYK"), format="TIFF"),
        "it is not a PNG; it starts with b'II",
    ),
    "JPEG": (png(drawing(1).convert("L"), format="JPEG"), "it is not a PNG"),
    "animation": (animation(), "must be one picture; got an animation"),
    "large": (as_large_as(10_000), "must be 105x105; got 10000x10000"),
    "larger": (as_large_as(30_000), "exceeds limit"),
    "endless": (png(drawing(1))[:-12], ""),
    "half": (png(drawing(1))[:100], ""),
    "start": (png(drawing(1))[:9], ""),
    "empty": (b"", "it is not a PNG; it starts with b''"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", NO_PICTURE)
@pytest.mark.parametrize("write", [write_zips, write_folders])
def test_what_is_no_png_of_one_picture_is_named(read, tmp_path, write, kind):
    content, message = NO_PICTURE[kind]
    with pytest.raises(ValueError, match=f"cannot read the drawing .*{WHERE}: .*{message}"):
        read(write(tmp_path / "set", tiny_files() | {WHERE: content}))
    assert not (tmp_path / "cache").exists()


def test_a_flipped_bit_is_found_or_changes_no_pixel(monkeypatch):
    """Of 1,900 bits, 40 would, if only PIL's decoder were asked."""
    whole = png(drawing(1))
    refused = 0
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            picture = omniglot._image("a drawing", bytes(flipped))
        except ValueError:
            refused += 1
        else:
            assert picture.tobytes() == drawing(1).tobytes()
    assert refused > 1000
