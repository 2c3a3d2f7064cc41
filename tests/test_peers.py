"""The comparison with other frameworks: all compute the same meta-gradient."""

import json
import sys
from dataclasses import replace

import jax
import pytest

from benchmarks import images
from benchmarks.peers import __main__ as peers
from benchmarks.peers import ours

TINY = {
    "glyphs": replace(
        peers.WORKLOADS["omniglot-5w1s"], meta_batch=2, inner_rate=0.1, inner_steps=2
    ),
    "cifar": replace(
        peers.WORKLOADS["cifar-5w1s"],
        dataset="images",
        size=16,
        channels=3,
        queries=2,
        meta_batch=2,
        inner_steps=2,
    ),
    "sinusoid": replace(peers.WORKLOADS["sinusoid-5-steps"], meta_batch=2),
}


@pytest.fixture(scope="module", params=TINY)
def workload(request):
    """Our first loss and meta-gradient, and the problem."""
    side, problem = ours.our_side(TINY[request.param])
    return side.check(), problem


@pytest.mark.parametrize("peer", peers.PEERS)
def test_every_peer_computes_what_we_compute(workload, peer, monkeypatch):
    monkeypatch.setattr(peers, "spawn_side", ours.naive_side)  # the run below has it apart
    if peer != "jax-naive":
        pytest.importorskip("torch")
    if peer in ("higher", "torchopt"):
        pytest.importorskip(peer)
    expected, problem = workload
    peers.admit(peer, problem, expected)


def test_a_first_order_meta_gradient_is_told_from_ours(workload, monkeypatch):
    grad = jax.grad

    def first_order(loss):
        return lambda *args: jax.lax.stop_gradient(grad(loss)(*args))

    expected, problem = workload
    monkeypatch.setattr(peers, "spawn_side", ours.naive_side)  # in this process
    monkeypatch.setattr(jax, "grad", first_order)
    with pytest.raises(ValueError, match="its meta-gradient differs by"):
        peers.admit("jax-naive", problem, expected)


def test_operations_are_those_counted_by_hand():
    of_a_task = peers.operations(peers.GLYPHS)
    assert 32 * of_a_task == pytest.approx(9.984e9, rel=1e-4)
    more = peers.operations(replace(peers.GLYPHS, ways=20, inner_steps=5))
    assert more == 20 * (5 * 46_688_256 + 15_713_280)
    first, others = 2 * 9 * 32**2 * 3 * 32, 2 * 9 * (16**2 + 8**2 + 4**2) * 32 * 32
    support, query = 4 * first + 9 * others, 2 * first + 3 * others
    assert peers.operations(images.PRESETS["maml-cifar-fs"]) == 5 * (5 * support + 15 * query)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workloads": ("miniimagenet",)}, "no workload 'miniimagenet'; there are omniglot-5w1s"),
        ({"peers": ("loop", "learn2learn")}, "no peer 'learn2learn'; there are loop, higher"),
        ({"rounds": 0}, "rounds must be >= 1; got 0"),
        ({"workloads": ()}, "workloads must have at least one value"),
    ],
)
def test_invalid_options_are_refused_before_any_work(options, message):
    with pytest.raises(ValueError, match=message):
        peers.Options(**options)


def test_a_run_times_peers_that_agree_and_gives_the_reason_for_others(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(peers.WORKLOADS, "sinusoid", TINY["sinusoid"])
    monkeypatch.setattr(peers, "SIZE", 8)
    monkeypatch.setattr(peers, "SLOW", 0.0)  # every peer is
    monkeypatch.setattr(peers, "find_spec", lambda name: None)  # no torch
    monkeypatch.setitem(sys.modules, "benchmarks.peers.theirs", None)
    names = {"workloads": ("sinusoid",), "peers": ("loop", "jax-naive")}
    summary = peers.main(peers.Options(**names, rounds=3, out=tmp_path))
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    assert summary["rounds"] == {"sinusoid/maml": 3, "sinusoid/jax-naive": 2}
    assert set(summary["ratios"]) == {"sinusoid/jax-naive"}
    assert "ModuleNotFoundError" in summary["failed"]["sinusoid/loop"]
    assert summary["fraction_of_matmul"] == {} and summary["matmul_gflops"] > 0
    assert "not timed" in capsys.readouterr().out


def test_ratios_are_medians_of_the_ratios_of_a_round():
    seconds = {"omniglot-5w1s": {"maml": [1.0, 2.0, 8.0], "loop": [5.0, 4.0]}}
    summary = peers.summarise(seconds, {}, {"jax": [2 * peers.SIZE**3 / 1e9]}, threads=1)
    assert summary["ratios"] == {"omniglot-5w1s/loop": 3.5}
    assert summary["milliseconds"] == {"omniglot-5w1s/maml": 2000, "omniglot-5w1s/loop": 4500}
    assert summary["tasks_per_second"]["omniglot-5w1s/maml"] == 16
    assert summary["fraction_of_matmul"]["omniglot-5w1s"] == pytest.approx(9.984 / 2, rel=1e-4)
