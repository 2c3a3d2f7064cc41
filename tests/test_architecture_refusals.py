"""Invalid architectures, budgets and tables raise ValueError; NaN never wins a search."""

# pyright: reportArgumentType=false

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial
from problems import quick

import maml
from benchmarks.search import drawing, figures, report
from maml.episodes import few_shot
from maml.search import Space
from tasks import language, omniglot, sinusoid
from tasks.architectures import cells, graphs, table_files, tabular
from tasks.architectures.alphabets import shrink_images, smallest_alphabets
from tasks.architectures.cells import CellNet, Cells
from tasks.architectures.macro import Macro, decode
from tasks.architectures.macro_net import MacroNet
from tasks.architectures.masked import MaskedBatchNorm
from tasks.architectures.reward import (
    Budget,
    reward_from_scratch,
)
from tasks.architectures.shared import reward_from_shared, shared_weights
from tasks.architectures.stack import Stack
from tasks.batch_norm import flax_apply, track_running_averages
from tasks.layers import BatchNorm
from tasks.models import MLP, Conv4

KEY = jax.random.key(0)
MACRO = Macro(layers=1, side=5, sizes=(1, 3), filters=(1, 2))
CELLS = Cells(blocks=1, features=1)
NETS = {"macro": (partial(MacroNet, MACRO, ways=3), 5), "cells": (partial(CellNet, CELLS), 10)}
IMAGES = jnp.ones((3, 5, 5, 1))
CHILD = partial(MacroNet, MACRO, ways=3)


def build(net, tokens, images=IMAGES):
    return net(tokens=jnp.asarray(tokens)).init(KEY, images)


TOKEN, WAVE, points = jnp.zeros(3, int), sinusoid.Wave(1.0, 1.0), sinusoid.few_points(1, 1)


def next_token(tokens):
    return language.next_token(language.Transformer(4, 8, 0, 2, 4))({}, tokens, KEY)


def sample(key):
    raise AssertionError("no task is to be drawn")


def normalised(**options):
    return MaskedBatchNorm().init(KEY, IMAGES, jnp.ones((5, 5, 1), bool), **options)


@pytest.mark.usefixtures("unchecked")
class TestInvalidArguments:
    @pytest.mark.parametrize(
        ("call", "says"),
        [
            (lambda: Cells(blocks="2"), "blocks must be an integer >= 1; got '2'"),
            (lambda: Cells(stride=True), "stride must be an integer"),
            (lambda: Macro(strides=(1, 1)), r"strides must be different.* got \(1, 1\)"),
            (lambda: Macro(sizes=(3, 5, 3)), "sizes must be different"),
            (lambda: Macro(filters=(2, 4.0)), "option of filters must be .* got 4.0"),
            (lambda: Macro(strides=1), "strides must be a tuple .* got 1"),
            (lambda: Macro(layers=1.5), "layers must be an integer >= 1; got 1.5"),
            (lambda: Macro(side=7, least=8), "least must be at most the side, 7; got 8"),
            (lambda: decode(MACRO, jnp.full(5, -1)), "below its limit"),
            (lambda: build(NETS["macro"][0], [0, 0, 0, 0, 2]), "below its limit"),
            (lambda: build(NETS["macro"][0], [-1] * 5), "below its limit"),
            (lambda: build(NETS["macro"][0], [0] * 6), "5 integers"),
            (lambda: build(NETS["macro"][0], [0] * 5, IMAGES[0]), r"\[n, 5, 5, 1\]; got \[5, 5, 1"),
            (lambda: build(NETS["macro"][0], [0] * 5, IMAGES[:, :4]), r"images must be \[n, 5, 5"),
            (lambda: build(partial(MacroNet, MACRO, ways=0), [0] * 5), "ways must be"),
            (lambda: build(partial(CellNet, CELLS, ways=3), [9] * 10), "below its limit"),
            (lambda: build(partial(CellNet, CELLS, ways=3), [0.0] * 10), "10 integers"),
            (
                lambda: build(partial(CellNet, CELLS, ways=3), [0] * 10, IMAGES[0]),
                r"\[n, height, width, 1\]",
            ),
            (lambda: Stack(CELLS, ("0",) * 10, 3).init(KEY, IMAGES), "10 integers"),
            (lambda: normalised(reference=4), "4 reference rows need as many rows; got 3"),
            (lambda: normalised(reference=-1), "reference rows must be"),
            (lambda: Budget(batch_norm="running"), "transductive or support; got 'running'"),
            (lambda: Budget(batch_norm="x"), "transductive or support; got 'x'"),
            (lambda: Budget(learner="x"), "protonet or maml or fomaml; got 'x'"),
            (lambda: Budget(chunk=3, meta_batch=4), "3 tasks does not divide a meta_batch of 4"),
            (lambda: Budget(eval_tasks=2.0), "eval_tasks must be an integer"),
            (lambda: Budget(inner_rate=jnp.nan), "inner_rate must be a finite number"),
            (lambda: Budget(outer_rate="1"), "outer_rate must be a finite number"),
            (
                lambda: reward_from_scratch(None, sample, sample, Budget()),
                "child must be a function",
            ),
            (
                lambda: reward_from_scratch(CHILD, sample, None, Budget()),
                "held_out must be a function",
            ),
            (lambda: reward_from_shared(CHILD, {}, sample, 60), "must be a Budget; got 60"),
            (lambda: shared_weights(CHILD, None, sample, Budget(), KEY), "must be a Space"),
            (lambda: shared_weights(CHILD, Space((2,)), sample, Budget(), 0), "must be a key"),
            (
                lambda: shrink_images(np.ones((1, 1, 4, 4), np.uint8), True),
                "side must be an integer",
            ),
            (lambda: tabular.lookup(jnp.ones((3, 2)), jnp.array([1])), "2 integers"),
            (lambda: tabular.lookup(jnp.ones((3, 2)), jnp.ones(2)), "2 integers"),
            (lambda: tabular.lookup(None, jnp.ones(2)), "values must be an array of real numbers"),
            (lambda: tabular.space_of_entries(np.ones((2, 2), int)), "an array of bools"),
            (lambda: table_files.nasbench201(3), "must be a path; got 3"),
            (lambda: graphs.nasbench_graph("cora", folder=3), "the folder must be a path; got 3"),
            (lambda: cells.space(None), "cells must be a Cells; got None"),
            (lambda: decode(None, [0]), "macro must be a Macro; got None"),
            (lambda: shrink_images(None, 2), r"images must be \[class, drawing, height, width\]"),
            (lambda: smallest_alphabets(None, [], 1), "must be a Characters; got None"),
            (lambda: omniglot.splits(None, "paper"), "must be a Characters; got None"),
            (
                lambda: reward_from_scratch(lambda tokens: None, points, points, Budget())(
                    TOKEN, KEY
                ),
                "a child must be a Module; got None",
            ),
            (
                lambda: reward_from_scratch(lambda tokens: MLP(), points, points, Budget())(
                    TOKEN, 0
                ),
                "must be a key",
            ),
            (lambda: Conv4(5, dtype="float99"), "a floating-point type, or None; got 'float99'"),
            (lambda: MLP(dtype=jnp.int32), "dtype must be a floating-point type"),
            (lambda: MLP().init(KEY, jnp.ones((3, 0))), r"inputs must be .* got \[3, 0\]"),
            (lambda: Conv4(5).init(KEY, None), r"images must be .* got \[\]"),
            (lambda: BatchNorm(epsilon=-1.0), "epsilon must be a finite number >= 0"),
            (lambda: BatchNorm(track="a"), "track must be True or False"),
            (lambda: BatchNorm().init(KEY, jnp.ones((3, 4)), jnp.ones((5, 2))), r"\[4, features\]"),
            (lambda: flax_apply(None, "support"), "the model must be a Module; got None"),
            (lambda: flax_apply(MLP(), "support", features=1), "features must be True or"),
            (lambda: track_running_averages(None, 0.9), "must be an optax transformation"),
            (
                lambda: track_running_averages(optax.sgd(0.1), "0.9"),
                "the momentum must be a finite number",
            ),
            (lambda: language.attention(*jnp.ones((3, 2, 2, 2))), "queries, keys and values"),
            (lambda: next_token(jnp.zeros((0, 3), int)), "got 3 in each of 0 passages"),
            (lambda: sinusoid.points(None, jnp.ones(3)), "the wave must be a Wave; got None"),
            (lambda: sinusoid.points(WAVE, jnp.ones((3, 1))), r"x must be an array \[n\]"),
        ],
    )
    def test_invalid_arguments_are_refused_with_a_message(self, call, says):
        with pytest.raises(ValueError, match=says):
            call()


@pytest.mark.parametrize("name", NETS)
def test_traced_tokens_give_nan_unless_they_are_an_architecture(name):
    net, length = NETS[name]
    net = partial(net, ways=3)
    params = quick(net(tokens=jnp.zeros(length, int)).init)(KEY, IMAGES)

    @quick
    def output(tokens):
        return [net(tokens=tokens).apply(params, IMAGES, features=f) for f in (False, True)]

    zeros = jnp.zeros(length, int)
    assert all(np.isfinite(result).all() for result in output(zeros))
    for token in (-1, 9):
        for place in (0, length - 1):
            assert all(np.isnan(result).all() for result in output(zeros.at[place].set(token)))


def test_a_child_that_met_a_broken_task_while_training_is_broken(monkeypatch):
    """Whether or not the meta-steps of the broken tasks are left out."""
    images = np.random.default_rng(0).integers(0, 255, (4, 3, 5, 5)).astype(np.uint8)
    good = few_shot(images, 3, 1, 1, rotate=False)
    budget = Budget(meta_steps=4, eval_tasks=2)

    def train(at, good, key):
        episode = good(key)
        bad = jax.random.bernoulli(key, at)
        return jax.tree.map(
            lambda x: jnp.where(bad, jnp.nan, x) if x.dtype == jnp.float32 else x, episode
        )

    def skipping(algorithm, optimizer, *rest, **options):
        return train_all(algorithm, maml.skip_nonfinite(optimizer), *rest, **options)

    def begun(algorithm, optimizer, params):
        return init(algorithm, maml.skip_nonfinite(optimizer), params)

    train_all, init = maml.train, maml.init
    monkeypatch.setattr(maml, "train", skipping)
    monkeypatch.setattr(maml, "init", begun)
    run = quick(
        lambda at: reward_from_scratch(CHILD, Partial(train, at, good), good, budget)(
            jnp.array([1, 0, 0, 0, 1]), KEY
        )
    )
    assert np.isfinite(run(0.0))
    assert np.isnan(run(0.5))


class TestTables:
    def test_a_graph_file_without_entries_is_refused(self, tmp_path):
        (tmp_path / "cora.bench").write_bytes(b"}.")  # a pickle of {}
        with pytest.raises(ValueError, match=r"cora.bench: codes must be"):
            graphs.nasbench_graph("cora", folder=tmp_path)

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            ("[" * 100_000, "not JSON, or is truncated"),
            ('{"0": {"test_acc": [1' + "0" * 400 + "]}}", "another version"),
        ],
    )
    def test_json_that_breaks_its_reader_is_refused(self, tmp_path, content, says):
        (tmp_path / "table.json").write_text(content)
        with pytest.raises(ValueError, match=says):
            table_files.nasbench_macro(tmp_path / "table.json")

    @pytest.mark.parametrize(
        "arrays",
        [
            {"code": np.array([["0", "1"]]), "accuracy": np.ones((1, 2, 2))},
            {"code": np.zeros((1, 2), int), "accuracy": np.ones((1, 2, 2), complex)},
            {"code": np.zeros((1, 2), int), "accuracy": np.ones((1, 2, 2)), "more": np.ones(1)},
        ],
    )
    def test_arrays_of_another_kind_are_refused(self, tmp_path, arrays):
        np.savez(tmp_path / "table.npz", **arrays)
        with pytest.raises(ValueError, match="another version: expected numbers code, accuracy"):
            table_files.maml_bench(tmp_path / "table.npz")

    def test_an_archive_with_changed_bytes_is_read_or_refused_in_words(self, tmp_path):
        path = tmp_path / "table.npz"
        codes = np.argwhere(np.ones((2, 2)))
        np.savez_compressed(path, code=codes, accuracy=np.full((4, 2, 2), 0.5))
        content, rng, refused = path.read_bytes(), np.random.default_rng(0), 0
        for place in rng.integers(0, len(content), 100):
            changed = bytearray(content)
            changed[place] ^= rng.integers(1, 256)
            path.write_bytes(changed)
            try:
                table_files.maml_bench(path)
            except ValueError as error:
                refused += str(path) in str(error)
        assert 40 < refused < 100

    def test_codes_that_are_no_integers_are_refused(self):
        with pytest.raises(ValueError, match=r"here: codes must be .* got float64\[1, 2\]"):
            tabular.tabulate("here", (2, 2), np.ones((1, 2)), np.ones(1), np.ones(1))
        with pytest.raises(ValueError, match="1 codes needs two accuracies"):
            tabular.tabulate("here", (2, 2), np.ones((1, 2), int), np.ones(2), np.ones(1))


class TestWhatIsShown:
    def test_the_best_so_far_are_those_that_are_not_broken(self):
        rewards = np.array([[3.0, np.nan, 1.0, np.inf, 5.0], [1.0, 2.0, 3.0, 4.0, 5.0]])
        result = figures.mean_of_top(rewards, 2)
        np.testing.assert_allclose(result, [1.5, 2.25, 2.75, 4.25])  # a broken one counts as 0

    def test_the_running_mean_leaves_broken_rewards_out_and_counts_them(self, tmp_path):
        rewards = {"random": np.ones((2, 40)), "ppo": np.full((1, 40), np.nan)}
        rewards["random"][0, :30] = np.nan
        lines = figures.draw_running_mean(tmp_path, rewards).axes[0].get_lines()
        assert [line.get_label() for line in lines] == ["random (30 broken)", "ppo (40 broken)"]
        np.testing.assert_allclose(np.asarray(lines[0].get_ydata()), 1)
        assert np.isnan(np.asarray(lines[1].get_ydata())).all()

    def test_a_table_says_where_a_number_is_not_finite_and_counts_what_is_broken(self):
        names, nothing = ("random", "ppo"), {"random": 1.0, "ppo": float("nan")}
        summary = {"space": "s", "dataset": "d", "children": 9, "policy": "p", "runs": 2}
        summary |= {"benchmark": "architecture_search", "command": "c", "unit": "%"}
        summary |= {"broken": {"random": 0, "ppo": 18}, "seconds": dict.fromkeys(names, 1.0)}
        summary |= dict.fromkeys(("top5", "top25", "mean_last_fifth", "p_over_random"), nothing)
        summary["best"] = {name: {"mean": nothing[name], "std": nothing[name]} for name in names}
        summary = json.loads(json.dumps(summary))
        random, ppo = report.markdown([summary]).splitlines()[2:]
        assert "| random | 1.00 ± 1.00 |" in random
        assert (
            "| ppo (18 broken) | not finite ± not finite |" in ppo and ppo.count("not finite") == 6
        )

    def test_the_best_network_is_not_drawn_where_no_reward_is_finite(self):
        with pytest.raises(ValueError, match="no child of a search has a finite reward"):
            drawing.draw_best(Path(), None, {"random": [(float("nan"), [0])]})
