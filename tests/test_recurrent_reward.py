"""The reward of recurrent cells, the searches for them, and the table of NAS-Bench-NLP."""

import gzip
import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from benchmarks import architecture_search
from benchmarks.architecture_search import Search
from benchmarks.search import drawing, figures, live, recurrent
from benchmarks.search.scales import PERCENT, perplexity
from tasks.architectures.nasbench_nlp import nasbench_nlp
from tasks.architectures.recurrent_chain import chain
from tasks.architectures.recurrent_model import RecurrentModel
from tasks.architectures.recurrent_reward import reward_of_cell
from tasks.architectures.recurrent_training import TextBudget, cut_text
from tasks.architectures.tabular import lookup
from tasks.language import token_entropies

DATA = Path(os.environ.get("NAS_DIR", Path(__file__).parents[2] / "shared/data/nas"))
TABLE = DATA / "nas_bench_nlp_wikitext2.json.gz"
needs_table = pytest.mark.skipif(not TABLE.exists(), reason=f"no {TABLE}")

WORDS = 5
BUDGET = TextBudget(share=1.0, epochs=2, streams=2, chunk=4, rate=0.1, val_share=1.0)
TEXT = np.arange(26) * 2 % WORDS  # each word says which one comes next
CHILD = partial(RecurrentModel, chain(2), vocabulary=WORDS, width=4)
TOKENS = jnp.array([0, 0, 1])


TRACES = []


@pytest.fixture(scope="module")
def reward():
    function = reward_of_cell(CHILD, TEXT, TEXT[3:], BUDGET)

    def counted(tokens, key):
        TRACES.append(tokens)
        return function(tokens, key)

    return jax.jit(counted)


def test_the_streams_of_a_text_are_read_in_order_and_only_once():
    chunks = cut_text(np.arange(26), BUDGET, 1.0)
    assert chunks.shape == (3, 2, 5)
    streams = np.concatenate([chunks[0, :, :1], *chunks[:, :, 1:]], axis=1)
    assert (streams == np.add.outer([0, 12], np.arange(13))).all()
    half = cut_text(np.arange(52), BUDGET, 0.5)
    assert (half == chunks).all()
    with pytest.raises(ValueError, match=r"2 streams of 4 words.*share of 8 words: fewer streams"):
        cut_text(np.arange(8), BUDGET, 1.0)


def test_the_reward_is_that_of_training_written_out(reward):
    key = jax.random.key(3)
    model, train = CHILD(TOKENS), jnp.asarray(cut_text(TEXT, BUDGET, 1.0))
    params = model.init(key, train[0, 0, :-1], model.start())
    steps = optax.cosine_decay_schedule(BUDGET.rate, 6)
    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(steps))

    @jax.jit
    def nats(params, words, carries):
        pairs = [model.apply(params, row[:-1], c) for row, c in zip(words, carries, strict=True)]
        each = [token_entropies(y, r[1:]) for (y, _), r in zip(pairs, words, strict=True)]
        return jnp.concatenate(each).mean(), [carry for _, carry in pairs]

    gradient, state = jax.jit(jax.grad(nats, has_aux=True)), adam.init(params)
    for _ in range(BUDGET.epochs):
        carries = [model.start()] * 2
        for words in train:
            grads, carries = gradient(params, words, carries)
            updates, state = adam.update(grads, state)
            params = optax.apply_updates(params, updates)
    losses, carries = [], [model.start()] * 2
    for words in jnp.asarray(cut_text(TEXT[3:], BUDGET, 1.0)):
        loss, carries = nats(params, words, carries)
        losses.append(loss)
    expected = 80 / np.exp(np.mean(losses)) ** 2
    assert reward(TOKENS, key) == pytest.approx(expected, rel=1e-4)
    assert reward(TOKENS, key) > 1.2 * 80 / WORDS**2  # better than a guess of any word


def test_one_program_serves_every_cell_and_a_cell_that_diverges_has_no_reward(reward):
    key = jax.random.key(0)
    values = [float(reward(jnp.array([f, 0, g]), key)) for f in range(4) for g in range(4)]
    assert len(set(values)) == 16 and np.isfinite(values).all() and len(TRACES) == 1
    assert np.isnan(reward(jnp.array([4, 0, 0]), key))
    diverges = reward_of_cell(CHILD, TEXT, TEXT, replace(BUDGET, rate=1e38))
    assert np.isnan(jax.jit(diverges)(TOKENS, key))


def test_means_are_of_rewards_and_gains_are_lower_perplexities(tmp_path):
    scale, perplexities = perplexity(80.0), np.array([[200.0, 100, 400], [300, 50, 60]])
    rewards = 100 * 80 / perplexities**2
    np.testing.assert_allclose(scale.show(rewards), perplexities)
    assert scale.show(np.zeros(1)) == np.inf
    both = {"random": rewards, "other": 4 * rewards}  # half the perplexity
    expected = [[(2 / (200**-2 + 100**-2)) ** 0.5] * 2, [(2 / (300**-2 + 50**-2)) ** 0.5]]
    expected[1].append((2 / (60**-2 + 50**-2)) ** 0.5)
    gains, _ = figures.gain_over_random(both, "other", 2, scale, paired=False)
    np.testing.assert_allclose(gains, np.mean(expected, axis=0) / 2, rtol=1e-12)
    both["other"][0, 0] = 0  # is broken
    first, half = figures.gain_over_random(both, "other", 1, scale, paired=False)
    assert np.isnan(first[0]) and np.isfinite(first[1:]).all() and np.isfinite(half[1:]).all()
    figures.draw_gains(tmp_path, both, scale)


def test_gains_are_the_differences_of_the_best_and_their_band_is_over_runs(tmp_path):
    rewards = {name: np.random.default_rng(n).normal(size=(3, 20)) for n, name in enumerate("ab")}
    rewards["random"] = rewards.pop("a")
    gains, half = figures.gain_over_random(rewards, "b", 5, PERCENT, paired=False)
    each = [np.sort(rewards[name][:, :12], axis=1)[:, -5:].mean(axis=1) for name in ("b", "random")]
    np.testing.assert_allclose(gains[12 - 5], each[0].mean() - each[1].mean(), rtol=1e-12)
    low, high = stats.ttest_ind(*each, equal_var=False).confidence_interval()
    np.testing.assert_allclose([gains[7] - half[7], gains[7] + half[7]], [low, high], rtol=1e-12)
    _, paired = figures.gain_over_random(rewards, "b", 5, PERCENT, paired=True)
    ends = stats.t.interval(0.95, 2, gains[7], stats.sem(each[0] - each[1]))
    np.testing.assert_allclose([gains[7] - paired[7], gains[7] + paired[7]], ends, rtol=1e-12)
    figure = figures.draw_gains(tmp_path, rewards)
    (line, _) = figure.axes[1].get_lines()
    np.testing.assert_allclose(np.asarray(line.get_ydata()), gains, rtol=1e-12)
    (band,) = figure.axes[1].collections[0].get_paths()
    corners = np.asarray(band.vertices)
    at = corners[corners[:, 0] == 12][:, 1]
    np.testing.assert_allclose([at.min(), at.max()], [low, high], rtol=1e-9)


def test_cells_are_drawn_as_they_are(tmp_path):
    graph = drawing.chain_graph([0, 0, 1, 0, 3, 2, 2])
    assert graph.nodes[1:5] == ["1: tanh", "2: relu", "3: identity", "4: sigmoid"]
    assert graph.edges == {(0, 1), (1, 2), (1, 3), (3, 4), (2, 5), (4, 5)}
    graph = drawing.tree_graph([0, 0, 1, 1, 1, 2, 0, 1, 1, 0])
    assert graph.nodes[2:5] == [
        "1: add\ntanh\nadd c\nrelu",
        "2: multiply\n(is next c)\nrelu",
        "3: multiply\nsigmoid",
    ]
    assert graph.edges == {(0, 2), (0, 3), (1, 2), (2, 4), (3, 4), (4, 5)}
    drawing.draw_graphs(tmp_path, [graph])


def test_a_search_for_cells_is_stored_resumed_and_drawn(tmp_path, monkeypatch, capsys):
    corpus = SimpleNamespace(
        vocabulary=tuple(map(str, range(WORDS))),
        splits={split: {"text": TEXT} for split in ("train", "val", "test")},
    )
    monkeypatch.setattr(recurrent, "penn_treebank", lambda folder, level: corpus)
    usual = {"space": "recurrent", "data": tmp_path, "children": 30, "strategies": ("random",)}
    usual |= {"nodes": 2, "width": 4, "text": BUDGET, "runs": 2, "out": tmp_path / "out"}
    summary = architecture_search.main(Search(**usual))
    assert summary["unit"] == "perplexity" and 1 < summary["best"]["random"]["mean"] < WORDS
    assert "recurrent ptb, perplexity" in capsys.readouterr().out
    assert (tmp_path / "out/best.png").exists()
    lines = (tmp_path / "out" / live.KEPT).read_text().splitlines()
    rewards = np.array([json.loads(line)["reward"] for line in lines]).reshape(2, 30)
    top = (80 / np.sort(rewards, axis=1)[:, -5:].mean()) ** 0.5
    assert summary["top5"]["random"] == pytest.approx(top, rel=1e-5)
    (tmp_path / "out" / live.KEPT).write_text("\n".join(lines[:40]) + "\n")
    again = architecture_search.main(Search(**usual))
    assert again["top5"] == summary["top5"] and again["best"] == summary["best"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "needs the folder of Penn Treebank; name it with --data FOLDER"),
        ({"data": Path("nowhere")}, "must be a folder with ptb.train.txt"),
        ({"data": Path("x"), "dataset": "glyphs"}, "dataset must be ptb for --space recurrent"),
        ({"data": Path("x"), "cell": "tree", "nodes": 6}, "must be a power of two; got 6"),
        ({"data": Path("x"), "ways": 5}, "ways is used only with"),
        ({"space": "macro", "nodes": 5}, "nodes is used only with space recurrent"),
        ({"space": "nasbench-nlp", "table": Path("x"), "dataset": "ptb"}, "must be wikitext2"),
        ({"space": "nasbench-nlp", "table": Path("nowhere")}, "at nowhere; pass the path"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_a_folder_is_made(tmp_path, options, says):
    out = tmp_path / "out"
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        architecture_search.main(Search(**{"space": "recurrent"} | options, out=out))
    assert not out.exists()


def run_of(number, val, test, recipe=None, status="OK"):
    nodes = {f"node_{n}": {"op": "linear", "input": ["x"]} for n in range(number - 1)}
    last = {"h_new_0": {"op": "linear", "input": ["x"]}}
    return {
        "recipe": nodes | last | (recipe or {}),
        "status": status,
        "val": [val] * 50,
        "test": [test] * 50,
    }


def test_a_table_of_runs_has_the_mean_of_a_cell_and_no_diverged_one(tmp_path):
    blend = {"h_new_0": {"op": "blend", "input": ["x"]}}
    runs = [run_of(3, 5.0, 4.0), run_of(3, 6.0, 5.0), run_of(4, 7.0, 6.0), run_of(3, 5, 3, blend)]
    runs[1]["val"][4] = 6.5
    file = tmp_path / "runs.json.gz"
    file.write_bytes(
        gzip.compress(json.dumps([*runs, run_of(5, 1, 1, status="loss is nan!")]).encode())
    )
    table = nasbench_nlp(file)
    assert np.isfinite(table.rewards).sum() == 3
    tokens = jnp.array([0, 0, 0, 1, 0])
    assert lookup(table.rewards, tokens) == pytest.approx(80 * np.exp(-11.5), rel=1e-5)
    assert lookup(table.reported, tokens) == pytest.approx(80 * np.exp(-9), rel=1e-5)
    assert lookup(table.reported, jnp.array([0, 0, 0, 1, 1])) == pytest.approx(80 * np.exp(-12))
    assert lookup(table.reported, jnp.array([0, 1, 0, 1, 0])) == pytest.approx(80 * np.exp(-6))
    for damaged, says in (
        (file.read_bytes()[:-20], "is truncated"),
        (gzip.compress(b"[{}]"), "another version: expected a list of runs"),
        (gzip.compress(json.dumps([runs[0] | {"val": [1.0]}]).encode()), "got 1 and 50 losses"),
        (gzip.compress(b"[]"), "expected finished runs; got none"),
    ):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=says):
            nasbench_nlp(file)


@needs_table
def test_the_real_table_is_searched_in_seconds(tmp_path):
    table = nasbench_nlp(TABLE)
    assert np.isfinite(table.rewards).sum() == 289
    usual = {"runs": 20, "children": 60, "strategies": ("random", "reinforce"), "out": tmp_path}
    summary = architecture_search.main(Search(space="nasbench-nlp", table=TABLE, **usual))
    assert summary["optimum"] == pytest.approx(91.9, abs=0.05)
    assert all(91.9 <= best["mean"] < 150 for best in summary["best"].values())
    gain = summary["gain_over_random"]["reinforce"]["15"]
    assert gain["mean"] > gain["ci95"] > 0
