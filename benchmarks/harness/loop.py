"""The loop of every meta-training: jitted calls, and a line of the log for each.

A run that was killed continues bit for bit: all random numbers come from the number of the
meta-step, the whole state is in the checkpoint, and lines of the log after it are written again.
The state before the first meta-step is a checkpoint too, so a log without one has lost it.
"""

import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from signal import SIGTERM
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from benchmarks.harness import folders, terminal
from benchmarks.harness.checkpoints import checkpoints, restore
from benchmarks.harness.files import as_json, read_lines
from benchmarks.harness.options import Run
from benchmarks.harness.schemas import LINE
from benchmarks.harness.stored import steps
from benchmarks.harness.tensorboard import scalar_writer


class Progress(NamedTuple):
    """Observations after a call.

    Attributes:
        line: Numbers for the log, by name.
        latest: Words for the progress bar.
        score: Score by which the best checkpoint is kept; higher is better.
        failure: Reason why the run cannot go on; None if it can.
    """

    line: dict[str, Any]
    latest: str
    score: float
    failure: str | None = None


def train(
    call: Callable[..., tuple[PyTree, PyTree]],
    state: PyTree,
    arguments: tuple,
    config: Run,
    out: Path,
    observe: Callable[[PyTree, PyTree, int], Progress],
    *,
    about: str,
) -> tuple[PyTree, int, dict[str, float]]:
    """Calls `call(state, *arguments) -> (state, metrics)` until all meta-steps are done.

    Args:
        call: Function that takes `steps_per_call` meta-steps.
        state: State before; its buffers are donated.
        arguments: Further arguments, the same in every call.
        config: Options of the run.
        out: Folder of the run.
        observe: Function `observe(state, metrics, done)`, with the number of meta-steps done.
        about: Words for how the run is computed, which are printed.

    Returns:
        The state after, the number of meta-steps taken, and the seconds of compiling and training.

    Raises:
        FloatingPointError: trouble was observed.
        ValueError: the run that is to be resumed cannot go on; nothing of it has changed.
        SystemExit: the process was asked to end, and did so after a checkpoint.
    """
    every, seconds = config.steps_per_call, {"compile": 0.0, "train": 0.0}
    folder = out / "checkpoints"
    if config.resume:
        check(out)
        state = restore(folder, state, config.meta_steps)
    done = int(np.max(state.step))
    with checkpoints(folder, config.save_seconds) as saved:
        saved.finish(done, state, -np.inf)
        log = folders.recover_lines(out / "log.jsonl", LINE, lambda line: line["step"] <= done)
        if config.resume:
            folders.record_changed_options(out, config, done)
        if done and done not in (line["step"] for line in log):
            print(f"The line of step {done} is missing in {out / 'log.jsonl'}.")
        seconds["train"] = sum(line["seconds"] for line in log)
        progress = Progress({}, "", -np.inf)
        with (
            terminal.defer_interrupts() as interrupted,
            terminal.progress_bar(config, done) as advance,
            (out / "log.jsonl").open("a") as file,
            scalar_writer(out / "tensorboard", done, enabled=config.tensorboard) as write,
        ):
            start = time.perf_counter()
            compiled = jax.jit(call, donate_argnums=0).lower(state, *arguments).compile()
            seconds["compile"] = time.perf_counter() - start
            print(f"{about}; compiled in {seconds['compile']:.1f} s.")
            while done < config.meta_steps and not interrupted():
                start = time.perf_counter()
                state, metrics = jax.block_until_ready(compiled(state, *arguments))
                spent = time.perf_counter() - start
                seconds["train"] += spent
                done += every
                progress = observe(state, metrics, done)
                line = {"step": done, **progress.line, "seconds": round(spent, 4)}
                file.write(as_json(line) + "\n")
                file.flush()
                write(progress.line, done)
                advance(spent, progress.latest)
                if progress.failure:
                    raise FloatingPointError(progress.failure)
                saved.save(done, state, progress.score)
        if progress.line:
            saved.finish(done, state, progress.score)
    if interrupted() == SIGTERM:
        print(f"Ended after {done} meta-steps, with a checkpoint: go on with --resume.")
        raise SystemExit(128 + SIGTERM)
    if done < config.meta_steps:
        print(f"Stopped after {done} meta-steps. Evaluating what was learned.")
    return state, done, seconds


def check(out: Path) -> None:
    """Refuses a run that has lost its log or its checkpoints, or whose log is no log.

    Raises:
        ValueError: saying which.
    """
    log, saved = read_lines(out / "log.jsonl", LINE), steps(out / "checkpoints")
    for before, after in pairwise([0, *(line["step"] for line in log)]):
        if after <= before:
            raise ValueError(
                f"{out / 'log.jsonl'}: got step {after} after step {before}; wanted steps that grow"
            )
    told = [name for name in ("log.jsonl", "summary.json") if (out / name).exists()]
    if not saved and (log or "summary.json" in told):
        raise ValueError(
            f"{out} holds {' and '.join(told)} of a run, and there is no checkpoint in"
            f" {out / 'checkpoints'}: put it back, or start a new run in another --out"
        )
    if saved and int(saved[-1].name) and not log:
        raise ValueError(
            f"{saved[-1]} is there, and {out / 'log.jsonl'} is missing or empty: put"
            " it back, or start a new run in another --out"
        )
