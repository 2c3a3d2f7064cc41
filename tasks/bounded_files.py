"""The files below a folder or inside a zip, with limits on their number, size and depth.

Nothing here reads or unpacks a file before the limits are checked. Limits are arguments, because a
data set of small drawings has others than a data set of photographs.
"""

import errno
import hashlib
import io
import os
import stat
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

_DANGLING = (errno.ENOENT, errno.ELOOP)  # errors of a link to nothing or to itself


class Limits(NamedTuple):
    """Limits of a data set of files.

    Attributes:
        kind: Word for one file, which the messages use, such as "drawing".
        largest: Largest size of a file in bytes.
        most: Largest size of all files together in bytes.
        entries: Largest number of files or zip entries, those of other kinds included.
        depth: Largest number of folders between the given folder or zip and a file.
    """

    kind: str
    largest: int
    most: int
    entries: int
    depth: int


def folder_entries(folder: Path, limits: Limits) -> dict[str, os.stat_result | None]:
    """The status of all files below a folder; links are followed, except in a circle.

    Args:
        folder: Folder that is walked.
        limits: Limits of the number of entries and of the depth.

    Returns:
        The status by path below the folder, in the order of names. It is None for an empty folder,
        whose path ends with "/", and for all other entries that are not regular files.

    Raises:
        ValueError: the entries are too many or too deep.
        OSError: a folder cannot be read.
    """
    entries = dict(islice(_walk(folder, "", (), limits), limits.entries + 1))
    _check_entries(folder, len(entries), limits)
    return entries


def _walk(
    folder: Path, where: str, above: tuple[str, ...], limits: Limits
) -> Iterator[tuple[str, os.stat_result | None]]:
    """The entries of `folder_entries` below a folder, which lies below the folders `above`."""
    real = os.path.realpath(folder)
    if real in above:
        return
    if len(above) > limits.depth:
        raise ValueError(
            f"{folder} is refused: it lies under more than {limits.depth} other folders"
        )
    with os.scandir(folder) as scanned:
        entries = sorted(scanned, key=lambda entry: entry.name)
    if where and not entries:
        yield where, None
    for entry in entries:
        status = _status(entry)
        if status and stat.S_ISDIR(status.st_mode):
            yield from _walk(folder / entry.name, f"{where}{entry.name}/", (*above, real), limits)
        else:
            is_file = status and stat.S_ISREG(status.st_mode)
            yield where + entry.name, status if is_file else None


def _status(entry: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return entry.stat()
    except OSError as error:
        if error.errno not in _DANGLING:
            raise
        return None


@contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """A context with an open zip, whose damage is a `ValueError` that names it."""
    with _name_zip_errors(path):
        archive = zipfile.ZipFile(path)
    with archive:
        yield archive


def zip_entries(path: Path, archive: zipfile.ZipFile, limits: Limits) -> dict[str, zipfile.ZipInfo]:
    r"""The entries of a zip, after a check that it is harmless.

    Args:
        path: Path of the zip, which the messages use.
        archive: Zip, as `open_zip` gives it.
        limits: Limit of the number of entries.

    Returns:
        The entries by path in the order of the zip, with `\` as `/`. Paths of folders end with "/".

    Raises:
        ValueError: the entries are too many; or one leaves its folder, is a link, or is listed
            twice.
    """
    infos = archive.infolist()
    _check_entries(path, len(infos), limits)
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
        entries[inside.as_posix() + "/" * info.is_dir()] = info
    return entries


def read_entry(path: Path, archive: zipfile.ZipFile, where: str, info: zipfile.ZipInfo) -> bytes:
    """The content of one entry of a zip.

    Args:
        path: Path of the zip, which the messages use.
        archive: Zip, as `open_zip` gives it.
        where: Path of the entry, which the messages use.
        info: Entry, as `zip_entries` gives it.

    Returns:
        The content.

    Raises:
        ValueError: the entry is encrypted or damaged.
    """
    if info.flag_bits & 1:
        raise ValueError(f"{path} is refused: its entry {where!r} is encrypted; unpack it")
    with _name_zip_errors(path, f" (in its entry {where!r})"):
        return archive.read(info)


@contextmanager
def _name_zip_errors(path: Path, entry: str = "") -> Iterator[None]:
    """A context whose exceptions become a `ValueError` that names the zip and its entry."""
    try:
        yield
    except NotImplementedError as error:
        raise ValueError(f"{path} is no zip that Python can read: {error}{entry}") from error
    except Exception as error:  # different kinds of damage raise a dozen unrelated types
        raise ValueError(f"{path} is a corrupt zip: {error}{entry}") from error


def _check_entries(place: Path, count: int, limits: Limits) -> None:
    if count > limits.entries:
        raise ValueError(f"{place} is refused: it holds more than {limits.entries} files")


def check_sizes(place: Path, sizes: Mapping[str, int], limits: Limits) -> None:
    """Refuses files that are too large or too deep.

    Raises:
        ValueError: a file, or all of them together, are larger than the limits, or a file lies
            under too many folders.
    """
    for where, size in sizes.items():
        if size > limits.largest:
            raise ValueError(
                f"{place} is refused: {where!r} has {size} bytes;"
                f" a {limits.kind} has at most {limits.largest}"
            )
        if where.count("/") > limits.depth:
            raise ValueError(
                f"{place} is refused: {where!r} lies under more than {limits.depth} folders"
            )
    if sum(sizes.values()) > limits.most:
        raise ValueError(
            f"{place} is refused: its {limits.kind}s have {sum(sizes.values())} bytes,"
            f" more than {limits.most}"
        )


class LimitedStream(io.RawIOBase):
    """What is read of another stream, which must not be more than some bytes."""

    def __init__(self, stream: io.BufferedIOBase, most: int) -> None:
        self.stream, self.most, self.left = stream, most, most

    def readable(self) -> bool:
        """Always true."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fills a buffer with the next bytes, and returns their number.

        Raises:
            ValueError: the stream has more bytes than the limit.
        """
        content = self.stream.read(len(buffer))
        self.left -= len(content)
        if self.left < 0:
            raise ValueError(f"it unpacks to more than {self.most} bytes")
        buffer[: len(content)] = content
        return len(content)


def sha256(file: Path) -> str:
    """The SHA-256 of the content of a file, which is never in memory as a whole."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
