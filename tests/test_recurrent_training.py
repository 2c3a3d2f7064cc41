"""Recurrent cells of a search are trained on a whole text, beside random ones and an LSTM."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import recurrent_cells
from benchmarks.recurrent_cells import Retraining
from benchmarks.search import cell_report, found_cells, recurrent, retraining
from tasks.architectures.recurrent import chain
from tasks.architectures.recurrent_lstm import lstm
from tasks.architectures.recurrent_model import RecurrentModel
from tasks.architectures.recurrent_reward import reward_of_cell
from tasks.architectures.recurrent_training import TextBudget

WORDS, SIZES = 5, {"vocabulary": 5, "width": 4}
BUDGET = TextBudget(share=1.0, epochs=2, streams=2, chunk=4, rate=0.1, val_share=1.0)
TEXT = np.arange(400) * 2 % WORDS  # each word says which one comes next
CHOSEN = {name: [(0.2, [f, 0, 1]) for f in range(2)] for name in ("random", "reinforce")}


@pytest.fixture
def search(tmp_path, monkeypatch):
    """The folder of a search, and a text instead of Penn Treebank."""
    corpus = SimpleNamespace(
        vocabulary=tuple(map(str, range(WORDS))),
        splits={split: {"text": TEXT} for split in ("train", "val", "test")},
    )
    monkeypatch.setattr(recurrent, "penn_treebank", lambda folder, level: corpus)
    folder = tmp_path / "search"
    folder.mkdir()
    summary = {"space": "recurrent", "chosen": CHOSEN, "config": {"cell": "chain", "nodes": 2}}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def options(folder, **changes):
    usual = {"data": folder, "search": folder, "seeds": 2, "width": 4, "text": BUDGET}
    return Retraining(**usual | {"out": folder.parent / "out"} | changes)


def test_a_training_epoch_by_epoch_is_that_of_the_reward(tmp_path):
    child = partial(RecurrentModel, chain(2), **SIZES)
    texts, tokens = retraining.cut_texts([TEXT[:26]] * 3, BUDGET), jnp.array([0, 0, 1])
    program = retraining.programs(child, BUDGET, 2 * len(texts.train), 0.0)
    lines = []
    key = jax.random.key(3)
    params = retraining.train(program, tokens, 2, texts, key, tmp_path / "a", lines.append)
    reward = reward_of_cell(child, TEXT[:26], TEXT[:26], BUDGET)(tokens, jax.random.split(key)[0])
    assert lines[-1]["val"] == pytest.approx(float(80 / reward) ** 0.5, rel=1e-5)
    assert [line["epoch"] for line in lines] == [1, 2]
    assert 1 < retraining.measure(program, tokens, params, texts.test)["test"] < WORDS


def test_a_run_that_was_stopped_goes_on_to_the_same_numbers(search, capsys):
    config = options(
        search, dynamic=True, dynamic_rates=(1e-3, 1e-2), text=replace(BUDGET, dropout=0.2)
    )
    summary = recurrent_cells.main(config)
    table = capsys.readouterr().out
    assert "REINFORCE" in table and "random search" in table and "minus LSTM" in table
    models = summary["models"]
    assert list(models) == ["reinforce", "random", "drawn", "lstm"]
    for model in models.values():
        assert 1 < model["test"]["mean"] < WORDS and 1 < model["dynamic"]["mean"] < WORDS
    assert (
        models["reinforce"]["each_seed"]["test"][0] != models["reinforce"]["each_seed"]["test"][1]
    )
    out = config.out
    assert (out / "epochs.png").exists()
    lines = (out / recurrent_cells.LOG).read_text().splitlines()
    assert len(lines) == 4 * 2 * 2
    (out / recurrent_cells.LOG).write_text("\n".join(lines[:15]) + '\n{"model": "l')
    last = max(retraining.checkpoint_paths(out / "checkpoints/lstm-1"), key=lambda p: int(p.name))
    last.rename(out / "gone")
    again = recurrent_cells.main(config)
    assert again["models"] == models
    assert len((out / recurrent_cells.LOG).read_text().splitlines()) == 16
    with pytest.raises(ValueError, match="holds a run of other options: width 4 there, 5 here"):
        recurrent_cells.main(replace(config, width=5))


def test_an_lstm_has_about_as_many_parameters_as_the_cells():
    sizes = {"vocabulary": 1000, "layers": 2}
    cell = RecurrentModel(chain(8), jnp.zeros(15, int), width=64, **sizes)
    target = found_cells.count_parameters(cell)
    assert target == 1000 * 65 + 2 * 9 * 64 * 128
    model = found_cells.lstm_of_size(target, 3, **sizes)
    assert len(model.tokens) == 3
    assert abs(model.parameters - target) < 0.01 * target
    others = (
        found_cells.count_parameters(model.child(jnp.zeros(1, int), width=model.width + change))
        for change in (-1, 1)
    )
    assert all(abs(other - target) > abs(model.parameters - target) for other in others)
    assert model.parameters == 1000 * (model.width + 1) + 2 * 8 * model.width**2
    assert lstm().space.length == 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seeds": 3}, "must have 3 runs with the strategy reinforce, one for each seed; got 2"),
        ({"models": ("ppo",)}, "2 runs with the strategy ppo, one for each seed; got 0"),
        ({"search": Path("nowhere")}, "has no summary.json"),
        ({"models": ("gru",)}, "models must be one of reinforce, .*lstm; got 'gru'"),
        ({"decay": 0.1}, "decay is used only with --dynamic"),
        ({"dynamic_chunk": 0}, "dynamic_chunk must be >= 1"),
        ({"text": TextBudget(streams=200)}, "200 streams of 35 words"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_a_folder_is_made(search, changes, says):
    with pytest.raises(ValueError, match=says):
        recurrent_cells.main(options(search, **changes))
    assert not (search.parent / "out").exists()


def test_another_search_is_refused(search):
    (search / "summary.json").write_text(
        json.dumps({"space": "macro", "chosen": {}, "config": {"cell": "chain", "nodes": 2}})
    )
    with pytest.raises(ValueError, match=r"must be a search with --space recurrent; got .* macro"):
        recurrent_cells.main(options(search))


def test_statistics_are_over_seeds_and_the_table_has_a_row_for_each_model():
    lines = [
        {"seed": seed, "epoch": epoch, "val": 100.0 * seed + epoch}
        for epoch in (2, 1)
        for seed in (1, 0)
    ]
    found = cell_report.statistics(lines, [{"test": 10.0}, {"test": 20.0}])
    assert [value["mean"] for value in found["val"]] == [51.0, 52.0]
    assert found["test"]["mean"] == 15 and found["each_seed"]["val"] == [2.0, 102.0]
    sizes = {"width": 4, "parameters": 1200}
    models = {"drawn": found | sizes, "lstm": found | sizes}
    config = {"layers": 1, "text": {"epochs": 2, "dropout": 0.0}}
    summary = {"benchmark": "recurrent_cells", "models": models, "seeds": 2, "config": config}
    table = cell_report.markdown([summary | {"command": "python -m x --record"}])
    assert "| 1 layer, 2 epochs, 2 seeds, dropout 0 | random cells | 1,200 |" in table
    assert "| 0.0 ± 0.0 |" in table and table.endswith("|  |  | `python -m x` |")
