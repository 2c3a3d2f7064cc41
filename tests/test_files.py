"""What was there stays there until something whole takes its place."""

# pyright: reportFunctionMemberAccess=false, reportAttributeAccessIssue=false

import runpy
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import demo, maml_bench, navigation, omniglot, sinusoid, tables, weights
from benchmarks.files import fitted, read_arrays, whole, write_text
from benchmarks.maml_bench import Bench, begun


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file.npz"
    write_text(path, "before")

    def fail(aside):
        aside.write_text("half")
        raise KeyError

    with pytest.raises(KeyError), whole(path) as aside:
        fail(aside)
    assert path.read_text() == "before" and [*tmp_path.iterdir()] == [path]
    with whole(path) as aside:
        aside.write_text("after")
    assert path.read_text() == "after" and [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut off"])
def test_what_is_no_npz_file_is_refused_with_its_name(content, tmp_path):
    path = tmp_path / "file.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"file\.npz is no \.npz file of arrays"):
        read_arrays(path)
    with pytest.raises(ValueError, match=r"is no \.npz file"):
        weights.save(path, {}, {})  # it is not ours, so it is not written over
    assert path.read_bytes() == content


def test_weights_beyond_half_precision_stay_what_they_are(tmp_path):
    path = tmp_path / "weights.npz"
    learned = {"large": jnp.array([1e6, 1.0]), "small": jnp.array([0.1])}
    weights.save(path, learned, {})
    found = {name: leaf for name, leaf in read_arrays(path).items() if name != weights.OPTIONS}
    assert found["small"].dtype == np.float16
    same = fitted(found, learned, path, cast=True)
    np.testing.assert_array_equal(same["large"], learned["large"])


def test_leaves_that_differ_are_named_with_both_shapes():
    found = {f"l{n}": np.zeros(n) for n in range(6)}
    like = {f"l{n}": np.zeros(n + 1) for n in range(6)}
    with pytest.raises(ValueError, match=r"^here has float64\(0,\) at 'l0'; wanted float64\(1,\)"):
        fitted(found, like, "here")
    with pytest.raises(ValueError, match=r"and differs at 3 leaves more$"):
        fitted(found, like, "here")


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
    with pytest.raises(ValueError, match="glyphs is no run of omniglot, so it is not replaced"):
        quick_demo(tmp_path, 1)
    assert [path.name for path in tmp_path.rglob("*")] == ["glyphs", "config.json"]


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("module", ["demo", "tables"])
def test_help_is_all_that_help_does(module, tmp_path, monkeypatch, capsys):
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
        tables.with_tables(page, "table")
    whole_page = f"head\n{tables.BEGIN}\nold\n{tables.END}\ntail"
    assert tables.with_tables(whole_page, "new") == whole_page.replace("old", "new")


def test_a_table_of_architectures_is_not_begun_anew(tmp_path):
    config = Bench(out=tmp_path / "bench")
    assert np.isnan(begun(config, 4)[0]).all()
    found = np.ones((4, 3, 2), np.float32)
    maml_bench.save(config.out, found, 2.0)
    np.testing.assert_array_equal(begun(config, 4)[0], found)
    with pytest.raises(ValueError, match=r"accuracies \(4, 3, 2\); wanted \(5, 3, 2\)"):
        begun(config, 5)
    (config.out / maml_bench.PARTIAL).unlink()
    with pytest.raises(ValueError, match=r"partial\.npz is missing: put it back"):
        begun(config, 4)
    (config.out / "config.json").unlink()
    (config.out / "table.npz").write_bytes(b"mine")
    with pytest.raises(ValueError, match="holds a table without"):
        begun(config, 4)
