"""Tiny runs of the benchmarks: their files, their refusals, and that they resume."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from functools import reduce
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

import maml
from benchmarks import demo, few_shot_experiment, omniglot, sinusoid
from benchmarks.harness import checkpoints, folders, hardware, statistics, supervised
from benchmarks.harness.command_line import configure, launch
from benchmarks.report import figures, published, tables
from benchmarks.report.rows import rows_of
from tasks import glyphs as tasks_glyphs
from tasks.characters import alphabet

ROOT = Path(__file__).parents[1]
TINY = {"meta_steps": 4, "steps_per_call": 2, "val_tasks": 2, "eval_tasks": 3, "eval_steps": 2}


@pytest.fixture
def waves(tmp_path):
    return replace(sinusoid.PAPER, out=tmp_path / "run", meta_batch=3, **TINY)


@pytest.fixture(scope="module")
def glyphs(tmp_path_factory):
    """The convolutional network is trained by the demo."""
    preset = omniglot.PRESETS["glyphs-5-way-1-shot"]
    config = replace(preset, model="fully-connected", meta_batch=2, **TINY)
    return replace(config, out=tmp_path_factory.mktemp("glyphs") / "run")


@pytest.fixture(scope="module")
def glyph_run(glyphs):
    return omniglot.main(glyphs)


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_leaves_a_log_a_summary_and_figures(glyphs, glyph_run):
    written = {path.name for path in glyphs.out.iterdir()}
    figures = {"learning_curve.png", "episodes.png"}
    assert written == figures | {"config.json", "log.jsonl", "summary.json", "checkpoints"}
    assert [line["step"] for line in read(glyphs.out / "log.jsonl")] == [2, 4]


def test_a_summary_holds_what_a_comparison_needs(glyphs, glyph_run):
    summary = json.loads((glyphs.out / "summary.json").read_text())
    assert summary == glyph_run.summary
    assert set(summary["accuracy"]) == {"0", "1", "2"}
    assert summary["batch_norm"] == "transductive" and summary["query_size"] == 5
    assert summary["precision"] == "float32"
    assert summary["tasks"] == 3 and summary["config"]["inner_rate"] == 2.0
    assert {"compile", "train", "validate", "evaluate"} == set(summary["seconds"])
    assert {"jax", "python", "maml"} <= set(summary["versions"])


def test_the_evaluation_is_of_the_learned_parameters_on_the_test_part(glyphs, glyph_run):
    experiment = few_shot_experiment.experiment(glyphs)
    values = supervised.evaluate(experiment, glyphs, glyph_run.of_seed(), "test")
    assert statistics.curve(values["accuracy"]) == glyph_run.summary["accuracy"]
    others = supervised.evaluate(experiment, glyphs, experiment.initial(), "test")
    assert not np.array_equal(values["cross_entropy"], others["cross_entropy"])


def test_a_run_is_not_written_over(glyphs, glyph_run):
    with pytest.raises(ValueError, match="holds a run"):
        omniglot.main(glyphs)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("fomaml", "boil", "meta_sgd")]


@pytest.mark.parametrize("algorithm", ["anil", "reptile", "imaml", *SLOW])
def test_every_algorithm_learns_every_layer(glyphs, algorithm, tmp_path):
    change = {"algorithm": algorithm, "out": tmp_path / "run"}
    config = replace(glyphs, inner_steps=2, inner_rate=0.5, val_tasks=0, **change)
    experiment = few_shot_experiment.experiment(config)
    learned = supervised.run_experiment(experiment, config).of_seed()
    learned = getattr(learned, "params", learned)["params"]
    for path, leaf in jax.tree.leaves_with_path(experiment.initial()["params"]):
        assert jnp.any(leaf != reduce(lambda tree, key: tree[key.key], path, learned)), path


@pytest.mark.parametrize("batch_norm", ["support", "running"])
def test_the_batch_norm_mode_is_in_the_summary(glyphs, batch_norm, tmp_path):
    config = replace(glyphs, batch_norm=batch_norm, out=tmp_path / "run", val_tasks=0)
    experiment = few_shot_experiment.experiment(config)
    assert supervised.run_experiment(experiment, config).summary["batch_norm"] == batch_norm


@pytest.mark.parametrize("algorithm", ["pretrained", "oracle"])
def test_sinusoids_run_with_their_baselines(waves, algorithm):
    config = replace(waves, algorithm=algorithm)
    summary = sinusoid.main(config).summary
    assert summary["algorithm"] == algorithm and set(summary["mse"]) == {"0", "1", "2"}


def test_the_same_seed_gives_the_same_result_and_another_seed_another(waves, tmp_path):
    runs = [
        supervised.run_experiment(sinusoid.experiment(config), config).summary["mse"]
        for config in (
            waves,
            replace(waves, out=tmp_path / "again"),
            replace(waves, out=tmp_path / "other", seed=1),
        )
    ]
    assert runs[0] == runs[1] != runs[2]


def test_ctrl_c_ends_with_the_evaluation_of_what_was_learned(waves, monkeypatch, capsys):
    evaluate = supervised.evaluate

    def interrupting(*args):
        if "val" in args:
            os.kill(os.getpid(), signal.SIGINT)
        return evaluate(*args)

    monkeypatch.setattr(supervised, "evaluate", interrupting)
    summary = supervised.run_experiment(sinusoid.experiment(waves), waves).summary
    assert summary["interrupted"] and summary["meta_steps"] == 2
    assert [line["step"] for line in read(waves.out / "log.jsonl")] == [2]
    assert "Stopped after 2 meta-steps" in capsys.readouterr().out


def test_a_gradient_that_stays_broken_ends_the_run_and_says_since_when_and_where(waves):
    config = replace(waves, inner_rate=1e30, patience=3)
    with pytest.raises(FloatingPointError, match=r"not finite since step 0, in .*Dense_0/bias"):
        supervised.run_experiment(sinusoid.experiment(config), config)
    assert [line["skipped"] for line in read(waves.out / "log.jsonl")] == [[2], [4]]


def test_a_gradient_that_is_broken_now_and_then_is_left_out_and_counted(waves):
    experiment = sinusoid.experiment(waves)

    def broken(key):
        episode = clean(key)
        bad = jax.random.bernoulli(key, 0.2)
        return jax.tree.map(lambda leaf: jnp.where(bad, jnp.nan, leaf), episode)

    clean = experiment.samplers["train"]
    experiment = experiment._replace(samplers=experiment.samplers | {"train": broken})
    summary = supervised.run_experiment(
        experiment, replace(waves, meta_steps=20, meta_batch=1)
    ).summary
    assert 0 < summary["skipped_steps"] < 20
    assert all(value["mean"] is not None for value in summary["mse"].values())


def test_a_diverging_task_is_reported_and_its_score_is_null(waves):
    config = replace(waves, inner_rate=1e30, meta_steps=0)
    summary = supervised.run_experiment(sinusoid.experiment(config), config).summary
    assert summary["mse"]["2"] == {"mean": None, "ci95": None}
    assert 0 < summary["not_finite"]["mse"]["2"] <= summary["tasks"]
    assert tables.cell([summary], "2") == "diverged"


def test_validation_and_evaluation_compile_once_each(waves):
    before = supervised._evaluate._cache_size()  # pyright: ignore
    supervised.run_experiment(sinusoid.experiment(waves), waves)
    assert supervised._evaluate._cache_size() - before == 2  # pyright: ignore


def test_validation_tasks_are_not_the_test_tasks(waves):
    config = replace(waves, val_tasks=3, inner_steps=2)
    experiment = sinusoid.experiment(config)
    val, test = (
        supervised.evaluate(experiment, config, experiment.initial(), part)["mse"][:, 0]
        for part in ("val", "test")
    )
    assert not np.isin(val, test).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ways": 2000}, r"2000 ways need as many classes; got a split of \d+"),
        (
            {"queries": 20},
            "1 shots \\+ 20 queries need 21 examples of each class; the array has 20",
        ),
        ({"algorithm": "reptile", "batch_norm": "running"}, "batch_norm must not be running"),
        ({"algorithm": "reptile"}, "reptile needs inner_steps >= 2; got 1"),
        ({"algorithm": "fomaml", "hvp": "forward"}, "hvp is used only with .*; got 'forward'"),
        ({"precision": "tensorfloat32"}, "tensorfloat32"),
        ({"algorithm": "imaml"}, r"inner_rate \* regularisation must be < 2 .*; got 2.0 \* 2.0"),
    ],
)
def test_tasks_that_the_data_cannot_supply_are_refused_before_any_work(glyphs, change, message):
    with pytest.raises(ValueError, match=message):
        few_shot_experiment.experiment(replace(glyphs, **change))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--inner-steps", "-1"], "inner_steps must be >= 0; got -1"),
        (["--chunk", "7"], "a chunk must divide a device's 25 tasks; got 7"),
        (["--chunk", "0"], "chunk must be >= 1 or auto or all; got 0"),
        (["--devices", "2"], "the devices must divide meta_batch, which is 25; got 2"),
        (["--devices", "5", "--eval-tasks", "9"], "divide eval_tasks, which is 9; got 5"),
        (["--devices", "0"], "devices must be >= 1; got 0"),
        (["--steps-per-call", "999"], "steps_per_call must divide meta_steps; got 999"),
        (["--val-tasks", "1"], "val_tasks must be 0 or >= 2"),
        (["--preset", "nonesuch"], "no preset 'nonesuch'; there are maml-paper-5-shot"),
    ],
)
def test_bad_options_are_refused_in_words(options, message, capsys):
    with pytest.raises(SystemExit) as refusal:
        launch(lambda config: pytest.fail("started"), sinusoid.PRESETS, "words", options)
    assert message in f"{capsys.readouterr()} {refusal.value}"


def test_a_missing_folder_is_refused_in_words(tmp_path):
    options = ["--no-cache", "--data", str(tmp_path / "nowhere")]
    with pytest.raises(SystemExit, match="nowhere is not a folder"):
        launch(omniglot.main, omniglot.PRESETS, "words", options)


def test_the_error_out_of_memory_names_the_two_options_that_save_memory():
    def hungry(config):
        jax.block_until_ready(jax.jit(lambda n: jnp.zeros((1 << 46,)) + n)(1.0))

    with pytest.raises(SystemExit, match=r"--chunk 1 .* and --remat need less"):
        launch(hungry, sinusoid.PRESETS, "words", ["--no-cache"])


def test_heavy_tasks_have_a_core_each_and_light_ones_share_one():
    """The tests run on eight devices of a CPU."""
    layout = hardware.layout
    assert layout(25, heavy=False) == (None, None)
    heavy = layout(20, heavy=True)
    assert heavy.mesh and (heavy.chunk, heavy.mesh.size) == (1, 5)
    assert str(heavy) == "5 x cpu, 1 task at a time on each"
    asked = layout(20, heavy=True, devices=2, chunk="all")
    assert asked.mesh and (asked.chunk, asked.mesh.size) == (None, 2)


def test_a_chunk_that_the_chosen_devices_cannot_map_is_refused_before_there_is_a_folder(glyphs):
    config = replace(glyphs, out=glyphs.out / "none", chunk=2, eval_tasks=4)
    with pytest.raises(ValueError, match="tasks of each of 2 devices, which is 1; got 2; with"):
        omniglot.main(config)
    assert not config.out.exists()


def test_compilations_are_kept_in_the_cache_of_the_user(tmp_path):
    program = """
import jax, pathlib, sys
from benchmarks.harness import hardware
hardware.start(cache=sys.argv[1] == "yes")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.jit(lambda x: x * 2)(3.0)
print(jax.device_count(), len(list(pathlib.Path(sys.argv[2]).rglob("*-cache"))))
"""

    def kept(cache):
        environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-c", program, cache, str(tmp_path)]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        devices, files = map(int, run.stdout.split())
        assert devices == len(os.sched_getaffinity(0))
        return files

    assert kept("no") == 0
    assert kept("yes") > 0


def test_a_preset_is_changed_by_the_other_options():
    config = configure(omniglot.PRESETS, "words", ["--preset", "maml-paper-20-way-1-shot"])
    assert (config.ways, config.inner_steps, config.meta_batch) == (20, 5, 16)
    config = configure(omniglot.PRESETS, "words", ["--seed", "7", "--algorithm", "fomaml"])
    assert (config.seed, config.algorithm, config.ways) == (7, "fomaml", 5)


def test_a_recorded_run_is_a_row_of_the_table(waves, tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "RESULTS", tmp_path)
    config = replace(waves, record=True)
    summary = supervised.run_experiment(sinusoid.experiment(config), config).summary
    assert tables.read_results(tmp_path) == [summary]
    assert tables.cell([summary], "1") in tables.markdown([summary])


@pytest.mark.parametrize("page", tables.PAGES, ids=str)
def test_a_page_holds_the_tables_of_the_recorded_results(page):
    text = page.read_text()
    made = tables.PAGES[page](tables.read_results())
    assert "|" in made and tables.insert_tables(text, made) == text


def test_runs_that_differ_in_their_seed_are_one_row_with_an_interval_over_seeds():
    def run(seed, mean, rate=0.1, **younger):
        curve = {"1": {"mean": mean, "ci95": 9.0}}
        config = {"inner_steps": 1, "inner_rate": rate, "seed": seed, "shots": 5} | younger
        config |= {"meta_batch": 3}
        facts = {"preset": "p", "algorithm": "maml", "meta_steps": 1, "tasks": 2}
        facts |= {"device": "1 x cpu", "batch_norm": "none", "seconds": {}}
        facts |= {"command": f"run --seed {seed} --record"}
        return {"benchmark": "sinusoid", "mse": curve, "seed": seed, "config": config} | facts

    made = tables.markdown([run(0, 1.0), run(1, 3.0, new=1), run(0, 2.0), run(0, 7.0, rate=0.2)])
    rows = [row for row in made.splitlines() if row.startswith("| sinusoid 5-shot | maml")]
    # The latest of seed 0, and seed 1: 2.5 +- 12.706 * sqrt(0.5) / sqrt(2); the other rate apart.
    assert "| 2.500 ± 6.353 | 0.67 | 2 |" in rows[0] and "`run --seeds 2`" in rows[0]
    assert "| 7.000 ± 9.000 |" in rows[1] and len(rows) == 2
    made = tables.markdown([run(0, 1.0), run(1, 3.0, new=1), run(2, 5.0, new=2)])
    assert "| 5.000 ± 9.000 |" in made  # the option is another one
    assert "`run --seeds 2 --seed 5`" in tables.markdown([run(6, 1.0), run(5, 3.0)])


def test_a_row_says_how_it_was_trained_and_counts_the_minutes_of_a_seed():
    config = asdict(omniglot.PRESETS["one-step-20-way-1-shot"])
    config |= {"first_order": 1000, "inner_steps": 4, "train_ways": 30, "shots_range": (1, 4)}
    curve = {str(step): {"mean": 0.5, "ci95": 0.1} for step in range(4)}
    run = {"benchmark": "omniglot", "preset": "p", "algorithm": "maml", "meta_steps": 2000}
    run |= {"accuracy": curve, "config": config | {"seeds": 2}, "tasks": 10_000, "seed": 0}
    run |= {"device": "1 x cpu", "batch_norm": "transductive", "query_size": 20, "command": "run"}
    seconds = {"compile": 24.0, "train": 96.0, "evaluate": 120.0}
    (row,) = rows_of([run | {"seconds": seconds}])
    assert row["setting"] == (
        "2,000 meta-steps of 4 tasks, 4 inner steps in training, the first 1,000 meta-steps of "
        "first order, cosine schedule, 30 classes in training, 3 queries of each class in "
        "training, 1 to 4 shots in training, a head that starts at zero, 10,000 test tasks of "
        "20 queries, transductive batch norm"
    )
    assert (row["minutes of training"], row["minutes in all"]) == ("1.0", "2.0")
    other = run | {"seed": 1, "seconds": seconds | {"validate": 240.0}}
    (row,) = rows_of([run | {"seconds": seconds}, other])
    assert (row["minutes of training"], row["minutes in all"]) == ("1.0", "3.0")
    (row,) = rows_of([run | {"seconds": {"evaluate": 120.0}}])
    assert (row["minutes of training"], row["minutes in all"]) == ("", "1.0")


def test_what_was_not_run_is_named_with_its_network():
    shown = tables.markdown([], ["omniglot"])
    assert "maml with a fully-connected network: 5-way 1-shot (89.7 ± 1.1)" in shown
    run = {"benchmark": "omniglot", "algorithm": "maml"}
    run |= {"config": {"ways": 5, "shots": 1, "model": "conv4-pool"}}
    shown = published.not_run("omniglot", {published.key_of(run)})
    assert "maml: 5-way 5-shot" in shown and "maml with a fully-connected network: 5-w" in shown


def test_a_line_of_several_seeds_without_their_means_does_not_count_as_one_of_them():
    def run(seed, mean, **more):
        curve = {"1": {"mean": mean, "ci95": 1.0}}
        config = {"inner_steps": 1, "seed": seed}
        return {"benchmark": "sinusoid", "algorithm": "maml", "mse": curve, "seed": seed} | {
            "config": config,
            "seconds": {},
            "device": "1 x cpu",
            **more,
        }

    whole, later = run(0, 9.0, seeds=5), [run(5, 1.0), run(6, 3.0)]
    assert tables.group_by_seed([whole]) == [[whole]]
    assert tables.group_by_seed([whole, *later]) == [later]


def test_a_run_with_an_option_that_older_runs_lack_is_no_seed_of_theirs():
    runs = tables.read_results(ROOT / "results")
    old = next(run for run in runs if run["benchmark"] == "omniglot" and "split" in run["config"])
    for option in ("augment", "leave_out_small", "within_alphabet", "zero_head"):
        new = old | {"seed": 99, "config": old["config"] | {option: True}}
        assert [len(runs) for runs in tables.group_by_seed([old, new])] == [1, 1]
    within = old | {"config": old["config"] | {"within_alphabet": True}}
    assert "within alphabets" in published.task_title(within)
    assert published.published_values(old) and not published.published_values(within)


def test_training_is_augmented_and_evaluation_is_within_an_alphabet(glyphs):
    """By the drawn images: training has several alphabets and interpolated pixels."""
    config = replace(glyphs, rotate=False)
    more = replace(config, augment=True, within_alphabet=True)
    changed, plain = (few_shot_experiment.experiment(each).samplers for each in (more, config))
    key = jax.random.key(0)
    same = changed["train"](key).support[1], plain["train"](key).support[1]
    np.testing.assert_array_equal(*same)
    assert (changed["train"](key).support[0] != plain["train"](key).support[0]).any()
    characters = tasks_glyphs.load()
    alphabet_of = {
        drawing.tobytes(): alphabet(name)
        for drawings, name in zip(characters.images, characters.names, strict=True)
        for drawing in drawings
    }

    def alphabets(sample, key):
        pixels = np.rint(255 * np.asarray(sample(key).support[0][..., 0])).astype(np.uint8)
        return {alphabet_of[image.tobytes()] for image in pixels}

    for number in range(5):
        key = jax.random.key(number)
        assert all(len(alphabets(changed[split], key)) == 1 for split in ("val", "test"))
    assert any(len(alphabets(plain["test"], jax.random.key(number))) > 1 for number in range(5))


def test_curves_of_ten_steps_and_more_keep_their_order_and_score_the_last(waves):
    result = sinusoid.main(replace(waves, inner_steps=11, eval_steps=12, seeds=2))
    steps = [str(step) for step in range(13)]
    assert [*result.summary["mse"]] == steps == [*result.summary["each_seed"]["mse"]]
    line = json.loads((result.out / "log.jsonl").read_text().splitlines()[-1])
    assert [*line["val"]["mse"]] == steps[:12]
    best = checkpoints.best_step(result.out / "checkpoints")
    losses = {
        line["step"]: line["val"]["mse"]["11"]["mean"]
        for line in map(json.loads, (result.out / "log.jsonl").read_text().splitlines())
    }
    assert best == min(losses, key=lambda step: losses[step])


def test_the_seeds_of_one_command_and_of_several_are_one_row_of_all_seeds(waves, tmp_path):
    """Seeds 0 to 2 of one command, and seeds 2 and 3 of others: four seeds, each counted once."""
    few = {"meta_steps": 2, "steps_per_call": 2, "val_tasks": 2}
    together = sinusoid.main(replace(waves, seeds=3, **few)).summary
    alone = [
        sinusoid.main(replace(waves, seed=seed, out=tmp_path / str(seed), **few)).summary
        for seed in (2, 3)
    ]
    (runs,) = tables.group_by_seed([together, *alone])
    assert sorted(run["seed"] for run in runs) == [0, 1, 2, 3]
    expected = [*together["each_seed"]["mse"]["1"], alone[1]["mse"]["1"]["mean"]]
    by_seed = sorted(runs, key=lambda run: run["seed"])
    np.testing.assert_allclose([run["mse"]["1"]["mean"] for run in by_seed], expected, rtol=1e-5)
    made = tables.markdown([together, *alone])
    assert f"| {np.mean(expected):.3f} ± " in made and "| 4 | 2 meta-steps" in made


def test_published_numbers_without_a_result_are_one_sentence():
    *_, sentence = tables.markdown([], ["omniglot"]).splitlines()
    assert sentence.startswith("Published, and not run here: maml: 5-way 1-shot (98.7 ± 0.4), ")
    assert "; fomaml: " in sentence and "20-way 5-shot (97.9 ± 0.1)" in sentence


def test_the_demo_runs(tmp_path, capsys):
    walk = {"horizon": 6, "width": 8, "goals": 4, "trajectories": 3, "eval_trajectories": 3}
    demo.main(tmp_path / "demo", meta_batch=2, **TINY, **walk)
    assert len(list((tmp_path / "demo").rglob("*.png"))) == 6
    shown = capsys.readouterr().out
    assert "0.67" in shown and "-11.68" in shown


def test_the_tasks_of_an_evaluation_are_the_same_on_any_number_of_devices(waves):
    values = []
    for devices in (1, 8):
        config = replace(waves, meta_batch=8, val_tasks=8, eval_tasks=1000, devices=devices)
        experiment = sinusoid.experiment(config)
        params = experiment.algorithm.init(experiment.init(jax.random.key(0)))
        values.append(supervised.evaluate(experiment, config, params, "test")["mse"])
    assert len(values[0]) == 1000
    np.testing.assert_allclose(values[1], values[0], rtol=1e-5)


def test_a_figure_without_validation_has_one_curve(waves):
    config = replace(waves, val_tasks=0)
    supervised.run_experiment(sinusoid.experiment(config), config)
    figure = figures.learning_curve(config.out, {"mse": "tasks"}, "MSE", title="")
    assert isinstance(figure, Figure) and len(figure.axes[0].lines) == 1


def test_the_share_of_tasks_left_out_is_in_the_log(waves):
    """Those whose loss is the square root of a negative number."""
    config = replace(waves, meta_batch=16, val_tasks=0)
    experiment = sinusoid.experiment(config)

    def loss(params, batch, key):
        value, metrics = maml.regression(experiment.predict)(params, batch, key)
        return value * jnp.sqrt(batch[1][0, 0]), metrics

    broken = maml.unrolled(experiment.algorithm.learner, loss, 1)
    algorithm = experiment.algorithm._replace(grad=broken)
    supervised.run_experiment(experiment._replace(algorithm=algorithm), config)
    lines = read(config.out / "log.jsonl")
    assert all(0.1 < line["left_out"][0] < 0.9 and "skipped" not in line for line in lines)
