"""Tables of architectures equal their files, and damaged files raise ValueError."""

import json
import os
import pickle
from functools import partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import quick

from maml.search import random_architecture
from tasks.architectures import graphs, table_files
from tasks.architectures.tabular import lookup, space_of_entries, tabulate

KEY = jax.random.key(0)
DATA = Path(os.environ.get("NAS_DIR", Path(__file__).parents[2] / "shared/data/nas"))
needs_data = pytest.mark.skipif(
    not (DATA / "nasbench201.npz").exists(), reason=f"no tables in {DATA}"
)
CELLS = np.array(list(product(range(5), repeat=6)), np.int8)
NETWORKS = ["".join(digits) for digits in product("012", repeat=8)]


def cells(**changes):
    """What a file of NAS-Bench-201 holds, in an order of its own."""
    order = np.random.default_rng(0).permutation(len(CELLS))
    codes = CELLS[order]
    worth = codes.mean(axis=1) * np.array([[10], [20], [5]])
    return {"code": codes, "val12": worth, "test200": worth + 1} | changes


def networks():
    """What a file of NAS-Bench-Macro holds: one training after the other gets better."""
    return {code: {"test_acc": [10 * int(code[0]) + run for run in range(3)]} for code in NETWORKS}


def path_to(folder, content):
    """A file with this in it."""
    path = folder / "table"
    if isinstance(content, dict):
        with path.open("wb") as file:
            np.savez(file, **content)
    else:
        path.write_bytes(content)
    return path


def archive(folder):
    return path_to(folder, cells()).read_bytes()


def without(content, name):
    return {key: value for key, value in content.items() if key != name}


@given(st.integers(0, 2**18 - 1))
@settings(max_examples=10, deadline=None)
def test_the_space_of_a_table_has_exactly_its_architectures(bits):
    present = np.array([bits >> place & 1 for place in range(18)], bool).reshape(3, 2, 3)
    if not bits:
        with pytest.raises(ValueError, match="has none"):
            space_of_entries(present)
        return
    space = space_of_entries(present)
    every = np.array(list(product(range(3), range(2), range(3))), np.int32)
    options = np.asarray(jax.vmap(space.option_masks)(jnp.asarray(every)))
    allowed = np.take_along_axis(options, every[..., None], axis=2).all(axis=(1, 2))
    np.testing.assert_array_equal(allowed, present.reshape(-1))


def test_architectures_drawn_from_a_table_with_gaps_are_entries_of_it():
    values = np.random.default_rng(0).uniform(size=20)
    codes = np.random.default_rng(1).permutation(np.array(list(product(range(4), repeat=3))))[:20]
    table = tabulate("here", (4, 4, 4), codes, values, values / 2)
    drawn = quick(jax.vmap(partial(random_architecture, table.space)))(jax.random.split(KEY, 500))
    worth = jax.vmap(lookup, (None, 0))(table.rewards, drawn)
    assert np.isfinite(worth).all() and len(np.unique(worth)) == 20
    for code, value in zip(codes, values, strict=True):
        assert float(lookup(table.rewards, jnp.asarray(code))) == np.float32(value)
        assert float(lookup(table.reported, jnp.asarray(code))) == np.float32(value / 2)


@pytest.mark.parametrize("tokens", [(-1, 0), (0, 2), (3, 0)])
def test_tokens_outside_a_table_are_looked_up_as_nan(tokens):
    assert np.isnan(lookup(jnp.ones((3, 2)), jnp.array(tokens)))


@pytest.mark.parametrize(
    ("dataset", "scale"), [("cifar10", 10), ("cifar100", 20), ("ImageNet16-120", 5)]
)
def test_cells_are_read_in_any_order(tmp_path, dataset, scale):
    table = table_files.nasbench201(path_to(tmp_path, cells()), dataset)
    np.testing.assert_allclose(
        table.rewards[tuple(CELLS.T)], CELLS.mean(axis=1) * scale / 100, rtol=1e-6
    )
    np.testing.assert_allclose(table.reported, table.rewards + 0.01, rtol=1e-5)
    assert table.space.choices == (5,) * 6 and table.space.allowed is None


def test_networks_are_rewarded_by_one_training_and_reported_by_the_others(tmp_path):
    content = json.dumps(networks()).encode()
    table = table_files.nasbench_macro(path_to(tmp_path, content))
    np.testing.assert_allclose(table.rewards[1], 0.10)
    np.testing.assert_allclose(table.reported[2], 0.215)
    assert table.space.choices == (3,) * 8


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lambda folder: archive(folder)[:5000], "truncated"),
        (lambda folder: b"", "truncated"),
        (lambda folder: b"not a table", "truncated"),
        (lambda folder: pickle.dumps([1]), "truncated"),
        (lambda folder: b"\x93NUMPY" + archive(folder), "truncated"),
        (lambda folder: archive(folder).replace(b"\x04", b"\x05"), "truncated"),
        (lambda folder: without(cells(), "val12"), "another version: expected .*val12"),
        (lambda folder: cells(code=CELLS[:7]), r"another version.*got .*\(7, 6\)"),
        (lambda folder: cells(code=CELLS + 1), "is outside the"),
        (lambda folder: cells(code=0 * CELLS), "occurs twice"),
        (lambda folder: cells(val12=np.full((3, 15625), 200.0)), "between 0 and 1"),
        (lambda folder: cells(test200=np.full((3, 15625), np.nan)), "between 0 and 1"),
    ],
)
def test_a_file_of_cells_that_is_not_right_is_refused(tmp_path, content, says):
    path = path_to(tmp_path, content(tmp_path))
    with pytest.raises(ValueError, match=says) as caught:
        table_files.nasbench201(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lambda all: json.dumps(all)[:5000], "truncated"),
        (lambda all: json.dumps([1, 2]), "another version"),
        (lambda all: json.dumps({"02": {"test_acc": [1, 2, 3]}}), r"got shapes \(\(1, 2\)"),
        (lambda all: json.dumps(all | {NETWORKS[0]: {"mean_acc": 3}}), "another version.*test_acc"),
        (lambda all: json.dumps(all | {NETWORKS[0]: {"test_acc": [1]}}), "another version"),
        (lambda all: json.dumps(all | {NETWORKS[0]: {"test_acc": [-1] * 3}}), "between 0 and 1"),
    ],
)
def test_a_file_of_networks_that_is_not_right_is_refused(tmp_path, content, says):
    path = path_to(tmp_path, content(networks()).encode())
    with pytest.raises(ValueError, match=says) as caught:
        table_files.nasbench_macro(path)
    assert str(path) in str(caught.value)


def networks_of_ours(**changes):
    """What a file of MAML-Bench holds: the later a training, the better on the test's classes."""
    codes = np.array(list(product(range(2), range(3))), np.uint8)
    held_out = np.stack([codes.sum(axis=1) / 10] * 3, axis=1)
    accuracy = np.stack([held_out, held_out + np.array([0.1, 0.2, 0.4])], axis=-1)
    return {"code": codes, "accuracy": accuracy.astype(np.float16)} | changes


def test_ours_is_rewarded_by_the_first_training_and_reported_by_the_others(tmp_path):
    table = table_files.maml_bench(path_to(tmp_path, networks_of_ours()))
    assert table.space.choices == (2, 3)
    np.testing.assert_allclose(lookup(table.rewards, jnp.array([1, 2])), 0.3, atol=1e-3)
    np.testing.assert_allclose(lookup(table.reported, jnp.array([1, 2])), 0.6, atol=1e-3)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not a NumPy archive, or is truncated"),
        ({"code": np.zeros((6, 2), int)}, "another version"),
        (networks_of_ours(accuracy=np.zeros((5, 3, 2))), "another version"),
        (networks_of_ours(accuracy=np.zeros((6, 1, 2))), "another version"),
        (networks_of_ours(accuracy=np.full((6, 2, 2), np.nan)), "not between 0 and 1"),
        (networks_of_ours(code=np.zeros((6, 2), np.uint8)), "occurs twice"),
    ],
)
def test_a_file_of_ours_that_is_not_right_is_refused(tmp_path, content, says):
    with pytest.raises(ValueError, match=says):
        table_files.maml_bench(path_to(tmp_path, content))


@pytest.mark.parametrize(
    "read", [table_files.nasbench201, table_files.nasbench_macro, table_files.maml_bench]
)
def test_a_file_that_is_not_there_is_named(tmp_path, read):
    with pytest.raises(FileNotFoundError, match=r"there is no file of .* at .*missing"):
        read(tmp_path / "missing")


@pytest.mark.parametrize("read", [partial(table_files.nasbench201, Path()), graphs.nasbench_graph])
def test_a_data_set_that_is_not_there_is_refused(read):
    with pytest.raises(ValueError, match=r"must be one of c.*; got 'mnist'"):
        read("mnist")


@needs_data
@pytest.mark.parametrize(
    ("dataset", "optimum", "correlation"),
    [("cifar10", 94.37, 0.90), ("cifar100", 73.51, 0.87), ("ImageNet16-120", 47.31, 0.90)],
)
def test_nas_bench_201_has_its_published_optima(dataset, optimum, correlation):
    table = table_files.nasbench201(DATA / "nasbench201.npz", dataset)
    assert 100 * float(table.reported.max()) == pytest.approx(optimum, abs=0.005)
    result = np.corrcoef(table.rewards.reshape(-1), table.reported.reshape(-1))[0, 1]
    assert result == pytest.approx(correlation, abs=0.01)


@needs_data
def test_nas_bench_macro_knows_its_best_network():
    table = table_files.nasbench_macro(DATA / "nasbench_macro.json")
    best = np.unravel_index(int(table.reported.argmax()), table.reported.shape)
    entry = json.loads((DATA / "nasbench_macro.json").read_text())["".join(map(str, best))]
    assert float(table.reported[best]) == pytest.approx(np.mean(entry["test_acc"][1:]) / 100)


def graph(entries):
    """A pickle as the package has them, made by the NumPy of its time."""
    return pickle.dumps(entries, protocol=3).replace(b"numpy._core", b"numpy.core")


def test_graphs_are_read_without_numpy(tmp_path):
    entries = {
        81230: {"valid_perf": np.float64(0.5), "perf": 0.25},
        7: {"valid_perf": 1, "perf": 0},
    }
    (tmp_path / "cora.bench").write_bytes(graph(entries))
    table = graphs.nasbench_graph("cora", folder=tmp_path)
    assert float(lookup(table.rewards, jnp.array([8, 1, 2, 3, 0]))) == 0.5
    assert float(lookup(table.reported, jnp.array([8, 1, 2, 3, 0]))) == 0.25
    assert float(lookup(table.rewards, jnp.array([0, 0, 0, 0, 7]))) == 1
    assert np.isfinite(table.rewards).sum() == 2


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (pickle.dumps({7: Evil()}), "which is not allowed"),
        (pickle.dumps({7: {"valid_perf": np.ones(2)}}), "which is not allowed"),
        (graph({7: {"valid_perf": np.float32(1), "perf": 1}}), "must be float64"),
        (graph({7: {"valid_perf": 1.0, "perf": 1}})[:-9], "truncated"),
        (b"", "truncated"),
        (graph({7: {"valid_perf": 1.0}}), "another version.*perf"),
        (graph({123456: {"valid_perf": 1.0, "perf": 1}, 7: {}}), "another version"),
        (graph([1]), "another version"),
    ],
)
def test_a_pickle_that_is_not_right_is_refused(tmp_path, monkeypatch, content, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cora.bench").write_bytes(content)
    with pytest.raises(ValueError, match=says):
        graphs.nasbench_graph("cora", folder=tmp_path)
    assert not (tmp_path / "evil").exists()


def test_a_package_that_is_not_there_is_named_as_the_index_names_it(monkeypatch):
    monkeypatch.setattr(graphs, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"pip install 'maml-jax\[graphs\]'"):
        graphs.nasbench_graph("cora")


@pytest.mark.skipif(not find_spec("nas_bench_graph"), reason="no package nas-bench-graph")
@pytest.mark.parametrize("dataset", ["cora", "proteins"])
def test_the_package_has_a_table_from_which_every_draw_is_an_entry(dataset):
    table = graphs.nasbench_graph(dataset)
    count = {"cora": 26_206, "proteins": 2_021}[dataset]
    assert np.isfinite(table.rewards).sum() == count
    drawn = quick(jax.vmap(partial(random_architecture, table.space)))(jax.random.split(KEY, 1000))
    assert np.isfinite(jax.vmap(lookup, (None, 0))(table.rewards, drawn)).all()
