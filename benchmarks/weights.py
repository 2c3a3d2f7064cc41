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
from jaxtyping import PyTree

import maml
from benchmarks import checkpoints, runner, session, tables
from benchmarks.bounds import check, check_used
from benchmarks.config import launch
from benchmarks.few_shot import FewShot, experiment
from benchmarks.runner import Experiment
from maml.tree import by_path
from maml.types import MetaParams

OPTIONS = "options"


def save(path: Path, meta_params: MetaParams, config: dict[str, Any]) -> None:
    """Writes meta-parameters and the options of their run."""
    arrays: dict[str, Any] = {
        name: np.asarray(leaf, np.float16 if leaf.dtype.kind == "f" else None)
        for name, leaf in by_path(meta_params).items()
    }
    arrays[OPTIONS] = np.array(json.dumps(config))
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)


def load(path: Path, like: PyTree) -> PyTree:
    """The meta-parameters of a file.

    Args:
        path: of the file.
        like: a tree of the same paths and shapes; the arrays get its precision.

    Raises:
        ValueError: paths or shapes are others, naming the first.
    """
    wanted = by_path(like)
    with np.load(path, allow_pickle=False) as file:
        found = {name: file[name] for name in file.files if name != OPTIONS}
    for name in sorted(wanted.keys() | found.keys()):
        shapes = [getattr(tree.get(name), "shape", "nothing") for tree in (found, wanted)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"{path} has {shapes[0]} at {name!r}; wanted {shapes[1]}")
    leaves = [found[name].astype(leaf.dtype) for name, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def options(path: Path) -> FewShot:
    """The options of the run that a file comes from.

    Raises:
        ValueError: it is no such file.
    """
    if not path.exists():
        raise ValueError(f"there is no file {path}")
    with np.load(path, allow_pickle=False) as file:
        if OPTIONS not in file.files:
            raise ValueError(f"{path} holds no options: it was not written by benchmarks.weights")
        return _config(json.loads(file[OPTIONS].item()))


def trained(path: Path, **changes: Any) -> tuple[Experiment, FewShot, MetaParams]:
    """The experiment of a file's run, its options but for the changes, and the meta-parameters."""
    config = replace(options(path), **changes)
    chosen = experiment(config)
    return chosen, config, load(path, chosen.algorithm.init(chosen.params))


def _config(found: dict[str, Any]) -> FewShot:
    known = {field.name for field in fields(FewShot)}
    given: dict[str, Any] = {name: value for name, value in found.items() if name in known}
    given |= {name: Path(found[name]) for name in ("data", "out") if found.get(name)}
    return FewShot(**given)


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
        write(file, asked.run)
        return
    given = ("data", "ways", "shots", "eval_tasks", "eval_steps")
    changes = {name: getattr(asked, name) for name in given if getattr(asked, name) is not None}
    if asked.ways is not None:
        before = options(file)
        changes["train_ways"] = before.train_ways or before.ways
    chosen, config, meta_params = trained(file, **changes)
    if others:
        chosen, meta_params = together(files, config, chosen, meta_params)
    out = asked.out or session.RESULTS / "runs" / f"weights-{file.stem}"
    out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    found: dict[str, Any] = {"preset": config.preset, "seed": config.seed}
    found |= {"seeds": len(files)} if others else {}
    with runner.precisely(chosen):
        found |= runner.tested(chosen, config, meta_params) | chosen.facts
    found |= {"meta_steps": config.meta_steps, "tasks": config.eval_tasks}
    found |= {"seconds": {"evaluate": time.perf_counter() - start}}
    found |= {"weights": [own.name for own in files]}
    when = min(config.inner_steps, config.eval_steps)
    found |= session.headline(found, chosen.headline, when)
    tables.show(session.write(chosen.name, config, out, found, record=asked.record))


def together(
    files: Sequence[Path], config: FewShot, single: Experiment, first: MetaParams
) -> tuple[Experiment, MetaParams]:
    """The ensemble of files whose options differ in their seed alone.

    Raises:
        ValueError: they differ in others.
    """
    for file in files[1:]:
        own = replace(options(file), seed=config.seed)
        if own != replace(options(files[0]), seed=config.seed):
            raise ValueError(f"{file} is of another run than {files[0]}, in more than the seed")
    like = single.algorithm.init(single.params)
    members = [first, *(load(file, like) for file in files[1:])]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    return experiment(config, members=len(files)), stacked


def write(file: Path, run: Path) -> None:
    """Writes the meta-parameters of a run's last checkpoint to a file."""
    config = _config(session.ended(run)["config"])
    chosen = experiment(config)
    optimizer = runner.outer_optimizer(chosen, config)
    state = maml.init(chosen.algorithm, optimizer, chosen.params)
    state = checkpoints.load(run / "checkpoints", state)
    free = dict.fromkeys(("data", "out")) | {"resume": False, "record": False}
    save(file, state.params, session.plain(config) | free)
    print(f"{file}: {file.stat().st_size / 1024:.0f} KB")


if __name__ == "__main__":
    launch(main, Weights, __doc__)
