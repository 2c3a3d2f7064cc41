"""The ablation of MAML++: its runs, its tables, and that it resumes."""

import json

import numpy as np
import pytest

from benchmarks import ablation
from benchmarks.harness import folders
from benchmarks.harness.run import Result

EFFECT = {"learn_rates": 0.3, "multi_step": 0.1, "first_order": -0.1, "per_step_norm": 0.0}


class Runs:
    """Runs that take no time: half of all is right, less what remedies left out are worth."""

    def __init__(self):
        self.configs, self.interrupted_at = [], None

    def run(self, config):
        self.configs.append(config)
        lost = sum(worth for name, worth in EFFECT.items() if not getattr(config, name))
        interrupted = len(self.configs) == self.interrupted_at
        summary = {"mean": 0.5 - lost + 0.01 * config.seed, "interrupted": interrupted}
        summary |= {"seconds": {"train": 2.0}}
        folders.claim_folder(config.out, folders.result_options("omniglot", config))
        (config.out / "log.jsonl").touch()
        (config.out / "summary.json").write_text(json.dumps(summary))
        return Result(config.out, summary, None)


@pytest.fixture
def runs(monkeypatch):
    made = Runs()
    monkeypatch.setattr(ablation, "experiment", lambda config: config)
    monkeypatch.setattr(ablation, "run_experiment", lambda experiment, config: made.run(config))
    return made


def test_each_variant_leaves_out_one_remedy_and_losses_are_paired_by_seed(runs, tmp_path):
    options = ablation.Ablation(out=tmp_path, seeds=2, meta_steps=40)
    summary = ablation.main(options)
    assert len(runs.configs) == 2 * (1 + len(ablation.OFF) + 1)
    whole = runs.configs[0]
    assert (whole.meta_steps, whole.multi_step, whole.first_order) == (40, 10, 10)
    alone = next(config for config in runs.configs if config.out.name == "no-multi_step-1")
    assert alone.multi_step == 0 and alone.seed == 1 and alone.learn_rates
    lost = {name: row["lost"]["mean"] for name, row in summary["variants"].items()}
    for name, worth in EFFECT.items():
        assert lost[f"no {name}"] == pytest.approx(worth)
    assert lost["none"] == pytest.approx(0.3) and lost["all"] == 0
    # The seeds differ, and what is lost does not.
    assert summary["variants"]["all"]["accuracy"]["ci95"] > 0.05
    assert summary["variants"]["no learn_rates"]["lost"]["ci95"] == pytest.approx(0, abs=1e-9)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert (tmp_path / "ablation.png").exists()


def test_an_interrupted_run_is_resumed_and_what_is_done_is_not_run_again(runs, tmp_path):
    options, runs.interrupted_at = ablation.Ablation(out=tmp_path, seeds=1), 3
    with pytest.raises(SystemExit, match="was interrupted; the same command resumes it"):
        ablation.main(options)
    assert len(runs.configs) == 3
    ablation.main(options)
    assert [config.resume for config in runs.configs[3:]] == [True, *[False] * 4]
    assert runs.configs[3].out == runs.configs[2].out
    assert len(runs.configs) == 1 + len(ablation.VARIANTS)


def test_the_figure_has_a_row_for_each_variant(tmp_path):
    values = {name: np.full((3, 1), 0.5) for name in ablation.VARIANTS}
    figure = ablation.draw(tmp_path, values)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == [ablation.LABELS[name] for name in ablation.VARIANTS]
