"""The pictures below a folder or inside a zip, by class; none of them is decoded here.

The class of a picture is the path of its folder. Folders that hold all classes, such as the one
folder inside of many zips, are left out of it. If the folders below them are train, val and test,
they are the splits, and are left out as well.
"""

import hashlib
import os
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from tasks.bounded_files import (
    Limits,
    check_sizes,
    folder_entries,
    open_zip,
    read_entry,
    sha256,
    zip_entries,
)
from tasks.characters import SPLITS, Split, split
from tasks.pictures import LARGEST

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
# Names of folders for splits, of which only those in SPLITS are read as such.
SPELLINGS = {*SPLITS, "training", "valid", "validation", "dev", "eval", "testing"}
LIMITS = Limits("picture", largest=LARGEST, most=2**36, entries=2_000_000, depth=8)


class Pictures(NamedTuple):
    """The pictures of a data set, which are not read yet.

    Attributes:
        words: Description of the origin.
        classes: Paths of the pictures of each class, by the sorted names of the classes.
        splits: Indices of the classes of train, val and test, or None.
        ignored: Description of the files that are ignored, or an empty string.
        fingerprint: SHA-256 that changes with the pictures.
        read: Function that returns the content of the picture at a path.
    """

    words: str
    classes: dict[str, list[str]]
    splits: Split | None
    ignored: str
    fingerprint: str
    read: Callable[[str], bytes]


@contextmanager
def open_pictures(path: Path) -> Iterator[Pictures]:
    """A context with the pictures of a folder or zip, which are found but not read.

    Args:
        path: Path of the folder or zip.

    Returns:
        The context, whose value is the pictures.

    Raises:
        ValueError: the path is neither a folder nor a zip, `bounded_files` refuses it, or its files
            are no classes of pictures.
        OSError: a folder cannot be read.
    """
    if path.is_dir():
        entries = folder_entries(path, LIMITS)
        found = {w: status for w, status in entries.items() if status and _is_picture(w)}
        check_sizes(path, {where: status.st_size for where, status in found.items()}, LIMITS)
        digest = fingerprint(found)
        yield _by_class(path, found, entries, digest, lambda where: _read(path / where))
    elif path.is_file():
        with open_zip(path) as archive:
            infos = zip_entries(path, archive, LIMITS)
            sizes = {where: info.file_size for where, info in infos.items() if _is_picture(where)}
            check_sizes(path, sizes, LIMITS)
            yield _by_class(
                path,
                sizes,
                infos,
                sha256(path),
                lambda where: read_entry(path, archive, where, infos[where]),
            )
    else:
        raise ValueError(f"the images must be in a folder or a zip; {path} is neither")


def fingerprint(files: Mapping[str, os.stat_result]) -> str:
    """The SHA-256 of the names, sizes and times of files, which changes when one is written."""
    states = (f"{w}\0{files[w].st_size}\0{files[w].st_mtime_ns}\n" for w in sorted(files))
    return hashlib.sha256("".join(states).encode(errors="surrogateescape")).hexdigest()


def _read(file: Path) -> bytes:
    return file.read_bytes()


def _is_picture(where: str) -> bool:
    return where.lower().endswith(SUFFIXES) and not _is_hidden(where)


def _is_hidden(where: str) -> bool:
    """Whether an operating system keeps a file or folder beside those of its user."""
    slashed = f"/{where}/"
    return "/." in slashed or "/__MACOSX/" in slashed


def _by_class(
    place: Path,
    pictures: Iterable[str],
    entries: Iterable[str],
    digest: str,
    read: Callable[[str], bytes],
) -> Pictures:
    """The pictures by class, after a check that every folder without a hidden name has some."""
    folders: dict[str, list[str]] = {}
    for where in sorted(pictures):
        folders.setdefault(posixpath.dirname(where), []).append(where)
    others = set(entries).difference(*folders.values())
    if not folders:
        listing = ", ".join(sorted(others)[:9]) or "nothing"
        raise ValueError(
            f"{place} holds no picture: got 0 classes. Put pictures ({' '.join(SUFFIXES)}) into one"
            f" folder for each class; it holds {listing}"
        )
    _check_folders(place, folders, others)
    root = _root(folders)
    names = {folder: posixpath.relpath(folder, root or ".") for folder in folders}
    parts = _parts(place, names)
    if parts:
        names = {folder: name.partition("/")[2] for folder, name in names.items()}
    ordered = sorted(set(names.values()))
    try:
        splits = split(ordered, parts) if parts else None
    except ValueError as error:
        raise ValueError(f"{place} is refused: {error}") from error
    folder_of = {name: folder for folder, name in names.items()}
    classes = {name: folders[folder_of[name]] for name in ordered}
    files = sum(not where.endswith("/") for where in others)
    ignored = f"{files} other files" if files else ""
    return Pictures(str(place), classes, splits, ignored, digest, read)


def _check_folders(place: Path, folders: dict[str, list[str]], others: Iterable[str]) -> None:
    """Refuses a picture outside of all class folders, and a folder without pictures."""
    if "" in folders:
        raise ValueError(
            f"{place} is refused: the picture {folders[''][0]!r} has no class; pictures belong into"
            " one folder for each class"
        )
    filled = {folder[:end] for folder in folders for end in _ends(folder)} | {"", "."}
    for where in sorted(others):
        folder = posixpath.dirname(where)
        if folder not in filled and not _is_hidden(folder):
            raise ValueError(
                f"{place} is refused: its folder {folder!r} holds no picture"
                f" ({' '.join(SUFFIXES)}); remove it or fill it"
            )


def _ends(folder: str) -> list[int]:
    """The lengths of the paths of a folder and of the folders above it."""
    return [*(i for i, letter in enumerate(folder) if letter == "/"), len(folder)]


def _root(folders: Iterable[str]) -> str:
    """The deepest folder that holds all classes, and lies above train, val and test."""
    above = posixpath.commonpath(["/" + posixpath.dirname(folder) for folder in folders])
    return "/".join(takewhile(lambda part: part not in SPLITS, above.strip("/").split("/")))


def _parts(place: Path, names: dict[str, str]) -> dict[str, list[str]]:
    """The names of the classes of train, val and test, or none without folders of these names.

    A class may have one of these names, if it lies beside other classes and holds pictures only.
    """
    tops = {name.partition("/")[0] for name in names.values()}
    nested = {name.partition("/")[0] for name in names.values() if "/" in name}
    misspelt = sum(top.lower() in SPELLINGS for top in nested) > 1
    if not misspelt and (
        not tops & set(SPLITS) or (tops - set(SPLITS) and not nested & set(SPLITS))
    ):
        return {}
    if tops != set(SPLITS):
        raise ValueError(
            f"{place} is refused: folders for splits must be {', '.join(SPLITS)} and no others;"
            f" got {', '.join(sorted(tops)):.99}"
        )
    direct = tops & set(names.values())
    if direct:
        raise ValueError(
            f"{place} is refused: {min(direct)!r} holds pictures itself; they belong into one"
            " folder for each class"
        )
    return {
        part: sorted(
            name.partition("/")[2] for name in names.values() if name.startswith(f"{part}/")
        )
        for part in SPLITS
    }
