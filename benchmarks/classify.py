"""Classes for pictures of your own, from trained weights and a folder of examples.

Adapts the weights to the pictures of a folder, prints the probability of each class for every other
picture, and draws a figure. No data set is needed.

    python -m benchmarks.classify WEIGHTS --support FOLDER --query FILE FILE ...

WEIGHTS are files of `benchmarks.weights` or folders of finished runs; of several, the mean of their
probabilities is the answer. The support set is a folder or zip with one folder of pictures for each
class. Weights of drawings read dark ink on light paper. Batch normalisation never uses the queries,
so each is answered as if alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from zipfile import is_zipfile

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
from benchmarks.trained import Pixels, Trained, load
from tasks.image_files import open_pictures


@dataclass(frozen=True, kw_only=True)
class Classify:
    """Options of the command."""

    weights: tyro.conf.Positional[tuple[Path, ...]]
    """Files of weights, which `benchmarks.weights` wrote, or folders of finished runs; the
    probabilities of several are averaged."""
    support: Path
    """Folder or zip with one folder of pictures for each class, at least two."""
    query: tuple[Path, ...]
    """Files of the pictures to classify."""
    out: Path | None = None
    """Folder of the figure; None is a new one under results/runs."""

    def __post_init__(self) -> None:
        check(self)
        if not (self.support.is_dir() or is_zipfile(self.support)):
            raise ValueError(f"support must be a folder or a zip of classes; got {self.support}")
        if missing := [file for file in self.query if not file.exists()]:
            raise ValueError(f"query must be files of pictures; there is no {missing[0]}")


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
        names = list(pictures.classes)
        if len(names) < 2:
            raise ValueError(
                f"{options.support} must hold 2 classes or more; got {names[0]!r} alone"
            )
        models = [load(source, len(names)) for source in options.weights]
        supports = [
            [
                [model.read(pictures.read(w), name=str(options.support / w)) for w in files]
                for files in pictures.classes.values()
            ]
            for model in models
        ]
    queries = [[model.read(file) for file in options.query] for model in models]
    out = folders.script_folder("classify", options)
    answers = [*map(answer, models, supports, queries)]
    probabilities = np.mean(answers, axis=0)
    for preprocessing in dict.fromkeys(model.preprocessing for model in models):
        print(f"Pictures become {preprocessing}.")
    rows = [
        [file, names[p.argmax()], *(f"{100 * value:.1f}" for value in p)]
        for file, p in zip(short_names(options.query), probabilities, strict=True)
    ]
    head = ["file", "class", *(f"{name}, %" for name in names)]
    sources = zip(options.weights, models, strict=True)
    title = "; ".join(f"{source.name}, {model.config.algorithm}" for source, model in sources)
    print_table(head, rows, title, left=head[:2])
    shown = {n: [x / 255 for x in images] for n, images in zip(names, supports[0], strict=True)}
    figures.classified(out, shown, [x / 255 for x in queries[0]], probabilities)
    return Classified(out, names, probabilities)


def short_names(files: Sequence[Path]) -> list[str]:
    """The names of the files, or their paths if two have one name.

    >>> short_names([Path("a/1.png"), Path("b/2.png")]), short_names([Path("a/1"), Path("b/1")])
    (['1.png', '2.png'], ['a/1', 'b/1'])
    """
    names = [file.name for file in files]
    return names if len({*names}) == len(names) else [str(file) for file in files]


def answer(
    model: Trained, support: list[list[Pixels]], queries: list[Pixels]
) -> Float[np.ndarray, "query class"]:
    """The probabilities of the classes for each query, from the pictures of each class."""
    images = np.stack([image for images in support for image in images])
    labels = np.repeat(np.arange(len(support)), [len(images) for images in support])
    with matmul_precision(hardware.precision(model.config.precision)):
        classifier = jax.jit(model.fit)(images, labels)
        answers = jax.jit(maml.Classifier.predict_proba)(classifier, np.stack(queries))
    return np.asarray(answers)[:, : len(support)]


if __name__ == "__main__":
    launch(main, Classify, __doc__)
