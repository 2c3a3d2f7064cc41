"""Ablation of the components of MAML++ on 20-way 1-shot Omniglot.

Meta-trains with all components, with all but one, and with none, and reports the accuracy that each
of them gains.

    python -m benchmarks.ablation --data FOLDER     # ten minutes for each seed on one core

With three inner steps and two tasks in a meta-step, two cores can train all runs; so the numbers
are to be compared with each other, not with the tables of papers. Finished runs are not repeated,
and an interrupted run is resumed.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure

from benchmarks.few_shot_experiment import experiment
from benchmarks.harness import folders
from benchmarks.harness.bounds import check, check_used
from benchmarks.harness.command_line import launch
from benchmarks.harness.files import NUMBER, TRUTH, save_figure
from benchmarks.harness.statistics import mean_over_seeds
from benchmarks.harness.summary import read_summary, write_summary
from benchmarks.harness.supervised import run_experiment
from benchmarks.harness.tables import interval, print_table
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
FINISHED = {"mean": (NUMBER, None), "interrupted": TRUTH, "seconds": {"train": NUMBER}}
OFF: dict[str, Any] = {
    "learn_rates": False,
    "multi_step": 0,
    "first_order": 0,
    "per_step_norm": False,
    "cosine": False,
}
SCHEDULED = ("meta_steps", "multi_step", "first_order", "steps_per_call")
LABELS = {
    "all": "all components",
    "no learn_rates": "without learned rates",
    "no multi_step": "without multi-step loss",
    "no first_order": "without first-order start",
    "no per_step_norm": "without per-step batch norm",
    "no cosine": "without cosine schedule",
    "none": "none (MAML)",
}
VARIANTS = {"all": {}, **{f"no {name}": {name: off} for name, off in OFF.items()}, "none": OFF}


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """Options of the ablation."""

    data: Path | None = None
    """Folder of Omniglot, as in `benchmarks.omniglot`."""
    out: Path = folders.RESULTS / "runs" / "ablation"
    """Folder of the runs, `summary.json` and `ablation.png`."""
    seeds: int = 3
    """Number of seeds that are trained: 0, 1, ..."""
    meta_steps: int = ALL.meta_steps
    """Number of meta-steps of each run; the schedules shrink with it."""
    dataset: Literal["omniglot", "glyphs"] = "omniglot"
    """Data set; glyphs need no download."""

    def __post_init__(self) -> None:
        check(self)
        calls = ALL.meta_steps // ALL.steps_per_call
        if self.meta_steps % calls or not self.meta_steps:
            raise ValueError(f"meta_steps must be a multiple of {calls}; got {self.meta_steps}")
        check_used(self, ("data",), self.dataset == "omniglot", "dataset omniglot")


def run_variant(options: Ablation, variant: str, seed: int) -> Summary:
    """Runs or resumes the run of a name in `VARIANTS`, unless it is finished.

    Raises:
        SystemExit: The run was interrupted; the same command resumes it.
        ValueError: The folder holds a run of other options.
    """
    out = options.out / "runs" / f"{variant.replace(' ', '-')}-{seed}"
    exists = (out / "log.jsonl").exists()
    shrunk = {n: getattr(ALL, n) * options.meta_steps // ALL.meta_steps for n in SCHEDULED}
    shrunk |= {"dataset": options.dataset, "data": options.data, "out": out, "resume": exists}
    config = replace(ALL, **(shrunk | VARIANTS[variant]), seed=seed)
    finished = (out / "summary.json").exists()
    summary = read_summary(out, FINISHED) if finished else {"interrupted": True}
    if summary["interrupted"]:
        summary = run_experiment(experiment(config), config).summary
    else:
        folders.claim_folder(out, folders.result_options("omniglot", config))
    if summary["interrupted"]:
        raise SystemExit(f"{out} was interrupted; the same command resumes it.")
    return summary


def main(options: Ablation) -> Summary:
    """Runs all missing runs, prints the table and draws the figure."""
    claimed = folders.result_options("ablation", options)
    del claimed["seeds"]  # seeds may be added
    folders.claim_folder(options.out, claimed)
    runs = {
        variant: [run_variant(options, variant, seed) for seed in range(options.seeds)]
        for variant in VARIANTS
    }
    means = {name: [[run["mean"]] for run in seeds] for name, seeds in runs.items()}
    values = {name: np.array(column, float) for name, column in means.items()}  # None is NaN
    variants = {
        name: {
            "accuracy": mean_over_seeds(v),
            "lost": mean_over_seeds(values["all"] - v),
            "seeds": v[:, 0].tolist(),
        }
        for name, v in values.items()
    }
    head = ("MAML++ with", "accuracy, %", "loss against all")
    rows = [
        (name, *(interval(row[key], 100, 2) for key in ("accuracy", "lost")))
        for name, row in variants.items()
    ]
    print_table(head, rows, "20-way 1-shot", left=head)
    seconds = {name: sum(run["seconds"]["train"] for run in seeds) for name, seeds in runs.items()}
    results = {"variants": variants, "seconds": seconds}
    summary = write_summary("ablation", options, options.out, results, record=False)
    draw(options.out, values)
    return summary


def draw(out: Path, values: dict[str, np.ndarray]) -> Figure:
    """Draws the accuracy of each seed and variant, and the means; saved as `ablation.png`."""
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    for place, seeds in enumerate(values.values()):
        axes.plot(100 * seeds, [place] * len(seeds), "o", color="tab:blue", alpha=0.6)
        axes.plot(100 * seeds.mean(), place, "|", color="black", markersize=18)
    axes.set_yticks(range(len(values)), [LABELS[name] for name in values])
    axes.invert_yaxis()
    axes.set_xlabel("test accuracy of each seed, and the mean, %")
    axes.grid(alpha=0.3)
    return save_figure(figure, out / "ablation.png")


if __name__ == "__main__":
    launch(main, Ablation, __doc__)
