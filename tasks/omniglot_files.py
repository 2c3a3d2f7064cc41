"""The sources of Omniglot's files: two zips, two folders, a prepared data set, or the download.

To find a source and compute the fingerprint of its content, no drawing is decoded.
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from tasks import prepared
from tasks._checks import as_path
from tasks.bounded_files import sha256
from tasks.drawings import Files, folder_drawings, zip_drawings

_PARTS = ("images_background", "images_evaluation")
_WAYS = (
    "Pass a folder that holds images_background.zip and images_evaluation.zip as `path`, or as"
    " --data on the command line; or prepare omniglot as array_record with tensorflow-datasets on"
    " another machine and copy its data_dir here; or connect this machine to the network."
)


class Source(NamedTuple):
    """A source of drawings.

    Attributes:
        words: Description of the source.
        fingerprint: SHA-256 of its content.
        read: Function that reads the drawings.
    """

    words: str
    fingerprint: str
    read: Callable[[], Files]


def find(path: Path | None, cache: Path) -> Source:
    """The source in a folder, or by default the prepared data set or the download.

    Args:
        path: Folder as in `omniglot.load`, or None.
        cache: Folder in which a download is kept.

    Returns:
        The source; its drawings are not read yet.

    Raises:
        ValueError: `path` is not a path, or the folder does not hold Omniglot.
        FileNotFoundError: `path` is not a folder.
    """
    if path is None:
        return _prepared(None) or _download(cache / "omniglot")
    path = as_path(path, "path")
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is not a folder. {_WAYS}")
    source = _zips(path) or _folders(path) or _prepared(path)
    if source is None:
        listing = ", ".join(sorted(entry.name for entry in path.iterdir())[:9]) or "nothing"
        raise ValueError(
            f"{path} must hold {' and '.join(_PARTS)} as zips or as folders, or an omniglot that"
            f" tensorflow-datasets has prepared; it holds {listing}"
        )
    return source


def _zips(folder: Path) -> Source | None:
    """The source of the two zips in a folder, or None if they are not there."""
    zips = [folder / f"{part}.zip" for part in _PARTS]
    if not all(file.is_file() for file in zips):
        return None
    fingerprint = _fingerprint(_checksums(folder, zips))
    return Source(f"images_*.zip in {folder}", fingerprint, lambda: _unzip(zips))


def _unzip(zips: Iterable[Path]) -> Files:
    return {where: png for file in zips for where, png in zip_drawings(file).items()}


def _folders(folder: Path) -> Source | None:
    """The source of the two unpacked folders in a folder, or None if they are not there."""
    parts = [folder / part for part in _PARTS]
    if not all(part.is_dir() for part in parts):
        return None
    files = [file for part in parts for file in folder_drawings(part)]
    fingerprint = _fingerprint(_checksums(folder, files))
    return Source(
        f"images_* in {folder}",
        fingerprint,
        lambda: {file.as_posix(): file.read_bytes() for file in files},
    )


def _prepared(data_dir: Path | None) -> Source | None:
    """The source of a data set prepared by tensorflow-datasets, or None if it is not prepared."""
    builder = prepared.find_builder("omniglot", data_dir)
    if not builder.is_prepared():
        return None
    folder = Path(builder.data_path)

    def read_records() -> Files:
        with prepared.name_damage(folder):
            kind = builder.info.features["alphabet"].int2str
            return {
                f"{folder}/{kind(int(record['alphabet']))}"
                f"/character{record['alphabet_char_id'] + 1:02d}/record {i}": record["image"]
                for i, record in enumerate(prepared.records(builder, "train+test"))
            }

    fingerprint = _fingerprint(_checksums(folder, filter(Path.is_file, folder.iterdir())))
    return Source(f"tensorflow-datasets, prepared in {folder}", fingerprint, read_records)


def _download(folder: Path) -> Source:
    """The source of the official zips, which are downloaded into a folder when they are read."""
    import tensorflow_datasets as tfds

    zips = [f"{part}.zip" for part in _PARTS]
    infos = tfds.builder_cls("omniglot").url_infos or {}
    urls = {info.filename: url for url, info in infos.items() if info.filename in zips}
    registered = {name: infos[urls[name]].checksum for name in zips}

    def download() -> Files:
        existing = [folder / name for name in zips if (folder / name).is_file()]
        if _checksums(folder, existing) != registered:  # a zip is missing or differs
            prepared.probe(urls.values(), f"cannot download Omniglot. {_WAYS}")
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as partial:
                manager = tfds.download.DownloadManager(
                    download_dir=partial, url_infos=infos, force_checksums_validation=True
                )
                for name in zips:  # one by one, so that no download continues after a failure
                    Path(str(manager.download(urls[name]))).replace(folder / name)
        return _unzip(folder / name for name in zips)

    # With the registered checksums the cached array is found without a download.
    words = "the official zips, by tensorflow-datasets"
    return Source(words, _fingerprint(registered), download)


def _checksums(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    return {file.relative_to(folder).as_posix(): sha256(file) for file in files}


def _fingerprint(checksums: Mapping[str, str]) -> str:
    lines = "\n".join(f"{name} {checksum}" for name, checksum in sorted(checksums.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
