"""Figures of architecture searches: rewards over the number of child networks."""

from itertools import cycle
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from benchmarks.harness.files import save_figure
from benchmarks.harness.statistics import student_interval, welch
from benchmarks.search.scales import PERCENT, Scale

TOPS = 5, 25
GAINS = 1, 5, 15
STYLES = "-", "--", "-.", ":"  # which keep curves on top of each other visible
Rewards = Float[np.ndarray, "run child"]


def replace_broken(rewards: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Replaces rewards that are not finite by 0, or by the worst reward if that is below 0."""
    finite = np.isfinite(rewards)
    return np.where(finite, rewards, rewards[finite].min(initial=0.0))


def mean_of_top(rewards: Rewards, count: int) -> Float[np.ndarray, " child"]:
    """The mean over runs of the mean of the best `count` rewards so far, from that child on.

    Rewards that are not finite count as in `replace_broken`.
    """
    return tops_of_runs(rewards, count).mean(axis=0)


def tops_of_runs(rewards: Rewards, count: int) -> Rewards:
    """The mean of the best `count` rewards so far of each run, from that child on."""
    rewards = replace_broken(rewards)
    best = np.sort(rewards[:, :count], axis=1)
    means = [best.mean(axis=1)]
    for reward in rewards.T[count:]:
        best[:, 0] = np.maximum(best[:, 0], reward)
        best.sort(axis=1)
        means.append(best.mean(axis=1))
    return np.stack(means, axis=1)


def gain_over_random(
    rewards: dict[str, Rewards], name: str, count: int, scale: Scale, *, paired: bool
) -> tuple[Float[np.ndarray, " child"], Float[np.ndarray, " child"]]:
    """How much better the mean of the best `count` is than that of random search.

    Args:
        rewards: Rewards by strategy, in percent.
        name: Name of the strategy.
        count: Number of the best rewards.
        scale: Scale on which they are shown.
        paired: Whether the strategies of a run have shared weights in common. The interval is then
            that of the differences in each run; otherwise it is Welch's, of independent samples.

    Returns:
        Difference of the means over runs, and half of its 95% interval, from child `count` on. Both
        are NaN as long as the best of a run are infinite on the scale.
    """
    tops = (scale.show(tops_of_runs(rewards[which], count)) for which in (name, "random"))
    ours, base = (np.where(np.isfinite(top), top, np.nan) for top in tops)
    mean, half = student_interval(ours - base) if paired else welch(ours, base)[:2]
    return scale.sign * mean, half


def mean_of_finite(rewards: Rewards, width: int) -> Float[np.ndarray, " child"]:
    """The mean of the finite rewards of all runs and of `width` children in a row."""
    finite = np.isfinite(rewards)
    sums = np.where(finite, rewards, 0.0).sum(axis=0), finite.sum(axis=0)
    total, count = (np.convolve(x, np.ones(width), mode="valid") for x in sums)
    return total / np.where(count > 0, count, np.nan)


def draw_running_mean(out: Path, rewards: dict[str, Rewards], scale: Scale = PERCENT) -> Figure:
    """Draws the reward over the children, a mean of all runs and of a window; `rewards.png`.

    The window is a twentieth of the children. Broken rewards, which are not finite, are left out
    and counted in the legend.
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for style, (name, values) in zip(cycle(STYLES), rewards.items(), strict=False):
        width = max(1, values.shape[1] // 20)
        mean, broken = mean_of_finite(values, width), int((~np.isfinite(values)).sum())
        label = f"{name} ({broken} broken)" if broken else name
        shown = scale.show(mean)
        axes.plot(np.arange(width, values.shape[1] + 1), shown, style, label=label)
    axes.set(xlabel="child networks", ylabel=scale.of)
    axes.grid(alpha=0.3)
    axes.legend()
    return save_figure(figure, out / "rewards.png")


def draw_top_means(out: Path, rewards: dict[str, Rewards], scale: Scale = PERCENT) -> Figure:
    """Draws the mean of the best rewards so far, as figure 6 of NASNet; `top.png`."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, count in zip(figure.subplots(1, len(TOPS)), TOPS, strict=True):
        for style, (name, values) in zip(cycle(STYLES), rewards.items(), strict=False):
            means = scale.show(mean_of_top(values, count))
            axes.plot(np.arange(count, values.shape[1] + 1), means, style, label=name)
        axes.set(xlabel="child networks", ylabel=f"{scale.of}, mean of the best {count}")
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
    return save_figure(figure, out / "top.png")


def draw_gains(
    out: Path, rewards: dict[str, Rewards], scale: Scale = PERCENT, *, paired: bool = False
) -> Figure:
    """Draws how much better the best are than with random search, as Zoph and Le; `gains.png`.

    A line is `gain_over_random`, and a band is its 95% confidence interval.
    The axes leave out extremes of the first child networks, which may have diverged.
    """
    names = [name for name in rewards if name != "random"]
    figure = Figure(figsize=(4 * len(GAINS), 4), layout="constrained")
    row, shown = figure.subplots(1, len(GAINS), sharey=True), [0.0]
    for axes, count in zip(row, GAINS, strict=True):
        for style, name in zip(cycle(STYLES), names, strict=False):
            mean, half = gain_over_random(rewards, name, count, scale, paired=paired)
            steps = np.arange(count, count + len(mean))
            (line,) = axes.plot(steps, mean, style, label=name)
            color = line.get_color()
            axes.fill_between(steps, mean - half, mean + half, color=color, alpha=0.15, lw=0)
            for edge in (mean - half, mean + half):
                shown.extend(edge[steps >= min(max(TOPS), steps[-1])])
        axes.axhline(0, color="gray", lw=0.8)
        axes.set(xlabel="child networks", title=f"mean of the best {count}")
        axes.grid(alpha=0.3)
    row[0].set_ylabel(f"gain over random search, {scale.unit}")
    shown = np.array(shown)[np.isfinite(shown)]
    if np.ptp(shown):
        margin = 0.1 * np.ptp(shown)
        row[0].set_ylim(shown.min() - margin, shown.max() + margin)
    if names:
        row[0].legend()
    return save_figure(figure, out / "gains.png")
