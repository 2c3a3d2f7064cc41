"""What each remedy of MAML++ is worth: all of them, all but one, and none; 20-way 1-shot Omniglot.

    python -m benchmarks.ablation --data FOLDER     # half an hour a seed

Three inner steps and two tasks a meta-step, so that two cores can train it often enough; numbers
are to be compared with each other, and not with the tables of papers. Runs that are there already
are not run again, and a killed one goes on.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from benchmarks.few_shot import experiment
from benchmarks.harness import folders, summaries
from benchmarks.harness.bounds import check, check_used
from benchmarks.harness.command_line import launch
from benchmarks.harness.plot import save_figure
from benchmarks.harness.schemas import FINISHED
from benchmarks.harness.statistics import over_seeds
from benchmarks.harness.supervised import run
from benchmarks.omniglot import PAPER
from benchmarks.report.published import Summary

ALL = replace(
    PAPER,
    preset="ablation-20-way-1-shot",
    algorithm="maml++",
    ways=20,
    inner_rate=0.5,
    inner_steps=3,
    learn_rates=True,
    multi_step=250,
    first_order=250,
    per_step_norm=True,
    cosine=True,
    meta_batch=2,
    meta_steps=1000,
    steps_per_call=125,
    val_tasks=0,
    eval_tasks=1000,
    eval_steps=3,
)
OFF: dict[str, Any] = {
    "learn_rates": False,
    "multi_step": 0,
    "first_order": 0,
    "per_step_norm": False,
    "cosine": False,
}
SCHEDULED = ("meta_steps", "multi_step", "first_order", "steps_per_call")
VARIANTS = {"all": {}, **{f"no {name}": {name: off} for name, off in OFF.items()}, "none": OFF}


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """Options of the ablation."""

    data: Path | None = None
    """Folder of Omniglot, as that of `benchmarks.omniglot`."""
    out: Path = folders.RESULTS / "runs" / "ablation"
    """Where the runs, `summary.json` and `ablation.png` are written."""
    seeds: int = 3
    """How many are trained: 0, 1, ..."""
    meta_steps: int = ALL.meta_steps
    """Of each run; the schedules shrink with them."""
    dataset: Literal["omniglot", "glyphs"] = "omniglot"
    """Or glyphs, which need no data."""

    def __post_init__(self) -> None:
        check(self)
        calls = ALL.meta_steps // ALL.steps_per_call
        if self.meta_steps % calls or not self.meta_steps:
            raise ValueError(f"meta_steps must be a multiple of {calls}; got {self.meta_steps}")
        check_used(self, ("data",), self.dataset == "omniglot", "dataset omniglot")


def run_variant(options: Ablation, variant: str, seed: int) -> Summary:
    """Of a run that is run, or resumed, unless it is there.

    Raises:
        SystemExit: it was interrupted; the same command goes on with it.
        ValueError: the folder holds a run of other options.
    """
    out = options.out / "runs" / f"{variant.replace(' ', '-')}-{seed}"
    begun = (out / "log.jsonl").exists()
    shrunk = {n: getattr(ALL, n) * options.meta_steps // ALL.meta_steps for n in SCHEDULED}
    shrunk |= {"dataset": options.dataset, "data": options.data, "out": out, "resume": begun}
    config = replace(ALL, **(shrunk | VARIANTS[variant]), seed=seed)
    ended = (out / "summary.json").exists()
    found = summaries.read_summary(out, FINISHED) if ended else {"interrupted": True}
    if found["interrupted"]:
        found = run(experiment(config), config).summary
    else:
        folders.claim_folder(out, folders.result_options("omniglot", config))
    if found["interrupted"]:
        raise SystemExit(f"{out} was interrupted; the same command goes on with it.")
    return found


def main(options: Ablation) -> Summary:
    """Runs what is missing, prints the table, draws the figure."""
    wanted = folders.result_options("ablation", options)
    del wanted["seeds"]  # others may be added
    folders.claim_folder(options.out, wanted)
    runs = {
        variant: [run_variant(options, variant, seed) for seed in range(options.seeds)]
        for variant in VARIANTS
    }
    means = {name: [[run["mean"]] for run in found] for name, found in runs.items()}
    values = {name: np.array(of_seeds, float) for name, of_seeds in means.items()}  # None is NaN
    variants = {
        name: {
            "accuracy": over_seeds(v),
            "lost": over_seeds(values["all"] - v),
            "seeds": v[:, 0].tolist(),
        }
        for name, v in values.items()
    }
    table = Table("MAML++ with", "accuracy, %", "lost beside all of it", title="20-way 1-shot")
    for name, row in variants.items():
        table.add_row(name, *(_percent(row[part]) for part in ("accuracy", "lost")))
    Console().print(table)
    seconds = {name: sum(run["seconds"]["train"] for run in found) for name, found in runs.items()}
    found = {"variants": variants, "seconds": seconds}
    summary = summaries.write_summary("ablation", options, options.out, found, record=False)
    draw(options.out, values)
    return summary


def _percent(value: dict[str, float | None]) -> str:
    if value["mean"] is None:
        return "diverged"
    return " ± ".join(f"{100 * x:.2f}" for x in (value["mean"], value["ci95"]) if x is not None)


def draw(out: Path, values: dict[str, np.ndarray]) -> Figure:
    """Each seed of each variant, and their means; `ablation.png`."""
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    for place, seeds in enumerate(values.values()):
        axes.plot(100 * seeds, [place] * len(seeds), "o", color="tab:blue", alpha=0.6)
        axes.plot(100 * seeds.mean(), place, "|", color="black", markersize=18)
    axes.set_yticks(range(len(values)), list(values))
    axes.invert_yaxis()
    axes.set_xlabel("test accuracy, %: each seed, and the mean")
    axes.grid(alpha=0.3)
    return save_figure(figure, out / "ablation.png")


if __name__ == "__main__":
    launch(main, Ablation, __doc__)
