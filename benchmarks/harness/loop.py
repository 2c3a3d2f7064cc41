"""Meta-trains a study: jitted calls, and a line of the log for each.

A run that was killed continues bit for bit: all random numbers come from the number of the
meta-step, the whole state is in the checkpoint, and lines of the log after it are written again.
The state before the first meta-step is a checkpoint too, so a log without a checkpoint means that
the checkpoints were lost.
"""

import time
from collections.abc import Callable
from pathlib import Path
from signal import SIGTERM
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import maml
from benchmarks.harness import display, folders, hardware
from benchmarks.harness.checkpoints import checkpoints, restore
from benchmarks.harness.files import LINE, as_json
from benchmarks.harness.options import RunOptions
from benchmarks.harness.statistics import confidence_intervals
from benchmarks.harness.study import Study, stack_values, unstack
from maml.types import MetaState, RandomKey


class Progress(NamedTuple):
    """Observations of a call: the numbers for the log, words for the progress bar, and the score.

    `failure` is the reason why the run cannot go on; None if it can.
    """

    line: dict[str, Any]
    latest: str
    score: float
    failure: str | None


def train(
    study: Study, config: RunOptions, states: MetaState, out: Path
) -> tuple[MetaState, int, dict[str, float]]:
    """Meta-trains all seeds, `[seed, ...]`, until all meta-steps are done, or Ctrl-C.

    Args:
        study: Study to train.
        config: Options of the run.
        states: States before the first meta-step; their buffers are donated.
        out: Folder of the run, which has the states to resume from.

    Returns:
        The states after, the number of meta-steps taken, and the seconds of compiling and training.

    Raises:
        FloatingPointError: numbers became non-finite; log.jsonl says since which meta-step.
        ValueError: the run that is to be resumed cannot go on; nothing of it has changed.
        SystemExit: the process was asked to end, and did so after a checkpoint.
    """
    every, total, folder = config.steps_per_call, config.total_steps, out / "checkpoints"
    seconds = {"compile": 0.0, "train": 0.0} | ({"validate": 0.0} if study.validates else {})
    if config.resume:
        states = restore(folder, states, total)
    done = int(np.max(states.step))
    keys = jax.vmap(jax.random.fold_in, (0, None))(seed_keys(config), 1)
    with checkpoints(folder, config.save_seconds) as saved:
        saved.finish(done, states, -np.inf)
        log = folders.recover_lines(out / "log.jsonl", LINE, lambda line: line["step"] <= done)
        if config.resume:
            folders.record_changed_options(out, config, done)
        if done and done not in (line["step"] for line in log):
            print(f"The line of step {done} is missing in {out / 'log.jsonl'}.")
        seconds["train"] = sum(line["seconds"] for line in log)
        progress = None
        with (
            display.defer_interrupts() as interrupted,
            display.bar(total, done) as move,
            (out / "log.jsonl").open("a") as file,
            display.scalar_writer(out / "tensorboard", done, enabled=config.tensorboard) as write,
        ):
            call = None
            while done < total and not interrupted():
                if call is None:
                    call, seconds["compile"] = hardware.timed(
                        compile_call, study, config, states, keys
                    )
                    seeds = f"{config.seeds} seeds on" if config.seeds > 1 else "Meta-training on"
                    print(f"{seeds} {study.devices}; compiled in {seconds['compile']:.1f} s.")
                (states, call_metrics), spent = hardware.timed(call, states, keys)
                seconds["train"] += spent
                done += every
                progress = observe(study, config, states, call_metrics, done, seconds)
                line = {"step": done, **progress.line, "seconds": round(spent, 4)}
                file.write(as_json(line) + "\n")
                file.flush()
                write(progress.line, done)
                rate = every / spent
                speed = f"{rate:.3g} meta-steps/s, {rate * config.meta_batch:.0f} tasks/s"
                move(every, speed, progress.latest)
                if progress.failure:
                    raise FloatingPointError(progress.failure)
                saved.save(done, states, progress.score)
        if progress:
            saved.finish(done, states, progress.score)
    if interrupted() == SIGTERM:
        print(f"Ended after {done} meta-steps, with a checkpoint: go on with --resume.")
        raise SystemExit(128 + SIGTERM)
    if done < total:
        print(f"Stopped after {done} meta-steps. Evaluating what was learned.")
    return states, done, seconds


def compile_call(
    study: Study, config: RunOptions, states: MetaState, keys: RandomKey
) -> Callable[[MetaState, RandomKey], tuple[MetaState, dict[str, Array]]]:
    """The compiled function of `steps_per_call` meta-steps of all seeds."""
    # One seed is enough work for a core; other devices take all seeds at once.
    batch = None if jax.default_backend() == "cpu" or config.seeds == 1 else config.seeds
    every = config.steps_per_call
    prefetch = max(n for n in range(1, study.prefetch + 1) if every % n == 0)

    def train_seed(start: tuple[MetaState, RandomKey]) -> tuple[MetaState, dict[str, Array]]:
        state, metrics = maml.iterate(study.step, study.sample, *start, every, prefetch=prefetch)
        return state, study.select_metrics(metrics) | {"left_out": metrics["left_out"]}

    def call(states: MetaState, keys: RandomKey) -> tuple[MetaState, dict[str, Array]]:
        return jax.lax.map(train_seed, (states, keys), batch_size=batch)

    return hardware.compiled(jax.jit(call, donate_argnums=0).lower(states, keys))


def observe(
    study: Study,
    config: RunOptions,
    states: MetaState,
    call_metrics: dict[str, Array],
    done: int,
    seconds: dict[str, float],
) -> Progress:
    """The observations after a call, with the validation; its seconds are added."""
    numbers = {name: np.asarray(values) for name, values in call_metrics.items()}
    left_out, one_each = numbers.pop("left_out"), unstack(states)
    line: dict[str, Any] = {
        name: values.reshape(len(one_each), -1).mean(axis=1).tolist()
        for name, values in numbers.items()
    }
    means = {name: float(np.mean(values)) for name, values in line.items()}
    latest, score = [f"{name} {means[name]:.3g}" for name in study.bar_metrics], study.score(means)
    if study.validates:
        start = time.perf_counter()
        each = [study.evaluate(params, "val", None) for params in unstack(states.params)]
        values = stack_values(each)
        seconds["validate"] += time.perf_counter() - start
        line["val"] = confidence_intervals(values, over_tasks=study.over_tasks)
        curve = values[study.headline[0]]
        score = float(curve[[*curve][-1]].mean()) * (1 if study.higher_is_better else -1)
    if share := float(left_out.mean()):
        line["left_out"] = left_out.mean(axis=1).tolist()
        latest.append(f"{share:.1%} of the tasks left out")
    if study.count_skipped and any(skipped := [study.count_skipped(state) for state in one_each]):
        line["skipped"] = skipped
    failure = None
    for place, state in reversed([*enumerate(one_each)]):
        of_seed = {name: values[place] for name, values in numbers.items()}
        if reason := study.failure(state, of_seed, done - config.steps_per_call):
            failure = f"seed {config.seed + place}: {reason}"
    return Progress(line, ", ".join(latest), score, failure)


def seed_keys(config: RunOptions) -> RandomKey:
    """The random keys of a run, `[seed]`."""
    return jax.vmap(jax.random.key)(config.seed + jnp.arange(config.seeds))
