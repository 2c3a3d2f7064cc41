"""Omniglot: 1,623 handwritten characters of 50 alphabets, each drawn once by 20 people.

Lake, Salakhutdinov and Tenenbaum, "Human-level concept learning through probabilistic program
induction", Science 350 (2015). The drawings are the authors' own two archives,
`images_background.zip` (30 alphabets) and `images_evaluation.zip` (20 alphabets), read from a
folder, from a set which tensorflow-datasets has prepared, or downloaded with the addresses and
checksums that tensorflow-datasets has registered. TensorFlow itself is never needed.

Every source gives the same array. Classes are in the order of their names. Drawings of one class
are in the order of the SHA-256 of their pixels, because a prepared set has forgotten who drew what.
"""

import hashlib
import io
import queue
import re
import tempfile
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import platformdirs
from jaxtyping import UInt8
from PIL import Image
from rich.console import Console
from rich.progress import track

from tasks.characters import Characters, Split, alphabet, read_split, shuffled, split

RECIPE = 1  # raise it with every change that changes an image: old caches are then left alone
CHARACTERS, DRAWINGS, SIDE, SIZE = 1623, 20, 105, 28
SPLITS = ("paper", "alphabets")
_EVALUATION = """
    Angelic Atemayar_Qelisayer Atlantean Aurek-Besh Avesta Ge_ez Glagolitic Gurmukhi Kannada Keble
    Malayalam Manipuri Mongolian Old_Church_Slavonic_(Cyrillic) Oriya Sylheti Syriac_(Serto)
    Tengwar Tibetan ULOG
"""
EVALUATION = frozenset(_EVALUATION.split())

Resize = Literal["nearest", "antialias"]
Images = UInt8[np.ndarray, "class drawing height width"]
Files = dict[str, bytes]  # ".../Alphabet/characterNN/file" -> PNG

_PARTS = ("images_background", "images_evaluation")
_DRAWING = re.compile(r".*/[^/]+/character\d\d/\d{4}_\d\d\.png")
_PATIENCE = 10.0  # seconds; tensorflow-datasets alone would retry for minutes
_WAYS = (
    "Pass a folder that holds images_background.zip and images_evaluation.zip as `path`; or"
    " prepare omniglot as array_record with tensorflow-datasets on another machine and copy its"
    " data_dir here; or connect this machine to the network."
)


class _Source(NamedTuple):
    """Where drawings come from: in words, what they will be (a hash), and how to read them."""

    words: str
    fingerprint: str
    read: Callable[[], Files]


def load(
    path: Path | None = None, *, resize: Resize = "nearest", cache: Path | None = None
) -> Characters:
    """All of Omniglot, 28x28, ink 255 on paper 0.

    Args:
        path: a folder with the two zips, with the two folders they unpack to, or a data_dir of
            tensorflow-datasets in which omniglot is prepared as array_record. `None` is the
            prepared set in the default data_dir or else the download.
        resize: "nearest" is what the MAML reference does: it asks for Lanczos, but PIL resizes
            1-bit PNGs by nearest neighbour whatever the filter, so the images stay binary.
            "antialias" turns them grey first, so that Lanczos works.
        cache: the folder for the resized array and the download, by default the user's cache.

    Returns:
        1,623 classes of 20 drawings.

    Raises:
        ValueError: the source is damaged or is not the whole of Omniglot.
        FileNotFoundError: `path` is not a folder.
        ConnectionError: there is nothing on disk and no network.
    """
    if resize not in get_args(Resize):
        raise ValueError(f"resize must be one of {', '.join(get_args(Resize))}; got {resize!r}")
    cache = Path(cache or platformdirs.user_cache_dir("maml"))
    source = _find(path, cache)
    file = cache / f"omniglot-{RECIPE}-{resize}-{source.fingerprint[:32]}.npz"
    images, names = _cached(file) or _build(source.read(), resize, file)
    return Characters(images, names, f"Omniglot: {source.words}, {resize} to {SIZE}x{SIZE}")


def splits(characters: Characters, name_or_path: str | Path, *, seed: int = 0) -> Split:
    """The split called "paper" or "alphabets", or the one in a JSON file.

    Args:
        characters: what `load` gave.
        name_or_path: "paper" takes 1100/100/423 characters at random, as Finn et al. do (their
            own list hangs on a file system's order and is lost); "alphabets" tests on the 20
            evaluation alphabets and validates on 5 of the 30 background alphabets.
        seed: which random split.

    Raises:
        ValueError: there is no such split, or it does not fit the characters.
    """
    names = characters.names
    if name_or_path == "paper":
        order = shuffled(names, seed)
        return split(names, {"train": order[:1100], "val": order[1100:1200], "test": order[1200:]})
    if name_or_path == "alphabets":
        background = shuffled(list({alphabet(name) for name in names} - EVALUATION), seed)
        kinds = {"train": background[5:], "val": background[:5], "test": EVALUATION}
        return split(names, {k: [n for n in names if alphabet(n) in kinds[k]] for k in kinds})
    if Path(name_or_path).is_file():
        return read_split(Path(name_or_path), names)
    raise ValueError(
        f"no split {str(name_or_path)!r}: it is neither a file nor one of {', '.join(SPLITS)}"
    )


def _find(path: Path | None, cache: Path) -> _Source:
    if path is None:
        return _prepared(None) or _download(cache / "omniglot")
    path = Path(path).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is not a folder. {_WAYS}")
    source = _official(path, ".zip") or _official(path, "") or _prepared(path)
    if source is None:
        found = ", ".join(sorted(entry.name for entry in path.iterdir())[:9]) or "nothing"
        raise ValueError(
            f"{path} must hold {' and '.join(_PARTS)} as zips or as folders, or an omniglot that"
            f" tensorflow-datasets has prepared; it holds {found}"
        )
    return source


def _official(folder: Path, suffix: str) -> _Source | None:
    parts = [folder / f"{part}{suffix}" for part in _PARTS]
    if not all(part.exists() for part in parts):
        return None
    files = [file for part in parts for file in (part.rglob("*.png") if not suffix else [part])]
    fingerprint = _fingerprint(_checksums(folder, files))
    return _Source(f"images_*{suffix} in {folder}", fingerprint, lambda: _read(files))


def _prepared(data_dir: Path | None) -> _Source | None:
    import tensorflow_datasets as tfds  # slow to import, and only two of the sources need it

    try:
        builder: Any = tfds.builder("omniglot", data_dir=data_dir)
    except Exception as error:  # its types for damaged descriptions are no public ones
        place = data_dir or "the data_dir of tensorflow-datasets"
        raise ValueError(f"cannot read the omniglot in {place}: {error}") from error
    if not builder.is_prepared():
        return None
    folder = Path(builder.data_path)

    def read() -> Files:
        decoders = {"image": tfds.decode.SkipDecoding()}  # the record holds the original PNG
        try:
            records = builder.as_data_source("train+test", decoders=decoders)
            kind = builder.info.features["alphabet"].int2str
            return {
                f"{folder}/{kind(int(record['alphabet']))}"
                f"/character{record['alphabet_char_id'] + 1:02d}/record {i}": record["image"]
                for i, record in enumerate(records)
            }
        except Exception as error:  # each damage and each other file format has its own type
            raise ValueError(f"cannot read {folder} as array_record: {error}") from error

    fingerprint = _fingerprint(_checksums(folder, filter(Path.is_file, folder.iterdir())))
    return _Source(f"tensorflow-datasets, prepared in {folder}", fingerprint, read)


def _download(folder: Path) -> _Source:
    import tensorflow_datasets as tfds

    zips = [f"{part}.zip" for part in _PARTS]
    infos = tfds.builder_cls("omniglot").url_infos or {}
    urls = {info.filename: url for url, info in infos.items() if info.filename in zips}

    def read() -> Files:
        if not all((folder / name).is_file() for name in zips):
            _probe(urls.values())
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as partial:
                manager = tfds.download.DownloadManager(
                    download_dir=partial, url_infos=infos, force_checksums_validation=True
                )
                for name in zips:  # one by one: a failure must not leave another one running
                    Path(str(manager.download(urls[name]))).replace(folder / name)
        return _read([folder / name for name in zips])

    # The registered checksums find the cached array without a download.
    fingerprint = _fingerprint({name: infos[urls[name]].checksum for name in zips})
    return _Source("the official zips, by tensorflow-datasets", fingerprint, read)


def _probe(urls: Iterable[str]) -> None:
    import requests

    answers: queue.Queue[Exception | None] = queue.Queue()

    def ask() -> None:
        try:
            for url in urls:
                with requests.get(url, stream=True, timeout=_PATIENCE / 2) as response:
                    response.raise_for_status()
            answers.put(None)
        except Exception as error:
            answers.put(error)

    # A name server that keeps silent outlasts the timeout of requests, hence the thread.
    threading.Thread(target=ask, daemon=True).start()
    try:
        error = answers.get(timeout=_PATIENCE)
    except queue.Empty:
        error = TimeoutError(f"no answer in {_PATIENCE:g} seconds")
    if error:
        raise ConnectionError(f"cannot download Omniglot. {_WAYS} ({error})") from error


def _read(files: Iterable[Path]) -> Files:
    contents: Files = {}
    for file in files:
        where = file.as_posix()
        contents |= _members(file) if file.suffix == ".zip" else {where: file.read_bytes()}
    return {where: png for where, png in contents.items() if _DRAWING.fullmatch(where)}


def _members(path: Path) -> Files:
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    except Exception as error:  # damage surfaces as a dozen unrelated types
        raise ValueError(f"{path} is a corrupt zip: {error}") from error
    for name in members:
        inside = PurePosixPath(name.replace("\\", "/"))
        if inside.is_absolute() or ".." in inside.parts:
            raise ValueError(f"{path} is refused: its entry {name!r} leaves the archive's folder")
    return {f"{path.as_posix()}/{name}": content for name, content in members.items()}


def _checksums(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


def _fingerprint(checksums: Mapping[str, str]) -> str:
    lines = "\n".join(f"{name} {checksum}" for name, checksum in sorted(checksums.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _build(files: Files, resize: Resize, file: Path) -> tuple[Images, tuple[str, ...]]:
    images, names = _decode(files, resize)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as partial:
            np.savez(Path(partial, file.name), images=images, names=np.array(names))
            Path(partial, file.name).replace(file)
    except OSError as error:
        warnings.warn(f"Omniglot is not cached: cannot write {file} ({error})", stacklevel=3)
    return images, names


def _cached(file: Path) -> tuple[Images, tuple[str, ...]] | None:
    if not file.is_file():
        return None
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as arrays:
            images, names = arrays["images"], tuple(arrays["names"].tolist())
        if images.dtype != np.uint8 or images.shape != (len(names), DRAWINGS, SIZE, SIZE):
            raise ValueError(f"it holds {images.dtype} {images.shape} for {len(names)} names")
        return images, names
    except Exception as error:  # whatever is wrong with it, the source can replace it
        warnings.warn(f"the cache {file} is corrupt and is rebuilt: {error}", stacklevel=3)
        return None


def _decode(files: Files, resize: Resize) -> tuple[Images, tuple[str, ...]]:
    classes: dict[str, list[str]] = {}
    for where in files:
        classes.setdefault("/".join(where.split("/")[-3:-1]), []).append(where)
    if len(classes) != CHARACTERS:
        raise ValueError(f"Omniglot has {CHARACTERS} characters; got {len(classes)}")
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
    return np.stack([255 - np.asarray(_resized(image, resize)) for image in images])


def _image(where: str, png: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(png))
        if image.size != (SIDE, SIDE):
            raise ValueError(f"it must be {SIDE}x{SIDE}; got {image.width}x{image.height}")
        return image.convert("1", dither=Image.Dither.NONE)  # for copies saved again in grey
    except Exception as error:  # damage surfaces as OSError, SyntaxError, ValueError and more
        raise ValueError(f"cannot read the drawing {where}: {error}") from error


def _resized(image: Image.Image, resize: Resize) -> Image.Image:
    if resize == "antialias":
        return image.convert("L").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    return image.resize((SIZE, SIZE), Image.Resampling.NEAREST).convert("L")
