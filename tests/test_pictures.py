"""Pictures of any kind become the right array, and those that cannot be read are named."""

import os

import numpy as np
import pytest
from PIL import Image, ImageFile
from tiny_pictures import (
    BLUE,
    FILES,
    GREEN,
    RED,
    WHITE,
    array,
    content,
    large,
    plain,
    write,
    write_zip,
)

from tasks import pictures
from tasks.images import load, read_image

GREY = [[0, 50, 100, 200]] * 2
PALETTE = Image.new("P", (4, 2))
PALETTE.putpalette([*RED, *GREEN, *BLUE, 9, 9, 9])
PALETTE.putdata([0, 1, 2, 3] * 2)
IN_COLOURS = [[RED, GREEN, BLUE, (9, 9, 9)]] * 2
FADING = np.array([[(*RED, 255), (0, 0, 0, 0), (0, 0, 0, 51), (*BLUE, 0)]] * 2, np.uint8)
FADED = [[RED, WHITE, (204, 204, 204), WHITE]] * 2
FILM = {"save_all": True, "append_images": [Image.new("RGB", (4, 2), "white")]}
STRIPES = array(IN_COLOURS)

KINDS = {
    "grey": (content(array(GREY)), [[[n] * 3 for n in row] for row in GREY]),
    "16 bits": (
        content(array(np.array(GREY) * 257, np.uint16)),
        [[[n] * 3 for n in row] for row in GREY],
    ),
    "16 bits, TIFF": (
        content(array(np.array(GREY) * 257, np.uint16), "TIFF"),
        [[[n] * 3 for n in row] for row in GREY],
    ),
    "1 bit": (content(array([[0, 255, 0, 255]] * 2).convert("1")), [[(0,) * 3, WHITE] * 2] * 2),
    "colours": (content(STRIPES), IN_COLOURS),
    "alpha": (content(Image.fromarray(FADING)), FADED),
    "alpha, WebP": (content(Image.fromarray(FADING), "WEBP", lossless=True, exact=True), FADED),
    "grey and alpha": (
        content(Image.merge("LA", [array([[7] * 4] * 2), array([[255, 0, 255, 0]] * 2)])),
        [[(7,) * 3, WHITE] * 2] * 2,
    ),
    "palette": (content(PALETTE), IN_COLOURS),
    "palette, GIF": (content(PALETTE, "GIF"), IN_COLOURS),
    "palette, one is transparent": (
        content(PALETTE, transparency=3),
        [[RED, GREEN, BLUE, WHITE]] * 2,
    ),
    "palette, each has its transparency": (
        content(PALETTE, transparency=bytes([255, 0, 255, 255])),
        [[RED, WHITE, BLUE, (9, 9, 9)]] * 2,
    ),
    "CMYK": (content(STRIPES.convert("CMYK"), "TIFF"), IN_COLOURS),
    "first frame of a GIF": (content(PALETTE, "GIF", **FILM), IN_COLOURS),
    "first frame of a PNG": (content(STRIPES, **FILM), IN_COLOURS),
    "first frame of a WebP": (content(STRIPES, "WEBP", lossless=True, **FILM), IN_COLOURS),
}


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_of_any_kind_come_out_right(kind):
    data, expected = KINDS[kind]
    assert np.array_equal(read_image(data, size=(2, 4)), expected)
    grey = Image.fromarray(np.array(expected, np.uint8)).convert("L")
    assert np.array_equal(read_image(data, size=(2, 4), channels=1)[..., 0], np.asarray(grey))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpegs_come_out_right(mode):
    data = content(Image.new("RGB", (16, 16), (200, 100, 50)).convert(mode), "JPEG", quality=95)
    expected = (124,) * 3 if mode == "L" else (200, 100, 50)
    assert np.abs(read_image(data, size=8).astype(int) - expected).max() <= 3


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_applied_once(format, orientation):
    """The corner that is light in the file is where the standard says that it belongs."""
    pixels = np.zeros((32, 64), np.uint8)
    pixels[:16, :32] = 255
    turned = [*(pixels, pixels[:, ::-1], pixels[::-1, ::-1], pixels[::-1])]
    turned += [pixels.T, pixels.T[:, ::-1], pixels.T[::-1, ::-1], pixels.T[::-1]]
    expected = turned[orientation - 1]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = content(Image.fromarray(pixels).convert("RGB"), format, exif=exif)
    got = read_image(data, size=expected.shape, channels=1)[..., 0]
    assert np.array_equal(got > 127, expected > 127)


def test_a_picture_of_another_aspect_ratio_is_fitted_by_name():
    wide = content(array([[RED, RED, GREEN, GREEN, BLUE, BLUE, RED, RED]] * 4))
    crop, pad, stretch = (read_image(wide, size=4, fit=f) for f in ("crop", "pad", "stretch"))
    assert np.array_equal(crop, [[GREEN, GREEN, BLUE, BLUE]] * 4)
    assert np.array_equal(pad[[0, 3]], np.full((2, 4, 3), 255))
    assert not np.array_equal(pad[1, 0], WHITE)
    assert np.array_equal(pad[1:3], stretch[1:3])
    hues = [stretch[0, i].argmax() for i in range(4)]
    assert hues == [0, 1, 2, 0]


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_height_comes_before_width_and_thin_pictures_are_fitted(fit):
    for size in [(2, 999), (999, 2), (3, 7), (300, 200)]:
        got = read_image(plain(WHITE, size), size=(5, 3), channels=1, fit=fit)
        assert np.array_equal(got, np.full((5, 3, 1), 255))


def test_reduced_pictures_are_averaged_and_enlarged_ones_are_interpolated():
    checks = content(array((np.indices((64, 64)).sum(0) % 2) * 255))
    assert np.abs(read_image(checks, size=8, channels=1).astype(int)[1:-1, 1:-1] - 127).max() <= 1
    step = content(array([[0, 200], [0, 200]]))
    assert read_image(step, size=4, channels=1)[0, :, 0].tolist() == [0, 50, 150, 200]


# What is refused


NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
UNREADABLE = {
    "truncated PNG": (content(Image.fromarray(NOISE))[:5000], "truncated"),
    "truncated JPEG": (content(Image.fromarray(NOISE), "JPEG")[:1000], "truncated"),
    "truncated BMP": (content(Image.fromarray(NOISE), "BMP")[:1000], "truncated"),
    "empty": (b"", "it is no PNG, JPEG, WEBP, BMP, GIF, TIFF; it starts with b''"),
    "text": (b"<html>not found</html>", "it is no PNG.*; it starts with b'<html>no'"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "it is no PNG"),
    "1x1": (plain(size=(1, 1)), "at least 2x2 and .* got 1x1"),
    "1x9": (plain(size=(1, 9)), "at least 2x2 and .* got 1x9"),
    "over 100 megapixels": (large(10_001, 10_000), "at most 100000000 pixels; got 10001x10000"),
    "a bomb": (large(60_000, 60_000), "at most 100000000 pixels; got 3600000000"),
    "32 bits": (content(array([[0.5] * 4] * 4, np.float32), "TIFF"), "8 or 16 bits a channel"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", UNREADABLE)
@pytest.mark.parametrize("write", [write, write_zip])
def test_a_picture_that_cannot_be_read_is_named_and_not_cached(tmp_path, write, kind):
    data, message = UNREADABLE[kind]
    with pytest.raises(ValueError, match=f"cannot read the picture b/9.png: .*{message}"):
        load(write(tmp_path / "set", FILES | {"b/9.png": data}), size=4, cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    with pytest.raises(ValueError, match=f"cannot read the picture of these bytes: .*{message}"):
        read_image(data, size=4)


def test_all_pictures_that_cannot_be_read_are_counted_and_some_named(tmp_path):
    broken = {f"b/{number:02}.png": b"hello" for number in range(11)}
    with pytest.raises(ValueError, match=r"11 of .* pictures of .*b/00.png: .*b/08.png: .* 2 more"):
        load(write(tmp_path / "set", FILES | broken), size=4, cache=tmp_path / "cache")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_large_picture_is_refused_before_it_is_decoded(monkeypatch):
    contents = large(10_001, 10_000), large(60_000, 60_000)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("decoded"))
    for data in contents:
        with pytest.raises(ValueError, match="pixels"):
            read_image(data, size=4)


def test_a_missing_picture_is_named(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    write(tmp_path, {"large.png": bytes(9999)})
    for name, message in (("no.png", "No such file"), ("pipe.png", "not a regular file")):
        with pytest.raises(ValueError, match=f"cannot read the picture .*{name}: .*{message}"):
            read_image(tmp_path / name, size=4)


def test_a_file_beyond_the_limit_is_not_read(monkeypatch, tmp_path):
    monkeypatch.setattr(pictures, "LARGEST", 99)
    with pytest.raises(ValueError, match="it has 100 bytes; a picture has at most 99"):
        read_image(write(tmp_path, {"1.png": bytes(100)}) / "1.png", size=4)
