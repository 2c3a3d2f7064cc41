"""Trained weights that are ready for pictures of any classes; no data set is read."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

import maml
from benchmarks.few_shot import CHARACTERS, FewShot
from benchmarks.few_shot_experiment import build, shapes
from benchmarks.harness.checkpoints import meta_params
from benchmarks.weights import read_normalise, read_options
from tasks.batch_norm import flax_apply
from tasks.omniglot import read_drawing
from tasks.pictures import read_image
from tasks.recipes import CLOSED_FORM, with_ways

Pixels = UInt8[np.ndarray, "height width channel"]


class Trained(NamedTuple):
    """Trained weights, and what belongs to them.

    Attributes:
        config: Options of their run, with batch normalisation that does not use the queries.
        read: Reader of a picture, from its path or from its content and `name=`, which its messages
            use, with the preprocessing of the run.
        preprocessing: Description of the preprocessing.
        inner: Inner problem of the trained meta-parameters.
        fit: Function `fit(images, labels) -> maml.Classifier` that adapts to a support set.
    """

    config: FewShot
    read: Callable[..., Pixels]
    preprocessing: str
    inner: maml.Inner
    fit: Callable[..., maml.Classifier]


def load(source: Path, ways: int) -> Trained:
    """Loads weights for a number of classes; no data set is read.

    Args:
        source: File of weights, or folder of a finished run of one seed.
        ways: Number of classes.

    Returns:
        The weights, and what belongs to them.

    Raises:
        ValueError: There are no weights, or weights of several seeds or of fewer classes, or there
            is no mean and deviation of their photographs.
    """
    config = read_options(source)
    if config.batch_norm == "transductive":
        config = replace(config, batch_norm="support")
    read, preprocessing = _reader(config)
    normalise = read_normalise(source)
    if config.dataset not in CHARACTERS and normalise is None:
        raise ValueError(
            f"{source} holds no mean and deviation of its photographs; write it again from its run:"
            " python -m benchmarks.weights FILE --run RUN"
        )
    closed_form = config.algorithm in CLOSED_FORM
    if ways > config.network_ways and not closed_form:
        raise ValueError(
            f"{source} has a trained head of {config.network_ways} classes, which is the most that"
            f" {config.algorithm} can tell apart; got {ways}. Weights of protonet or r2d2 have no"
            " such limit"
        )
    learned = meta_params(source, shapes(config))
    if closed_form:
        learned = with_ways(learned, ways)
    model, *_, algorithm = build(config, ways if closed_form else config.network_ways)
    fit = partial(
        maml.fit_classifier,
        algorithm.learner,
        flax_apply(model, config.batch_norm, evaluating=True),
        learned,
        inner_steps=config.inner_steps,
        normalise=normalise and (np.array(normalise[0]), np.array(normalise[1])),
    )
    return Trained(config, read, preprocessing, algorithm.learner(learned), fit)


def _reader(config: FewShot) -> tuple[Callable[..., Pixels], str]:
    """The reader of a picture, and its description."""
    if config.dataset in CHARACTERS:
        return read_drawing, "28x28 pixels of ink, dark on light paper; colours are dropped"
    size, fit = config.size, config.fit
    return partial(read_image, size=size, fit=fit), f"{size}x{size} pixels in colours, by {fit}"
