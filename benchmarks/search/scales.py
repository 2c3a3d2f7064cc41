"""Scales on which rewards are shown: accuracies in percent, and perplexities."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

Numbers = Float[np.ndarray, "..."]


class Scale(NamedTuple):
    """A scale, on which higher values are better in every computation.

    Attributes:
        unit: Unit of the values.
        of: Quantity that a reward measures, without its unit.
        value: Function from rewards to values.
        sign: Factor of the values when they are shown, -1 where lower ones are better.
    """

    unit: str
    of: str
    value: Callable[[Numbers], Numbers]
    sign: int

    def show(self, values: Numbers) -> Numbers:
        """The values as they are shown."""
        return self.sign * values


def _percent(rewards: Numbers) -> Numbers:
    return 100 * rewards


PERCENT = Scale("%", "reward", _percent, 1)


def perplexity(scale: float) -> Scale:
    """The scale of the rewards  c / perplexity^2,  whose values are perplexities times -1.

    >>> perplexity(80.0).value(np.array([0.002])).round(6).tolist()
    [-200.0]
    """

    def value(rewards: Numbers) -> Numbers:
        with np.errstate(divide="ignore"):  # the perplexity of a reward of zero is infinite
            return -np.sqrt(scale / np.asarray(rewards, float))

    return Scale("perplexity", "perplexity", value, -1)
