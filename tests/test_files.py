"""Files are replaced whole or not at all."""

# pyright: reportFunctionMemberAccess=false, reportAttributeAccessIssue=false

import json
import runpy
import sys
from collections import defaultdict
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import (
    ablation,
    architecture_pilot,
    architecture_search,
    demo,
    estimators,
    maml_bench,
    memory,
    navigation,
    omniglot,
    scaling,
    sinusoid,
    weights,
)
from benchmarks.architecture_pilot import Pilot
from benchmarks.architecture_search import Search
from benchmarks.harness import run
from benchmarks.harness.checkpoints import meta_params
from benchmarks.harness.files import (
    LINE,
    as_json,
    atomic_write,
    parse_json,
    read_lines,
    write_text,
)
from benchmarks.harness.folders import CONFIG_SCHEMA
from benchmarks.harness.stored import SCORE, read_arrays, tree_from_arrays, write_arrays
from benchmarks.maml_bench import Bench, load_accuracies
from benchmarks.peers import __main__ as peers
from benchmarks.report import __main__ as report
from benchmarks.report import tables
from benchmarks.report.__main__ import SUMMARY
from benchmarks.search import children, live
from benchmarks.search.live import CHILD


def test_a_file_is_replaced_atomically(tmp_path):
    path = tmp_path / "file.npz"
    write_text(path, "before")

    def fail(aside):
        aside.write_text("half")
        raise KeyError

    with pytest.raises(KeyError), atomic_write(path) as aside:
        fail(aside)
    assert path.read_text() == "before" and [*tmp_path.iterdir()] == [path]
    with atomic_write(path) as aside:
        aside.write_text("after")
    assert path.read_text() == "after" and [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut off"])
def test_what_is_no_npz_file_is_refused_with_its_name(content, tmp_path):
    path = tmp_path / "file.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"file\.npz is not an \.npz file of arrays"):
        read_arrays(path)
    with pytest.raises(ValueError, match=r"is not an \.npz file"):
        weights.save_weights(path, {}, {})  # it is not ours, so it is not written over
    assert path.read_bytes() == content


def test_weights_beyond_the_range_of_half_precision_are_unchanged(tmp_path):
    path = tmp_path / "weights.npz"
    learned = {"large": jnp.array([1e6, 1.0]), "small": jnp.array([0.1])}
    weights.save_weights(path, learned, {})
    result = {name: leaf for name, leaf in read_arrays(path).items() if name != weights.OPTIONS}
    assert result["small"].dtype == np.float16
    same = tree_from_arrays(result, learned, path, cast=True)
    np.testing.assert_array_equal(same["large"], learned["large"])


LIKE = {"w": jnp.zeros(2)}


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (np.full(2, np.nan), "got nan; expected finite numbers of float32"),
        (np.array([1.0, 1e300]), "got 1e.300; expected finite numbers of float32"),
        (np.full(2, 1 + 2j), "got complex128; expected float32"),
        (np.array(["a", "b"]), "got <U1; expected float32"),
        (np.array([True, False]), "got bool; expected float32"),
    ],
)
def test_arrays_of_another_kind_or_without_end_are_no_meta_parameters(found, says, tmp_path):
    np.savez(tmp_path / "weights.npz", w=found)
    with pytest.raises(ValueError, match=rf"weights\.npz at 'w': {says}"):
        meta_params(tmp_path / "weights.npz", LIKE)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, jnp.bfloat16])
def test_floats_of_another_width_are_meta_parameters(dtype):
    result = tree_from_arrays({"w": np.array([0.5, -2.0], dtype)}, LIKE, "here", cast=True)["w"]
    np.testing.assert_array_equal(result, np.array([0.5, -2.0]))


DEEP = "[" * 100_000
JSON = [
    ("{", {}, "here is not JSON"),
    (DEEP, {}, "here must have at most 32 nested levels"),
    ('{"x": ' + "[" * 40 + "]" * 40 + "}", {}, "here must have at most 32"),
    ("[1, 2]", {}, r"here: got \[1, 2\]; expected an object"),
    ("null", LINE, "here: got null; expected an object with step, seconds"),
    ('{"step": true, "seconds": 1}', LINE, "got true at 'step'; expected an integer >= 0"),
    ('{"step": -1, "seconds": 1}', LINE, "got -1 at 'step'; expected an integer >= 0"),
    ('{"step": "1", "seconds": 1}', LINE, "got \"1\" at 'step'; expected an integer >= 0"),
    ('{"step": 1, "seconds": "x"}', LINE, "got \"x\" at 'seconds'; expected a finite number"),
    ('{"step": 1, "seconds": NaN}', LINE, "got NaN at 'seconds'; expected a finite number"),
    ('{"step": 1, "seconds": 1' + "0" * 400 + "}", LINE, r"got 10*\.\.\. at 'seconds'; expected a"),
    ('{"score": "0.5"}', SCORE, "got \"0.5\" at 'score'; expected a number or null"),
    ('{"outer_rate": 1}', CONFIG_SCHEMA, "got null at 'meta_steps'; expected an integer >= 0"),
    (
        '{"meta_steps": 1, "outer_rate": 1, "history": [{"step": null}]}',
        CONFIG_SCHEMA,
        "got null at 'history/0/step'; expected an integer",
    ),
    (
        '{"meta_steps": 1, "outer_rate": 1, "history": 3}',
        CONFIG_SCHEMA,
        "got 3 at 'history'; expected a list or null",
    ),
    ('{"run": null}', CHILD, "got null at 'run'; expected an integer >= 0"),
    ('{"benchmark": 1}', SUMMARY, "got 1 at 'benchmark'; expected a string"),
]


@pytest.mark.parametrize(("text", "schema", "says"), JSON)
def test_json_that_is_not_what_it_must_be_is_refused_with_its_place(text, schema, says):
    with pytest.raises(ValueError, match=says):
        parse_json(text, schema, "here")


def test_json_that_fits_is_itself_and_a_name_that_is_not_there_is_null(tmp_path):
    assert parse_json('{"score": NaN, "x": 1}', SCORE, "here").keys() == {"score", "x"}
    assert (
        parse_json('{"meta_steps": 1, "outer_rate": 1e-3}', CONFIG_SCHEMA, "here")["meta_steps"]
        == 1
    )
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1, "seconds": 0}\n{"step": 2, "sec')
    assert [line["step"] for line in read_lines(log, LINE)] == [1]
    for content, says in (
        (b'{"step": 1, "seconds": 0}\n{"step": 2}', "line 2 of .*: got null at 'seconds'"),
        (b"[" * 100 + b"]" * 100, "line 1 of .* must have at most 32 nested levels"),
        (b"\xff\xfe", "is not a text file"),
    ):
        log.write_bytes(content)
        with pytest.raises(ValueError, match=rf"log\.jsonl.*{says}|{says}"):
            read_lines(log, LINE)


OPTIONS_OF_WEIGHTS = {
    "[1,2]": r"got \[1, 2\]; expected an object",
    "null": "got null; expected an object",
    "{": " is not JSON",
    '{"data": 3}': "got 3 at 'data'; expected a string or null",
    '{"ways": "five"}': "holds no options of few-shot learning",
    "{}": "holds no options of few-shot learning",
}


@pytest.mark.parametrize("text", OPTIONS_OF_WEIGHTS)
def test_options_of_weights_that_are_none_are_refused_with_the_file(text, tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, options=np.array(text))
    with pytest.raises(ValueError, match=rf"weights\.npz.*{OPTIONS_OF_WEIGHTS[text]}"):
        weights.read_options(path)


@pytest.mark.parametrize("options", [3, np.ones(3), np.array([b"{}"])])
def test_options_of_weights_that_are_no_text_are_refused_with_the_file(options, tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, options=options)
    with pytest.raises(ValueError, match=r"options of .*weights\.npz"):
        weights.read_options(path)
    with path.open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(ValueError, match=r"weights\.npz is not an \.npz file of arrays"):
        weights.read_options(path)


SCRIPTS = {
    "ablation": (ablation, ablation.Ablation),
    "architecture_pilot": (architecture_pilot, partial(Pilot, dataset="glyphs")),
    "architecture_search": (
        architecture_search,
        partial(Search, space="maml-bench", table=maml_bench.TABLE.resolve()),
    ),
    "a live search": (architecture_search, partial(Search, space="macro", dataset="glyphs")),
    "estimators": (estimators, estimators.Estimators),
    "maml_bench": (maml_bench, partial(Bench, dataset="glyphs")),
    "memory": (memory, memory.Options),
    "peers": (peers, peers.Options),
    "report": (report, report.Report),
    "scaling": (scaling, scaling.Options),
    "sinusoid": (sinusoid, partial(replace, sinusoid.PAPER)),
    "weights": (weights, weights.Weights),
}
RUN = {
    "summary.json": as_json(
        {
            "benchmark": "sinusoid",
            "algorithm": "maml",
            "command": "here",
            "config": {"shots": 5},
            "mse": {"1": {"mean": 0.5, "ci95": None}},
        }
    ),
    "log.jsonl": '{"step": 1, "mse": 0.5}\n',
}
BROKEN = {
    "no benchmark": (
        "summary.json",
        {"benchmark": None},
        "got null at 'benchmark'; expected a string",
    ),
    "no mse": ("summary.json", {"mse": None}, "got null at 'mse'; expected an object that is not"),
    "a list as mse": ("summary.json", {"mse": [1]}, r"got \[1\] at 'mse'; expected an object"),
    "a list of options": (
        "summary.json",
        {"config": [1]},
        r"got \[1\] at 'config'; expected an obj",
    ),
    "no mse in the log": ("log.jsonl", {"mse": ...}, "log.jsonl must have mse; got one without"),
    "a text as mse": (
        "log.jsonl",
        {"mse": "0.5"},
        "got \"0.5\" at 'mse'; expected a finite number",
    ),
    "a number as val": (
        "log.jsonl",
        {"val": 1},
        "got 1 at 'val'; expected an object with mse or nu",
    ),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_report_names_the_file_that_is_not_what_it_must_be(broken, tmp_path):
    file, change, says = BROKEN[broken]
    run = tmp_path / "run"
    run.mkdir()
    for name, content in RUN.items():
        result = json.loads(content) | (change if name == file else {})
        kept = {key: value for key, value in result.items() if value is not ...}
        (run / name).write_text(json.dumps(kept))
    with pytest.raises(ValueError, match=says):
        report.main(report.Report(runs=(run,), out=tmp_path / "report"))


@pytest.mark.parametrize(
    ("summary", "says"),
    [
        ({}, "null at 'meta_steps'"),
        ({"meta_steps": 2, "config": [1]}, "1. at 'config'; expected"),
    ],
)
def test_a_run_whose_summary_is_none_of_training_gives_no_weights(summary, says, tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(ValueError, match=rf"summary\.json: got .*{says}"):
        weights.write_weights(tmp_path / "weights.npz", tmp_path)


def test_invalid_children_are_refused_with_their_line(tmp_path):
    (tmp_path / live.KEPT).write_text('{"run": null}\n')
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"line 1 of .*children\.jsonl: got null at 'run'"):
        live.load_children(Search(space="macro", dataset="glyphs"), tmp_path)


def test_a_folder_that_cannot_be_made_is_named():
    with pytest.raises(OSError, match=r"/proc/x cannot be made: .*; name another --out"):
        estimators.main(estimators.Estimators(out=Path("/proc/x")))


OTHERS = {
    "results of its own": {"config.json": '{"benchmark": "other"}', "summary.json": "mine"},
    "a report": {"report.md": "mine"},
    "a figure": {"top.png": "mine"},
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_script_writes_over_results_of_others(script, tmp_path, monkeypatch):
    """Nor into the working directory, however it is spelt."""
    module, options = SCRIPTS[script]
    if script == "report":
        (tmp_path / "run").mkdir()
        options = partial(options, runs=(tmp_path / "run",))
        for name, content in RUN.items():
            (tmp_path / "run" / name).write_text(content)
    if script == "weights":
        monkeypatch.setattr(weights, "load_trained", lambda *_, **__: (None, None, None))
        options = partial(options, files=(tmp_path / "a.npz",))
    monkeypatch.setattr(run, "train", pytest.fail)
    monkeypatch.setattr(children, "samplers", lambda *_: (defaultdict(lambda: pytest.fail), "here"))
    monkeypatch.setattr(maml_bench, "all_architectures", lambda space: np.zeros((4, 2), int))
    for others, content in OTHERS.items():
        out = tmp_path / others
        out.mkdir()
        for name, text in content.items():
            (out / name).write_text(text)
        with pytest.raises(ValueError, match=r"holds|is that of a search whose"):
            module.main(options(out=out))
        assert {path.name: path.read_text() for path in out.iterdir()} == content
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    for spelt in (".", "../here", here, ".."):
        with pytest.raises(ValueError, match="results need a folder of their own"):
            module.main(options(out=Path(spelt)))
    assert not [*here.iterdir()]


def test_leaves_that_differ_are_named_with_both_shapes():
    result = {f"l{n}": np.zeros(n) for n in range(6)}
    like = {f"l{n}": np.zeros(n + 1) for n in range(6)}
    with pytest.raises(
        ValueError, match=r"^here has float64\(0,\) at 'l0'; expected float64\(1,\)"
    ):
        tree_from_arrays(result, like, "here")
    with pytest.raises(ValueError, match=r"and differs at 3 more leaves$"):
        tree_from_arrays(result, like, "here")


@pytest.fixture
def quick_demo(monkeypatch):
    """A demo whose runs are a config.json and a figure; `demo.number` is in it."""

    def run(name):
        def main(config):
            config.out.mkdir(parents=True)
            (config.out / "config.json").write_text(f'{{"benchmark": "{name}"}}')
            (config.out / "curve.png").write_text(str(main.number))
            if main.number == 2 and name == "navigation":
                raise FloatingPointError("the last of the three fails")

        main.number = 0
        return main

    mains = {}
    for module, name in (
        (sinusoid, "sinusoid"),
        (omniglot, "omniglot"),
        (navigation, "navigation"),
    ):
        mains[name] = run(name)
        monkeypatch.setattr(module, "main", mains[name])

    def call(out, number):
        for main in mains.values():
            main.number = number
        demo.main(out)

    return call


def test_a_demo_replaces_an_earlier_one_at_its_end_and_nothing_else(quick_demo, tmp_path):
    out = tmp_path / "demo"
    quick_demo(out, 1)
    mine = [out / "notes.txt", out / "sinusoid" / "notes.txt"]
    for path in mine:
        path.write_text("mine")
    with pytest.raises(FloatingPointError):
        quick_demo(out, 2)
    shown = [path.read_text() for path in sorted(out.rglob("*.png"))]
    assert shown == ["1"] * 3
    quick_demo(out, 3)
    assert [path.read_text() for path in sorted(out.rglob("*.png"))] == ["3"] * 3
    assert [path.read_text() for path in mine] == ["mine"] * 2


def test_a_demo_refuses_a_folder_that_is_not_its_own_before_any_work(quick_demo, tmp_path):
    (tmp_path / "glyphs").mkdir()
    (tmp_path / "glyphs" / "config.json").write_text('{"benchmark": "sinusoid"}')
    with pytest.raises(ValueError, match="glyphs is not a run of omniglot"):
        quick_demo(tmp_path, 1)
    assert [path.name for path in tmp_path.rglob("*")] == ["glyphs", "config.json"]


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("module", ["demo", "report.tables"])
def test_help_changes_no_file(module, tmp_path, monkeypatch, capsys):
    (tmp_path / "results" / "demo").mkdir(parents=True)
    (tmp_path / "README.md").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_module(f"benchmarks.{module}", run_name="__main__")
    assert caught.value.code == 0 and "usage" in capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before and (tmp_path / "README.md").read_text() == "mine"


def test_a_page_without_its_marks_is_not_written_over():
    page = f"head\n{tables.BEGIN}\ntail"
    with pytest.raises(ValueError, match="a page needs"):
        tables.insert_tables(page, "table")
    whole_page = f"head\n{tables.BEGIN}\nold\n{tables.END}\ntail"
    assert tables.insert_tables(whole_page, "new") == whole_page.replace("old", "new")


def test_a_table_of_architectures_is_not_begun_anew(tmp_path):
    config = Bench(out=tmp_path / "bench")
    assert np.isnan(load_accuracies(config, 4)[0]).all()
    result = np.ones((4, 3, 2), np.float32)
    write_arrays(config.out / maml_bench.PARTIAL, accuracy=result, seconds=2.0)
    np.testing.assert_array_equal(load_accuracies(config, 4)[0], result)
    with pytest.raises(ValueError, match=r"accuracies \(4, 3, 2\); expected \(5, 3, 2\)"):
        load_accuracies(config, 5)
    (config.out / maml_bench.PARTIAL).unlink()
    with pytest.raises(ValueError, match=r"partial\.npz is missing; put it back"):
        load_accuracies(config, 4)
    (config.out / "config.json").unlink()
    (config.out / "table.npz").write_bytes(b"mine")
    with pytest.raises(ValueError, match="holds a table without"):
        load_accuracies(config, 4)
