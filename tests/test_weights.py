"""Weights in a file are the learned ones to half precision, and reports compare runs."""

import json
import shutil
from dataclasses import asdict, replace

import jax
import numpy as np
import pytest

from benchmarks import few_shot_experiment, omniglot, sinusoid, weights
from benchmarks.harness import supervised
from benchmarks.harness.display import scalar_writer
from benchmarks.report import __main__ as report

TINY = {"meta_steps": 2, "steps_per_call": 1, "val_tasks": 2, "eval_tasks": 3, "eval_steps": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    glyphs = omniglot.PRESETS["glyphs-5-way-1-shot"]
    config = replace(glyphs, model="fully-connected", meta_batch=2, **TINY)
    config = replace(config, out=tmp_path_factory.mktemp("glyphs") / "run")
    return supervised.run_experiment(few_shot_experiment.experiment(config), config)


@pytest.fixture
def file(run, tmp_path):
    path = tmp_path / "weights.npz"
    weights.main(weights.Weights(files=(path,), run=run.out))
    return path


def test_a_file_holds_what_the_last_checkpoint_holds(run, file):
    _, config, loaded = weights.load_trained(file)
    assert config.ways == 5 and config.out is None and config.data is None
    for got, expected in zip(jax.tree.leaves(loaded), jax.tree.leaves(run.of_seed()), strict=True):
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, np.asarray(expected, np.float16).astype(np.float32))


def test_the_accuracy_of_a_weights_file_is_printed(run, file, capsys):
    weights.main(weights.Weights(files=(file,), eval_tasks=3))
    step = str(run.summary["steps"])
    accuracy = 100 * run.summary["accuracy"][step]["mean"]
    shown = capsys.readouterr().out
    assert "omniglot" not in shown and "glyphs 5-way 1-shot" in shown
    assert f"{accuracy:.2f}" in shown  # three tasks of five queries: rounding changes none


def test_weights_are_evaluated_on_episodes_of_one_alphabet(file, tmp_path):
    options = weights.Weights(
        files=(file,), within_alphabet=True, eval_tasks=3, out=tmp_path / "within"
    )
    weights.main(options)
    summary = json.loads((tmp_path / "within" / "summary.json").read_text())
    assert summary["config"]["within_alphabet"] is True


def test_files_of_several_seeds_are_evaluated_as_an_ensemble(run, file, tmp_path, capsys):
    """Of twice the same weights it is one of them; of runs of other options it is refused."""
    same = weights.Weights(files=(file, file), eval_tasks=3, out=tmp_path / "both")
    weights.main(same)
    result = json.loads((tmp_path / "both" / "summary.json").read_text())
    step = str(run.summary["steps"])
    assert result["accuracy"][step] == run.summary["accuracy"][step]
    assert result["algorithm"] == "maml, ensemble of 2"
    other = tmp_path / "other.npz"
    with np.load(file) as archive:
        changed = json.loads(archive["options"].item()) | {"inner_rate": 9.0}
        arrays = dict(archive) | {"options": np.array(json.dumps(changed))}
    np.savez(other, allow_pickle=False, **arrays)
    with pytest.raises(ValueError, match="must differ in the seed alone"):
        weights.main(weights.Weights(files=(file, other), eval_tasks=3))
    with pytest.raises(ValueError, match=r"one with --run; got 2"):
        weights.main(weights.Weights(files=(file, file), run=run.out))


def test_weights_of_another_network_are_refused_with_the_path(file):
    with pytest.raises(ValueError, match=r"has \(5,\) at 'params/head/bias'; expected \(3,\)"):
        weights.load_trained(file, ways=3)


def test_a_missing_or_foreign_weights_file_is_refused(tmp_path):
    path = tmp_path / "other.npz"
    np.savez(path, numbers=np.ones(3))
    with pytest.raises(ValueError, match="holds no options"):
        weights.read_options(path)
    with pytest.raises(ValueError, match="there is no file"):
        weights.read_options(tmp_path / "none.npz")


def test_options_of_an_older_file_keep_their_values(tmp_path):
    path = tmp_path / "older.npz"
    today = asdict(omniglot.PAPER) | {"algorithm": "imaml", "strength": 0.5, "draw": 7}
    older = {name: today[name] for name in today.keys() - {"regularisation", "prefetch"}}
    np.savez(path, options=np.array(json.dumps(older)))
    options = weights.read_options(path)
    assert (options.regularisation, options.prefetch) == (0.5, 7)


def test_nothing_in_a_file_is_executed(tmp_path):
    path = tmp_path / "pickled.npz"
    np.savez(path, options=np.array({"a": 1}, dtype=object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        weights.read_options(path)


def test_a_run_starts_from_the_weights_in_a_file(run, file, tmp_path):
    """They are in half precision; the outer optimiser starts afresh."""
    options = run.summary["config"]
    glyphs = omniglot.PRESETS["glyphs-5-way-1-shot"]
    config = replace(glyphs, model=options["model"], meta_batch=2, **(TINY | {"meta_steps": 0}))
    config = replace(config, out=tmp_path / "started", start_from=file)
    started = supervised.run_experiment(few_shot_experiment.experiment(config), config)
    assert started.summary["start_from"] == str(file)
    _, _, loaded = weights.load_trained(file)
    jax.tree.map(np.testing.assert_array_equal, started.of_seed(), loaded)


def test_weights_are_those_of_the_summary_of_a_run_of_few_shot_learning(run, waves, tmp_path):
    path = tmp_path / "weights.npz"
    with pytest.raises(ValueError, match="no options of few-shot learning"):
        weights.main(weights.Weights(files=(path,), run=waves[0].out))
    out = shutil.copytree(run.out, tmp_path / "run")
    summary = json.loads((out / "summary.json").read_text())
    (out / "summary.json").write_text(json.dumps(summary | {"meta_steps": 1}))
    with pytest.raises(
        ValueError, match="is that of 1 meta-steps, but its last checkpoint that of 2"
    ):
        weights.main(weights.Weights(files=(path,), run=out))
    assert not path.exists()


@pytest.fixture(scope="module")
def waves(tmp_path_factory):
    folder = tmp_path_factory.mktemp("waves")
    result = []
    for seed in (0, 1):
        out = folder / str(seed)
        config = replace(sinusoid.PAPER, meta_batch=3, seed=seed, out=out, **TINY)
        result.append(supervised.run_experiment(sinusoid.experiment(config), config))
    return result


def test_a_report_has_a_column_for_each_run_and_a_curve(waves, tmp_path, capsys):
    options = report.Report(runs=tuple(result.out for result in waves), out=tmp_path)
    table = report.main(options)
    assert table[0] == ["inner steps", "seed 0", "seed 1", "published"]
    assert table[2][0] == "1" and table[2][3] == "0.67"
    for place, result in enumerate(waves, 1):
        assert table[2][place].startswith(f"{result.summary['mse']['1']['mean']:.3f} ±")
    written = (tmp_path / "report.md").read_text()
    assert "| 1 | " in written and "seed 1" in capsys.readouterr().out
    figure = report.curves(options.runs, [result.summary for result in waves], tmp_path)
    assert [np.size(line.get_xdata()) for line in figure.axes[0].lines] == [2, 2]
    assert (tmp_path / "curves.png").exists()


def test_a_report_refuses_runs_that_cannot_stand_side_by_side(waves, run, tmp_path):
    with pytest.raises(ValueError, match="has no summary"):
        report.read_summaries((tmp_path,))
    with pytest.raises(ValueError, match="got omniglot, sinusoid"):
        report.read_summaries((waves[0].out, run.out))


def test_tensorboard_reads_back_what_the_log_says(tmp_path):
    from tensorboardX.proto import event_pb2

    event_of = vars(event_pb2)["Event"].FromString

    with scalar_writer(tmp_path, 0, enabled=True) as write:
        write({"loss": 0.5, "val": {"mse": {"1": {"mean": 2.0, "ci95": None}}}}, 10)
    (path,) = tmp_path.iterdir()
    data, seen = path.read_bytes(), {}
    while data:  # length, its checksum, the event, its checksum
        size = int.from_bytes(data[:8], "little")
        event = event_of(data[12 : 12 + size])
        seen |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
        data = data[16 + size :]
    assert seen == {("loss", 10): 0.5, ("val/mse/1/mean", 10): 2.0}


def test_tensorboard_that_is_not_there_is_refused_before_any_work(monkeypatch):
    monkeypatch.setattr("benchmarks.harness.display.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'maml-jax\[tensorboard\]'"):
        replace(sinusoid.PAPER, tensorboard=True)


def test_options_of_a_run_are_known(waves):
    """A result line has what has to be known to compare it."""
    summary = json.loads((waves[0].out / "summary.json").read_text())
    expected = {"benchmark", "preset", "algorithm", "metric", "mean", "ci95", "seed", "tasks"}
    expected |= {"batch_norm", "query_size", "steps", "device", "seconds", "versions", "command"}
    assert expected <= set(summary)
    assert summary["mean"] == summary["mse"][str(summary["steps"])]["mean"]
