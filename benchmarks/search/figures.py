"""The figures of a search for architectures: its rewards over its children."""

from itertools import cycle
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from benchmarks.harness.plot import save_figure

TOPS = 5, 25
STYLES = "-", "--", "-.", ":"  # where curves lie on each other, all are seen
Rewards = Float[np.ndarray, "run child"]


def replace_broken(rewards: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """The rewards, of which those that are not finite are 0, or the worst if that is below 0."""
    finite = np.isfinite(rewards)
    return np.where(finite, rewards, rewards[finite].min(initial=0.0))


def mean_of_top(rewards: Rewards, count: int) -> Float[np.ndarray, " child"]:
    """The mean over runs of the mean of the best rewards so far, from the `count`-th child on.

    Rewards that are not finite count as `unbroken` has them.
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
    """The mean of the rewards of all runs and of `width` children that are not broken."""
    sound = np.isfinite(rewards)
    total, count = (
        np.convolve(each.mean(axis=0), np.full(width, 1 / width), mode="valid")
        for each in (np.where(sound, rewards, 0.0), sound)
    )
    return total / np.where(count > 0, count, np.nan)


def draw_running_mean(out: Path, rewards: dict[str, Rewards]) -> Figure:
    """The reward over the children, the mean of runs and of a twentieth of them; `rewards.png`.

    Broken rewards, which are not finite, are left out and counted in the legend.

    Args:
        out: folder.
        rewards: by strategy, percent.
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for style, (name, seen) in zip(cycle(STYLES), rewards.items(), strict=False):
        width = max(1, seen.shape[1] // 20)
        mean, broken = mean_of_finite(seen, width), int((~np.isfinite(seen)).sum())
        label = f"{name} ({broken} broken)" if broken else name
        axes.plot(np.arange(width, seen.shape[1] + 1), mean, style, label=label)
    axes.set(xlabel="children", ylabel="reward of a child, %")
    axes.grid(alpha=0.3)
    axes.legend()
    return save_figure(figure, out / "rewards.png")


def draw_top_means(out: Path, rewards: dict[str, Rewards]) -> Figure:
    """The mean of the best so far, as NASNet's figure 6; `top.png`.

    Args:
        out: folder.
        rewards: by strategy, percent.
    """
    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, count in zip(figure.subplots(1, len(TOPS)), TOPS, strict=True):
        for style, (name, seen) in zip(cycle(STYLES), rewards.items(), strict=False):
            axes.plot(
                np.arange(count, seen.shape[1] + 1), mean_of_top(seen, count), style, label=name
            )
        axes.set(xlabel="children", ylabel=f"mean of the best {count} rewards, %")
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
    return save_figure(figure, out / "top.png")
