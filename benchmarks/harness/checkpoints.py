"""Checkpoints of a run: the whole state, written aside while the run goes on, whole or not at all.

Arrays only, in orbax's format: nothing that is loaded is executed.
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
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from orbax.checkpoint import v1 as ocp

from benchmarks.harness import stored
from benchmarks.harness.files import fitted, read_arrays
from benchmarks.harness.options import Run
from benchmarks.harness.stored import CURE, DamagedError, latest, steps
from maml.tree import by_path

State = TypeVar("State")
KEPT = 2  # the latest; the best by validation stays beside them
POLICIES = ocp.training.preservation_policies


class Checkpoints(NamedTuple):
    """How a run writes its checkpoints.

    Attributes:
        save: `save(step, state, score)`, if enough time has passed since the last; the checkpoint
            of the highest score is kept, and one that is not finite is the lowest.
        finish: `finish(step, state, score)`, at the start and at the end, if that state is not
            there yet; it is there when this returns.
    """

    save: Callable[[int, PyTree, float], None]
    finish: Callable[[int, PyTree, float], None]


@contextmanager
def checkpoints(folder: Path, every: float) -> Iterator[Checkpoints]:
    """Writes to a folder, at most once in `every` seconds; all is there when it is left.

    Raises:
        OSError: one cannot be written.
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
            metrics["crc32"] = stored.checksum(by_path(state))
            with _in_a_line(folder):
                call(step, state, metrics=metrics)

    def save(step: int, state: PyTree, score: float) -> None:
        nonlocal last
        if time.monotonic() - last >= every:
            write(checkpointer.save_async, step, state, score)
            last = time.monotonic()

    try:
        yield Checkpoints(save, partial(write, checkpointer.save))
    finally:
        with _in_a_line(folder):
            checkpointer.close()


@contextmanager
def _in_a_line(folder: Path) -> Iterator[None]:
    """What kept a checkpoint from being written, a full disk say, and which one is still good."""
    try:
        yield
    except Exception as error:
        good = [path.name for path in steps(folder)][-1:] or ["none"]
        reason = str(error).strip().splitlines()[0]
        raise OSError(
            f"no checkpoint can be written to {folder}, the last good one is {good[0]}: {reason}"
        ) from error


def restore(folder: Path, state: State, most: int | None = None) -> State:
    """The latest state in a folder, or the one given if there is none; says which.

    A damaged checkpoint is moved aside, to a name such as `12.damaged`, if an older one is good;
    that of step 0, before training, is none. Metrics are no state: where those of the latest are
    damaged, they are written anew with the worst score. Whatever else is wrong is raised, and then
    nothing in the folder has changed.

    Args:
        folder: that of the checkpoints.
        state: a state of the same structure, shapes and types.
        most: meta-steps of the run, beyond which it has no checkpoint.

    Raises:
        DamagedError: all of them are, or all but that of step 0.
        OSError: files cannot be read now, whatever they hold.
        ValueError: a checkpoint is of another state, of another step than its name, or of a step
            beyond `most`.
    """
    paths = steps(folder)
    damaged: dict[Path, str] = {}
    for path in reversed(paths):
        if most is not None and int(path.name) > most:
            cure = CURE.format("ask for more with --meta-steps, or take it away")
            raise ValueError(f"{path} is beyond the {most} meta-steps asked for: {cure}")
        try:
            loaded = load(folder, state, step=int(path.name))
        except DamagedError as error:
            damaged[path] = str(error)
            continue
        if damaged and path.name == "0":
            break
        for older in paths[: paths.index(path)]:  # their scores decide which is the best
            try:
                stored.metrics(older)
            except DamagedError as error:
                damaged[older] = str(error)
        _with_metrics(path, loaded)
        for bad, reason in damaged.items():
            aside = _aside(bad).name
            print(f"The checkpoint of step {bad.name} cannot be read, it is now {aside}: {reason}")
        print(f"Going on from the checkpoint of step {path.name}.")
        return loaded
    if damaged:
        reasons = "; ".join(f"{path.name}: {reason}" for path, reason in damaged.items())
        untrained = " but that before training" * (paths[0] not in damaged)
        cure = CURE.format("put the files back from a copy")
        raise DamagedError(f"no checkpoint in {folder}{untrained} can be read ({reasons}); {cure}")
    print("No checkpoint to go on from: starting anew.")
    return state


def load(folder: Path, state: State, *, step: int | None = None) -> State:
    """The state of a checkpoint, the latest or that of a step.

    Args:
        folder: that of the checkpoints.
        state: a state of the same structure, shapes and types.
        step: its step; None is the latest.

    Raises:
        DamagedError: its files are not what was written.
        OSError: they cannot be read now.
        ValueError: there is no checkpoint, or it is of another state or of another step than its
            name says.
    """
    path = latest(folder) if step is None else folder / str(step)
    found = stored.leaves(path)
    cure = CURE.format("use the code and the options that wrote it")
    try:
        loaded = fitted(found, state, f"the checkpoint {path}")
    except ValueError as error:
        raise ValueError(f"{error}; {cure}") from error
    taken = np.unique(found.get("step", int(path.name)))
    if taken.tolist() != [int(path.name)]:
        raise ValueError(
            f"{path} holds the state of step {', '.join(map(str, taken))}: it is a checkpoint of"
            f" another run; {CURE.format('take it away')}"
        )
    return loaded


def started(config: Run, like: PyTree) -> PyTree:
    """The meta-parameters that a new run starts with, `[seed, ...]`; those of `start_from`, if any.

    Raises:
        ValueError: as `meta_params`.
    """
    resumed = config.resume and config.out and steps(config.out / "checkpoints")
    if config.start_from is None or resumed:
        return like
    one = jax.tree.map(lambda leaf: leaf[0], like)
    seeds = [meta_params(config.start_from, one, place) for place in range(config.seeds)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *seeds)


def meta_params(source: Path, like: PyTree, place: int = 0) -> PyTree:
    """The meta-parameters in a file of `benchmarks.weights`, or in a run's last checkpoint.

    Args:
        source: Path of an .npz file, or folder of a run.
        like: Meta-parameters of the same paths and shapes, whose types the arrays get.
        place: Place of the seed among those of the run; a run of one seed, and a file, serve all.

    Returns:
        The meta-parameters of one seed.

    Raises:
        DamagedError: the files of the checkpoint are not what was written.
        OSError: they cannot be read now.
        ValueError: there are none, they are of other paths or shapes, or the run has too few seeds.
    """
    if not source.is_dir():
        found = {name: leaf for name, leaf in read_arrays(source).items() if name != "options"}
        return fitted(found, like, source, cast=True)
    path = latest(source / "checkpoints")
    try:
        leaves = stored.leaves(path)
    except DamagedError as error:
        raise DamagedError(f"the checkpoint {path} cannot be read: {error}") from error
    seeds = leaves["step"].size if "step" in leaves else 1
    if place >= seeds > 1:
        raise ValueError(f"{path} holds {seeds} seeds; got {place + 1} that are to start from it")
    parts = ((name.partition("/"), leaf) for name, leaf in leaves.items())
    params = {rest: leaf for (first, _, rest), leaf in parts if first == "params"}
    of_seed = {name: leaf[place % seeds] if leaf.ndim else leaf for name, leaf in params.items()}
    return fitted(of_seed, like, path, cast=True)


def best(folder: Path) -> int | None:
    """The step of the checkpoint with the highest finite score, if there is one."""
    scores = {int(path.name): stored.score(stored.metrics(path)) for path in steps(folder)}
    step = max(scores, key=lambda step: (scores[step], step), default=None)
    return None if step is None or scores[step] == -math.inf else step


def _with_metrics(path: Path, state: PyTree) -> None:
    """Sees to it that a checkpoint whose state is good has metrics; says if they were damaged."""
    try:
        stored.metrics(path)
    except DamagedError as error:
        stored.mend_metrics(path, by_path(state))
        print(f"The checkpoint of step {path.name} gets the worst score: {error}")


def _aside(path: Path) -> Path:
    """Moves a checkpoint to a name that is free."""
    names = (f"{path.name}.damaged{'' if n == 1 else f'-{n}'}" for n in count(1))
    return path.rename(next(path.with_name(n) for n in names if not path.with_name(n).exists()))
