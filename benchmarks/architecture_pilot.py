"""Does the reward tell architectures apart? A pilot, before anyone searches.

    python -m benchmarks.architecture_pilot --data data/omniglot
    python -m benchmarks.architecture_pilot --dataset glyphs        # no data, no network

Some architectures are drawn uniformly and each is meta-trained several times. The intraclass
correlation says which part of a reward's variance is the architecture's: the rest is noise that no
strategy can learn from. Weights shared by all of the space are trained as well, and the ranks that
they give are compared with those of training from scratch, whose own agreement is the most that
could be hoped for.
"""

import time
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from rich.progress import track
from scipy import stats

from benchmarks.harness import hardware
from benchmarks.harness.command_line import launch
from benchmarks.harness.files import as_json, write_text
from benchmarks.harness.folders import options_as_json, script_folder
from benchmarks.harness.plot import save_figure
from benchmarks.harness.summaries import command
from benchmarks.search import children
from benchmarks.search.children import Children
from benchmarks.search.figures import replace_broken
from maml.search import Reward, uniform
from tasks.architectures.reward import from_scratch


@dataclass(frozen=True, kw_only=True)
class Pilot(Children):
    """Options of the pilot."""

    space: Literal["macro", "cells"] = "macro"
    """The convolutional space of 2016, or that of cells."""
    dataset: Literal["omniglot", "glyphs"] = "omniglot"
    """Omniglot, or the characters of matplotlib's fonts, which need no download."""
    architectures: int = 30
    """How many are drawn."""
    retrainings: int = 3
    """How often each is meta-trained."""
    shared_steps: int = 500
    """Meta-steps of the shared weights; 0 is none."""
    seed: int = 0
    """Of the architectures and of all training."""
    out: Path | None = None
    """Folder of `summary.json` and of the figure; None is a new one under results/runs."""

    def __post_init__(self) -> None:
        self.check_options(self.space, self.dataset)


def intraclass_correlation(values: Float[np.ndarray, "architecture retraining"]) -> dict[str, Any]:
    """Of one-way random effects: which part of the variance is between architectures.

        ICC(1) = (B - W) / (B + (R - 1) W)

    with the mean squares B between and W within; its 95% interval is that of F = B / W.

    Args:
        values: R rewards of each architecture.

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
    """Spearman's and Kendall's rank correlation."""
    pairs = {"spearman": stats.spearmanr(one, other), "kendall": stats.kendalltau(one, other)}
    return {name: float(np.asarray(found)[0]) for name, found in pairs.items()}


def measure(config: Pilot) -> dict[str, Any]:
    """Trains every child as often as asked for, and the shared weights once."""
    space, child = children.space_and_network(config.space, config)
    sample, source = children.samplers(config.dataset, config)
    keys = jax.random.split(jax.random.key(config.seed), 4)
    drawn = jax.jit(jax.vmap(partial(uniform, space)))
    tokens = drawn(jax.random.split(keys[0], config.architectures))
    call = jax.jit(lambda reward, tokens, key: reward(tokens, key))

    def all_of(reward: Reward, key: jax.Array, about: str) -> list[float]:
        # A core is a device with children of its own: they wait in its queue.
        jobs = zip(tokens, jax.random.split(key, len(tokens)), strict=True)
        found = [
            call(*jax.device_put((reward, *job), device))
            for device, job in zip(cycle(jax.devices()), jobs, strict=False)
        ]
        return [float(value) for value in track(found, description=about)]

    scratch = from_scratch(child, sample["train"], sample["held_out"], config.budget)
    seconds, start = {}, time.perf_counter()
    for device in jax.devices():
        call(*jax.device_put((scratch, tokens[0], keys[1]), device)).block_until_ready()
    seconds["compile"], start = time.perf_counter() - start, time.perf_counter()
    columns = [
        all_of(scratch, key, f"training {number + 1} of {config.retrainings}")
        for number, key in enumerate(jax.random.split(keys[1], config.retrainings))
    ]
    rewards = np.array(columns).T
    seconds["scratch"] = time.perf_counter() - start
    found: dict[str, Any] = {
        "source": source,
        "tokens": tokens.tolist(),
        "rewards": rewards.tolist(),
        "broken": int((~np.isfinite(rewards)).sum()),
    }
    rewards = replace_broken(rewards)
    found["intraclass"] = intraclass_correlation(rewards)
    mean = rewards.mean(1)
    summaries = {"mean": np.mean, "best": np.max, "worst": np.min}
    found["accuracy"] = {name: float(summary(mean)) for name, summary in summaries.items()}
    found["retrained"] = rank_correlations(rewards[:, 0], rewards[:, 1:].mean(1))
    if config.shared_steps:
        start = time.perf_counter()
        reward = children.reward(space, child, sample, config, keys[2])
        seconds["share"], start = time.perf_counter() - start, time.perf_counter()
        shared = np.array(all_of(reward, keys[3], "shared weights"))
        seconds["shared"] = time.perf_counter() - start
        found["shared"] = {"rewards": shared.tolist(), "mean": float(replace_broken(shared).mean())}
        found["shared"] |= rank_correlations(replace_broken(shared), mean)
    trained = rewards.size * max(config.budget.meta_steps, 1)
    found["ms_per_child_and_meta_step"] = 1e3 * seconds["scratch"] / trained
    found["seconds"] = {name: round(value, 1) for name, value in seconds.items()}
    return found


def draw(out: Path, found: dict[str, Any], ways: int) -> Figure:
    """Every reward, architectures in the order of their means; `pilot.png`."""
    rewards = np.array(found["rewards"])
    order = rewards.mean(1).argsort()
    ratios = (3, 2) if "shared" in found else (3,)
    figure = Figure(figsize=(1.8 * sum(ratios), 4), layout="constrained")
    left, *others = figure.subplots(1, len(ratios), width_ratios=ratios, squeeze=False)[0]
    places = np.arange(len(order))
    left.plot(places, rewards[order], ".", color="tab:blue", alpha=0.6)
    left.plot(places, rewards[order].mean(1), color="tab:blue", label="from scratch, mean")
    left.axhline(1 / ways, color="gray", linestyle=":", label="chance")
    left.set(xlabel="architectures, by their mean", ylabel="accuracy after adaptation")
    icc, (low, high) = found["intraclass"]["icc"], found["intraclass"]["ci95"]
    left.set_title(f"intraclass correlation {icc:.2f} [{low:.2f}, {high:.2f}]")
    for right in others:
        shared = np.array(found["shared"]["rewards"])
        left.plot(places, shared[order], "x", color="tab:orange", label="shared weights")
        right.plot(rewards.mean(1), shared, "x", color="tab:orange")
        right.set(xlabel="from scratch, mean", ylabel="shared weights")
        right.set_title(f"Spearman {found['shared']['spearman']:.2f}")
    left.legend()
    return save_figure(figure, out / "pilot.png")


def main(config: Pilot) -> dict[str, Any]:
    """Measures, prints, writes `summary.json` and draws."""
    out = script_folder("architecture_pilot", config)
    found = measure(config) | {"config": options_as_json(config)}
    about = {"command": command(), "device": hardware.device(), "versions": hardware.versions()}
    write_text(out / "summary.json", as_json(found | about, indent=2) + "\n")
    draw(out, found, config.ways)
    accuracy, correlation = found["accuracy"], found["intraclass"]
    low, high = correlation["ci95"]
    print(
        f"accuracy {accuracy['mean']:.3f}, of architectures {accuracy['worst']:.3f} to"
        f" {accuracy['best']:.3f}; chance {1 / config.ways:.3f}"
    )
    print(
        f"deviation between architectures {correlation['std']['between']:.4f}, between retrainings"
        f" {correlation['std']['within']:.4f}; intraclass correlation {correlation['icc']:.2f}"
        f" [{low:.2f}, {high:.2f}]"
    )
    for name in {"retrained", "shared"} & set(found):
        rank = found[name]
        print(f"{name}: Spearman {rank['spearman']:.2f}, Kendall {rank['kendall']:.2f}")
    print(f"{found['ms_per_child_and_meta_step']:.1f} ms a child and meta-step; {found['seconds']}")
    print(f"figure: {out / 'pilot.png'}")
    return found


if __name__ == "__main__":
    launch(main, Pilot, __doc__)
