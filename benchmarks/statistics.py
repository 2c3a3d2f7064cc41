"""What several seeds say together, and how numbers that are not finite are told."""

import math
from typing import SupportsFloat

import numpy as np
from scipy import stats


def finite(value: SupportsFloat) -> float | None:
    """The number, or None if it is not finite."""
    return float(value) if math.isfinite(value) else None


def not_finite(values: np.ndarray) -> dict[str, int]:
    """How many numbers are not finite, if any is not.

    >>> not_finite(np.array([1.0, np.nan])), not_finite(np.ones(2))
    ({'not_finite': 1}, {})
    """
    count = int((~np.isfinite(values)).sum())
    return {"not_finite": count} if count else {}


def over_seeds(values: np.ndarray) -> dict[str, float | None]:
    """Mean and 95% confidence interval over seeds of `[seed, task]`; Student's t, None for one.

    They are None where they are not finite; `not_finite` is the number of values to blame.
    """
    with np.errstate(all="ignore"):
        means = values.mean(axis=1)
        count, ci95 = len(means), None
        if count > 1:
            ci95 = finite(stats.t.ppf(0.975, count - 1) * means.std(ddof=1) / count**0.5)
        return {"mean": finite(means.mean()), "ci95": ci95} | not_finite(values)
