"""Tiny data sets that tensorflow-datasets prepares in the array_record format."""

import io
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tiny_pictures import BLUE, GREEN, RED, plain

NAMES = ["owl", "cat", "nothing", "dog"]
OTHER_RED = plain((200, 0, 0), (3, 5))
# Split -> label and picture of each example; label -1 is unknown.
EXAMPLES = {
    "train": [(1, plain(RED)), (0, plain(GREEN, (6, 4))), (1, plain(BLUE)), (-1, plain(RED))],
    "test": [(1, plain(RED)), (3, plain(RED)), (1, OTHER_RED), (0, plain(BLUE, format="JPEG"))],
}


def make_builder(
    examples: Any = EXAMPLES, features: dict[str, Any] | None = None
) -> type[tfds.core.GeneratorBasedBuilder]:
    """The builder of a data set of this name, which tensorflow-datasets does not know."""
    if features is None:
        features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=NAMES)}

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "tiny_pictures"
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in examples}

        def _generate_examples(self, split):
            for i, (label, picture) in enumerate(examples[split]):
                example = {"image": io.BytesIO(picture), "label": label}
                yield i, {name: example.get(name, 0) for name in features}

    return Tiny


def write_prepared(data_dir: Path, *args, file_format="array_record") -> Path:
    """The folder of the prepared data set."""
    builder = make_builder(*args)(data_dir=data_dir, file_format=file_format)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )
    return Path(builder.data_path)
