"""Twenty kills of each of five benchmarks at random moments: all end as the straight runs."""

import pytest
from killing import Killable, assert_equal, killed, straight

SEED = 15
KILLS = 20
SHORT = ("--meta-steps=160", "--steps-per-call=1", "--meta-batch=2", "--save-seconds=0")
FEW = ("--val-tasks=2", "--eval-tasks=2", "--eval-steps=1")
SEED_ALONE = ("--seeds=1", "--surrogate=likelihood_ratio")
RUNS = {
    "sinusoid": Killable("benchmarks.sinusoid", (*SHORT, *FEW)),
    "glyphs": Killable(
        "benchmarks.omniglot",
        ("--preset=glyphs-5-way-1-shot", "--model=fully-connected", *SHORT, *FEW),
    ),
    "navigation": Killable(
        "benchmarks.navigation",
        (
            *(*SHORT, *SEED_ALONE, "--horizon=6", "--width=8", "--goals=4"),
            *("--trajectories=3", "--eval-trajectories=3"),
        ),
    ),
    "bandits": Killable(
        "benchmarks.bandits", ("--preset=bandit-10-5", *SHORT, *SEED_ALONE, "--eval-tasks=10")
    ),
    "live search": Killable(
        "benchmarks.architecture_search",
        (
            *("--space=macro", "--dataset=glyphs", "--layers=1", "--side=7", "--ways=2"),
            *("--children=30", "--runs=6", "--strategies", "random", "evolution"),
            *("--budget.meta-steps=40", "--budget.meta-batch=1", "--budget.eval-tasks=2"),
        ),
        log="children.jsonl",
        resume=(),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_run_killed_at_random_moments_equals_an_uninterrupted_run(name, tmp_path):
    run, cache = RUNS[name], tmp_path / "cache"
    longest = straight(run, tmp_path / "straight", cache)
    killed(run, tmp_path / "killed", cache, KILLS, SEED, longest)
    assert_equal(run, tmp_path / "straight", tmp_path / "killed")
