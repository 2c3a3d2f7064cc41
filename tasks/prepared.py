"""Data sets that tensorflow-datasets has prepared on the disk, read without TensorFlow."""

import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

TIMEOUT = 10.0  # timeout in seconds; tensorflow-datasets alone would retry for minutes


def find_builder(name: str, data_dir: Path | None = None) -> Any:
    """The builder of a data set, which is prepared if its `is_prepared()` says so.

    Args:
        name: Name of the data set, with its configuration and version if others than the default
            are meant, as in "name/config:1.0.0".
        data_dir: Folder of prepared data sets; None is that of tensorflow-datasets.

    Returns:
        The `tfds.core.DatasetBuilder`.

    Raises:
        ValueError: there is no such data set, or its description is damaged.
    """
    import tensorflow_datasets as tfds  # slow to import, and used by few data sets only

    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        similar = get_close_matches(name.partition("/")[0].partition(":")[0], known, 1)
        hint = f" (did you mean {similar[0]}?)" if similar else ""
        raise ValueError(
            f"tensorflow-datasets knows no data set {name!r}{hint}, and none of this name is"
            f" prepared in {data_dir or default_data_dir()}"
        ) from error
    except Exception as error:  # the types raised for damaged descriptions are not public
        location = data_dir or "the data_dir of tensorflow-datasets"
        raise ValueError(f"cannot read the {name} in {location}: {error}") from error


def default_data_dir() -> Path:
    """The folder of prepared data sets: that of the variable TFDS_DATA_DIR, or that of the user."""
    from tensorflow_datasets.core import constants

    return Path(constants.DATA_DIR)


def records(builder: Any, split: str) -> Sequence[dict[str, Any]]:
    """The examples of a split of a prepared data set, in which `image` is an encoded picture."""
    import tensorflow_datasets as tfds

    return builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})


@contextmanager
def name_damage(folder: Path) -> Iterator[None]:
    """A context whose exceptions become a `ValueError` that names a prepared data set."""
    try:
        yield
    except Exception as error:  # different kinds of damage raise different types
        raise ValueError(f"cannot read {folder} as array_record: {error}") from error


def probe(urls: Iterable[str], refusal: str) -> None:
    """Refuses to download from addresses that do not answer.

    Args:
        urls: Addresses.
        refusal: Words with which the message begins.

    Raises:
        ConnectionError: an address gives no answer, or not the file.
    """
    import requests

    answers: queue.Queue[Exception | None] = queue.Queue()

    def ask() -> None:
        try:
            for url in urls:
                with requests.get(url, stream=True, timeout=TIMEOUT / 2) as response:
                    response.raise_for_status()
            answers.put(None)
        except Exception as error:
            answers.put(error)

    # A name server that does not answer takes longer than the timeout of requests; hence a thread.
    threading.Thread(target=ask, daemon=True).start()
    try:
        error = answers.get(timeout=TIMEOUT)
    except queue.Empty:
        error = TimeoutError(f"no answer in {TIMEOUT:g} seconds")
    if error:
        raise ConnectionError(f"{refusal} ({error})") from error
