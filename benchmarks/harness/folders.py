"""Folders of results, each of which belongs to the options in its `config.json` alone."""

import json
from collections.abc import Callable, Collection
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.harness.files import (
    COUNT,
    NUMBER,
    as_json,
    check_schema,
    read_lines,
    read_object,
    read_text,
    write_json,
    write_text,
)
from benchmarks.harness.options import RunOptions
from benchmarks.harness.renamed import config_of_today
from benchmarks.harness.stored import checkpoint_paths

RESULTS = Path("results")
SUFFIXES = ".json", ".jsonl", ".md", ".npz", ".png"  # suffixes of the files that scripts write
# Options that do not change results.
NO_EFFECT = "resume", "record", "out", "cache", "save_seconds", "tensorboard"
CHANGEABLE = "meta_steps", "outer_rate"  # options that may change when a run is resumed
HISTORY_SCHEMA = [{"step": COUNT, "meta_steps": (COUNT, None), "outer_rate": (NUMBER, None)}]
CONFIG_SCHEMA = {
    "meta_steps": COUNT,
    "outer_rate": NUMBER,
    "history": (HISTORY_SCHEMA, None),
}  # of a run


def new_folder(name: str) -> Path:
    """The path of a folder under results/runs that does not exist yet."""
    return RESULTS / "runs" / f"{name}-{datetime.now():%Y%m%d-%H%M%S-%f}"


def script_folder(name: str, config: Any) -> Path:
    """Claims the folder of a script that resumes nothing: `config.out`, or a new one.

    Raises:
        ValueError: As `claim_folder`.
    """
    out = config.out or new_folder(name)
    claim_folder(out, result_options(name, config))
    return out


def run_folder(name: str, config: RunOptions) -> Path:
    """Claims a new folder for a run, or the one that it names, with its options in `config.json`.

    Raises:
        ValueError: The folder holds a run that is not to be resumed, or one of other options; or
            there is no run to resume.
    """
    out = config.out or new_folder(f"{name}-{config.preset}-{config.seed}")
    options = result_options(name, config)
    if config.resume:
        if not (config.out and (out / "config.json").exists()):
            raise ValueError(f"there is no run to resume in {out}; name its folder with --out")
        stored = _check_same_options(out, options, but=CHANGEABLE)
        before = check_schema(stored, CONFIG_SCHEMA, out / "config.json")["meta_steps"]
        if config.full_length_schedule and before != config.meta_steps:
            raise ValueError(
                f"{config.full_length_schedule} spans the {before} meta-steps of {out}, so they"
                f" cannot become {config.meta_steps}; --start-from {out} starts a new run from what"
                " it learned"
            )
        return out
    made = [out / name for name in ("log.jsonl", "summary.json") if (out / name).exists()]
    if made or checkpoint_paths(out / "checkpoints"):
        raise ValueError(f"{out} holds a run; continue it with --resume, or name another --out")
    claim_folder(out, options)
    return out


def claim_folder(out: Path, options: dict[str, Any], but: Collection[str] = ()) -> None:
    """Writes options to the `config.json` of a folder; one that exists must hold the same.

    Files with the names in `but` may exist before the options.

    Raises:
        ValueError: The folder has other options, which are named; or as `check_free`.
        OSError: The folder cannot be made.
    """
    check_free(out, but)
    if (out / "config.json").exists():
        _check_same_options(out, options)
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"{out} cannot be made: {error.strerror}; name another --out") from error
    write_json(out / "config.json", options)


def check_free(out: Path, but: Collection[str] = ()) -> None:
    """Refuses a folder that no script may write to; as `claim_folder`.

    Raises:
        ValueError: The folder is the working directory or above it, or has results without options.
    """
    if Path().resolve().is_relative_to(out.resolve()):
        raise ValueError(
            "results need a folder of their own; got --out"
            f" {out}, which is the working directory or above it"
        )
    if (out / "config.json").exists() or not out.exists():
        return
    results = sorted(path.name for path in out.iterdir() if path.suffix in SUFFIXES)
    if others := [name for name in results if name not in but]:
        raise ValueError(
            f"{out} holds {others[0]}, but no config.json with the options of its run; name"
            " another folder with --out"
        )


def _check_same_options(
    out: Path, options: dict[str, Any], but: Collection[str] = ()
) -> dict[str, Any]:
    """Returns the options in a folder's `config.json`, after a comparison with the given ones.

    Raises:
        ValueError: An option that is not in `but` differs.
    """
    stored = config_of_today(read_object(out / "config.json", {}))
    if not stored.keys() & options.keys():
        raise ValueError(f"{out / 'config.json'} holds no options of such a run")
    different = [
        f"{key} {stored.get(key)!r} there, {options.get(key)!r} here"
        for key in stored | options
        if key not in {*but, "history"} and stored.get(key) != options.get(key)
    ]
    if different:
        raise ValueError(f"{out} holds a run of other options: {'; '.join(different)}")
    return stored


def record_changed_options(out: Path, config: RunOptions, done: int) -> None:
    """Writes to `config.json` the options of a resumed run, and the meta-step since they hold.

    Its `history` has the options at the start, then each change with the number of meta-steps that
    were done before it.
    """
    before = read_object(out / "config.json", CONFIG_SCHEMA)
    first = {"step": 0} | {name: before[name] for name in CHANGEABLE}
    # Changes at later meta-steps never took effect, or are undone.
    history = [entry for entry in before.get("history") or [first] if entry["step"] < done]
    current = first | {name: value for entry in history for name, value in entry.items()}
    changed = {n: getattr(config, n) for n in CHANGEABLE if getattr(config, n) != current.get(n)}
    if done and changed:
        words = (f"{name} is {value}, not {current[name]}" for name, value in changed.items())
        print(f"From meta-step {done} on, {', '.join(words)}.")
    history += [{"step": done} | changed] if changed else []
    after = before | {name: getattr(config, name) for name in CHANGEABLE}
    after.pop("history", None)
    after |= {"history": history} if len(history) > 1 else {}
    if after != before:
        write_json(out / "config.json", after)


def recover_lines(
    log: Path, schema: dict[str, Any], keep: Callable[[dict[str, Any]], bool] = lambda line: True
) -> list[dict[str, Any]]:
    """Reads the lines of a log, and deletes from it a line that was cut off and those not to keep.

    Raises:
        ValueError: As `read_lines`; then nothing is deleted.
    """
    lines = [line for line in read_lines(log, schema) if keep(line)]
    text = "".join(as_json(line) + "\n" for line in lines)
    if log.exists() and read_text(log) != text:
        write_text(log, text)
    return lines


def result_options(name: str, config: Any) -> dict[str, Any]:
    """The name of a script, and those of its options that change results."""
    options = {"benchmark": name} | options_as_json(config)
    return {option: value for option, value in options.items() if option not in NO_EFFECT}


def options_as_json(config: Any) -> dict[str, Any]:
    """The options as values of JSON."""
    return json.loads(json.dumps(asdict(config), default=str))
