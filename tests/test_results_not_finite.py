"""No decision depends on a number that is not finite; such numbers are the worst, and counted."""

# pyright: reportArgumentType=false

import json

import numpy as np
import pytest
from test_live_search import options

from benchmarks import ablation, architecture_search
from benchmarks.architecture_search import describe_outcome
from benchmarks.harness.files import as_json
from benchmarks.harness.statistics import count_not_finite, curve, mean_over_seeds
from benchmarks.report import __main__ as report
from benchmarks.report import figures, tables
from benchmarks.search import live
from benchmarks.search.figures import TOPS, mean_of_top
from benchmarks.search.live import SearchResult
from benchmarks.search.report import rows
from benchmarks.search.tabulated import optimum
from maml.search.rewards import best_child

NAN, INF = float("nan"), float("inf")


def test_tasks_that_are_not_finite_are_counted_in_a_curve():
    values = np.array([[1.0, NAN, INF], [3.0, 2.0, NAN]], np.float32)
    result = curve(values)
    assert result["0"]["mean"] == 2
    assert result["1"] == result["2"] == {"mean": None, "ci95": None}
    by_step = {str(step): column for step, column in enumerate(values.T)}
    assert count_not_finite({"mse": by_step}) == {"not_finite": {"mse": {"1": 1, "2": 2}}}


@pytest.mark.parametrize("broken", [NAN, INF, -INF])
def test_seeds_that_are_not_finite_are_counted_and_leave_valid_json(broken):
    result = mean_over_seeds(np.array([[1.0, 2.0], [3.0, broken]]))
    assert result == {"mean": None, "ci95": None}
    text = as_json({"found": [np.float64(broken), (broken, 1)], "seconds": broken})
    assert json.loads(text, parse_constant=pytest.fail) == {
        "found": [None, [None, 1]],
        "seconds": None,
    }


@pytest.mark.parametrize("broken", [NAN, INF, -INF])
def test_a_broken_reward_is_never_among_the_best(broken):
    rewards = np.array([[0.2, broken, 0.9, 0.5, broken, 0.1]])
    assert best_child(rewards).tolist() == [2]
    np.testing.assert_allclose(mean_of_top(rewards, 2), [0.1, 0.55, 0.7, 0.7, 0.7])
    np.testing.assert_allclose(mean_of_top(rewards - 1, 2)[-1], -0.3)
    with pytest.raises(ValueError, match="no child of a search has a finite reward"):
        best_child(np.array([[0.2, 0.1], [broken, broken]]))


def test_a_search_with_broken_rewards_says_how_many_and_its_table_has_no_nan():
    rewards = np.linspace(0, 1, 60).reshape(2, 30)
    rewards[0, 3], rewards[1, 29] = INF, NAN
    best = {"random": np.array([0.5, 0.6]), "evolution": np.array([0.5, NAN])}
    outcome = SearchResult(dict.fromkeys(best, rewards), best, dict.fromkeys(best, 1.0), {})
    shown, result = describe_outcome(options(None), outcome)
    assert all(np.isfinite(values).all() for values in shown.values())
    assert np.isfinite([result[f"top{count}"]["random"] for count in TOPS]).all()
    assert result["broken"] == dict.fromkeys(best, 2)
    assert result["not_finite"] == {"best": {"evolution": 1}}
    about = {"space": "macro", "dataset": "glyphs", "children": 30}
    written = json.loads(as_json(about | result), parse_constant=pytest.fail)
    cells = rows(written)["evolution"]
    assert cells[0] == "not finite ± not finite" and cells[-1] == "not finite"
    assert rows(about | result) == rows(written)


def test_an_infinite_entry_of_a_table_is_not_its_optimum():
    class Table:
        reported = np.array([0.5, INF, NAN, 0.7])

    assert optimum(Table()) == pytest.approx(70)


def test_numbers_that_are_none_in_a_log_are_gaps_in_the_figures(tmp_path):
    lines = [{"step": step, "before": [0.0, None], "after": [1.0, 2.0]} for step in (1, 2)]
    (tmp_path / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    names = {"before": "before", "after": "after"}
    figures.learning_curve(tmp_path, names, "return", title="")
    assert np.isnan(report._mean_of_line({"mse": None}, "mse"))
    assert np.isnan(report._mean_of_line({"val": {"mse": {"1": {"mean": None}}}}, "mse"))


def test_a_variant_of_the_ablation_that_diverged_is_said(monkeypatch, tmp_path, capsys):
    def summary_of(options, variant, seed):
        return {"mean": None if variant == "none" else 0.5, "seconds": {"train": 1.0}}

    monkeypatch.setattr(ablation, "run_variant", summary_of)
    summary = ablation.main(ablation.Ablation(out=tmp_path, seeds=2))
    assert summary["variants"]["none"]["accuracy"] == {"mean": None, "ci95": None}
    json.loads((tmp_path / "summary.json").read_text(), parse_constant=pytest.fail)
    assert "diverged" in capsys.readouterr().out


def test_a_run_whose_options_changed_on_the_way_has_a_row_of_its_own():
    base = {"benchmark": "sinusoid", "algorithm": "maml", "seconds": {}, "config": {"ways": 5}}
    runs = [base | {"seed": seed} for seed in range(3)]
    first = {"step": 0, "meta_steps": 6, "outer_rate": 1e-3}
    runs[1] |= {"history": [first, {"step": 6, "meta_steps": 12}]}  # the same to the bit
    assert len(tables.group_by_seed(runs)) == 1
    runs[2] |= {"history": [first, {"step": 6, "outer_rate": 1e-4}]}
    assert [len(group) for group in tables.group_by_seed(runs)] == [2, 1]
    newer = base | {"seed": 3, "config": {"ways": 5, "start_from": None}}
    assert [len(group) for group in tables.group_by_seed([*runs, newer])] == [3, 1]


def test_children_are_kept_with_null_for_a_broken_reward(tmp_path):
    search = {"run": 0, "strategy": "random"}
    keep = live.child_recorder(tmp_path, search, [])
    for number, reward in enumerate((INF, NAN, 0.5)):
        keep(architecture_search.live.Child(number, np.zeros(2, int), reward))
    lines = [json.loads(text) for text in (tmp_path / live.KEPT).read_text().splitlines()]
    assert [line["reward"] for line in lines] == [None, None, 0.5]
