"""Checkpoints of a run: its whole state, written in the background, completely or not at all.

They hold arrays only, in orbax's format; nothing that is loaded is executed.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jaxtyping import PyTree
from orbax.checkpoint import v1 as ocp

from benchmarks.harness import stored
from benchmarks.harness.options import RunOptions
from benchmarks.harness.stored import NOTHING_CHANGED, DamagedError, checkpoint_paths, latest
from benchmarks.harness.study import stack
from maml.tree import leaves_by_path

State = TypeVar("State")
KEPT = 2  # latest checkpoints; the one with the best score is kept too
POLICIES = ocp.training.preservation_policies


class Checkpoints(NamedTuple):
    """Functions `(step, state, score)` that write the checkpoints of a run.

    `save` writes if enough time has passed; `finish`, for the first and the last state, waits until
    that state has been written.
    """

    save: Callable[[int, PyTree, float], None]
    finish: Callable[[int, PyTree, float], None]


@contextmanager
def checkpoints(folder: Path, every: float) -> Iterator[Checkpoints]:
    """Writes checkpoints to a folder, at most one in `every` seconds; all are written at its end.

    Raises:
        OSError: A checkpoint cannot be written.
    """
    best = POLICIES.BestN(get_metric_fn=stored.score, n=1)
    keep = POLICIES.AnyPreservationPolicy([POLICIES.LatestN(KEPT), best])
    always = ocp.training.save_decision_policies.FixedIntervalPolicy(1)
    options = {"preservation_policy": keep, "save_decision_policy": always}
    where, last = str(folder.absolute()), time.monotonic()
    checkpointer = ocp.training.Checkpointer(where, cleanup_tmp_directories=True, **options)

    def write(call: Callable[..., Any], step: int, state: PyTree, score: float) -> None:
        if checkpointer.latest is None or checkpointer.latest.step < step:
            metrics = {"score": score if math.isfinite(score) else None}
            metrics["crc32"] = stored.checksum(leaves_by_path(state))
            with _explain_failure(folder):
                call(step, state, metrics=metrics)

    def save(step: int, state: PyTree, score: float) -> None:
        nonlocal last
        if time.monotonic() - last >= every:
            write(checkpointer.save_async, step, state, score)
            last = time.monotonic()

    try:
        yield Checkpoints(save, partial(write, checkpointer.save))
    finally:
        with _explain_failure(folder):
            checkpointer.close()


@contextmanager
def _explain_failure(folder: Path) -> Iterator[None]:
    """Raises errors that say why a checkpoint was not written, and which is the last good one."""
    try:
        yield
    except Exception as error:
        good = [path.name for path in checkpoint_paths(folder)][-1:] or ["none"]
        raise OSError(
            f"no checkpoint can be written to {folder}; the last good one is {good[0]}:"
            f" {stored.first_line(error)}"
        ) from error


def restore(folder: Path, state: State, most: int | None = None) -> State:
    """Loads the latest state in a folder, and prints which; without one, the given state.

    A damaged checkpoint is renamed, such as to `12.damaged`, if an older checkpoint, other than
    that of step 0, is readable. Damaged metrics, which are not part of the state, are replaced,
    with the worst score. Any other error is raised, and then nothing in the folder has changed.

    Args:
        folder: Folder of the checkpoints.
        state: State of the same structure, shapes and types.
        most: Number of meta-steps of the run, beyond which it has no checkpoint; None is any.

    Returns:
        The state.

    Raises:
        DamagedError: All checkpoints are damaged, or all but that of step 0.
        OSError: Files cannot be read now, whatever they hold.
        ValueError: A checkpoint has another kind of state or step, or is beyond `most`.
    """
    paths = checkpoint_paths(folder)
    damaged: dict[Path, str] = {}
    for path in reversed(paths):
        if most is not None and int(path.name) > most:
            cure = NOTHING_CHANGED.format("give more --meta-steps, or delete it")
            raise ValueError(f"{path} is beyond the {most} meta-steps of the run: {cure}")
        try:
            loaded = load(folder, state, step=int(path.name))
        except DamagedError as error:
            damaged[path] = str(error)
            continue
        if damaged and path.name == "0":
            break
        for older in paths[: paths.index(path)]:  # whose scores decide which is the best
            try:
                stored.metrics(older)
            except DamagedError as error:
                damaged[older] = str(error)
        _repair_metrics(path, loaded)
        for bad, reason in damaged.items():
            name = _move_aside(bad).name
            print(f"The checkpoint of step {bad.name} cannot be read; it is now {name}: {reason}")
        print(f"Resuming from the checkpoint of step {path.name}.")
        return loaded
    if damaged:
        reasons = "; ".join(f"{path.name}: {reason}" for path, reason in damaged.items())
        untrained = " except that before training" * (paths[0] not in damaged)
        cure = NOTHING_CHANGED.format("put the files back from a copy")
        raise DamagedError(f"no checkpoint in {folder}{untrained} can be read ({reasons}); {cure}")
    print("There is no checkpoint to resume from: starting from the first meta-step.")
    return state


def load(folder: Path, state: State, *, step: int | None = None) -> State:
    """Loads the state of a checkpoint, which has the structure of `state`; by default the latest.

    Raises:
        DamagedError: The files do not hold what was written.
        OSError: The files cannot be read now.
        ValueError: There is no checkpoint, or it has another kind of state or step.
    """
    path = latest(folder) if step is None else folder / str(step)
    arrays = stored.leaves(path)
    cure = NOTHING_CHANGED.format("use the code and the options that wrote it")
    try:
        loaded = stored.tree_from_arrays(arrays, state, f"the checkpoint {path}")
    except ValueError as error:
        raise ValueError(f"{error}; {cure}") from error
    stored_steps = np.unique(arrays.get("step", int(path.name)))
    if stored_steps.tolist() != [int(path.name)]:
        raise ValueError(
            f"{path} holds the state of step {', '.join(map(str, stored_steps))}: it is a"
            f" checkpoint of another run; {NOTHING_CHANGED.format('delete it')}"
        )
    return loaded


def initial_params(config: RunOptions, like: PyTree) -> PyTree:
    """The meta-parameters `[seed, ...]` of a new run's `start_from`; without one, those given.

    Raises:
        ValueError: As `meta_params`.
    """
    resumed = config.resume and config.out and checkpoint_paths(config.out / "checkpoints")
    if config.start_from is None or resumed:
        return like
    one = jax.tree.map(lambda leaf: leaf[0], like)
    seeds = [meta_params(config.start_from, one, place) for place in range(config.seeds)]
    return stack(seeds)


def meta_params(source: Path, like: PyTree, place: int = 0) -> PyTree:
    """Reads the meta-parameters in a file of `benchmarks.weights`, or in a run's last checkpoint.

    Args:
        source: Path of an .npz file, or folder of a run.
        like: Meta-parameters of the same paths and shapes, whose types the arrays get.
        place: Place of the seed among those of the run; a file, or a run of one seed, serves all.

    Returns:
        The meta-parameters of one seed.

    Raises:
        DamagedError: The files of the checkpoint do not hold what was written.
        OSError: The files cannot be read now.
        ValueError: There are none, they have other paths or shapes, or the run has too few seeds.
    """
    if not source.is_dir():
        arrays = stored.read_arrays(source)
        arrays.pop("options", None)
        return stored.tree_from_arrays(arrays, like, source, cast=True)
    path = latest(source / "checkpoints")
    try:
        leaves = stored.leaves(path)
    except DamagedError as error:
        raise DamagedError(f"the checkpoint {path} cannot be read: {error}") from error
    seeds = leaves["step"].size if "step" in leaves else 1
    if place >= seeds > 1:
        raise ValueError(f"{path} holds {seeds} seeds; got a run of at least {place + 1}")
    parts = ((name.partition("/"), leaf) for name, leaf in leaves.items())
    params = {rest: leaf for (first, _, rest), leaf in parts if first == "params"}
    of_seed = {name: leaf[place % seeds] if leaf.ndim else leaf for name, leaf in params.items()}
    return stored.tree_from_arrays(of_seed, like, path, cast=True)


def best_step(folder: Path) -> int | None:
    """The step of the checkpoint with the highest finite score; None if there is none."""
    scores = {
        int(path.name): stored.score(stored.metrics(path)) for path in checkpoint_paths(folder)
    }
    step = max(scores, key=lambda step: (scores[step], step), default=None)
    return None if step is None or scores[step] == -math.inf else step


def _repair_metrics(path: Path, state: PyTree) -> None:
    """Gives a good state the worst score if its metrics are damaged, and says so."""
    try:
        stored.metrics(path)
    except DamagedError as error:
        stored.write_metrics(path, leaves_by_path(state))
        print(f"The checkpoint of step {path.name} gets the worst score: {error}")


def _move_aside(path: Path) -> Path:
    """Renames a damaged checkpoint to an unused name, and returns its path."""
    names = (f"{path.name}.damaged{'' if n == 1 else f'-{n}'}" for n in count(1))
    return path.rename(next(path.with_name(n) for n in names if not path.with_name(n).exists()))
