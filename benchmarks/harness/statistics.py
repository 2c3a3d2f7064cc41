"""Means and confidence intervals over tasks and seeds, and counts of values not finite."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, SupportsFloat

import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike
from scipy import stats

import maml

Curve = dict[str, dict[str, float | None]]  # inner step -> {"mean": ..., "ci95": ...}


def finite_or_none(value: SupportsFloat) -> float | None:
    """The number, or None if it is not finite."""
    return float(value) if math.isfinite(value) else None


def count_not_finite(values: Mapping[str, Mapping[str, ArrayLike]]) -> dict[str, Any]:
    """The number of values that are not finite, by metric and inner step; empty if all are finite.

    >>> count_not_finite({"mse": {"0": np.ones(2), "1": np.array([1.0, np.nan])}})
    {'not_finite': {'mse': {'1': 1}}}
    >>> count_not_finite({"mse": {"0": np.ones(2)}})
    {}
    """
    counts = {
        metric: {when: int((~np.isfinite(column)).sum()) for when, column in curve.items()}
        for metric, curve in values.items()
    }
    lost = {metric: {w: n for w, n in curve.items() if n} for metric, curve in counts.items()}
    lost = {metric: curve for metric, curve in lost.items() if curve}
    return {"not_finite": lost} if lost else {}


def student_interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean over the first axis and half of its 95% confidence interval (Student's t)."""
    count = len(values)
    half = stats.t.ppf(0.975, count - 1) * values.std(axis=0, ddof=1) / count**0.5
    return values.mean(axis=0), half


def welch(values: np.ndarray, baseline: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compares the means of two independent samples by Welch's test.

    Args:
        values, baseline: Samples along the first axis, of two values or more each.

    Returns:
        Difference of the means, half of its 95% interval, and two-sided p-value. Two constants have
        an interval of 0, and a p-value of 1 if they are equal and else 0.
    """
    difference = values.mean(axis=0) - baseline.mean(axis=0)
    parts = [x.var(axis=0, ddof=1) / len(x) for x in (values, baseline)]
    variance, certain = parts[0] + parts[1], (parts[0] == 0) & (parts[1] == 0)
    terms = parts[0] ** 2 / (len(values) - 1) + parts[1] ** 2 / (len(baseline) - 1)
    with np.errstate(all="ignore"):  # 0 / 0 for constants
        freedom, error = variance**2 / terms, np.sqrt(variance)
        half = stats.t.ppf(0.975, freedom) * error
        p_value = 2 * stats.t.sf(np.abs(difference) / error, freedom)
    exact = np.where(difference == 0, 1.0, 0.0)
    return difference, np.where(certain, 0.0, half), np.where(certain, exact, p_value)


def mean_over_seeds(values: np.ndarray) -> dict[str, float | None]:
    """Mean and 95% confidence interval (Student's t) over seeds of values `[seed, task]`.

    The interval of one seed is None, and so is a number that is not finite.
    """
    with np.errstate(all="ignore"):
        means = values.mean(axis=1)
        if len(means) == 1:
            return {"mean": finite_or_none(means[0]), "ci95": None}
        mean, ci95 = map(finite_or_none, student_interval(means))
        return {"mean": mean, "ci95": ci95}


def confidence_intervals(
    values: Mapping[str, Mapping[str, np.ndarray]], *, over_tasks: bool
) -> dict[str, Curve]:
    """Mean and 95% confidence interval of each metric after each inner step.

    Args:
        values: Values `[seed, task]` by metric and inner step.
        over_tasks: Whether the interval of one seed is that over its tasks; otherwise it has none.

    Returns:
        Curves by metric; the intervals of several seeds are over their means.
    """
    curves = {}
    for metric, steps in values.items():
        columns = [*steps.values()]
        if over_tasks and len(columns[0]) == 1:
            pairs = curve(np.stack([column[0] for column in columns], axis=1))
            curves[metric] = dict(zip(steps, pairs.values(), strict=True))
        else:
            curves[metric] = {when: mean_over_seeds(column) for when, column in steps.items()}
    return curves


def seed_means(values: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Any]:
    """The mean of each seed, from `[seed, task]` by metric and inner step; empty for one seed.

    >>> seed_means({"mse": {"0": np.array([[1.0, 3.0], [2.0, 2.0]])}})
    {'each_seed': {'mse': {'0': [2.0, 2.0]}}}
    """
    if all(len(column) == 1 for steps in values.values() for column in steps.values()):
        return {}
    means = {
        metric: {
            when: [finite_or_none(mean) for mean in column.mean(axis=1)]
            for when, column in s.items()
        }
        for metric, s in values.items()
    }
    return {"each_seed": means}


def split_seeds(summary: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields the summary of each seed of a run, without intervals; that of one seed as it is."""

    def of_seed(results: dict[str, Any], place: int) -> dict[str, Any]:
        each = results.get("each_seed", {})
        return results | {
            metric: {when: {"mean": means[place], "ci95": None} for when, means in curve.items()}
            for metric, curve in each.items()
        }

    if "each_seed" not in summary:
        yield summary
        return
    for place in range(summary["seeds"]):
        best = {"best": of_seed(summary["best"], place)} if "best" in summary else {}
        own = {"seed": summary["seed"] + place, "seeds": 1}
        yield of_seed(summary, place) | best | own


def curve(values: np.ndarray) -> Curve:
    """Mean and 95% confidence interval over tasks of `[task, step]`; None if a task diverged."""
    pairs = np.stack(maml.mean_ci95(jnp.asarray(values)), axis=-1)
    return {
        str(step): {"mean": finite_or_none(mean), "ci95": finite_or_none(ci95)}
        for step, (mean, ci95) in enumerate(pairs)
    }
