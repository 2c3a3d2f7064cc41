"""Figures of architecture searches: rewards over the number of child networks."""

from itertools import cycle
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from benchmarks.harness.files import save_figure

TOPS = 5, 25
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
    rewards = replace_broken(rewards)
    best = np.sort(rewards[:, :count], axis=1)
    means = [best.mean()]
    for reward in rewards.T[count:]:
        best[:, 0] = np.maximum(best[:, 0], reward)
        best.sort(axis=1)
        means.append(best.mean())
    return np.array(means)


def mean_of_finite(rewards: Rewards, width: int) -> Float[np.ndarray, " child"]:
    """The mean of the finite rewards of all runs and of `width` children in a row."""
    finite = np.isfinite(rewards)
    sums = np.where(finite, rewards, 0.0).sum(axis=0), finite.sum(axis=0)
    total, count = (np.convolve(x, np.ones(width), mode="valid") for x in sums)
    return total / np.where(count > 0, count, np.nan)


def draw_running_mean(out: Path, rewards: dict[str, Rewards]) -> Figure:
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
        axes.plot(np.arange(width, values.shape[1] + 1), mean, style, label=label)
    axes.set(xlabel="child networks", ylabel="reward, %")
    axes.grid(alpha=0.3)
    axes.legend()
    return save_figure(figure, out / "rewards.png")


def draw_top_means(out: Path, rewards: dict[str, Rewards]) -> Figure:
    """Draws the mean of the best rewards so far, as figure 6 of NASNet; `top.png`."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, count in zip(figure.subplots(1, len(TOPS)), TOPS, strict=True):
        for style, (name, values) in zip(cycle(STYLES), rewards.items(), strict=False):
            means = mean_of_top(values, count)
            axes.plot(np.arange(count, values.shape[1] + 1), means, style, label=name)
        axes.set(xlabel="child networks", ylabel=f"mean of the best {count} rewards, %")
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
    return save_figure(figure, out / "top.png")
