"""Checkpoints of a run: the whole state, written aside while the run goes on, whole or not at all.

Arrays only, in orbax's format: nothing that is loaded is executed.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from orbax.checkpoint import v1 as ocp

State = TypeVar("State")
KEPT = 2  # the latest; the best by validation stays beside them
POLICIES = ocp.training.preservation_policies


class Checkpoints(NamedTuple):
    """How a run writes its checkpoints.

    Attributes:
        save: `save(step, state, score)`, if enough time has passed since the last.
        finish: `finish(step, state, score)`, at the end, if that state is not there yet.
    """

    save: Callable[[int, PyTree, float], None]
    finish: Callable[[int, PyTree, float], None]


@contextmanager
def checkpoints(folder: Path, every: float) -> Iterator[Checkpoints]:
    """Writes to a folder, at most once in `every` seconds; all is there when it is left.

    Raises:
        OSError: one cannot be written.
    """
    best = POLICIES.BestN(get_metric_fn=lambda metrics: metrics["score"], n=1)
    keep = POLICIES.AnyPreservationPolicy([POLICIES.LatestN(KEPT), best])
    always = ocp.training.save_decision_policies.FixedIntervalPolicy(1)
    options = {"preservation_policy": keep, "save_decision_policy": always}
    where, last = str(folder.absolute()), time.monotonic()
    checkpointer = ocp.training.Checkpointer(where, cleanup_tmp_directories=True, **options)

    def finish(step: int, state: PyTree, score: float) -> None:
        if checkpointer.latest is None or checkpointer.latest.step < step:
            with _in_a_line(folder):
                checkpointer.save_async(step, state, metrics={"score": score})

    def save(step: int, state: PyTree, score: float) -> None:
        nonlocal last
        if time.monotonic() - last >= every:
            finish(step, state, score)
            last = time.monotonic()

    try:
        yield Checkpoints(save, finish)
    finally:
        with _in_a_line(folder):
            checkpointer.close()


@contextmanager
def _in_a_line(folder: Path) -> Iterator[None]:
    """What kept a checkpoint from being written, a full disk say, and which one is still good."""
    try:
        yield
    except Exception as error:
        good = [path.name for path in _steps(folder)][-1:] or ["none"]
        reason = str(error).strip().splitlines()[0]
        raise OSError(
            f"no checkpoint can be written to {folder}, the last good one is {good[0]}: {reason}"
        ) from error


def restore(folder: Path, state: State) -> State:
    """The latest state in a folder that can be read, or the one given; says which.

    What cannot be read is said, and taken away.
    """
    for path in reversed(_steps(folder)):
        try:
            json.loads((path / "metrics" / "metrics").read_text())
            loaded = load(folder, state, step=int(path.name))
        except Exception as error:  # whatever a damaged file leads to
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            print(f"The checkpoint of step {path.name} cannot be read: {reason}")
            shutil.rmtree(path)
            continue
        print(f"Going on from the checkpoint of step {path.name}.")
        return loaded
    print("No checkpoint to go on from: starting anew.")
    return state


def load(folder: Path, state: State, *, step: int | None = None) -> State:
    """The state of a checkpoint, the latest or that of a step.

    Args:
        folder: of the checkpoints.
        state: one of the same structure and shapes.
        step: which one.
    """
    path = _steps(folder)[-1] if step is None else folder / str(step)
    loaded = ocp.load(str(path.absolute()), state)
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), loaded)


def best(folder: Path) -> int | None:
    """The step of the checkpoint with the highest score, if there is one."""

    def score(path: Path) -> float:
        return json.loads((path / "metrics" / "metrics").read_text())["score"]

    return max(((score(path), int(path.name)) for path in _steps(folder)), default=(0, None))[1]


def _steps(folder: Path) -> list[Path]:
    paths = folder.iterdir() if folder.exists() else ()
    return sorted((path for path in paths if path.name.isdigit()), key=lambda path: int(path.name))
