"""A few-shot data set that needs no download: characters of many scripts, rendered from fonts.

The fonts are part of matplotlib. A class is a character, and its alphabet is a script. Its twenty
drawings correspond to the twenty drawers of Omniglot: they show different faces, weights and slants
of the character, each with its own stroke thickness, affine map and smooth elastic warp.

A drawing shows the shape of a character, not its size or its position on the line. Characters that
differ only in these ("o" and "O", Latin "A" and Greek Alpha) cannot be distinguished, so the set
has only the first of them in the order of `SCRIPTS`.
"""

import hashlib
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain, cycle, islice
from pathlib import Path

import matplotlib
import numpy as np
import PIL
from jaxtyping import Float, Float32, UInt8
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from platformdirs import user_cache_dir
from rich.progress import track
from scipy.ndimage import map_coordinates

from tasks._checks import as_path
from tasks.cache_files import load_or_build
from tasks.characters import SPLITS, Characters, Images, Split, alphabet, split
from tasks.lookalikes import select_distinct, unit_vectors

RECIPE = 1  # version of the images; raise it with every change of them, so that caches are rebuilt
DRAWINGS = 20
SIDE = 28
CANVAS = 4 * SIDE  # side at which characters are fitted and warped, before they are reduced
LONGEST = round(19 / 28 * CANVAS)  # longer side of a fitted character
INK = (0.02, 0.30)  # smallest and largest fraction of ink: no blanks, no solid blocks
FAITHFUL = 0.40  # correlation with the shape of `BASE` below which a face is skipped

BASE = "DejaVuSans"  # face that determines which characters exist; it has the most scripts
FACES = (
    *(BASE, "DejaVuSerif", "DejaVuSansMono", "STIXGeneral"),
    *("DejaVuSans-Oblique", "DejaVuSerif-Italic", "DejaVuSansMono-Oblique", "STIXGeneralItalic"),
    *("DejaVuSans-Bold", "DejaVuSerif-Bold", "DejaVuSansMono-Bold", "STIXGeneralBol"),
    *("DejaVuSans-BoldOblique", "DejaVuSerif-BoldItalic", "DejaVuSansMono-BoldOblique"),
    "STIXGeneralBolIta",
)

# The Unicode blocks of each script.
SCRIPTS = {
    "Latin": (
        range(0x0021, 0x0250),
        range(0x1E00, 0x1F00),
        range(0x2C60, 0x2C80),
        range(0xA720, 0xA800),
    ),
    "Greek": (range(0x0370, 0x0400),),
    "Cyrillic": (range(0x0400, 0x0530), range(0xA640, 0xA6A0)),
    "Phonetic": (range(0x0250, 0x02B0), range(0x1D00, 0x1DC0)),
    "Armenian": (range(0x0530, 0x0590),),
    "Hebrew": (range(0x0590, 0x0600),),
    "Arabic": (range(0x0600, 0x0700), range(0x0750, 0x0780)),
    "NKo": (range(0x07C0, 0x0800),),
    "Lao": (range(0x0E80, 0x0F00),),
    "Georgian": (range(0x10A0, 0x1100), range(0x2D00, 0x2D30)),
    "Canadian": (range(0x1400, 0x1680),),
    "Ogham": (range(0x1680, 0x16A0),),
    "Tifinagh": (range(0x2D30, 0x2D80),),
    "OldItalic": (range(0x10300, 0x10330),),
    "Currency": (range(0x20A0, 0x20D0),),
    "Letterlike": (range(0x2100, 0x2190),),
    "Arrows": (range(0x2190, 0x2200), range(0x2900, 0x2980), range(0x2B00, 0x2C00)),
    "Mathematical": (range(0x2200, 0x2300), range(0x2980, 0x2B00)),
    "Technical": (range(0x2300, 0x2400),),
    "Box": (range(0x2500, 0x2580),),
    "Geometric": (range(0x25A0, 0x2600),),
    "Symbols": (range(0x2600, 0x2700),),
    "Braille": (range(0x2800, 0x2900),),
}

# Scripts that are held out for validation and for the test.
HELD_OUT = {
    "val": ("Armenian", "Hebrew", "Lao", "Technical"),
    "test": ("Georgian", "NKo", "Tifinagh", "Ogham", "OldItalic", "Mathematical"),
}

Canvas = Image.Image


def load(*, cache: Path | None = None) -> Characters:
    """The data set, from its cache or else rendered, which takes about ten seconds.

    Args:
        cache: Folder in which the rendered data set is stored. None: the user's cache folder.

    Returns:
        The characters, with 20 drawings of 28x28 pixels for each class.

    Raises:
        ValueError: `cache` is not a path.
    """
    cache = as_path(user_cache_dir("maml") if cache is None else cache, "cache")
    file = cache / f"glyphs-{_fingerprint()}.npz"
    images, names = load_or_build(file, lambda: render(classes()))
    source = f"glyphs: characters from the fonts of matplotlib {matplotlib.__version__}"
    return Characters(images, names, source)


def splits(characters: Characters) -> Split:
    """Indices of the classes of train, val and test, which share no script."""
    held_out = {script: part for part, scripts in HELD_OUT.items() for script in scripts}
    part_of = {name: held_out.get(alphabet(name), "train") for name in characters.names}
    parts = {part: [name for name in part_of if part_of[name] == part] for part in SPLITS}
    return split(characters.names, parts)


def classes() -> dict[str, Canvas]:
    """The unwarped shape of every class by name, without lookalikes."""
    shapes = {
        "missing": fit_to_canvas("\uffff", BASE)
    }  # a noncharacter, for which no font has a glyph
    for name, character in _candidates():
        shape = fit_to_canvas(character, BASE)
        if INK[0] < np.asarray(shape).mean() / 255 < INK[1]:
            shapes[name] = shape
    kept = select_distinct(np.stack([blur(shape) for shape in shapes.values()]))
    names = list(shapes)
    return {names[index]: shapes[names[index]] for index in kept[1:]}


def render(shapes: dict[str, Canvas]) -> tuple[Images, tuple[str, ...]]:
    """Images and names of the given classes, which have the form of the result of `classes`."""
    steps = track(shapes.items(), "Rendering glyphs", transient=True)
    return np.stack([_drawings(name, shape) for name, shape in steps]), tuple(shapes)


def fit_to_canvas(character: str, face: str) -> Canvas:
    """A canvas with a character at its centre, scaled so that its longer side is `LONGEST`."""
    font = _font(face)
    left, top, right, bottom = (round(edge) for edge in font.getbbox(character))
    ink = Image.new("L", (right - left + 2, bottom - top + 2))
    ImageDraw.Draw(ink).text((1 - left, 1 - top), character, fill=255, font=font)
    ink = ink.crop(ink.getbbox())
    scale = LONGEST / max(ink.size)
    width, height = (max(1, round(scale * side)) for side in ink.size)
    canvas = Image.new("L", (CANVAS, CANVAS))
    corner = (CANVAS - width) // 2, (CANVAS - height) // 2
    canvas.paste(ink.resize((width, height), Image.Resampling.BILINEAR), corner)
    return canvas


def blur(canvas: Canvas) -> Float32[np.ndarray, "SIDE SIDE"]:
    """The shape at the final resolution, blurred so that small misfits matter little."""
    reduced = canvas.reduce(CANVAS // SIDE).filter(ImageFilter.GaussianBlur(0.75))
    return np.asarray(reduced, np.float32)


def warp(
    ink: Float32[np.ndarray, "CANVAS CANVAS"], rng: np.random.Generator
) -> UInt8[np.ndarray, "SIDE SIDE"]:
    """A drawing of soft ink under a small random warp that leaves the edge of the paper free.

    Ink is sampled at twice the resolution of the drawing and averaged, for antialiased grey.
    """
    while True:
        sampled = map_coordinates(ink, _sample_positions(rng), order=1)
        full = rng.uniform(0.4, 1.0)  # value of soft ink that is drawn as full ink
        fine = np.minimum(1, sampled / full).reshape(SIDE, 2, SIDE, 2)
        drawing = np.rint(255 * fine.mean((1, 3))).astype(np.uint8)
        if not drawing[[0, -1]].any() and not drawing[:, [0, -1]].any():
            return drawing


def _sample_positions(rng: np.random.Generator) -> Float[np.ndarray, "2 y x"]:
    """Positions on the canvas, in pixels, of `2 * SIDE` squared samples."""
    line = (np.arange(2 * SIDE) + 0.5) / SIDE - 1
    grid = np.stack(np.meshgrid(line, line, indexing="ij"))
    angle = np.deg2rad(10) * rng.uniform(-1, 1)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shear = np.array([[1.0, 0.0], [rng.uniform(-0.2, 0.2), 1.0]])
    stretch = np.exp(rng.uniform(-0.2, 0.2, 2))[:, None]
    bumps = np.exp(-(((line[:, None] - np.linspace(-1, 1, 4)) / 0.5) ** 2))
    elastic = 0.09 * bumps @ rng.uniform(-1, 1, (2, 4, 4)) @ bumps.T
    shift = rng.uniform(-0.05, 0.05, (2, 1, 1))
    positions = np.einsum("ij,jyx->iyx", rotation @ shear * stretch, grid) + elastic + shift
    return (positions + 1) * CANVAS / 2 - 0.5


def _drawings(name: str, base: Canvas) -> UInt8[np.ndarray, "DRAWINGS SIDE SIDE"]:
    """The drawings of one class, each with its own warp; the faces that have it take turns."""
    point = int(name.partition("+")[2], 16)
    like = unit_vectors(blur(base))
    shapes = [fit_to_canvas(chr(point), face) for face in FACES if point in _points(face)]
    faithful = [shape for shape in shapes if like @ unit_vectors(blur(shape)) > FAITHFUL]
    soft = [shape.filter(ImageFilter.GaussianBlur(1.5)) for shape in faithful]
    inks = [np.asarray(shape, np.float32) / 255 for shape in soft]
    rng = np.random.default_rng(point)  # a class does not depend on other classes
    return np.stack([warp(ink, rng) for ink in islice(cycle(inks), DRAWINGS)])


def _candidates() -> Iterator[tuple[str, str]]:
    """Names and characters of `BASE`, in the order of `SCRIPTS`.

    Characters that Unicode decomposes are left out, such as ligatures and characters with marks or
    in another style.
    """
    for script, blocks in SCRIPTS.items():
        for point in filter(_points(BASE).__contains__, chain(*blocks)):
            character = chr(point)
            visible = unicodedata.category(character)[0] in "LNPS"
            if visible and not unicodedata.decomposition(character):
                yield f"{script}/U+{point:04X}", character


@lru_cache
def _font(face: str) -> ImageFont.FreeTypeFont:
    # The basic layout draws the glyph of a code point itself, whatever shaping libraries exist.
    return ImageFont.truetype(_path(face), LONGEST, layout_engine=ImageFont.Layout.BASIC)


@lru_cache
def _points(face: str) -> frozenset[int]:
    return frozenset(FT2Font(str(_path(face))).get_charmap())


def _path(face: str) -> Path:
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"


def _fingerprint() -> str:
    """A hash of everything that determines the images: recipe, fonts, renderer and characters."""
    versions = (RECIPE, matplotlib.__version__, PIL.__version__, unicodedata.unidata_version)
    return hashlib.sha256(repr(versions).encode()).hexdigest()[:16]
