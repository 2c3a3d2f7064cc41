"""What several seeds say together."""

import numpy as np
from scipy import stats


def over_seeds(values: np.ndarray) -> dict[str, float | None]:
    """Mean and 95% confidence interval over seeds of `[seed, task]`; Student's t, None for one."""
    means = values.mean(axis=1)
    count, ci95 = len(means), None
    if count > 1:
        ci95 = float(stats.t.ppf(0.975, count - 1) * means.std(ddof=1) / count**0.5)
    return {"mean": float(means.mean()), "ci95": ci95}
