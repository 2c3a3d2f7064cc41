"""Ray: every reward is counted once when workers are killed, and replicas learn together."""

import importlib
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import ray_process
from jax.flatten_util import ravel_pytree
from problems import quick
from ray_process import KEY, SPACE, learner, reward

from maml.search import (
    factorised_policy,
    ray_cluster,
    ray_executor,
    reinforce,
    search_with_replicas,
    sequential_policy,
    shard_parameters,
)
from maml.search.replicas import Server

# As the kernel writes them: 127.0.0.1, the same in IPv6, and ::1.
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


@pytest.fixture
def absent(monkeypatch):
    """No Ray is installed, whether or not it is."""
    result = importlib.import_module

    def refuse(name, *rest):
        if name == "ray":
            raise ModuleNotFoundError("No module named 'ray'", name="ray")
        return result(name, *rest)

    monkeypatch.setattr(importlib, "import_module", refuse)
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_AUTH_MODE", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"):
        monkeypatch.setenv(name, "0")  # so that it is what it was afterwards


@pytest.mark.usefixtures("absent")
def test_a_missing_ray_is_refused_with_the_command_that_installs_it():
    policy, optimizer, _, state = learner()
    for ask in (
        ray_cluster().__enter__,
        lambda: list(ray_executor()(reward, [(jnp.zeros(3), KEY)])),
        lambda: search_with_replicas(policy, optimizer, reward, state, KEY, 4, replicas=2, batch=2),
    ):
        with pytest.raises(ImportError, match=r"pip install 'maml-jax\[ray\]'"):
            ask()


def test_sharded_learning_equals_learning_in_one_place():
    def step(params, carry, previous, position):
        return carry, params["own"][position] + params["shared"]

    start = {"own": jnp.zeros((3, 4)), "shared": jnp.arange(4.0)}
    policy = sequential_policy(SPACE, lambda key: start, lambda params: (), step)
    whole = reinforce(policy, optax.adam(0.1), batch=2)
    parts = reinforce(*shard_parameters(policy, optax.adam(0.1), 5), batch=2)
    tokens = jnp.array([[0, 1, 3], [2, 0, 1]])
    one, other = [
        quick(s.tell)(s.init(KEY), tokens, jnp.arange(2.0)).strategy_state.params
        for s in (whole, parts)
    ]
    assert [part.size for part in other] == [4, 3, 3, 3, 3]
    flat = ravel_pytree(one)[0]
    np.testing.assert_allclose(ravel_pytree(other)[0], flat, rtol=1e-6, atol=1e-7)


def test_a_gradient_that_is_sent_again_is_applied_once():
    _, optimizer = shard_parameters(factorised_policy(SPACE), optax.sgd(1.0), 2)
    server = Server(optimizer, np.zeros(2), optax.sgd(1.0).init(np.zeros(2)))
    for number, grad in ((0, 1.0), (2, 2.0), (0, 8.0), (2, 8.0)):
        server.apply(number, np.full(2, grad))
    np.testing.assert_array_equal(server.read()[0], [-3, -3])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"children": 3}, "batches of 2 children do not divide 3"),
        ({"children": 0}, "children must be"),
        ({"replicas": 0}, "replicas must be"),
        (
            {"state": reinforce(factorised_policy(SPACE), optax.adam(0.1)).init(KEY)},
            "be in shards, see",
        ),
    ],
)
def test_replicas_that_cannot_be_are_refused(options, says):
    policy, optimizer, _, state = learner()
    usual = {"state": state, "children": 4, "replicas": 2, "batch": 2}
    with pytest.raises(ValueError, match=says):
        search_with_replicas(policy, optimizer, reward, key=KEY, **(usual | options))


def test_shards_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="12 parameters cannot be in 13 shards"):
        learner(shards=13)
    with pytest.raises(ValueError, match="shards must be"):
        learner(shards=0)
    with pytest.raises(ValueError, match="retries must be"):
        ray_executor(retries=-1)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """What happened on Ray."""
    folder = tmp_path_factory.mktemp("ray")
    command = [sys.executable, "-W", "error", str(Path(ray_process.__file__)), str(folder)]
    subprocess.run(command, check=True, timeout=400, cwd=Path(__file__).parents[1])
    return json.loads((folder / "facts.json").read_text()) | {"log": (folder / "log").read_text()}


@pytest.mark.skipif(not find_spec("ray"), reason="needs pip install 'maml-jax[ray]'")
class TestRay:
    def test_nothing_listens_beyond_this_machine_and_nothing_is_reported(self, ran):
        heard = ran["executor"]["addresses"]
        assert len(heard) >= 4 and set(heard) <= LOOPBACK
        assert ran["reports"] == "0"

    def test_a_child_whose_worker_is_killed_is_rewarded_again_and_counted_once(self, ran):
        assert ran["executor"]["worker killed"] and ran["executor"]["history"]
        assert ran["executor"]["kept"] == list(range(12))

    def test_exceptions_and_repeated_crashes_of_a_worker_are_outcomes(self, ran):
        first, raised, died, last = ran["executor"]["outcomes"]
        assert first == last == "0.0" and "ZeroDivisionError" in raised
        assert died.startswith("WorkerCrashedError")

    def test_one_replica_is_reinforce(self, ran):
        assert ran["one"] == {"history": True, "state": True}

    def test_replicas_learn_together_and_one_that_is_killed_costs_nothing(self, ran):
        result = ran["two"]
        assert result["replica killed"] and result["right"]
        assert result["kept"] == result["numbers"] == list(range(200)) and result["told"] == 200
        assert result["gradients"] == [100, 100]  # one a batch, on each server
        assert np.mean(result["rewards"][:20]) < 0.8 and np.mean(result["rewards"][-40:]) > 0.95

    def test_a_reward_that_breaks_in_a_replica_is_logged_and_a_bug_is_raised(self, ran):
        assert "child 1 is broken, it raised TypeError('a bug')" in ran["log"]
        assert "3 children in a row" in ran["broken"]

    def test_without_a_cluster_nothing_is_started(self, ran):
        assert "with maml.search.ray_cluster()" in ran["stopped"]
