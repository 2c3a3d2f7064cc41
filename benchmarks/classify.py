"""Classes for pictures of your own, from trained weights and a folder of examples.

Adapts the weights to the pictures of a folder, prints the probability of each class for every other
picture, and draws a figure. No data set is needed.

    python -m benchmarks.classify WEIGHTS --support FOLDER --query FILE FILE ...

The folder holds one folder for each class, with one picture or more. Weights of drawings read dark
ink on light paper. Batch normalisation never uses the queries, so each is answered as if alone.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import tyro
from jaxtyping import Float

import maml
from benchmarks.harness import folders, hardware
from benchmarks.harness.bounds import check
from benchmarks.harness.command_line import launch
from benchmarks.harness.run import matmul_precision
from benchmarks.harness.tables import print_table
from benchmarks.report import figures
from benchmarks.trained import load
from tasks.image_files import open_pictures


@dataclass(frozen=True, kw_only=True)
class Classify:
    """Options of the command."""

    weights: tyro.conf.Positional[Path]
    """File of weights, which `benchmarks.weights` wrote."""
    support: Path
    """Folder with one folder of pictures for each class, at least two."""
    query: tuple[Path, ...]
    """Files of the pictures to classify."""
    out: Path | None = None
    """Folder of the figure; None is a new one under results/runs."""

    def __post_init__(self) -> None:
        check(self)
        if not self.support.is_dir():
            raise ValueError(f"support must be a folder of classes; got {self.support}")


class Classified(NamedTuple):
    """The folder of the figure, the names of the classes, and their probabilities."""

    out: Path
    names: list[str]
    probabilities: Float[np.ndarray, "query class"]


def main(options: Classify) -> Classified:
    """Classifies the pictures, prints the table and draws the figure.

    Raises:
        ValueError: A picture, the folder or the weights are refused.
    """
    with open_pictures(options.support) as pictures:
        files = {n: [options.support / p for p in paths] for n, paths in pictures.classes.items()}
    names = list(files)
    if len(names) < 2:
        raise ValueError(f"{options.support} must hold 2 classes or more; got {names[0]!r} alone")
    trained = load(options.weights, len(names))
    support = {name: [trained.read(file) for file in files[name]] for name in names}
    queries = [trained.read(file) for file in options.query]
    out = folders.script_folder("classify", options)
    images = np.stack([image for images in support.values() for image in images])
    labels = np.repeat(np.arange(len(names)), [len(images) for images in support.values()])
    with matmul_precision(hardware.precision(trained.config.precision)):
        classifier = jax.jit(trained.fit)(images, labels)
        answers = jax.jit(maml.Classifier.predict_proba)(classifier, np.stack(queries))
    probabilities = np.asarray(answers)[:, : len(names)]
    print(f"Pictures become {trained.preprocessing}.")
    rows = [
        [str(file), names[p.argmax()], *(f"{100 * value:.1f}" for value in p)]
        for file, p in zip(options.query, probabilities, strict=True)
    ]
    head = ["file", "class", *(f"{name}, %" for name in names)]
    words = f"{options.weights.name}, {trained.config.algorithm}"
    print_table(head, rows, words, left=head[:2])
    floats = {name: [image / 255 for image in images] for name, images in support.items()}
    figures.classified(out, floats, [image / 255 for image in queries], probabilities)
    return Classified(out, names, probabilities)


if __name__ == "__main__":
    launch(main, Classify, __doc__)
