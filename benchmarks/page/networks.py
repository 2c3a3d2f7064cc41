"""Trained networks that tell drawings apart, each with one program for support sets of any size.

A support set is filled up to the largest one with images of weight 0, which have no effect. Thus a
network needs one program, which is compiled before the first drawing.
"""

from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Integer, UInt8

import maml
from benchmarks.harness import hardware
from benchmarks.harness.run import matmul_precision
from benchmarks.trained import Pixels, load
from benchmarks.weights import read_options
from maml.types import Params
from tasks.recipes import CLOSED_FORM

CLASSES = 10  # largest number of classes
DRAWINGS = 5  # largest number of drawings of a class
COLUMNS = 6  # largest number of answers of a network, after different numbers of inner steps

Support = Sequence[Sequence[Pixels]]  # drawings of each class
Probabilities = Float[np.ndarray, "step class"]


class Network(NamedTuple):
    """A trained network.

    Attributes:
        name: Name of its file of weights.
        classes: Largest number of classes that it tells apart.
        steps: Numbers of inner steps after which it answers.
        shape: Shape of a drawing, `[height, width, channel]`.
        read: Reader of a picture, from its content and `name=`, which its messages use.
        program: Compiled function `(support, labels, weights, query) -> [step, class]`.
    """

    name: str
    classes: int
    steps: list[int]
    shape: tuple[int, int, int]
    read: Callable[..., Pixels]
    program: Callable[..., Probabilities]


def open_network(source: Path) -> Network:
    """Loads weights, and compiles their program.

    Heads in closed form have one answer. Others answer after 0, 1, ..., K inner steps, with K the
    number in their evaluation; if that is large, some numbers in between are left out.

    Args:
        source: File of weights, or folder of a finished run of one seed.

    Returns:
        The network.

    Raises:
        ValueError: There are no weights.
    """
    options = read_options(source)
    closed_form = options.algorithm in CLOSED_FORM
    classes = CLASSES if closed_form else min(CLASSES, options.network_ways)
    trained = load(source, classes)
    last = max(options.inner_steps, options.eval_steps)
    steps = np.unique(np.linspace(0, last, min(last + 1, COLUMNS)).round()).astype(int).tolist()
    steps = [options.inner_steps] if closed_form else steps

    def answer(
        support: UInt8[Array, "m h w c"],
        labels: Integer[Array, " m"],
        weights: Float[Array, " m"],
        query: UInt8[Array, "h w c"],
    ) -> Float[Array, "step class"]:
        start = trained.fit(support, labels, weights=weights, inner_steps=0)

        def probe(params: Params) -> Float[Array, " class"]:
            return start._replace(params=params).predict_proba(query)

        batch = start.support, labels, weights
        answers = maml.adapt(trained.inner, batch, jax.random.key(0), steps[-1], probe=probe)[1]
        return answers[np.array(steps)]

    compiled = jax.jit(answer)

    def program(*arguments: np.ndarray) -> Probabilities:
        with matmul_precision(hardware.precision(options.precision)):
            return np.asarray(compiled(*arguments))

    shape, blank = options.image, np.zeros(options.image, np.uint8)
    network = Network(source.stem, classes, steps, shape, trained.read, program)
    probabilities(network, [[blank], [blank]], blank)
    return network


def probabilities(network: Network, support: Support, query: Pixels) -> Probabilities:
    """The probabilities of the classes of one drawing, after each number of inner steps.

    Args:
        network: Network.
        support: Drawings of each class, at least one of each.
        query: Drawing to classify.

    Returns:
        The probabilities, `[step, class]`.

    Raises:
        ValueError: The classes are fewer than two or more than the network tells apart, or a class
            has no drawing or too many.
    """
    if not 2 <= len(support) <= network.classes:
        raise ValueError(
            f"{network.name} tells 2 to {network.classes} characters apart; got {len(support)}"
        )
    counts = [len(drawings) for drawings in support]
    if not all(1 <= count <= DRAWINGS for count in counts):
        raise ValueError(f"a character needs 1 to {DRAWINGS} drawings; got {counts}")
    size, total = network.classes * DRAWINGS, sum(counts)
    filled = np.zeros((size, *network.shape), np.uint8)
    filled[:total] = list(chain.from_iterable(support))
    labels = np.pad(np.repeat(np.arange(len(support)), counts), (0, size - total))
    weights = np.float32(np.arange(size) < total)
    return network.program(filled, labels, weights, query)[:, : len(support)]
