"""The papers' numbers at full size, minutes each: `make test-slow`."""

from dataclasses import replace

import pytest

from benchmarks import few_shot_experiment, omniglot, sinusoid
from benchmarks.harness.supervised import run_experiment
from benchmarks.report.published import published_values

pytestmark = pytest.mark.slow


def test_sinusoids_reach_the_paper_within_the_confidence_interval(tmp_path):
    config = replace(sinusoid.PAPER, out=tmp_path / "run")
    summary = run_experiment(sinusoid.experiment(config), config).summary
    for step, expected in published_values(summary).items():
        got = summary["mse"][step]
        assert got["mean"] - got["ci95"] <= float(expected), (step, got)


def test_glyphs_are_learned_far_beyond_the_nearest_neighbour_in_pixels(tmp_path):
    config = replace(omniglot.PRESETS["glyphs-5-way-1-shot"], out=tmp_path / "run")
    accuracy = run_experiment(few_shot_experiment.experiment(config), config).summary["accuracy"]
    assert accuracy["0"]["mean"] < 0.25 and accuracy["1"]["mean"] > 0.75
