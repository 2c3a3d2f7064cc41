"""Pictures by class of any data set that tensorflow-datasets has prepared.

The data set needs the features `image` and `label`. The pictures of all its splits are one set. A
picture that an earlier split has in the same class counts once, so that no episode has it twice.
"""

import hashlib
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track

from tasks import prepared
from tasks.bounded_files import folder_entries
from tasks.cache_files import cached
from tasks.image_files import LIMITS, Pictures, fingerprint

PREFIX = "tfds:"
_NAME = re.compile(r"\w+(/[\w.-]+)?(:\d+\.\d+\.\d+)?", re.ASCII)


class _Index(NamedTuple):
    """The places of the pictures of each class, by sorted names, and the number of the others."""

    classes: dict[str, list[str]]
    others: int


@contextmanager
def open_prepared(name: str, cache: Path) -> Iterator[Pictures]:
    """A context with the pictures of a data set, which is prepared now if that is possible.

    Args:
        name: Name of the data set, such as "cifar100" or "name/config:1.0.0".
        cache: Folder in which the places of the pictures are kept.

    Returns:
        The context, whose value is the pictures.

    Raises:
        ValueError: there is no such data set, it has no pictures or no labels, it is damaged or not
            prepared as array_record, or it cannot be prepared without TensorFlow.
        ConnectionError: the data set is not prepared and cannot be downloaded.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{PREFIX} must be followed by the name of a data set of tensorflow-datasets, such as"
            f" {PREFIX}cifar100 or {PREFIX}name/config:1.0.0; got {PREFIX + name!r}"
        )
    builder = prepared.find_builder(name)
    _check_features(name, builder.info.features)
    if not builder.is_prepared():
        _prepare(name, builder)
    folder = Path(builder.data_path)
    files = folder_entries(folder, LIMITS)
    digest = fingerprint({where: status for where, status in files.items() if status})
    with prepared.name_damage(folder):
        splits = {split: prepared.records(builder, split) for split in builder.info.splits}

    def build() -> _Index:
        with prepared.name_damage(folder):
            return _index(splits, builder.info.features["label"].names)

    index = cached(cache / f"tfds-{digest[:32]}.json", _read_index, build, _write_index)

    def read(where: str) -> bytes:
        split, _, number = where.rpartition("/")
        with prepared.name_damage(folder):
            return splits[split][int(number)]["image"]

    words = f"tensorflow-datasets, prepared in {folder}"
    ignored = f"{index.others} examples without a label or of an earlier split"
    yield Pictures(words, index.classes, None, ignored if index.others else "", digest, read)


def _check_features(name: str, features: Any) -> None:
    """Refuses a data set whose examples are no pictures of classes."""
    import tensorflow_datasets as tfds

    has = dict(features) if isinstance(features, tfds.features.FeaturesDict) else {}
    image, label = has.get("image"), has.get("label")
    is_picture = isinstance(image, tfds.features.Image) and image.np_dtype in (np.uint8, np.uint16)
    if not is_picture or not isinstance(label, tfds.features.ClassLabel):
        listing = ", ".join(f"{key} ({type(value).__name__})" for key, value in has.items())
        raise ValueError(
            f"{PREFIX}{name} must have the features image, an Image of 8 or 16 bits, and label, a"
            f" ClassLabel; it has {listing or 'none that are named'}"
        )


def _index(splits: Mapping[str, Sequence[dict[str, Any]]], names: Sequence[str]) -> _Index:
    """The index, for which every example is read once."""
    examples = sum(map(len, splits.values()))
    if examples > LIMITS.entries:
        raise ValueError(f"it has {examples} examples, more than {LIMITS.entries}")
    classes: dict[str, list[str]] = {}
    earlier: set[tuple[int, bytes]] = set()
    for split, examples_of_split in splits.items():
        own = set()
        console = Console(stderr=True)
        for i, example in enumerate(
            track(examples_of_split, f"Labels of {split}", console=console, transient=True)
        ):
            label, content = int(example["label"]), hashlib.sha256(example["image"]).digest()
            if 0 <= label < len(names) and (label, content) not in earlier:
                own.add((label, content))
                classes.setdefault(names[label], []).append(f"{split}/{i}")
        earlier |= own
    if not classes:
        raise ValueError("no example has a label")
    return _Index(dict(sorted(classes.items())), examples - sum(map(len, classes.values())))


def _read_index(file: Path) -> _Index:
    classes, others = json.loads(file.read_text("utf-8"))
    if not isinstance(others, int) or not all(places for places in classes.values()):
        raise ValueError(f"it has {others!r:.99} other examples, or an empty class")
    return _Index(classes, others)


def _write_index(file: Path, index: _Index) -> None:
    file.write_text(json.dumps(index), "utf-8")


def _prepare(name: str, builder: Any) -> None:
    """Downloads and prepares a data set, or refuses to within seconds and says what to do."""
    import tensorflow_datasets as tfds

    folder = prepared.default_data_dir()
    refusal = (
        f"{PREFIX}{name} is not prepared in {folder}. Prepare it on a machine with a network and"
        " TensorFlow, by tensorflow_datasets.builder"
        f"({name!r}, file_format='array_record').download_and_prepare(), and copy its data_dir"
        " here; TFDS_DATA_DIR may name another folder."
    )
    if _needs_tensorflow(builder) and find_spec("tensorflow") is None:
        raise ValueError(f"{refusal} (TensorFlow is not installed here)")
    prepared.probe(builder.url_infos or (), refusal)
    settings = tfds.download.DownloadConfig(try_download_gcs=False)
    try:
        builder.download_and_prepare(download_config=settings, file_format="array_record")
    except Exception as error:  # its types are not public
        raise ValueError(f"{refusal} ({error})") from error


def _needs_tensorflow(builder: Any) -> bool:
    """Whether the module of a builder uses TensorFlow, or tensorflow-datasets opens an archive."""
    from tensorflow_datasets.core.download.resource import ExtractMethod, guess_extract_method

    files = [info.filename for info in (builder.url_infos or {}).values()]
    uses = {"tf", "tensorflow"} & vars(sys.modules[type(builder).__module__]).keys()
    return bool(uses) or any(
        guess_extract_method(file) is not ExtractMethod.NO_EXTRACT for file in files
    )
