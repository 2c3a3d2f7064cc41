"""The PNGs of Omniglot below a folder or inside a zip, with limits on their number and size.

A drawing is recognised by its path, `Alphabet/characterNN/NNNN_NN.png` below any other folders.
Other files are not read, whatever their size.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from tasks.bounded_files import (
    Limits,
    check_sizes,
    folder_entries,
    open_zip,
    read_entry,
    zip_entries,
)

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
    entries = folder_entries(folder, _limits())
    sizes = {
        where: status.st_size
        for where, status in entries.items()
        if status and _DRAWING.fullmatch((folder / where).as_posix())
    }
    _check_drawings(folder, sizes, entries)
    return [folder / where for where in sizes]


def zip_drawings(path: Path) -> Files:
    r"""The drawings inside a zip, by the path of the zip and of the entry; `\` counts as `/`.

    Raises:
        ValueError: the zip is damaged or encrypted; an entry leaves its folder, is a link, or is
            listed twice; no drawing is found, or the drawings are too many, too large or too deep.
    """
    with open_zip(path) as archive:
        entries = zip_entries(path, archive, _limits())
        drawings = {where: info for where, info in entries.items() if _DRAWING.fullmatch(where)}
        _check_drawings(path, {where: info.file_size for where, info in drawings.items()}, entries)
        return {
            f"{path.as_posix()}/{where}": read_entry(path, archive, where, info)
            for where, info in drawings.items()
        }


def _limits() -> Limits:
    return Limits("drawing", LARGEST, MOST, ENTRIES, DEPTH)


def _check_drawings(place: Path, sizes: Mapping[str, int], names: Iterable[str]) -> None:
    if not sizes:
        files = sorted(name for name in names if not name.endswith("/"))
        raise ValueError(
            f"{place} holds no drawing: got 0 characters. A drawing is a PNG in {_PLACE};"
            f" zips inside a zip are not opened; it holds {', '.join(files[:9]) or 'nothing'}"
        )
    check_sizes(place, sizes, _limits())
