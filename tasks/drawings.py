"""The PNGs of Omniglot below a folder or inside a zip, with limits on their number and size.

A drawing is recognised by its path, `Alphabet/characterNN/NNNN_NN.png` below any other folders.
Other files are not read, whatever their size.
"""

import re
import stat
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path, PureWindowsPath

Files = dict[str, bytes]  # ".../Alphabet/characterNN/NNNN_NN.png" -> PNG

LARGEST = 2**20  # largest size of a drawing in bytes; 105x105 pixels of 64 bits have 88,200
MOST = 2**30  # largest size of all drawings together in bytes; Omniglot has 8 million
ENTRIES = 200_000  # largest number of files or zip entries; Omniglot's larger zip has 20,275
DEPTH = 8  # largest number of folders between the given folder or zip and a drawing

_PLACE = "Alphabet/characterNN/NNNN_NN.png"
_DRAWING = re.compile(r"(.*/)?[^/]+/character\d\d/\d{4}_\d\d\.png")


def folder_drawings(folder: Path) -> list[Path]:
    """The paths of all drawings below a folder; links are followed, except in a circle.

    Raises:
        ValueError: no drawing is found, or the drawings are too many, too large or too deep.
        OSError: a folder or a drawing cannot be read.
    """
    files = list(islice(_walk(folder, ()), ENTRIES + 1))
    _check_entries(folder, len(files))
    drawings = [file for file in files if _DRAWING.fullmatch(file.as_posix()) and file.is_file()]
    _check_drawings(
        folder,
        {file.relative_to(folder).as_posix(): file.stat().st_size for file in drawings},
        [file.relative_to(folder).as_posix() for file in files],
    )
    return drawings


def _walk(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    """All files below a folder, which lies below the folders `above`."""
    real = folder.resolve()
    if real in above:
        return
    if len(above) > DEPTH:
        raise ValueError(f"{folder} is refused: it lies under more than {DEPTH} other folders")
    for entry in sorted(folder.iterdir()):
        if entry.is_dir():
            yield from _walk(entry, (*above, real))
        else:
            yield entry


def zip_drawings(path: Path) -> Files:
    r"""The drawings inside a zip, by the path of the zip and of the entry; `\` counts as `/`.

    Raises:
        ValueError: the zip is damaged or encrypted; an entry leaves its folder, is a link, or is
            listed twice; no drawing is found, or the drawings are too many, too large or too deep.
    """
    with _name_zip_errors(path):
        archive = zipfile.ZipFile(path)
    with archive:
        entries = _entries(path, archive.infolist())
        drawings = {where: info for where, info in entries.items() if _DRAWING.fullmatch(where)}
        sizes = {where: info.file_size for where, info in drawings.items()}
        _check_drawings(path, sizes, list(entries))
        contents: Files = {}
        for where, info in drawings.items():
            if info.flag_bits & 1:
                raise ValueError(f"{path} is refused: its entry {where!r} is encrypted; unpack it")
            with _name_zip_errors(path, f" (in its entry {where!r})"):
                contents[f"{path.as_posix()}/{where}"] = archive.read(info)
    return contents


def _entries(path: Path, infos: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    """The files inside a zip by their paths, after a check that the zip is harmless."""
    _check_entries(path, len(infos))
    entries: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        inside = PureWindowsPath(info.filename)  # understands both slashes and drive letters
        refused = f"{path} is refused: its entry {info.filename!r}"
        if inside.anchor or ".." in inside.parts:
            raise ValueError(f"{refused} leaves the archive's folder")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise ValueError(f"{refused} is a link; zip the files themselves")
        if inside.as_posix() in entries:
            raise ValueError(f"{refused} occurs twice")
        if not info.is_dir():
            entries[inside.as_posix()] = info
    return entries


@contextmanager
def _name_zip_errors(path: Path, entry: str = "") -> Iterator[None]:
    """A context whose exceptions become a `ValueError` that names the zip and its entry."""
    try:
        yield
    except NotImplementedError as error:
        raise ValueError(f"{path} is no zip that Python can read: {error}{entry}") from error
    except Exception as error:  # different kinds of damage raise a dozen unrelated types
        raise ValueError(f"{path} is a corrupt zip: {error}{entry}") from error


def _check_entries(place: Path, count: int) -> None:
    if count > ENTRIES:
        raise ValueError(f"{place} is refused: it holds more than {ENTRIES} files")


def _check_drawings(place: Path, sizes: Mapping[str, int], names: list[str]) -> None:
    if not sizes:
        listing = ", ".join(sorted(names)[:9]) or "nothing"
        raise ValueError(
            f"{place} holds no drawing: got 0 characters. A drawing is a PNG in {_PLACE};"
            f" zips inside a zip are not opened; it holds {listing}"
        )
    for where, size in sizes.items():
        if size > LARGEST:
            raise ValueError(
                f"{place} is refused: {where!r} has {size} bytes; a drawing has at most {LARGEST}"
            )
        if where.count("/") > DEPTH:
            raise ValueError(f"{place} is refused: {where!r} lies under more than {DEPTH} folders")
    if sum(sizes.values()) > MOST:
        raise ValueError(
            f"{place} is refused: its drawings have {sum(sizes.values())} bytes, more than {MOST}"
        )
