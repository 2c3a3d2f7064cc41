"""Trained meta-parameters as small files, and their evaluation.

Evaluates the meta-parameters of a file, or the ensemble of several files, on test tasks; or writes
the file of a run.

    python -m benchmarks.weights results/weights/NAME.npz --data FOLDER     # evaluates a file
    python -m benchmarks.weights results/weights/NAME.npz --ways 5 ...      # with fewer classes
    python -m benchmarks.weights FILE FILE FILE --data FOLDER               # an ensemble
    python -m benchmarks.weights NAME.npz --run RUN                         # writes a file

A file holds half-precision arrays by path and the options of their run, with the preprocessing of
its images, and nothing that is executed. Accuracies are those of the rounded arrays. Target: the
results of the runs, which docs/results.md lists.
"""

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.few_shot import FewShot
from benchmarks.few_shot_experiment import experiment, shapes
from benchmarks.harness import folders, supervised
from benchmarks.harness.bounds import check, check_used
from benchmarks.harness.checkpoints import meta_params
from benchmarks.harness.command_line import launch
from benchmarks.harness.files import COUNT, NUMBER, TEXT, check_schema, parse_json
from benchmarks.harness.hardware import timed
from benchmarks.harness.renamed import config_of_today
from benchmarks.harness.run import headline_entries, matmul_precision
from benchmarks.harness.stored import latest, read_arrays, write_arrays
from benchmarks.harness.study import stack
from benchmarks.harness.summary import read_summary, write_summary
from benchmarks.harness.supervised import Experiment
from benchmarks.report import tables
from maml.tree import leaves_by_path
from maml.types import MetaParams

OPTIONS = "options"  # name of the options among the arrays
NORMALISE = "normalise"  # name of the mean and deviation of each channel among the options
PATHS = "data", "out", "start_from"  # options that are paths
# Options of the run that the evaluation changes.
CHANGES = "data", "ways", "shots", "within_alphabet", "eval_tasks", "eval_steps"


def save_weights(path: Path, learned: MetaParams, config: dict[str, Any]) -> None:
    """Writes meta-parameters and the options of their run, completely or not at all.

    Raises:
        ValueError: The file exists and does not hold weights.
    """
    if path.exists():
        read_options(path)
    arrays = {name: _rounded(np.asarray(leaf)) for name, leaf in leaves_by_path(learned).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_arrays(path, **arrays, **{OPTIONS: json.dumps(config)})


def _rounded(leaf: np.ndarray) -> np.ndarray:
    """Rounds a leaf to half precision, unless finite numbers would become infinite."""
    if leaf.dtype.kind != "f":
        return leaf
    with np.errstate(over="ignore"):
        half = leaf.astype(np.float16)
    return half if (np.isfinite(half) == np.isfinite(leaf)).all() else leaf


def read_options(source: Path) -> FewShot:
    """Reads the options of a finished run, from its folder or from a file of its weights.

    Raises:
        ValueError: The file does not hold weights, or the run is not one of few-shot learning, has
            several seeds, is not finished, or has a checkpoint of another step than its summary.
    """
    config = _config(_stored_options(source), source)
    if config.seeds > 1:
        raise ValueError(f"weights are those of one seed; got {source} with {config.seeds} seeds")
    return config


def read_normalise(source: Path) -> tuple[list[float], list[float]] | None:
    """Reads the mean and standard deviation of each channel that the images of a run had.

    They are None for drawings, and in files that were written before they were stored.

    Raises:
        ValueError: As `read_options`, or they are not two lists of numbers.
    """
    options = _stored_options(source)
    check_schema(options, {NORMALISE: ([[NUMBER]], None)}, f"{OPTIONS} of {source}")
    pair = options.get(NORMALISE)
    if pair is not None and len(pair) != 2:
        raise ValueError(f"{source}: {NORMALISE} must be a mean and a deviation; got {pair!r:.99}")
    return pair and (pair[0], pair[1])


def _stored_options(source: Path) -> dict[str, Any]:
    """The options of a run with the normalisation of its images, as JSON values."""
    if not source.is_dir():
        text = read_arrays(source, OPTIONS)[OPTIONS]
        return parse_json(str(text), {}, f"{OPTIONS} of {source}")
    summary = read_summary(source, {"meta_steps": COUNT, "config": {}})
    step = int(latest(source / "checkpoints").name)
    if step != summary["meta_steps"]:
        raise ValueError(
            f"the summary of {source} is that of {summary['meta_steps']} meta-steps, but its last"
            f" checkpoint that of {step}; finish the run with --resume"
        )
    return summary["config"] | {NORMALISE: summary.get(NORMALISE)}


def load_trained(*files: Path, **changes: Any) -> tuple[Experiment, FewShot, MetaParams]:
    """Loads a file: the experiment of its run, the options with changes, and meta-parameters.

    Several files, whose options differ in their seed alone, are an ensemble.

    Raises:
        ValueError: Another option differs, or a file does not hold weights.
    """
    first, *others = map(read_options, files)
    for file, other in zip(files[1:], others, strict=True):
        if replace(other, seed=first.seed) != first:
            raise ValueError(
                f"{file} and {files[0]} must differ in the seed alone; other options differ"
            )
    config = replace(first, **changes)
    few_shot = experiment(config, members=len(files))
    like = shapes(config)
    members = [meta_params(file, like) for file in files]
    return few_shot, config, stack(members) if others else members[0]


def _config(stored: dict[str, Any], source: Path) -> FewShot:
    """The options that a JSON object holds; others than those of today are left out.

    An option that is null has its default, whatever that is today.
    """
    known = {field.name for field in fields(FewShot)}
    check_schema(stored, dict.fromkeys(PATHS, (TEXT, None)), source)
    stored = config_of_today(stored)
    values = {name: stored[name] for name in known & stored.keys() if stored[name] is not None}
    values |= {name: Path(values[name]) for name in PATHS if name in values}
    values |= {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    try:
        return FewShot(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{source} holds no options of few-shot learning: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Options of the command."""

    files: tyro.conf.Positional[tuple[Path, ...]]
    """Files of weights; several, of runs that differ in their seed alone, are an ensemble."""
    run: Path | None = None
    """Folder of a run whose last checkpoint is written to the file; None evaluates the files."""
    data: Path | None = None
    """Folder of Omniglot, as in `benchmarks.omniglot`."""
    ways: int | None = None
    """Number of classes in an episode; None is as in the run. Closed-form heads alone can have
    fewer classes than in meta-training."""
    shots: int | None = None
    """Number of support images for each class; None is as in the run."""
    within_alphabet: bool | None = None
    """Draw all classes of an episode from one alphabet; None is as in the run."""
    eval_tasks: int = 10_000
    """Number of test tasks."""
    eval_steps: int | None = None
    """Number of inner steps of the evaluation; None is as in the run."""
    out: Path | None = None
    """Folder of the summary; None is a new one under results/runs."""
    record: bool = False
    """Add the summary to results/*.jsonl."""

    def __post_init__(self) -> None:
        check(self)
        if self.run and len(self.files) > 1:
            raise ValueError(f"files must be one with --run; got {len(self.files)}")
        names = *CHANGES, "out", "record"
        check_used(self, names, self.run is None, "an evaluation, and --run writes a file")


def main(options: Weights) -> None:
    """Writes a file; or evaluates one or the ensemble of several, and prints the table."""
    files = options.files
    file = files[0]
    if options.run:
        write_weights(file, options.run)
        return
    changes = {name: getattr(options, name) for name in CHANGES}
    changes = {name: value for name, value in changes.items() if value is not None}
    if options.ways and options.ways != (before := read_options(file)).ways:
        changes["train_ways"] = before.train_ways or before.ways
    few_shot, config, learned = load_trained(*files, **changes)
    out = folders.script_folder(f"weights-{file.stem}", options)
    results: dict[str, Any] = {"preset": config.preset, "seed": config.seed}
    results |= {"seeds": len(files)} if len(files) > 1 else {}
    with matmul_precision(few_shot.precision):
        measured, seconds = timed(supervised.evaluate_on_test, few_shot, config, learned)
    results |= measured | few_shot.facts
    results |= {"meta_steps": config.meta_steps, "tasks": config.eval_tasks}
    results |= {"seconds": {"evaluate": seconds}, "weights": [path.name for path in files]}
    when = min(config.inner_steps, config.eval_steps)
    results |= headline_entries(results, few_shot.headline, when)
    tables.show(write_summary(few_shot.name, config, out, results, record=options.record))


def write_weights(file: Path, run: Path) -> None:
    """Writes the meta-parameters of a run's last checkpoint to a file.

    Raises:
        ValueError: `read_options` refuses the run, or the file exists and does not hold weights.
    """
    config = read_options(run)
    params = meta_params(run, shapes(config))
    reset = dict.fromkeys(PATHS) | {"resume": False, "record": False}
    reset |= {NORMALISE: read_normalise(run)}
    save_weights(file, params, folders.options_as_json(config) | reset)
    print(f"{file}: {file.stat().st_size / 1024:.0f} KB")


if __name__ == "__main__":
    launch(main, Weights, __doc__)
