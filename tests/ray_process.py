"""What happens on Ray, as JSON: `python ray_process.py FOLDER`.

A process of its own, as functions that check their shapes cannot be sent to others.
"""

import json
import logging
import os
import secrets
import signal
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from maml.search import (
    Space,
    factorised_policy,
    ray_cluster,
    ray_executor,
    reinforce,
    search,
    search_on_host,
    search_with_replicas,
    shard_parameters,
)

KEY = jax.random.key(0)
SPACE = Space((3, 2, 4))


def reward(tokens, key):
    """Exact whoever computes it; at most 1, for the last option of each token."""
    return (tokens.sum() + 2) / 8


def learner(*, shards=2, batch=2, rate=0.1):
    policy, optimizer = shard_parameters(factorised_policy(SPACE), optax.adam(rate), shards)
    strategy = reinforce(policy, optimizer, batch=batch)
    return policy, optimizer, strategy, strategy.init(KEY)


def parent(pid):
    return int(Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[1])


def addresses():
    """Where this process and its descendants listen, as the kernel writes it."""
    sockets, here = set(), os.getpid()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            pid = int(process.name)
            while pid not in (0, here):
                pid = parent(pid)
            if pid == here:
                links = [str(link.readlink()) for link in (process / "fd").iterdir()]
                sockets |= {link[8:-1] for link in links if link.startswith("socket:[")}
    lines = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path("/proc/net", table).read_text().splitlines()[1:]
    ]
    return sorted(x[1].split(":")[0] for x in lines if x[3] == "0A" and x[9] in sockets)


def once(marker, act, tokens, key):
    """The reward, but the first process that comes here acts before."""
    try:
        Path(marker).touch(exist_ok=False)
    except FileExistsError:
        pass
    else:
        act()
    return reward(tokens, key)


def kill_itself():
    os.kill(os.getpid(), signal.SIGKILL)


def kill_a_replica():
    """Of the same Ray, whose processes have the same parent; this child may be another's."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            named = (process / "cmdline").read_bytes().startswith(b"ray::Replica")
            if named and parent(process.name) == os.getppid():
                os.kill(int(process.name), signal.SIGKILL)
                return
    raise LookupError("there is no replica")


def bug(tokens, key):
    raise TypeError("a bug")


def work(what):
    return {"work": float, "raise": lambda: 1 // 0, "die": kill_itself}[what]()


def same(one, other, **close):
    """Whether two trees are the same, or close."""
    alike = partial(np.allclose, **close) if close else np.array_equal
    return all(jax.tree.leaves(jax.tree.map(alike, one, other)))


def raised(call):
    try:
        call()
    except RuntimeError as error:
        return str(error)
    return None


def executor_facts(folder):
    _, _, strategy, state = learner(batch=4)
    killed, kept = partial(once, folder / "worker", kill_itself), []
    _, history = search_on_host(
        strategy, killed, state, KEY, 12, ray_executor(), on_child=kept.append
    )
    expected = search(strategy, reward, state, KEY, 12)[1]
    result = dict(ray_executor(retries=1)(work, [("work",), ("raise",), ("die",), ("work",)]))
    return {
        "addresses": addresses(),
        "worker killed": (folder / "worker").exists(),
        "history": same(history, expected),
        "kept": sorted(child.number for child in kept),
        "outcomes": [repr(result[i]) for i in sorted(result)],
    }


def one_replica():
    policy, optimizer, strategy, state = learner()
    state_after, history = search_with_replicas(
        policy, optimizer, reward, state, KEY, 12, replicas=1, batch=2
    )
    expected = search(strategy, reward, state, KEY, 12)
    return {
        "history": same(history, expected[1]),
        "state": same(state_after, expected[0], rtol=1e-4, atol=1e-6),
    }


def two_replicas(folder):
    policy, optimizer, _, state = learner()
    killed, kept = partial(once, folder / "replica", kill_a_replica), []
    options = {"replicas": 2, "batch": 2, "on_child": kept.append}
    state, first = search_with_replicas(policy, optimizer, killed, state, KEY, 100, **options)
    state, last = search_with_replicas(policy, optimizer, reward, state, KEY, 100, **options)
    history = jax.tree.map(lambda *x: jnp.concatenate(x), first, last)
    return {
        "replica killed": (folder / "replica").exists(),
        "kept": sorted(child.number for child in kept),
        "numbers": history.numbers.tolist(),
        "told": int(state.num_rewards),
        "gradients": [int(shard[0].count) for shard in state.strategy_state.opt_state],
        "rewards": history.rewards.tolist(),
        "right": same(history.rewards, jax.vmap(reward, (0, None))(history.tokens, KEY)),
    }


def broken_replica():
    policy, optimizer, _, state = learner()
    run = partial(search_with_replicas, policy, optimizer, bug, state, KEY, replicas=1, batch=2)
    return raised(lambda: run(40, max_failures=3))


def main(folder: Path) -> None:
    logging.basicConfig(filename=folder / "log")
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # else Ray writes one to the user's home
    with ray_cluster(num_cpus=2, log_to_driver=False):
        facts = {
            "executor": executor_facts(folder),
            "one": one_replica(),
            "two": two_replicas(folder),
            "broken": broken_replica(),
            "reports": os.environ["RAY_USAGE_STATS_ENABLED"],
        }
    facts["stopped"] = raised(lambda: list(ray_executor()(reward, [(np.zeros(3, int), KEY)])))
    (folder / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
