"""Killed runs resume to the bit, and refuse what is damaged or of another run."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from killing import Killable, assert_equal, killed, straight
from orbax.checkpoint import v1 as ocp

import maml
from benchmarks import sinusoid
from benchmarks.harness import supervised
from benchmarks.harness.checkpoints import best_step, checkpoints, load, meta_params, restore
from benchmarks.harness.checkpoints import initial_params as started_with
from benchmarks.harness.files import sole_writer
from benchmarks.harness.folders import claim_folder, record_changed_options, result_options
from benchmarks.harness.folders import run_folder as folder_of
from benchmarks.harness.run import first_states
from benchmarks.harness.stored import DamagedError

STATE = {"k": jax.random.normal(jax.random.key(0), (40, 40)), "b": jnp.zeros(3)}
OPTIONS = {"meta_batch": 2, "val_tasks": 0, "eval_tasks": 2, "eval_steps": 1, "save_seconds": 0}


@pytest.fixture
def config(tmp_path):
    run = {"out": tmp_path / "run", "meta_steps": 6, "steps_per_call": 2}
    return replace(sinusoid.PAPER, **OPTIONS, **run)


def run(config):
    return supervised.run_experiment(sinusoid.experiment(config), config)


def log(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def files(folder):
    """All there is in a folder, and its content."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def test_a_killed_and_resumed_run_equals_an_uninterrupted_run(tmp_path):
    """Twenty kills of each of five benchmarks are in test_kills.py."""
    options = [f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items()]
    run = Killable("benchmarks.sinusoid", ("--meta-steps=20", "--steps-per-call=1", *options))
    longest = straight(run, tmp_path / "straight", tmp_path / "cache")
    killed(run, tmp_path / "killed", tmp_path / "cache", 1, 0, longest)
    assert_equal(run, tmp_path / "straight", tmp_path / "killed")


def test_resuming_a_finished_run_only_repeats_its_evaluation(config):
    first = run(config)
    again = run(replace(config, resume=True))
    same(first.meta_params, again.meta_params)
    assert first.summary["mse"] == again.summary["mse"]
    assert [line["step"] for line in log(config.out)] == [2, 4, 6]


def test_a_killed_evaluation_goes_on_where_it_was(config, monkeypatch):
    monkeypatch.setattr(supervised, "BLOCK", 2)
    config = replace(config, eval_tasks=6)
    straight = run(replace(config, out=config.out.parent / "straight")).summary
    compute, calls = supervised._evaluate, []

    def counted(*args):
        if calls.append(0) or len(calls) == 3:
            raise KeyboardInterrupt
        return compute(*args)

    monkeypatch.setattr(supervised, "_evaluate", counted)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    files = sorted((config.out / "evaluation").iterdir())
    files[0].write_bytes(files[0].read_bytes()[:-50])  # as if it had been damaged
    with pytest.warns(UserWarning, match="is corrupt and is rebuilt"):
        again = run(replace(config, resume=True)).summary
    assert len(calls) == 3 + 2 and again["mse"] == straight["mse"]
    assert not (config.out / "evaluation").exists()


def test_a_truncated_checkpoint_is_reported_and_the_previous_one_is_used(config, capsys):
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


def test_a_run_begun_under_an_old_name_of_its_preset_is_resumed(config):
    run(replace(config, preset="inner-rate-0.01-5-shot"))
    file = config.out / "config.json"
    file.write_text(file.read_text().replace("inner-rate-0.01-5", "alpha-of-the-text-5"))
    again = run(replace(config, preset="alpha-of-the-text-5-shot", resume=True))
    assert again.summary["preset"] == "inner-rate-0.01-5-shot"


def test_a_truncated_line_of_the_log_is_rewritten(config):
    run(config)
    text = (config.out / "log.jsonl").read_text()
    (config.out / "log.jsonl").write_text(text[: len(text) - 20])
    run(replace(config, resume=True))
    assert [line["step"] for line in log(config.out)] == [2, 4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "holds a run; continue it with --resume"),
        ({"resume": True, "meta_batch": 4}, "other options: meta_batch 2 there, 4 here"),
        ({"resume": True, "seed": 1}, "other options: seed 0 there, 1 here"),
        ({"resume": True, "preset": "quick"}, "other options: preset '.*' there, 'quick' here"),
        ({"resume": True, "out": None}, "no run to resume"),
    ],
)
def test_a_run_goes_on_with_its_own_options_alone(config, change, message):
    run(config)
    with pytest.raises(ValueError, match=message):
        run(replace(config, **change))


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_not_finite_is_the_worst_and_the_files_stay_json(score, tmp_path):
    with checkpoints(tmp_path, 0) as saved:
        for step, own in enumerate((0.1, 0.9, score, score, score)):
            saved.save(step, STATE, own)
    assert best_step(tmp_path) == 1
    for path in tmp_path.rglob("metrics/metrics"):
        json.loads(path.read_text(), parse_constant=pytest.fail)
    shutil.rmtree(tmp_path / "1")
    assert best_step(tmp_path) is None


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
from benchmarks.harness.command_line import launch
launch(sinusoid.main, sinusoid.PRESETS, "")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode not in (0, None)
    last = done.stderr.splitlines()[-1]
    assert "OSError: no checkpoint can be written to" in last, done.stderr[-2000:]
    assert "the last good one is none: " in last and "File too large" in last


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A folder with the checkpoints of steps 1 and 2."""
    folder = tmp_path_factory.mktemp("two")
    with checkpoints(folder, 0) as saved:
        for step in (1, 2):
            saved.save(step, STATE | {"step": jnp.int32(step)}, 0.0)
    return folder


@pytest.fixture
def folder(two, tmp_path):
    """A copy to damage."""
    return shutil.copytree(two, tmp_path / "checkpoints")


def gone(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def halved(path):
    for file in path.rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flipped(path):
    """One bit in the middle of the largest file."""
    file = max((f for f in path.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


DAMAGES = {
    "halved": halved,
    "flipped": flipped,
    "without its arrays": lambda path: shutil.rmtree(path / "state" / "ocdbt.process_0"),
    "without its structure": lambda path: (path / "state" / "_METADATA").unlink(),
    "emptied": lambda path: [shutil.rmtree(path), path.mkdir()],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_moved_aside_if_an_older_one_is_good(damage, folder, capsys):
    DAMAGES[damage](folder / "2")
    before = files(folder / "2")
    result = restore(folder, STATE | {"step": jnp.int32(0)})
    same(result, STATE | {"step": jnp.int32(1)})
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2.damaged"]
    assert [*files(folder / "2.damaged").values()] == [*before.values()]
    assert "step 2 cannot be read; it is now 2.damaged" in capsys.readouterr().out


def written(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    "damage",
    [
        gone,
        lambda path: gone(path.parent),
        lambda path: written(path, "[" * 100_000),
        lambda path: written(path, '{"score": "0.5"}'),
        lambda path: written(
            path, '{"score": 0.5, "crc32": null, "x": ' + "[" * 99 + "]" * 99 + "}"
        ),
        lambda path: path.write_bytes(b"\xff\xfe"),
    ],
)
def test_damaged_metrics_of_a_checkpoint_count_as_the_worst_score(damage, folder, capsys):
    damage(folder / "2" / "metrics" / "metrics")
    state = STATE | {"step": jnp.int32(0)}
    same(restore(folder, state), STATE | {"step": jnp.int32(2)})
    shown = capsys.readouterr().out
    assert "step 2 gets the worst score: its metrics are" in shown and len(shown) < 600
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2"] and best_step(folder) == 1
    with checkpoints(folder, 0) as saved:  # orbax reads them too
        saved.save(3, state | {"step": jnp.int32(3)}, -1.0)
    flipped(folder / "3" / "state")
    same(restore(folder, state), STATE | {"step": jnp.int32(2)})  # and they have a checksum again


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_state_before_training_does_not_replace_a_damaged_checkpoint(damage, folder):
    shutil.rmtree(folder)
    with checkpoints(folder, 0) as saved:
        for step in (0, 2):
            saved.save(step, STATE | {"step": jnp.int32(step)}, 0.0)
    DAMAGES[damage](folder / "2")
    before = files(folder)
    with pytest.raises(
        DamagedError, match=r"except that before training can be read \(2: "
    ) as caught:
        restore(folder, STATE | {"step": jnp.int32(0)})
    said = str(caught.value)
    assert "nothing was changed: put the files back" in said and len(said) < 700
    assert "tensorstore_spec" not in said and "\n" not in said and files(folder) == before


@pytest.mark.parametrize("damage", DAMAGES)
def test_nothing_is_touched_where_no_checkpoint_can_be_read(damage, folder):
    for step in "12":
        DAMAGES[damage](folder / step)
    before = files(folder)
    with pytest.raises(DamagedError, match="nothing was changed: put the files back from a copy"):
        restore(folder, STATE | {"step": jnp.int32(0)})
    assert files(folder) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": None, "q": STATE["k"]}, "nothing at 'q'; expected float32.40, 40."),
        ({"n": jnp.zeros(2)}, "nothing at 'n'; expected float32.2,."),
        ({"k": None}, r"has float32\(40, 40\) at 'k'; expected nothing"),
        ({"k": jnp.zeros((4, 3))}, r"has float32\(40, 40\) at 'k'; expected float32\(4, 3\)"),
        ({"b": jnp.zeros(3, jnp.bfloat16)}, r"has float32\(3,\) at 'b'; expected bfloat16\(3,\)"),
    ],
)
@pytest.mark.parametrize("latest", ["good", "halved"])
def test_a_checkpoint_of_another_state_is_refused_leaf_by_leaf(change, message, latest, folder):
    if latest == "halved":
        halved(folder / "2")
    before = files(folder)
    other = {k: v for k, v in (STATE | {"step": jnp.int32(0)} | change).items() if v is not None}
    with pytest.raises(ValueError, match=message) as caught:
        restore(folder, other)
    assert "use the code and the options that wrote it" in str(caught.value)
    assert files(folder) == before


def test_float64_is_another_type_than_float32(folder, x64):
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), STATE) | {"step": jnp.int32(0)}
    with pytest.raises(ValueError, match=r"float32\(3,\) at 'b'; expected float64\(3,\)"):
        restore(folder, wide)


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("who", [(ocp, "load"), (ocp, "metadata"), ("pathlib.Path", "read_bytes")])
def test_files_that_cannot_be_read_now_are_not_damaged(code, who, folder, monkeypatch):
    def refuse(*args, **options):
        raise OSError(code, os.strerror(code))

    before = files(folder)
    with monkeypatch.context() as patch:
        target = (f"{who[0]}.{who[1]}",) if isinstance(who[0], str) else who
        patch.setattr(*target, refuse)
        with pytest.raises(OSError, match=f"now: .*{os.strerror(code)}; nothing was changed"):
            restore(folder, STATE | {"step": jnp.int32(0)})
    assert files(folder) == before


def test_a_checkpoint_of_another_run_and_one_beyond_the_end_are_refused(folder):
    shutil.copytree(folder / "1", folder / "3")
    before, state = files(folder), STATE | {"step": jnp.int32(0)}
    with pytest.raises(ValueError, match=r"3 holds the state of step 1: .* another run"):
        restore(folder, state)
    with pytest.raises(ValueError, match="3 is beyond the 2 meta-steps of the run"):
        restore(folder, state, 2)
    assert files(folder) == before


def test_only_unfinished_checkpoints_of_orbax_are_deleted(folder):
    """Those of a run that was killed while it wrote one; not what others put there."""
    for name in ("3.orbax-checkpoint-tmp", "notes", "2.damaged", "3.part"):
        (folder / name).mkdir()
        (folder / name / "file").write_text("here")
    with checkpoints(folder, 0) as saved:
        saved.save(4, STATE, 0.0)
    assert {"notes", "2.damaged", "3.part"} <= {path.name for path in folder.iterdir()}
    assert not (folder / "3.orbax-checkpoint-tmp").exists()


def edited(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


LOSSES = {
    "the log is gone": (lambda run: gone(run / "log.jsonl"), "log.jsonl is missing or empty"),
    "the log is empty": (lambda run: (run / "log.jsonl").write_text(""), "missing or empty"),
    "the checkpoints are gone": (lambda run: gone(run / "checkpoints"), "there is no checkpoint"),
    "all but the summary is gone": (
        lambda run: [gone(run / name) for name in ("log.jsonl", "checkpoints")],
        "holds summary.json of a run, and there is no checkpoint",
    ),
    "a number in the log": (
        lambda run: (run / "log.jsonl").write_text('{"step": 2, "seconds": 0}\n12\n'),
        r"line 2 of .*log.jsonl: got 12; expected an object with step, seconds",
    ),
    "a line without a step": (
        lambda run: (run / "log.jsonl").write_text('{"loss": 2}\n{"step": 4, "seconds": 0}\n'),
        "line 1 of .*log.jsonl: got null at 'step'; expected an integer >= 0",
    ),
    "a broken line among others": (
        lambda run: (run / "log.jsonl").write_text('{"st\n{"step": 4, "seconds": 0}\n'),
        "line 1 of .*log.jsonl is not JSON",
    ),
    "options that are a list": (
        lambda run: (run / "config.json").write_text("[]"),
        r"config.json: got \[\]; expected an object",
    ),
    "options of something else": (
        lambda run: (run / "config.json").write_text('{"name": 1}'),
        "config.json holds no options of such a run",
    ),
    "options that are no JSON": (
        lambda run: (run / "config.json").write_text("{"),
        "config.json is not JSON",
    ),
    "a line that is there twice, and other options": (
        lambda run: [
            (run / "log.jsonl").write_text('{"step": 2, "seconds": 0}\n' * 2),
            edited(run / "config.json", meta_steps=4),
        ],
        "log.jsonl: got step 2 after step 2; wanted steps that grow",
    ),
    "a history of numbers": (
        lambda run: edited(run / "config.json", history=[1]),
        "config.json: got 1 at 'history/0'; expected an object with step",
    ),
    "a foreign checkpoint": (
        lambda run: (run / "checkpoints" / "99999").mkdir(),
        "99999 is beyond the 6 meta-steps of the run",
    ),
    "all checkpoints halved": (lambda run: halved(run / "checkpoints"), "no checkpoint in"),
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A run that has ended after 6 meta-steps, and how many results it gave."""
    out = tmp_path_factory.mktemp("ended") / "run"
    options = {"out": out, "meta_steps": 6, "steps_per_call": 2}
    run(replace(sinusoid.PAPER, **OPTIONS, **options))
    return out


@pytest.mark.parametrize("loss", LOSSES)
def test_a_run_with_a_missing_file_is_refused_and_left_unchanged(loss, ended, tmp_path):
    out = shutil.copytree(ended, tmp_path / "run")
    break_, message = LOSSES[loss]
    break_(out)
    before = files(out)
    options = {"out": out, "meta_steps": 6, "steps_per_call": 2, "resume": True}
    with pytest.raises(ValueError, match=message):
        run(replace(sinusoid.PAPER, **OPTIONS, **options))
    assert files(out) == before


def test_a_renamed_layer_does_not_begin_a_run_anew(ended, tmp_path):
    out = shutil.copytree(ended, tmp_path / "run")
    config = replace(sinusoid.PAPER, **OPTIONS, out=out, meta_steps=6, steps_per_call=2)
    config = replace(config, resume=True)
    experiment, before = sinusoid.experiment(config), files(out)
    layers = experiment.initial()["params"]
    renamed = {f"Layer_{place}": layer for place, layer in enumerate(layers.values())}
    with pytest.raises(ValueError, match=r"at 'opt_state/.*Dense_0.*'; expected nothing"):
        supervised.run_experiment(experiment._replace(init=lambda key: {"params": renamed}), config)
    assert files(out) == before


def test_a_run_extended_to_more_meta_steps_equals_an_uninterrupted_one(ended, tmp_path):
    config = replace(sinusoid.PAPER, **OPTIONS, steps_per_call=2)
    out = shutil.copytree(ended, tmp_path / "run")
    longer = replace(config, out=out, resume=True, meta_steps=10)
    straight = run(replace(config, out=tmp_path / "straight", meta_steps=10))
    again = run(longer)
    same(again.meta_params, straight.meta_params)
    assert log(out) == log(straight.out) and again.summary["mse"] == straight.summary["mse"]
    assert "history" not in straight.summary
    first = {"step": 0, "meta_steps": 6, "outer_rate": 1e-3}
    assert again.summary["history"] == [first, {"step": 6, "meta_steps": 10}]
    for change, message in (
        ({"meta_steps": 8}, "10 is beyond the 8 meta-steps of the run"),
        ({"meta_batch": 4}, "other options: meta_batch 2 there, 4 here"),
    ):
        with pytest.raises(ValueError, match=message):
            run(replace(longer, **change))
    slower = run(replace(longer, meta_steps=12, outer_rate=1e-4))
    assert slower.summary["history"][2] == {"step": 10, "meta_steps": 12, "outer_rate": 1e-4}
    # The same state with the same rate would have gone further.
    moved = jax.tree.leaves(
        jax.tree.map(
            lambda a, b: jnp.abs(a - b).max(), *(result.meta_params for result in (slower, again))
        )
    )
    assert 0 < max(moved) < 2 * 1e-4 * 1.5


def test_options_changed_before_any_checkpoint_are_not_in_the_history(ended, tmp_path, capsys):
    """Killed before the first checkpoint with its options, a run may go on with others."""
    out = shutil.copytree(ended, tmp_path / "run")
    config = replace(sinusoid.PAPER, **OPTIONS, out=out, meta_steps=6, steps_per_call=2)
    for rate, changes in ((1e-4, 2), (1e-5, 2), (1e-3, 1)):
        record_changed_options(out, replace(config, outer_rate=rate), 6)
        result = json.loads((out / "config.json").read_text())
        assert len(result.get("history", [None])) == changes and result["outer_rate"] == rate
    assert "From meta-step 6 on, outer_rate is 0.0001, not 0.001." in capsys.readouterr().out


def test_a_schedule_over_all_meta_steps_fixes_their_number(config):
    cosine = replace(config, cosine=True, meta_steps=2)
    claim_folder(config.out, result_options("sinusoid", cosine))
    for change in ({}, {"algorithm": "maml++"}):
        assert replace(cosine, cosine=not change, **change).full_length_schedule
    with pytest.raises(ValueError, match=r"cosine of the outer rate spans the 2 .* --start-from"):
        folder_of("sinusoid", replace(cosine, meta_steps=4, resume=True))
    assert config.full_length_schedule is None


def test_a_new_run_starts_from_the_meta_parameters_of_another(ended, config):
    fresh = replace(config, meta_steps=0, start_from=ended)
    started = run(fresh)
    same(started.of_seed(), meta_params(ended, started.of_seed()))
    state = first_states(supervised.make_study(sinusoid.experiment(config), config), config)
    same(started.meta_params, load(ended / "checkpoints", state).params)
    assert started.summary["start_from"] == str(ended)
    own = replace(fresh, start_from=ended / "gone.npz", resume=True)
    same(started_with(own, started.meta_params), started.meta_params)  # from its own checkpoint
    other = replace(config, out=config.out.with_name("other"))
    for change, message in (
        ({"start_from": ended / "none.npz"}, "there is no file"),
        ({"start_from": ended / "checkpoints"}, "there is no checkpoint in"),
        ({"start_from": ended, "algorithm": "cavia"}, r"has float32\(1, 40\)|has \(1, 40\) at"),
    ):
        with pytest.raises(ValueError, match=message):
            run(replace(other, **change))
        assert not other.out.exists()  # so that the corrected command can have it


def test_two_processes_do_not_write_to_one_folder(config):
    """The second would delete what the first is writing: unfinished checkpoints, and lines."""
    folder_of("sinusoid", config)
    before = files(config.out)
    with sole_writer(config.out):
        for resume in (False, True):
            with pytest.raises(
                ValueError, match=r"another process writes to .*; wait until it has"
            ):
                run(replace(config, resume=resume))
    assert files(config.out) == before
    with sole_writer(config.out):  # free again
        pass


@pytest.mark.parametrize("there", ["config.json", "summary.json"])
def test_a_new_run_writes_over_no_file_of_others(there, config):
    config.out.mkdir()
    (config.out / there).write_text('{"mine": 1}')
    with pytest.raises(ValueError, match="holds"):
        run(config)
    assert (config.out / there).read_text() == '{"mine": 1}'


def test_sigterm_ends_a_run_after_a_checkpoint(config, monkeypatch):
    observe, signals = maml.skip_report, iter([signal.SIGTERM])

    def terminate(state):
        for number in signals:  # once: a second one ends the process at once
            os.kill(os.getpid(), number)
        return observe(state)

    with monkeypatch.context() as patch:
        patch.setattr(maml, "skip_report", terminate)
        with pytest.raises(SystemExit) as caught:
            run(replace(config, save_seconds=1000))
    assert caught.value.code == 128 + signal.SIGTERM
    assert [path.name for path in (config.out / "checkpoints").iterdir()].count("2") == 1
    assert not (config.out / "summary.json").exists()
    run(replace(config, resume=True))
    assert [line["step"] for line in log(config.out)] == [2, 4, 6]
