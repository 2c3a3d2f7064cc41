"""Folders of results: each belongs to the options in its `config.json`, and to no others."""

import json
from collections.abc import Callable, Collection
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.harness.files import as_json, read_lines, read_object, read_text, write_text
from benchmarks.harness.options import Run
from benchmarks.harness.schemas import OPTIONS, fitting
from benchmarks.harness.stored import steps

RESULTS = Path("results")
MADE = ".json", ".jsonl", ".md", ".npz", ".png"  # endings of what scripts write
FREE = (
    "resume",
    "record",
    "out",
    "cache",
    "save_seconds",
    "tensorboard",
)  # options that change no result
LATER = "meta_steps", "outer_rate"  # options that may change when a run goes on


def fresh(name: str) -> Path:
    """A folder under results/runs that is not there yet."""
    return RESULTS / "runs" / f"{name}-{datetime.now():%Y%m%d-%H%M%S-%f}"


def own(name: str, config: Any) -> Path:
    """The folder of a script that goes on with nothing, claimed by its options.

    Args:
        name: of the script.
        config: its options; without an `out`, the folder is a new one.

    Raises:
        ValueError: as `claim`.
    """
    out = config.out or fresh(name)
    claim(out, lasting(name, config))
    return out


def folder(name: str, config: Run) -> Path:
    """A new folder for a run, or the one it names, with the options in `config.json`.

    Raises:
        ValueError: it holds a run that is not to be resumed, or one of other options; or there is
            none to resume.
    """
    out = config.out or fresh(f"{name}-{config.preset}-{config.seed}")
    wanted = lasting(name, config)
    if config.resume:
        if not (config.out and (out / "config.json").exists()):
            raise ValueError(f"there is no run to resume in {out}; --out names its folder")
        found = _agreeing(out, wanted, but=LATER)
        before = fitting(found, OPTIONS, out / "config.json")["meta_steps"]
        if config.spanning and before != config.meta_steps:
            raise ValueError(
                f"{config.spanning} spans the {before} meta-steps of {out}, so they cannot become"
                f" {config.meta_steps}; --start-from {out} starts a new run from what it learned"
            )
        return out
    if any((out / made).exists() for made in ("log.jsonl", "summary.json")) or steps(
        out / "checkpoints"
    ):
        raise ValueError(f"{out} holds a run; go on with --resume, or name another with --out")
    claim(out, wanted)
    return out


def claim(out: Path, wanted: dict[str, Any], but: Collection[str] = ()) -> None:
    """Writes the options of a folder to its `config.json`; if it has one, it has to be the same.

    Raises:
        ValueError: it has other options, saying which; or as `check_free`.
    """
    check_free(out, but)
    if (out / "config.json").exists():
        _agreeing(out, wanted)
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"{out} cannot be made: {error.strerror}; name another --out") from error
    write_text(out / "config.json", as_json(wanted, indent=2) + "\n")


def check_free(out: Path, but: Collection[str] = ()) -> None:
    """Refuses a folder that nothing can claim.

    Args:
        out: the folder; there need not be one.
        but: names of files that may be there before its options.

    Raises:
        ValueError: it is the working directory or above it, or it has results without options.
    """
    if Path().resolve().is_relative_to(out.resolve()):
        raise ValueError(
            f"results need a folder of their own; got the working directory as --out"
            f" or one above it, {out}"
        )
    if (out / "config.json").exists() or not out.exists():
        return
    there = sorted(path.name for path in out.iterdir() if path.suffix in MADE)
    if others := [name for name in there if name not in but]:
        raise ValueError(
            f"{out} holds {others[0]} and no config.json that says whose it is: name another"
            " folder with --out"
        )


def _agreeing(out: Path, wanted: dict[str, Any], but: Collection[str] = ()) -> dict[str, Any]:
    """The options in a folder's `config.json`, which are those that are wanted, but for some.

    Raises:
        ValueError: others differ, saying which.
    """
    found = read_object(out / "config.json", {})
    if not found.keys() & wanted.keys():
        raise ValueError(f"{out / 'config.json'} holds no options of such a run")
    different = [
        f"{key} {found.get(key)!r} there, {wanted.get(key)!r} here"
        for key in found | wanted
        if key not in {*but, "history"} and found.get(key) != wanted.get(key)
    ]
    if different:
        raise ValueError(f"{out} holds a run of other options: {'; '.join(different)}")
    return found


def goes_on(out: Path, config: Run, done: int) -> None:
    """Notes in `config.json` which options hold from a meta-step on, if they are others now.

    Its `history` has the options at the start, and later what changed, at which step.
    """
    found = read_object(out / "config.json", OPTIONS)
    first = {"step": 0} | {name: found[name] for name in LATER}
    # What was to hold from a later step on never did, or is undone.
    history = [entry for entry in found.get("history") or [first] if entry["step"] < done]
    holding = first | {name: value for entry in history for name, value in entry.items()}
    changed = {n: getattr(config, n) for n in LATER if getattr(config, n) != holding.get(n)}
    if done and changed:
        words = (f"{name} is {value}, not {holding[name]}" for name, value in changed.items())
        print(f"From meta-step {done} on, {', '.join(words)}.")
    history += [{"step": done} | changed] if changed else []
    now = found | {name: getattr(config, name) for name in LATER}
    now.pop("history", None)
    now |= {"history": history} if len(history) > 1 else {}
    if now != found:
        write_text(out / "config.json", as_json(now, indent=2) + "\n")


def recovered(
    log: Path, schema: dict[str, Any], wanted: Callable[[dict[str, Any]], bool] = lambda line: True
) -> list[dict[str, Any]]:
    """Lines of a log; those not wanted, and one that was cut off, are taken out of the file.

    Args:
        log: the file; none is an empty log.
        schema: what every line must be.
        wanted: whether a line is to stay.

    Raises:
        ValueError: as `read_lines`; then nothing is taken out.
    """
    lines = [line for line in read_lines(log, schema) if wanted(line)]
    text = "".join(as_json(line) + "\n" for line in lines)
    if log.exists() and read_text(log) != text:
        write_text(log, text)
    return lines


def lasting(name: str, config: Any) -> dict[str, Any]:
    """The options that change the results of a script, and its name."""
    options = {"benchmark": name} | plain(config)
    return {option: value for option, value in options.items() if option not in FREE}


def plain(config: Any) -> dict[str, Any]:
    """The options as JSON has them."""
    return json.loads(json.dumps(asdict(config), default=str))
