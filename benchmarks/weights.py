"""Trained meta-parameters as small files, and what they achieve.

    python -m benchmarks.weights results/weights/NAME.npz --data FOLDER     # evaluates them
    python -m benchmarks.weights results/weights/NAME.npz --ways 5 ...      # in another cell
    python -m benchmarks.weights FILE FILE FILE --data FOLDER               # as an ensemble
    python -m benchmarks.weights NAME.npz --run RUN                         # writes them

A file holds half-precision arrays by path and the options of their run, and nothing that is
executed. Rounding is part of them: what is evaluated is what the file holds.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks.few_shot import FewShot, experiment
from benchmarks.harness import folders, summaries, supervised
from benchmarks.harness.bounds import check, check_used
from benchmarks.harness.checkpoints import meta_params
from benchmarks.harness.command_line import launch
from benchmarks.harness.files import atomic_write, read_arrays
from benchmarks.harness.schemas import TEXT, TRAINED, check_schema, parse_json
from benchmarks.harness.stored import latest
from benchmarks.harness.study import products
from benchmarks.harness.supervised import Experiment
from benchmarks.report import tables
from maml.tree import by_path
from maml.types import MetaParams

OPTIONS = "options"
PATHS = "data", "out", "start_from"


def save_weights(path: Path, learned: MetaParams, config: dict[str, Any]) -> None:
    """Writes meta-parameters and the options of their run, whole or not at all.

    Raises:
        ValueError: the file is there and holds something else than weights.
    """
    if path.exists():
        read_options(path)
    arrays = {name: _rounded(np.asarray(leaf)) for name, leaf in by_path(learned).items()}
    arrays[OPTIONS] = np.array(json.dumps(config))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as aside, aside.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def _rounded(leaf: np.ndarray) -> np.ndarray:
    """In half precision, but where that would make infinities of numbers."""
    if leaf.dtype.kind != "f":
        return leaf
    with np.errstate(over="ignore"):
        half = leaf.astype(np.float16)
    return half if (np.isfinite(half) == np.isfinite(leaf)).all() else leaf


def read_options(path: Path) -> FewShot:
    """The options of the run that a file comes from.

    Raises:
        ValueError: it is no such file.
    """
    found = read_arrays(path, OPTIONS)[OPTIONS]
    return _config(parse_json(str(found), {}, f"{OPTIONS} of {path}"), path)


def load_trained(path: Path, **changes: Any) -> tuple[Experiment, FewShot, MetaParams]:
    """The experiment of a file's run, its options but for the changes, and the meta-parameters."""
    config = replace(read_options(path), **changes)
    chosen = experiment(config)
    return chosen, config, meta_params(path, initial_params(chosen, config))


def initial_params(chosen: Experiment, config: FewShot) -> MetaParams:
    """The meta-parameters before meta-training, whose paths and shapes are those of the trained."""
    return chosen.algorithm.init(chosen.initial(config.seed))


def _config(found: dict[str, Any], source: Path) -> FewShot:
    known = {field.name for field in fields(FewShot)}
    check_schema(found, dict.fromkeys(PATHS, (TEXT, None)), source)
    given: dict[str, Any] = {name: value for name, value in found.items() if name in known}
    given |= {name: Path(found[name]) for name in PATHS if found.get(name)}
    try:
        return FewShot(**given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{source} holds no options of few-shot learning: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Options of the command."""

    files: tyro.conf.Positional[tuple[Path, ...]]
    """Of weights; several, which differ in their seed, are an ensemble."""
    run: Path | None = None
    """Folder of a run whose last checkpoint is written to the file; None evaluates the file."""
    data: Path | None = None
    """Folder of Omniglot, as that of `benchmarks.omniglot`."""
    ways: int | None = None
    """Classes of the evaluation's episodes; None is as in the run. Heads in closed form alone can
    have fewer than they were trained with."""
    shots: int | None = None
    """Support drawings a class; None is as in the run."""
    eval_tasks: int = 10_000
    """Test tasks of the evaluation."""
    eval_steps: int | None = None
    """Inner steps of the evaluation; None is as in the run."""
    out: Path | None = None
    """Folder of the summary; None is one under results/runs."""
    record: bool = False
    """Add the summary to results/*.jsonl."""

    def __post_init__(self) -> None:
        check(self)
        given = ("data", "ways", "shots", "eval_tasks", "eval_steps", "out", "record")
        check_used(self, given, self.run is None, "an evaluation, and --run writes a file")


def main(asked: Weights) -> None:
    """Writes a file, or evaluates one, or the ensemble of several, and prints its table."""
    files = list(asked.files)
    if not files or (asked.run and len(files) > 1):
        raise ValueError(f"one file is written, one or more are read; got {len(files)}")
    file, *others = files
    if asked.run:
        write_weights(file, asked.run)
        return
    given = ("data", "ways", "shots", "eval_tasks", "eval_steps")
    changes = {name: getattr(asked, name) for name in given if getattr(asked, name) is not None}
    if asked.ways is not None:
        before = read_options(file)
        changes["train_ways"] = before.train_ways or before.ways
    chosen, config, learned = load_trained(file, **changes)
    if others:
        chosen, learned = load_ensemble(files, config, chosen, learned)
    out = folders.script_folder(f"weights-{file.stem}", asked)
    start = time.perf_counter()
    found: dict[str, Any] = {"preset": config.preset, "seed": config.seed}
    found |= {"seeds": len(files)} if others else {}
    with products(chosen.precision):
        found |= supervised.tested(chosen, config, learned) | chosen.facts
    found |= {"meta_steps": config.meta_steps, "tasks": config.eval_tasks}
    found |= {"seconds": {"evaluate": time.perf_counter() - start}}
    found |= {"weights": [own.name for own in files]}
    when = min(config.inner_steps, config.eval_steps)
    found |= summaries.headline(found, chosen.headline, when)
    tables.show(summaries.write_summary(chosen.name, config, out, found, record=asked.record))


def load_ensemble(
    files: Sequence[Path], config: FewShot, single: Experiment, first: MetaParams
) -> tuple[Experiment, MetaParams]:
    """The ensemble of files whose options differ in their seed alone.

    Raises:
        ValueError: they differ in others.
    """
    for file in files[1:]:
        own = replace(read_options(file), seed=config.seed)
        if own != replace(read_options(files[0]), seed=config.seed):
            raise ValueError(f"{file} is of another run than {files[0]}, in more than the seed")
    like = initial_params(single, config)
    members = [first, *(meta_params(file, like) for file in files[1:])]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    return experiment(config, members=len(files)), stacked


def write_weights(file: Path, run: Path) -> None:
    """Writes the meta-parameters of a run's last checkpoint to a file.

    Raises:
        ValueError: the run is not of few-shot learning, has not ended, or its checkpoint is not
            that of its summary; or the file is there and holds something else.
    """
    summary = summaries.read_summary(run, TRAINED)
    config = _config(summary["config"], run)
    step = int(latest(run / "checkpoints").name)
    if step != summary["meta_steps"]:
        raise ValueError(
            f"the summary of {run} is of {summary['meta_steps']} meta-steps, and its last"
            f" checkpoint of {step}: end the run with --resume"
        )
    if config.seeds > 1:
        raise ValueError(f"{run} trained {config.seeds} seeds, and a file holds the weights of one")
    chosen = experiment(config)
    found = meta_params(run, initial_params(chosen, config))
    free = dict.fromkeys(PATHS) | {"resume": False, "record": False}
    save_weights(file, found, folders.options_as_json(config) | free)
    print(f"{file}: {file.stat().st_size / 1024:.0f} KB")


if __name__ == "__main__":
    launch(main, Weights, __doc__)
