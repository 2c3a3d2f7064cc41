"""Pilot of an architecture search: does the reward distinguish architectures?

Draws some architectures uniformly, meta-trains each of them several times, and reports which part
of the variance of the reward is between architectures (the intraclass correlation).

    python -m benchmarks.architecture_pilot --data data/omniglot
    python -m benchmarks.architecture_pilot --dataset glyphs        # needs no data and no network

The rest of the variance is noise, from which no strategy can learn. Weights that the whole search
space shares are trained too, and the ranks of their rewards are compared with those of training
from scratch. The best agreement that can be expected is that of two trainings from scratch.
"""

from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from scipy import stats

from benchmarks.harness.command_line import launch
from benchmarks.harness.display import track
from benchmarks.harness.files import save_figure, write_json
from benchmarks.harness.folders import options_as_json, script_folder
from benchmarks.harness.hardware import timed
from benchmarks.harness.summary import provenance
from benchmarks.search import children
from benchmarks.search.children import Children
from benchmarks.search.figures import replace_broken
from maml.search import Reward, random_architecture
from tasks.architectures.reward import reward_from_scratch


@dataclass(frozen=True, kw_only=True)
class Pilot(Children):
    """Options of the pilot."""

    space: Literal["macro", "cells"] = "macro"
    """Search space: the convolutional space of 2016 (macro), or that of cells."""
    dataset: Literal["omniglot", "glyphs"] = "omniglot"
    """Data set; glyphs are the characters of matplotlib's fonts, which need no download."""
    architectures: int = 30
    """Number of architectures that are drawn."""
    retrainings: int = 3
    """Number of times that each architecture is meta-trained."""
    shared_steps: int = 500
    """Number of meta-steps of the shared weights; 0 trains none."""
    seed: int = 0
    """Seed of the architectures and of all trainings."""
    out: Path | None = None
    """Folder of `summary.json` and of the figure; None is a new one under results/runs."""

    def __post_init__(self) -> None:
        self.check_options(self.space, self.dataset)


def intraclass_correlation(values: Float[np.ndarray, "architecture retraining"]) -> dict[str, Any]:
    """The intraclass correlation of one-way random effects: the variance between architectures.

        ICC(1) = (B - W) / (B + (R - 1) W)

    with the mean squares B between and W within architectures, and R rewards of each. Its 95%
    interval is that of F = B / W.

    Shrout, Fleiss: Intraclass correlations (Psychological Bulletin, 1979), ICC(1, 1).
    """
    n, repeats = values.shape
    between = repeats * values.mean(1).var(ddof=1)
    within = values.var(axis=1, ddof=1).mean()
    ratio = between / within
    degrees = n - 1, n * (repeats - 1)
    bounds = ratio / stats.f.ppf(0.975, *degrees), ratio * stats.f.ppf(0.975, *degrees[::-1])
    icc, low, high = ((f - 1) / (f + repeats - 1) for f in (ratio, *bounds))
    deviations = {
        "between": float(np.sqrt(max(0.0, between - within) / repeats)),
        "within": float(np.sqrt(within)),
    }
    p = float(stats.f.sf(ratio, *degrees))
    return {"icc": float(icc), "ci95": [float(low), float(high)], "p": p, "std": deviations}


def rank_correlations(
    one: Float[np.ndarray, " n"], other: Float[np.ndarray, " n"]
) -> dict[str, float]:
    """The rank correlations of Spearman and Kendall."""
    pairs = {"spearman": stats.spearmanr(one, other), "kendall": stats.kendalltau(one, other)}
    return {name: float(np.asarray(pair)[0]) for name, pair in pairs.items()}


def measure(config: Pilot) -> dict[str, Any]:
    """Trains every architecture `retrainings` times, and the shared weights once."""
    space, child = children.space_and_network(config.space, config)
    sample, source = children.samplers(config.dataset, config)
    keys = jax.random.split(jax.random.key(config.seed), 4)
    drawn = jax.jit(jax.vmap(partial(random_architecture, space)))
    tokens = drawn(jax.random.split(keys[0], config.architectures))
    call = jax.jit(lambda reward, tokens, key: reward(tokens, key))

    def all_of(reward: Reward, key: jax.Array, about: str) -> list[float]:
        # Each core is a device, whose child networks wait in its queue.
        jobs = zip(tokens, jax.random.split(key, len(tokens)), strict=True)
        rewards = [
            call(*jax.device_put((reward, *job), device))
            for device, job in zip(cycle(jax.devices()), jobs, strict=False)
        ]
        return [float(value) for value in track(rewards, about)]

    scratch = reward_from_scratch(child, sample["train"], sample["held_out"], config.budget)
    first = [jax.device_put((scratch, tokens[0], keys[1]), device) for device in jax.devices()]
    seconds = {"compile": sum(timed(call, *arguments)[1] for arguments in first)}

    def retrain() -> list[list[float]]:
        pairs = enumerate(jax.random.split(keys[1], config.retrainings), 1)
        return [all_of(scratch, k, f"training {n} of {config.retrainings}") for n, k in pairs]

    columns, seconds["scratch"] = timed(retrain)
    rewards = np.array(columns).T
    results: dict[str, Any] = {
        "source": source,
        "tokens": tokens.tolist(),
        "rewards": rewards.tolist(),
        "broken": int((~np.isfinite(rewards)).sum()),
    }
    rewards = replace_broken(rewards)
    results["intraclass"] = intraclass_correlation(rewards)
    mean = rewards.mean(1)
    summaries = {"mean": np.mean, "best": np.max, "worst": np.min}
    results["accuracy"] = {name: float(summary(mean)) for name, summary in summaries.items()}
    results["retrained"] = rank_correlations(rewards[:, 0], rewards[:, 1:].mean(1))
    if config.shared_steps:
        reward, seconds["share"] = timed(children.reward, space, child, sample, config, keys[2])
        values, seconds["shared"] = timed(all_of, reward, keys[3], "shared weights")
        shared = np.array(values)
        results["shared"] = {
            "rewards": shared.tolist(),
            "mean": float(replace_broken(shared).mean()),
        }
        results["shared"] |= rank_correlations(replace_broken(shared), mean)
    trained = rewards.size * max(config.budget.meta_steps, 1)
    results["ms_per_child_and_meta_step"] = 1e3 * seconds["scratch"] / trained
    results["seconds"] = {name: round(value, 1) for name, value in seconds.items()}
    return results


def draw(out: Path, results: dict[str, Any], ways: int) -> Figure:
    """Draws every reward, with the architectures in the order of their means; `pilot.png`."""
    rewards = np.array(results["rewards"])
    order = rewards.mean(1).argsort()
    ratios = (3, 2) if "shared" in results else (3,)
    figure = Figure(figsize=(1.8 * sum(ratios), 4), layout="constrained")
    left, *others = figure.subplots(1, len(ratios), width_ratios=ratios, squeeze=False)[0]
    places = np.arange(len(order))
    left.plot(places, rewards[order], ".", color="tab:blue", alpha=0.6)
    left.plot(places, rewards[order].mean(1), color="tab:blue", label="from scratch, mean")
    left.axhline(1 / ways, color="gray", linestyle=":", label="chance")
    left.set(
        xlabel="architectures, in the order of their means", ylabel="accuracy after adaptation"
    )
    icc, (low, high) = results["intraclass"]["icc"], results["intraclass"]["ci95"]
    left.set_title(f"intraclass correlation {icc:.2f} [{low:.2f}, {high:.2f}]")
    for right in others:
        shared = np.array(results["shared"]["rewards"])
        left.plot(places, shared[order], "x", color="tab:orange", label="shared weights")
        right.plot(rewards.mean(1), shared, "x", color="tab:orange")
        right.set(xlabel="from scratch, mean", ylabel="shared weights")
        right.set_title(f"Spearman {results['shared']['spearman']:.2f}")
    left.legend()
    return save_figure(figure, out / "pilot.png")


def main(config: Pilot) -> dict[str, Any]:
    """Measures, prints the results, writes `summary.json` and draws the figure."""
    out = script_folder("architecture_pilot", config)
    results = measure(config) | {"config": options_as_json(config)}
    write_json(out / "summary.json", results | provenance())
    draw(out, results, config.ways)
    accuracy, correlation = results["accuracy"], results["intraclass"]
    low, high = correlation["ci95"]
    print(
        f"mean accuracy {accuracy['mean']:.3f}, from {accuracy['worst']:.3f} to"
        f" {accuracy['best']:.3f} over architectures; chance {1 / config.ways:.3f}"
    )
    print(
        f"standard deviation between architectures {correlation['std']['between']:.4f}, between"
        f" retrainings {correlation['std']['within']:.4f}; intraclass correlation"
        f" {correlation['icc']:.2f} [{low:.2f}, {high:.2f}]"
    )
    for name in {"retrained", "shared"} & set(results):
        rank = results[name]
        print(f"{name}: Spearman {rank['spearman']:.2f}, Kendall {rank['kendall']:.2f}")
    speed = f"{results['ms_per_child_and_meta_step']:.1f} ms for each child and meta-step"
    print(f"{speed}; seconds: {results['seconds']}")
    print(f"figure: {out / 'pilot.png'}")
    return results


if __name__ == "__main__":
    launch(main, Pilot, __doc__)
