"""Runs as processes of their own, ended by signals at random moments, and what they left."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.harness.stored import latest, leaves

PATIENCE = 3600  # seconds, however busy the machine is
SIGNALS = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
# What differs between two runs of the same result.
FREE = {"seconds", "seconds_per_seed", "tasks_per_second", "command", "config"}


class Killable(NamedTuple):
    """A short run: its module, its options, its log, and what another start of it needs."""

    module: str
    options: tuple[str, ...]
    log: str = "log.jsonl"
    resume: tuple[str, ...] = ("--resume",)


def straight(run: Killable, folder: Path, cache: Path) -> float:
    """Runs it to the end in a folder; gives the seconds until its log had another line."""
    since, log = time.monotonic(), folder / run.log
    with start(run, folder, cache) as process:
        until_grown(log, 1, process, PATIENCE)
        seconds = time.monotonic() - since
        assert process.wait(timeout=PATIENCE) == 0
    return seconds


def killed(run: Killable, folder: Path, cache: Path, kills: int, seed: int, longest: float) -> None:
    """Runs it to the end in a folder, killed at random moments on the way.

    A kill is a few lines of the log after the start, or at most `longest` seconds.
    """
    chance = random.Random(seed)
    for _ in range(kills):
        with start(run, folder, cache) as process:
            seconds = PATIENCE if chance.random() < 0.5 else chance.random() * longest
            until_grown(folder / run.log, chance.randrange(1, 4), process, seconds)
            time.sleep(chance.random() * 0.05)
            assert process.poll() is None, "it came to its end before it could be killed"
            process.send_signal(chance.choice(SIGNALS))
            process.wait(timeout=PATIENCE)
    straight(run, folder, cache)


def until_grown(log: Path, count: int, process: subprocess.Popen, seconds: float) -> None:
    """Waits until a log has so many lines more, or its process has ended, or time is over."""
    expected, until = lines(log) + count, time.monotonic() + seconds
    while lines(log) < expected and process.poll() is None and time.monotonic() < until:
        time.sleep(0.001)


def start(run: Killable, folder: Path, cache: Path) -> subprocess.Popen:
    """Starts it, or goes on with it if the folder holds it."""
    resume = run.resume if (folder / "config.json").exists() else ()
    command = [sys.executable, "-m", run.module, *run.options, "--out", str(folder), *resume]
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    silent = subprocess.DEVNULL
    # A shell's background job ignores Ctrl-C, and so would its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(command, env=environment, stdout=silent, stderr=silent)


def lines(log: Path) -> int:
    """The whole lines of a log."""
    return log.read_text().count("\n") if log.exists() else 0


def outcome(run: Killable, folder: Path) -> tuple[Any, Any, dict[str, np.ndarray]]:
    """What a run has left: its log, its summary, and the arrays of its last checkpoint."""
    texts = (folder / run.log).read_text().splitlines()
    said = [{k: v for k, v in json.loads(text).items() if k not in FREE} for text in texts]
    summary = json.loads((folder / "summary.json").read_text())
    arrays = leaves(latest(folder / "checkpoints")) if (folder / "checkpoints").exists() else {}
    return said, {k: v for k, v in summary.items() if k not in FREE}, arrays


def assert_equal(run: Killable, one: Path, other: Path) -> None:
    """To the bit: logs, summaries and last checkpoints."""
    first, second = outcome(run, one), outcome(run, other)
    assert first[:2] == second[:2]
    assert first[2].keys() == second[2].keys()
    for name, leaf in first[2].items():
        np.testing.assert_array_equal(leaf, second[2][name], err_msg=name)
