"""Recurrent cells of a search are trained on a whole text, beside random ones and an LSTM."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import recurrent_cells
from benchmarks.recurrent_cells import Retraining
from benchmarks.search import cell_report, found_cells, recurrent, retraining
from tasks.architectures.recurrent_chain import chain
from tasks.architectures.recurrent_lstm import lstm
from tasks.architectures.recurrent_model import RecurrentModel
from tasks.architectures.recurrent_reward import reward_of_cell
from tasks.architectures.recurrent_training import TextBudget, start_of_streams, streams_loss

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
    program = retraining.programs(child, BUDGET, 2 * len(texts.train), 0.01)
    told, key = [], jax.random.key(3)
    state = retraining.train(
        program, tokens, 2, texts, key, tmp_path / "a", lambda *x: told.append(x)
    )
    reward = reward_of_cell(child, TEXT[:26], TEXT[:26], BUDGET)(tokens, jax.random.split(key)[0])
    assert state.val[1] == pytest.approx(float(80 / reward) ** 0.5, rel=1e-5)
    assert [count for count, _, _ in told] == [0, 1, 1] and told[2][2] == state.val[1]
    params = state.training.params
    static = retraining.perplexity(program.nats(tokens, params, texts.test))
    short = retraining.cut_for_adaptation([np.tile(TEXT, 2), TEXT[:26], TEXT[:26]], BUDGET, 4)
    still = retraining.measure_adapting(program, tokens, params, short, [0.0])
    assert still == {"dynamic": pytest.approx(static, rel=1e-5), "rate": 0.0}
    assert retraining.measure_adapting(program, tokens, params, short, [1e9, 0.0]) == still
    grads = []
    for words in short.train:  # all streams at once, each with its carry
        carries = grads[-1][1] if grads else start_of_streams(child(tokens), short.train)
        grad, (carries, _) = jax.grad(streams_loss(child(tokens)), has_aux=True)(
            params, (words, carries), key
        )
        grads.append((grad, carries))
    expected = jax.tree.map(lambda *g: np.mean(np.square(g), axis=0), *(g for g, _ in grads))
    squares = program.squares(tokens, params, short.train)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-12), squares, expected)


def test_a_run_that_was_stopped_goes_on_to_the_same_numbers(search, capsys):
    config, out = options(search, text=replace(BUDGET, dropout=0.2)), search.parent / "out"
    recurrent_cells.main(replace(config, models=("lstm", "random-cell"), seeds=1))
    summary = recurrent_cells.main(config)
    table = capsys.readouterr().out
    assert "REINFORCE" in table and "minus LSTM" in table
    models = summary["models"]
    assert list(models) == ["reinforce", "random", "random-cell", "lstm"]
    for model in models.values():
        assert 1 < model["test"]["mean"] < WORDS and len(set(model["each_seed"]["test"])) == 2
    assert (out / "epochs.png").exists()
    log = out / recurrent_cells.LOG
    lines = log.read_text().splitlines()
    assert len(lines) == 4 * 2 and json.loads(lines[0])["model"] == "lstm"
    log.write_text("\n".join(lines[:7]) + '\n{"model": "l')
    paths = retraining.checkpoint_paths(out / "checkpoints/lstm-1")
    paths[-1].rename(out / "gone")
    again = recurrent_cells.main(config)
    assert again["models"] == models and len(log.read_text().splitlines()) == 8
    with pytest.raises(ValueError, match="holds a run of other options: width 4 there, 5 here"):
        recurrent_cells.main(replace(config, width=5))
    log.write_text(lines[2].replace("[", "[1, ", 1))
    with pytest.raises(ValueError, match=r"a training of reinforce, seed 0, with the cell \[1, "):
        recurrent_cells.main(config)


def test_an_lstm_has_about_as_many_parameters_as_the_cells():
    sizes: dict[str, Any] = {"vocabulary": 1000, "layers": 2}
    cell = RecurrentModel(chain(8), jnp.zeros(15, int), width=64, **sizes)
    target = found_cells.count_parameters(cell)
    assert target == 1000 * 65 + 2 * 9 * 64 * 128
    model = found_cells.lstm_of_size(target, 3, **sizes)
    assert len(model.tokens) == 3
    assert abs(model.parameters - target) < 0.01 * target
    child: Any = partial(model.child, jnp.zeros(1, int))
    others = (found_cells.count_parameters(child(width=model.width + change)) for change in (-1, 1))
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
        ({"width": 4096, "layers": 20}, r"Adam's moments would take about 30 GiB.*width or layers"),
        ({"decay": 0.1}, "decay is used only with --dynamic"),
        ({"dynamic_chunk": 0}, "dynamic_chunk must be >= 1"),
        ({"text": TextBudget(streams=200)}, "200 streams of 35 words"),
        ({"text": TextBudget(scale=1.0)}, "scale is used only with benchmarks.architecture_search"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_a_folder_is_made(search, changes, says):
    with pytest.raises(ValueError, match=says):
        recurrent_cells.main(options(search, **changes))
    assert not (search.parent / "out").exists()


def test_another_search_is_refused(search):
    (search / "summary.json").write_text(json.dumps({"space": "macro", "chosen": {}, "config": {}}))
    with pytest.raises(ValueError, match=r"must be a search with --space recurrent; got .* macro"):
        recurrent_cells.main(options(search))


def test_statistics_are_over_seeds_and_the_table_has_a_row_for_each_model():
    lines = [
        {"seed": n, "tokens": [n], "val": [100.0 * n + 1, 100.0 * n + 2], "test": 10.0 * (1 + n)}
        for n in range(2)
    ]
    found = cell_report.statistics(lines)
    assert [value["mean"] for value in found["val"]] == [51.0, 52.0]
    assert found["test"]["mean"] == 15 and found["each_seed"]["tokens"] == [[0], [1]]
    broken = cell_report.statistics([lines[0], lines[1] | {"test": None}])
    sizes = {"width": 4, "parameters": 1200}
    models = {"random-cell": found | sizes, "random": broken | sizes, "lstm": found | sizes}
    config = {"layers": 1, "text": {"epochs": 2, "dropout": 0.0, "rate": 0.01}}
    summary = {"benchmark": "recurrent_cells", "models": models, "seeds": 2, "config": config}
    table = cell_report.markdown([summary | {"command": "python -m x --record"}] * 2)
    *_, cell, searched, lstm = table.splitlines()
    assert cell.startswith(
        "| 1 layer, 2 epochs, 2 seeds, dropout 0, learning rate 0.01 | random cell | 1,200 |"
    )
    assert cell.endswith("| 15.0 ± 63.5 | diverged | 0.0 ± 30.4 (p = 1) |  | `python -m x` |")
    assert "| found by random search | 1,200 | diverged |  | diverged |" in searched
    assert len(table.splitlines()) == 2 + 2 + 3 and "LSTM" in lstm
