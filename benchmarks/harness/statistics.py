"""What several seeds say together, and how numbers that are not finite are told."""

import math
from collections.abc import Mapping
from typing import Any, SupportsFloat

import numpy as np
from jaxtyping import ArrayLike
from scipy import stats


def finite(value: SupportsFloat) -> float | None:
    """The number, or None if it is not finite."""
    return float(value) if math.isfinite(value) else None


def not_finite(values: Mapping[str, Mapping[str, ArrayLike]]) -> dict[str, Any]:
    """How many numbers of a result are not finite, by metric and by when, if any is not.

    >>> not_finite({"mse": {"0": np.ones(2), "1": np.array([1.0, np.nan])}})
    {'not_finite': {'mse': {'1': 1}}}
    >>> not_finite({"mse": {"0": np.ones(2)}})
    {}
    """
    counts = {
        metric: {when: int((~np.isfinite(found)).sum()) for when, found in curve.items()}
        for metric, curve in values.items()
    }
    lost = {metric: {w: n for w, n in curve.items() if n} for metric, curve in counts.items()}
    lost = {metric: curve for metric, curve in lost.items() if curve}
    return {"not_finite": lost} if lost else {}


def over_seeds(values: np.ndarray) -> dict[str, float | None]:
    """Mean and 95% confidence interval over seeds of `[seed, task]`; Student's t, None for one.

    What is not finite is None.
    """
    with np.errstate(all="ignore"):
        means = values.mean(axis=1)
        count, ci95 = len(means), None
        if count > 1:
            ci95 = finite(stats.t.ppf(0.975, count - 1) * means.std(ddof=1) / count**0.5)
        return {"mean": finite(means.mean()), "ci95": ci95}
