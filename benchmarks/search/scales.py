"""Scales on which rewards are shown: accuracies in percent, and perplexities.

Means are always those of rewards, so that a broken reward of 0 has a finite weight; only then are
they shown on a scale.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

Numbers = Float[np.ndarray, "..."]


class Scale(NamedTuple):
    """A scale of rewards.

    Attributes:
        unit: Unit of the values.
        of: Name of the values on an axis.
        show: Function from rewards in percent to values.
        sign: Sign of an improvement, 1 if higher values are better, and -1 if lower ones are.
    """

    unit: str
    of: str
    show: Callable[[Numbers], Numbers]
    sign: int


PERCENT = Scale("%", "reward, %", lambda rewards: rewards, 1)


def perplexity(scale: float) -> Scale:
    """The perplexities of the rewards  c / perplexity^2;  that of a reward of zero is infinite.

    >>> perplexity(80.0).show(np.array([0.2])).round(6).tolist()
    [200.0]
    """

    def show(rewards: Numbers) -> Numbers:
        with np.errstate(divide="ignore"):
            return np.sqrt(100 * scale / np.asarray(rewards, float))

    return Scale("perplexity", "perplexity", show, -1)
