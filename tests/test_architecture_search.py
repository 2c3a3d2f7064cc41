"""The search benchmark: its numbers, files, captions and targets."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats

from benchmarks import architecture_search
from benchmarks.architecture_search import NAMES, Search
from benchmarks.harness import folders
from benchmarks.harness.command_line import launch
from benchmarks.report import tables
from benchmarks.search import figures, report, tabulated
from benchmarks.search.figures import mean_of_top
from tasks.architectures.tabular import tabulate

DATA = Path(os.environ.get("NAS_DIR", Path(__file__).parents[2] / "shared/data/nas"))
needs_data = pytest.mark.skipif(
    not (DATA / "nasbench201.npz").exists(), reason=f"no tables in {DATA}"
)
CODES = np.stack(np.meshgrid(*[np.arange(4)] * 3), axis=-1).reshape(-1, 3)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A comparison on a table that reports a tenth of what it rewards."""
    worth = CODES.sum(axis=1) / 9
    table = tabulate("here", (4, 4, 4), CODES, worth, worth / 10)
    out = tmp_path_factory.mktemp("search") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tabulated, "read_table", lambda config: (table, "tiny"))
        patch.setattr(folders, "RESULTS", out.parent)
        options = Search(children=40, runs=6, seed=3, record=True, out=out)
        return out, architecture_search.main(options)


def test_a_comparison_leaves_its_summary_its_line_and_its_figures(compared):
    out, summary = compared
    assert {path.name for path in out.iterdir()} == {
        *("config.json", "summary.json"),
        *("rewards.png", "top.png", "gains.png"),
    }
    assert json.loads((out / "summary.json").read_text()) == summary
    assert tables.read_results(out.parent) == [summary]
    assert all(set(summary[name]) == set(NAMES) for name in ("best", "top25", "seconds"))
    assert summary["optimum"] == pytest.approx(10)


def test_what_is_found_is_reported_by_the_other_training_and_the_learners_learn(compared):
    summary = compared[1]
    for name in NAMES:
        assert 0 < summary["best"][name]["mean"] <= 10.0001
        assert summary["best"][name]["mean"] > summary["top5"][name] / 10 > 5
        assert summary["top5"][name] > summary["top25"][name]
    for name in ("evolution", "reinforce", "ppo"):
        assert summary["mean_last_fifth"][name] > summary["mean_last_fifth"]["random"] + 5
        assert summary["top25"][name] > summary["top25"]["random"]


def test_the_table_shows_each_strategy(compared, capsys):
    summary = compared[1]
    report.show(summary)
    shown = capsys.readouterr().out
    line = next(x for x in report.markdown([summary]).splitlines() if "| ppo |" in x)
    assert all(name in shown for name in NAMES)
    assert f"{summary['top25']['ppo']:.2f}" in line and "40 x 6" in line


def test_a_record_of_a_search_is_no_row_of_the_other_tables(compared):
    assert tables.markdown([compared[1]]) == tables.markdown([])


def test_the_mean_of_the_best_is_that_of_the_best_so_far():
    rewards = np.random.default_rng(0).normal(size=(7, 12))
    expected = [np.sort(rewards[:, :n], axis=1)[:, -5:].mean() for n in range(5, 13)]
    np.testing.assert_allclose(mean_of_top(rewards, 5), expected, rtol=1e-12)


def test_the_running_mean_is_drawn_where_its_last_child_is(tmp_path):
    rewards = {"random": np.arange(40.0) * np.ones((3, 1))}
    figure: Figure = figures.draw_running_mean(tmp_path, rewards)
    (line,) = figure.axes[0].get_lines()
    np.testing.assert_allclose(np.asarray(line.get_xydata())[[0, -1]], [[2, 0.5], [40, 38.5]])


def test_the_test_is_one_sided_and_of_unequal_variances():
    low, high = np.random.default_rng(0).normal([[0.0], [0.5]], [[1.0], [3.0]], size=(2, 50))
    above = architecture_search.p_value(high, low)
    both = stats.ttest_ind(high, low, equal_var=False)
    assert above == pytest.approx(np.asarray(both)[1] / 2)
    assert architecture_search.p_value(low, high) == pytest.approx(1 - above)
    same = np.full(5, 3.0)
    for other, p in ((same, 0.5), (same - 1, 0), (same + 1, 1)):
        assert architecture_search.p_value(same, other) == p


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--space nasbench201", "needs a file; name it with --table FILE"),
        ("--table nowhere.npz", "at nowhere.npz"),
        ("--table nowhere.npz --dataset svhn", "got 'svhn'"),
        ("--space macro-table --table x --dataset cifar100", "dataset must be cifar10"),
        ("--space macro-table --table nowhere.json", "at nowhere.json"),
        ("--space maml-bench --dataset glyphs", "must be omniglot for MAML-Bench; got 'glyphs'"),
    ],
)
def test_errors_are_printed_in_one_line(words, says):
    with pytest.raises(SystemExit) as caught:
        launch(architecture_search.main, Search, "words", ["--no-cache", *words.split()])
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"children": 24}, "children must be >= 25; got 24"),
        ({"runs": 1}, "runs must be >= 2"),
        ({"batch": 0}, "batch must be >= 1"),
        ({"batch": 30}, "must divide 100 children; got 30"),
        ({"rate": 0.0}, "rate must be >= 1e-30; got 0.0"),
        ({"space": "graphs", "table": Path("file")}, "a package, not a file; got --table file"),
        ({"space": "macro", "table": Path("file")}, "reads no table; got --table file"),
    ],
)
def test_invalid_options_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        Search(**options)


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("dataset", "published"), [("cifar10", 93.70), ("cifar100", 71.04), ("ImageNet16-120", 44.57)]
)
def test_nas_bench_201_is_searched_as_published(tmp_path, dataset, published):
    config = Search(table=DATA / "nasbench201.npz", dataset=dataset, out=tmp_path)
    hundred = architecture_search.main(config)
    best = {name: result["mean"] for name, result in hundred["best"].items()}
    if dataset == "cifar10":
        assert best["random"] == pytest.approx(published, abs=0.15)
    assert hundred["p_over_random"]["reinforce"] < 0.05
    assert best["evolution"] >= best["random"] + 0.1
    many = architecture_search.main(replace(config, children=500))
    for name in ("reinforce", "ppo"):
        assert many["top25"][name] >= many["top25"]["random"] + 1
