"""Ray: no reward is lost or counted twice, whoever is killed, and replicas learn together."""

import importlib
import os
import signal
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import quick

from maml.search import (
    Space,
    cluster,
    drive,
    factorised,
    in_shards,
    lstm,
    on_ray,
    reinforce,
    replicate,
    search,
)

KEY = jax.random.key(0)
SPACE = Space((3, 2, 4))


def reward(tokens, key):
    """Exact whoever computes it; at most 1, for the last option of each token."""
    return tokens.sum() / 6


def once(marker, act, tokens, key):
    """The reward, but the first process that comes here acts."""
    try:
        Path(marker).touch(exist_ok=False)
    except FileExistsError:
        return reward(tokens, key)
    return act()


def kill_itself():
    os.kill(os.getpid(), signal.SIGKILL)


def kill_parent_of_tasks(pid_file):
    os.kill(int(Path(pid_file).read_text()), signal.SIGKILL)


def learner(*, shards=2, batch=2, rate=0.1):
    policy, optimizer = in_shards(factorised(SPACE), optax.adam(rate), shards)
    strategy = reinforce(policy, optimizer, batch=batch)
    return policy, optimizer, strategy, strategy.init(KEY)


def equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


class TestWithoutRay:
    @pytest.fixture(autouse=True)
    def absent(self, monkeypatch):
        found = importlib.import_module

        def refuse(name, *rest):
            if name == "ray":
                raise ModuleNotFoundError("No module named 'ray'", name="ray")
            return found(name, *rest)

        monkeypatch.setattr(importlib, "import_module", refuse)
        for name in ("RAY_USAGE_STATS_ENABLED", "RAY_AUTH_MODE"):
            monkeypatch.delenv(name, raising=False)

    def test_whoever_asks_for_it_is_told_the_extra(self):
        policy, optimizer, _, state = learner()
        for ask in (
            cluster().__enter__,
            on_ray,
            lambda: replicate(policy, optimizer, reward, state, KEY, 4, replicas=2, batch=2),
        ):
            with pytest.raises(ImportError, match=r"pip install 'maml\[ray\]'"):
                ask()

    def test_shards_learn_what_the_whole_learns(self):
        whole = reinforce(lstm(SPACE, 3), optax.adam(0.1), batch=2)
        parts = reinforce(*in_shards(lstm(SPACE, 3), optax.adam(0.1), 5), batch=2)
        run = [quick(partial(search, s, reward, children=8))(s.init(KEY), KEY) for s in (whole, parts)]
        equal(run[0][1], run[1][1])
        sizes = [part.size for part in run[1][0].learned.params]
        assert max(sizes) - min(sizes) <= 1 and len(sizes) == 5
        flat = jax.flatten_util.ravel_pytree(run[0][0].learned.params)[0]
        np.testing.assert_allclose(jnp.concatenate(run[1][0].learned.params), flat, rtol=1e-4, atol=1e-6)

    def test_what_cannot_be_is_refused(self):
        with pytest.raises(ValueError, match="12 parameters cannot be in 13 shards"):
            learner(shards=13)
        policy, optimizer, _, state = learner()
        run = partial(replicate, policy, optimizer, reward, state, KEY)
        for options, says in (
            ({"children": 3}, "batches of 2 children do not divide 3"),
            ({"children": 0}, "children must be"),
            ({"replicas": 0}, "replicas must be"),
        ):
            with pytest.raises(ValueError, match=says):
                run(**({"children": 4, "replicas": 2, "batch": 2} | options))
        with pytest.raises(ValueError, match="retries must be"):
            on_ray(retries=-1)


@pytest.fixture(scope="module")
def ray(tmp_path_factory):
    module = pytest.importorskip("ray", reason="Ray is not installed: pip install 'maml[ray]'")
    with pytest.MonkeyPatch.context() as patch:
        # Ray keeps the token that guards a cluster in a file of the user's.
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path_factory.mktemp("ray") / "token"))
        with cluster(num_cpus=2, log_to_driver=False):
            yield module


def listening():
    """The addresses at which processes of this machine listen, as the kernel writes them."""
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            _, local, _, status, *_ = line.split()
            if status == "0A":
                found.add(local)
    return found
