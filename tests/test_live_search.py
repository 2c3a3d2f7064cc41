"""Searches that train: every child network is stored once, whenever the search is killed."""

import json
from contextlib import nullcontext
from functools import partial
from itertools import product

import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from benchmarks import architecture_search, maml_bench
from benchmarks.architecture_search import Search
from benchmarks.maml_bench import Bench
from benchmarks.search import children, drawing, live
from maml.search import Space, local_executor
from tasks.architectures import table_files, tabular
from tasks.architectures.macro import Macro
from tasks.architectures.macro import space as macro_space

SPACE = Space((4, 4, 4, 1, 1), names=(*(("0", "1", "2", "3"),) * 3, ("0",), ("0",)))
PAIR = ("random", "evolution")


def worth(tokens, key, of=9):
    """Broken where the first token is the last option."""
    return jnp.where(tokens[0] == 3, jnp.nan, tokens.sum() / of)


@pytest.fixture
def cheap(monkeypatch):
    """Children that need no training; what is reported is a tenth of the reward."""
    nothing = dict.fromkeys(("train", "held_out", "test"))
    monkeypatch.setattr(children, "space_and_network", lambda space, options: (SPACE, None))
    monkeypatch.setattr(children, "samplers", lambda dataset, options: (nothing, "here"))
    monkeypatch.setattr(children, "reward", lambda *_: Partial(worth))
    monkeypatch.setattr(drawing, "draw_best", lambda *_: None)  # these are no networks
    tenth = Partial(partial(worth, of=90))
    monkeypatch.setattr(children, "reward_from_scratch", lambda *_: tenth)


def options(out, **changes):
    usual = {
        "space": "macro",
        "layers": 1,
        "sizes": (1, 3, 5, 7),  # as many as the tokens of the space above have options
        "strides": (1, 2, 3, 4),
        "children": 30,
        "runs": 2,
        "strategies": PAIR,
        "out": out,
    }
    return Search(**(usual | changes))


def kept(out):
    return [json.loads(line) for line in (out / live.KEPT).read_text().splitlines()]


def places(lines):
    return [(line["run"], line["strategy"], line["number"]) for line in lines]


@pytest.mark.usefixtures("cheap")
def test_every_child_is_kept_and_the_best_is_reported_by_other_trainings(tmp_path, capsys):
    summary = architecture_search.main(options(tmp_path))
    lines = kept(tmp_path)
    assert sorted(places(lines)) == sorted(product((0, 1), PAIR, range(30)))
    for name in PAIR:
        mine = [[x["reward"] for x in lines if places([x])[0][:2] == (r, name)] for r in (0, 1)]
        assert summary["broken"][name] == sum(row.count(None) for row in mine) > 0
        best = [max(value for value in row if value is not None) for row in mine]
        assert summary["best"][name]["mean"] == pytest.approx(10 * np.mean(best), rel=1e-5)
        chosen = summary["chosen"][name]
        assert [sum(tokens) / 9 for _, tokens in chosen] == pytest.approx(best)
        assert [10 * value for value, _ in chosen] == pytest.approx(best)
    assert summary["mean_last_fifth"]["evolution"] != summary["mean_last_fifth"]["random"]
    assert summary["runs"] == 2 and summary["source"] == "here"
    _, tokens = max(pair for name in PAIR for pair in summary["chosen"][name])
    printed = capsys.readouterr().out
    assert "random" in printed and f"best network: {', '.join(map(str, tokens))}\n" in printed


@pytest.mark.usefixtures("cheap")
def test_a_killed_and_resumed_search_equals_an_uninterrupted_one(tmp_path):
    straight = architecture_search.main(options(tmp_path / "straight", runs=3))
    out = tmp_path / "killed"
    architecture_search.main(options(out))
    text = (out / live.KEPT).read_text()
    (out / live.KEPT).write_text(text[: int(0.7 * len(text))])  # in the middle of a line
    again = architecture_search.main(options(out, runs=3))
    differ = {"command", "config", "seconds"}
    assert {k: v for k, v in again.items() if k not in differ} == {
        k: v for k, v in straight.items() if k not in differ
    }
    assert len(set(places(kept(out)))) == len(kept(out)) == 180


@pytest.mark.usefixtures("cheap")
def test_a_folder_of_other_searches_is_refused_and_stays_as_it_was(tmp_path):
    architecture_search.main(options(tmp_path))
    before = (tmp_path / live.KEPT).read_bytes()
    with pytest.raises(ValueError, match=r"other options: seed 0 there, 1 here"):
        architecture_search.main(options(tmp_path, seed=1))
    assert (tmp_path / live.KEPT).read_bytes() == before


@pytest.mark.usefixtures("cheap")
def test_a_search_that_has_lost_its_children_or_its_options_is_refused(tmp_path):
    architecture_search.main(options(tmp_path))
    children, before = tmp_path / live.KEPT, (tmp_path / live.KEPT).read_text()
    children.unlink()
    with pytest.raises(ValueError, match=r"children\.jsonl is missing; put it back"):
        architecture_search.main(options(tmp_path))
    assert not children.exists()
    broken = before.replace("}\n", "\n", 1)
    children.write_text(broken)
    with pytest.raises(ValueError, match=r"line 1 of .*children\.jsonl is not JSON"):
        architecture_search.main(options(tmp_path))
    (tmp_path / "config.json").unlink()
    children.write_text(before)
    with pytest.raises(ValueError, match="holds children, but their"):
        architecture_search.main(options(tmp_path))
    assert children.read_text() == before


def test_invalid_options_are_refused_before_a_folder_is_made(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="omniglot or glyphs; got 'cifar10'"):
        architecture_search.main(options(tmp_path / "new", dataset="cifar10"))
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match="strategies must include random, the baseline"):
        options(tmp_path, strategies=("ppo",))
    monkeypatch.setattr("benchmarks.search.options.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs Ray: pip install 'maml-jax\[ray\]'"):
        options(tmp_path, executor="ray")
    with pytest.raises(ValueError, match="shared_steps must be 0"):
        Bench(shared_steps=1)


@pytest.mark.usefixtures("cheap")
def test_an_exception_in_retraining_is_raised_and_keeps_every_child(tmp_path, monkeypatch):
    def broken(tokens, key):
        raise ZeroDivisionError("here")

    monkeypatch.setattr(children, "reward_from_scratch", lambda *_: broken)
    monkeypatch.setattr(children, "executor", lambda name: nullcontext(local_executor))
    with pytest.raises(ZeroDivisionError, match="here"):
        architecture_search.main(options(tmp_path))
    assert len(kept(tmp_path)) == 30


def test_a_network_and_cells_are_drawn_as_they_are(tmp_path):
    macro = Macro(layers=2, side=5, sizes=(1, 3), filters=(4, 8))
    graph = drawing.network_graph(macro, [1, 0, 1, 0, 0, 1, 0, 0, 0, 1, 1])
    assert graph.edges == {(0, 1), (1, 2), (2, 3)} and graph.nodes[-1] == "head"
    assert graph.nodes[1] == "4 filters of 3x1, stride 2x1\noutput 3x5"
    assert graph.nodes[2] == "8 filters of 1x1, stride 1x2\noutput 3x3"
    normal, reduction = drawing.cell_graphs([0, 1, 2, 5, 1, 2, 1, 0, 3, 0] * 2)
    assert normal.nodes[2] == "C: concatenate\n3x3 convolution (A)\n3x3 max pool (B)"
    assert normal.nodes[3] == "D: add\nidentity (C)\n5x5 convolution (B)"
    assert normal.edges == {(0, 2), (1, 2), (2, 3), (1, 3), (3, 4)} == reduction.edges
    figure = drawing.draw_graphs(tmp_path, [normal, reduction])
    shown = [text.get_text() for text in figure.axes[0].texts]
    assert set(normal.nodes) <= set(shown) and (tmp_path / "best.png").exists()


def test_all_architectures_are_exactly_those_the_space_allows():
    macro = Macro(layers=2, side=3, sizes=(1,), filters=(1,))
    result = maml_bench.all_architectures(macro_space(macro))
    # A stride of 2 leaves 2 of 3 pixels, after which there is no other. If the second layer reads
    # the image it has 4 pairs of strides, otherwise on each axis 3 of 4 pairs are left.
    assert len(result) == len({tuple(row) for row in result}) == 4 * 4 + 3 * 3
    assert result.max() == 1


def test_the_table_holds_what_was_trained_and_goes_on_after_it_was_killed(tmp_path, monkeypatch):
    trained = []

    def both(child, budget, train, held_out, test, tokens, key):
        return jnp.stack([tokens.sum() / 20, tokens.sum() / 40])

    def execute(function, items):
        trained.extend(tuple(np.asarray(tokens).tolist()) for tokens, _ in items)
        if len(trained) > 40 and not (tmp_path / "table.npz").exists() and len(trained) < 60:
            raise KeyboardInterrupt
        return [(place, function(*item)) for place, item in enumerate(items)]

    nothing = dict.fromkeys(("train", "held_out", "test"))
    monkeypatch.setattr(children, "samplers", lambda dataset, options: (nothing, "here"))
    monkeypatch.setattr(maml_bench, "accuracies", both)
    monkeypatch.setattr(maml_bench, "device_executor", lambda mesh: execute)
    config = Bench(sizes=(1, 3), filters=(4,), trainings=2, out=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        maml_bench.main(config)
    done = len(trained) - maml_bench.BLOCK
    summary = maml_bench.main(config)
    assert len(trained) == 2 * summary["architectures"] + maml_bench.BLOCK and done > 0
    table = table_files.maml_bench(tmp_path / "table.npz")
    tokens = jnp.array([1, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0])
    assert tabular.lookup(table.rewards, tokens) == pytest.approx(4 / 20, abs=1e-3)
    assert tabular.lookup(table.reported, tokens) == pytest.approx(4 / 40, abs=1e-3)
    with pytest.raises(ValueError, match="other options: trainings 2 there, 3 here"):
        maml_bench.main(Bench(sizes=(1, 3), filters=(4,), trainings=3, out=tmp_path))
