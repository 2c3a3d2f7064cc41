"""Runs that are killed go on bit for bit, and never from what is not theirs or is broken."""

import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest

from benchmarks import runner, sinusoid
from benchmarks.checkpoints import checkpoints, load

pytestmark = pytest.mark.usefixtures("compiled_quickly")
OPTIONS = {"meta_batch": 2, "val_tasks": 0, "eval_tasks": 2, "eval_steps": 1, "save_seconds": 0}


@pytest.fixture
def config(tmp_path):
    run = {"out": tmp_path / "run", "meta_steps": 6, "steps_per_call": 2}
    return replace(sinusoid.PAPER, **OPTIONS, **run)


def run(config):
    return runner.run(sinusoid.experiment(config), config)


def log(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def killed_now_and_then(folder, calls, kills, seed):
    """The same run as a process, killed at random moments until it has been often enough."""
    steps = ["--meta-steps", str(2 * calls), "--steps-per-call", "2", "--out", str(folder)]
    options = [f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items()]
    command = [sys.executable, "-m", "benchmarks.sinusoid", "--no-cache", *steps, *options]
    chance = random.Random(seed)
    for number in range(kills + 1):
        resume = ["--resume"] if (folder / "config.json").exists() else []
        process = subprocess.Popen([*command, *resume], stdout=subprocess.DEVNULL)
        if number == kills:
            assert process.wait(timeout=300) == 0
            return
        there = len(log(folder)) if (folder / "log.jsonl").exists() else 0
        wanted, since = there + chance.randrange(1, calls // (kills + 1)), time.monotonic()
        while time.monotonic() < since + 120:
            text = (folder / "log.jsonl").read_text() if (folder / "log.jsonl").exists() else ""
            if text.count("\n") >= wanted or process.poll() is not None:
                break
            time.sleep(0.001)
        time.sleep(chance.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize(
    "kills", [1, pytest.param(20, marks=pytest.mark.slow)], ids=lambda n: f"{n} kills"
)
def test_a_run_that_is_killed_at_any_moment_ends_as_the_straight_one(kills, tmp_path):
    calls = 40 if kills == 1 else 300
    killed_now_and_then(tmp_path / "straight", calls, 0, 0)
    killed_now_and_then(tmp_path / "killed", calls, kills, 1)
    assert log(tmp_path / "killed") == log(tmp_path / "straight")
    names = ("straight", "killed")
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in names]
    assert summaries[0]["mse"] == summaries[1]["mse"]
    config = replace(sinusoid.PAPER, **OPTIONS)
    experiment = sinusoid.experiment(config)
    optimizer = runner.outer_optimizer(experiment, config)
    start = runner.maml.init(experiment.algorithm, optimizer, experiment.params)
    states = [load(tmp_path / name / "checkpoints", start) for name in names]
    assert int(states[0].step) == 2 * calls
    same(*states)


def test_what_is_done_is_only_evaluated_again(config):
    first = run(config)
    again = run(replace(config, resume=True))
    same(first.meta_params, again.meta_params)
    assert first.summary["mse"] == again.summary["mse"]
    assert [line["step"] for line in log(config.out)] == [2, 4, 6]


def test_a_checkpoint_that_is_cut_off_is_said_and_the_one_before_serves(config, capsys):
    straight = run(config)
    for path in (config.out / "checkpoints" / "6").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    again = run(replace(config, resume=True))
    shown = capsys.readouterr().out
    assert (
        "checkpoint of step 6 cannot be read" in shown and "from the checkpoint of step 4" in shown
    )
    same(straight.meta_params, again.meta_params)
    assert [line["step"] for line in log(config.out)] == [2, 4, 6]


def test_a_line_that_is_cut_off_is_written_anew(config):
    run(config)
    text = (config.out / "log.jsonl").read_text()
    (config.out / "log.jsonl").write_text(text[: len(text) - 20])
    run(replace(config, resume=True))
    assert [line["step"] for line in log(config.out)] == [2, 4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "holds a run; go on with --resume"),
        ({"resume": True, "meta_batch": 4}, "other options: meta_batch 2 there, 4 here"),
        ({"resume": True, "seed": 1}, "other options: seed 0 there, 1 here"),
        ({"resume": True, "out": None}, "no run to resume"),
    ],
)
def test_a_run_goes_on_with_its_own_options_alone(config, change, message):
    run(config)
    with pytest.raises(ValueError, match=message):
        run(replace(config, **change))


def test_the_best_checkpoint_stays_beside_the_latest(tmp_path):
    state = {"x": np.zeros(3)}
    with checkpoints(tmp_path, 0) as saved:
        for step, score in enumerate((0.1, 0.9, 0.3, 0.2, 0.1)):
            saved.save(step, {"x": np.full(3, float(step))}, score)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "3", "4"]
    read = partial(load, tmp_path, state)
    assert read()["x"][0] == 4 and read(step=1)["x"][0] == 1


def test_a_disk_that_is_full_ends_the_run_and_says_which_checkpoint_is_good(tmp_path):
    """A limit on the size of files, which the parameters' file is above."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))"
    code = f"""
import sys
{limit}
sys.argv = ["sinusoid", "--out", {str(tmp_path / "full")!r}, "--meta-steps", "400", "--no-cache",
            "--steps-per-call", "2", "--save-seconds", "0", "--val-tasks", "0"]
from benchmarks import sinusoid
from benchmarks.config import launch
launch(sinusoid.main, sinusoid.PRESETS, "")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode not in (0, None)
    last = done.stderr.splitlines()[-1]
    assert "OSError: no checkpoint can be written to" in last, done.stderr[-2000:]
    assert "the last good one is none: " in last and "File too large" in last
