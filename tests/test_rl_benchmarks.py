"""Tiny runs of the reinforcement-learning benchmarks, and their results over seeds."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats

from benchmarks import bandits, navigation
from benchmarks.harness.algorithms import JOINT
from benchmarks.harness.statistics import mean_over_seeds
from benchmarks.harness.study import values_by_step
from benchmarks.report import figures, published, tables

WALK = replace(
    navigation.FINN,
    **{"seeds": 2, "meta_steps": 2, "steps_per_call": 1, "meta_batch": 2, "goals": 2},
    **{"trajectories": 3, "eval_trajectories": 3, "horizon": 6, "width": 8, "eval_steps": 2},
)
ARMS = replace(
    bandits.PRESETS["bandit-10-5"],
    **{"seeds": 1, "meta_steps": 2, "steps_per_call": 1, "meta_batch": 4, "eval_tasks": 6},
)


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    return navigation.main(replace(WALK, out=tmp_path_factory.mktemp("walk") / "run"))


def test_a_run_over_seeds_leaves_a_log_a_summary_and_figures(walked):
    names = {path.name for path in walked.out.iterdir()}
    figures = {"learning_curve.png", "paths.png"}
    assert names == figures | {"config.json", "log.jsonl", "summary.json", "checkpoints"}
    lines = [json.loads(line) for line in (walked.out / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert all(len(line["before"]) == len(line["after"]) == 2 for line in lines)
    summary = json.loads((walked.out / "summary.json").read_text())
    assert summary == walked.summary and summary["seeds"] == 2
    for metric in ("returns", "mean_returns"):
        assert list(summary[metric]) == ["0", "1", "2"]
        assert all(cell["ci95"] > 0 for cell in summary[metric].values())


def test_seeds_in_one_program_are_those_of_programs_of_their_own(walked, tmp_path):
    alone = navigation.main(replace(WALK, seed=1, seeds=1, out=tmp_path / "alone"))
    pair = map(jax.tree.leaves, (walked.meta_params, alone.meta_params))
    for both, one in zip(*pair, strict=True):
        np.testing.assert_allclose(both[1], one[0], rtol=1e-4, atol=1e-5)
        assert not np.array_equal(both[0], both[1]) or not one.any()
    assert alone.summary["returns"]["0"]["ci95"] is None
    assert "±" not in tables.cell([alone.summary], "0")


def test_the_interval_over_seeds_is_students():
    values = np.random.default_rng(0).normal(size=(5, 40))
    low, high = stats.ttest_1samp(values.mean(axis=1), 0).confidence_interval(0.95)
    result = mean_over_seeds(values)
    assert result["mean"] == pytest.approx((low + high) / 2)
    assert result["ci95"] == pytest.approx((high - low) / 2)
    assert mean_over_seeds(values[:1])["ci95"] is None


@pytest.mark.parametrize(
    ("algorithm", "outer"),
    [
        ("meta_sgd", "promp"),
        pytest.param("pretrained", "trpo", marks=pytest.mark.slow),
        ("rl2", "promp"),
        pytest.param("fomaml", "adam", marks=pytest.mark.slow),
        pytest.param("oracle", "promp", marks=pytest.mark.slow),
        pytest.param("random", "adam", marks=pytest.mark.slow),
    ],
)
def test_every_baseline_runs_with_every_outer_step(algorithm, outer, tmp_path):
    credit = 0.0 if algorithm in JOINT else 0.1
    config = replace(WALK, algorithm=algorithm, outer=outer, seeds=1, exploration_coef=credit)
    summary = navigation.main(replace(config, out=tmp_path / "run")).summary
    assert summary["meta_steps"] == (0 if algorithm == "random" else 2)
    assert all(np.isfinite(cell["mean"]) for cell in summary["returns"].values())


def test_rewards_that_are_not_finite_end_the_run_and_say_since_when(tmp_path, monkeypatch):
    walks = navigation.navigation.navigation

    def broken(**options):
        walk = walks(**options)

        def step(key, state, action, task):
            state, observation, reward, done = walk.step(key, state, action, task)
            return state, observation, reward / 0, done

        return walk._replace(step=step)

    monkeypatch.setattr(navigation.navigation, "navigation", broken)
    with pytest.raises(FloatingPointError, match=r"seed 0: \w+ is \S+ since meta-step 0"):
        navigation.main(replace(WALK, out=tmp_path / "run"))
    assert not (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize("algorithm", ["meta_sgd", "rl2"])
def test_what_a_budget_earns_is_the_sum_over_its_batches(algorithm, tmp_path):
    config = replace(ARMS, algorithm=algorithm, out=tmp_path / "run", outer="promp")
    reward = {k: v["mean"] for k, v in bandits.main(config).summary["reward"].items()}
    assert list(reward) == ["0", "1", "2", "3", "4", "at the last rate", "total"]
    assert reward["total"] == pytest.approx(2 * sum(reward[str(n)] for n in range(5)), rel=1e-5)
    assert reward["at the last rate"] == pytest.approx(10 * reward["4"], rel=1e-5)


def test_a_decision_process_is_measured_by_the_best_policy(tmp_path):
    config = replace(bandits.PRESETS["mdp-10"], seeds=1, meta_batch=4, meta_steps=0, eval_tasks=200)
    reward = bandits.main(replace(config, steps_per_call=1, out=tmp_path / "run")).summary["reward"]
    # Duan et al. report 0.482 for random actions.
    assert reward["0"]["mean"] == pytest.approx(0.47, abs=0.04)
    assert reward["0"]["mean"] < reward["4"]["mean"] < 1


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (WALK, {"goals": 3, "devices": 2}, "must divide goals, which is 3; got 2"),
        (WALK, {"horizon": 0}, "horizon must be >= 1; got 0"),
        (WALK, {"trajectories": 0}, "trajectories must be >= 1; got 0"),
        (WALK, {"seeds": 0}, "seeds must be >= 1; got 0"),
        (ARMS, {"inner_steps": 2}, "got budget 10 and inner_steps 2"),
        (ARMS, {"inner_steps": 0}, "got budget 10 and inner_steps 0"),
        (ARMS, {"arms": 1}, "arms must be >= 2; got 1"),
    ],
)
def test_bad_options_are_refused_before_any_work(config, change, message):
    with pytest.raises(ValueError, match=message):
        replace(config, **change)


def test_published_cells_stand_beside_ours():
    summary = {"benchmark": "bandits", "algorithm": "meta_sgd"}
    config = {"problem": "bandit", "budget": 100, "arms": 10}
    assert published.published_values(summary | {"config": config})["total"] == "70.1 ± 0.6"
    assert published.published_values(summary | {"config": config | {"budget": 7}}) == {}
    mdp = config | {"problem": "mdp", "budget": 25}
    assert (
        published.published_values(summary | {"config": mdp, "algorithm": "rl2"})["total"]
        == "0.859"
    )


def test_a_figure_of_paths_has_a_row_for_each_goal(tmp_path):
    walks = jax.random.normal(jax.random.key(0), (2, 3, 4, 5, 2))
    figure = figures.paths(tmp_path, walks, jnp.zeros((2, 2)))
    assert isinstance(figure, Figure) and len(figure.axes) == 6
    assert values_by_step(jnp.zeros((7, 3))).keys() == {"0", "1", "2"}
