"""Runs a study: meta-training from one seed or several, an evaluation, and a folder of results.

The folder holds `config.json`, `checkpoints/`, `log.jsonl`, one line per jitted call, written while
the run goes on, and `summary.json`. While the test tasks are evaluated, `evaluation/` keeps what is
done, so that a resumed run goes on there. Ctrl-C ends meta-training after the call in progress;
what was learned so far is then evaluated as usual. All seeds are trained in one program.
"""

import shutil
import time
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax

from benchmarks.harness import checkpoints, folders, hardware
from benchmarks.harness.files import LINE, read_lines, read_object, sole_writer
from benchmarks.harness.loop import seed_keys, train
from benchmarks.harness.options import RunOptions
from benchmarks.harness.statistics import confidence_intervals, count_not_finite, seed_means
from benchmarks.harness.stored import DamagedError, checkpoint_paths
from benchmarks.harness.study import Study, stack, stack_values, unstack
from benchmarks.harness.summary import write_summary
from maml.types import MetaParams, MetaState


class Result(NamedTuple):
    """The folder of a run, its summary, and its meta-parameters, `[seed, ...]`."""

    out: Path
    summary: dict[str, Any]
    meta_params: MetaParams

    def of_seed(self, place: int = 0) -> MetaParams:
        """The meta-parameters of one of the seeds."""
        return unstack(self.meta_params)[place]


def run(study: Study, config: RunOptions) -> Result:
    """Meta-trains and evaluates; writes `log.jsonl` and `summary.json`.

    The result of several seeds is their mean and its 95% confidence interval (Student's t), beside
    the means of each seed.

    Args:
        study: Study to run.
        config: Options of the run.

    Returns:
        Folder, summary and meta-parameters.

    Raises:
        ValueError: the folder holds a run that is not to be resumed, or a run with other options
            than the one to resume; or it holds no run to resume.
        FloatingPointError: numbers became non-finite; log.jsonl says since which meta-step.
    """
    states = first_states(study, config)  # refuses what it must before there is a folder
    out = folders.run_folder(study.name, config)
    if config.resume:
        check_complete(out)
    with sole_writer(out), matmul_precision(study.precision):
        states, done, seconds = train(study, config, states, out)
        start = time.perf_counter()
        kept = out / "evaluation"
        results = evaluate_study(study, states.params, kept)
        best = checkpoints.best_step(out / "checkpoints") if study.validates else None
        if best not in (None, done):
            try:
                earlier = checkpoints.load(out / "checkpoints", states, step=best).params
                results["best"] = {"meta_steps": best} | evaluate_study(study, earlier, kept)
            except DamagedError as error:
                print(f"The best checkpoint, of step {best}, cannot be read: {error}")
        seconds["evaluate"] = time.perf_counter() - start
        results |= study.facts | {"seeds": config.seeds}
        if study.count_skipped:
            results["skipped_steps"] = sum(map(study.count_skipped, unstack(states)))
        results |= headline_entries(results, *study.headline)
        summary = summarise(study.name, config, out, done, seconds, results)
        shutil.rmtree(kept, ignore_errors=True)
    return Result(out, summary, states.params)


def check_complete(out: Path) -> None:
    """Refuses a run that has lost its log or its checkpoints, or whose log is no log.

    Raises:
        ValueError: saying which.
    """
    log, saved = read_lines(out / "log.jsonl", LINE), checkpoint_paths(out / "checkpoints")
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


def matmul_precision(precision: hardware.Precision | None) -> AbstractContextManager[Any]:
    """Within it, matrix products have the given precision; bfloat16 concerns the layers alone."""
    exact = "tensorfloat32" if precision == "tensorfloat32" else "float32"
    return jax.default_matmul_precision(exact) if precision else nullcontext()


def first_states(study: Study, config: RunOptions) -> MetaState:
    """The states before the first meta-step, `[seed, ...]`.

    Raises:
        ValueError: the meta-parameters to start from are missing, or of another shape.
    """
    start = jax.jit(study.start)  # one program, instead of one for each of its operations
    states = stack([start(jax.random.fold_in(key, 0)) for key in seed_keys(config)])
    return states._replace(params=checkpoints.initial_params(config, states.params))


def evaluate_study(study: Study, meta_params: MetaParams, kept: Path) -> dict[str, Any]:
    """The results on the test tasks of meta-parameters `[seed, ...]`, and what was not finite."""
    values = stack_values([study.evaluate(params, "test", kept) for params in unstack(meta_params)])
    results: dict[str, Any] = confidence_intervals(values, over_tasks=study.over_tasks)
    return results | seed_means(values) | count_not_finite(values)


def headline_entries(results: dict[str, Any], metric: str, when: int | str) -> dict[str, Any]:
    """The number that stands for a run: the mean of a metric after `when` inner steps.

    Published numbers may be those after other inner steps.
    """
    return {"metric": metric, "steps": when, **results[metric][str(when)]}


def summarise(
    name: str,
    config: RunOptions,
    out: Path,
    done: int,
    seconds: dict[str, float],
    results: dict[str, Any],
) -> dict[str, Any]:
    """Writes `summary.json` and, where the run is to be recorded, a line of results/*.jsonl."""
    tasks, interrupted = done * config.meta_batch * config.seeds, done < config.total_steps
    summary = {"preset": config.preset, **results, "seed": config.seed, "meta_steps": done}
    summary |= {"interrupted": interrupted, "seconds": seconds}
    history = read_object(out / "config.json", folders.CONFIG_SCHEMA).get("history") or []
    summary |= {"history": history} if len(history) > 1 else {}
    summary |= {"start_from": str(config.start_from)} if config.start_from else {}
    summary |= {
        "seconds_per_seed": round(seconds["train"] / config.seeds, 2),
        "tasks_per_second": round(tasks / max(seconds["train"], 1e-9), 1),
    }
    record = config.record and not interrupted
    return write_summary(name, config, out, summary, record=record)
