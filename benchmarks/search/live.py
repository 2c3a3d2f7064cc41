"""Searches whose children are trained: every reward is kept as it comes, and none is lost."""

import json
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

import maml
from benchmarks.harness.folders import check_free, claim_folder, options_as_json, recover_lines
from benchmarks.harness.schemas import CHILD
from benchmarks.harness.terminal import bar
from benchmarks.search import children
from maml.search import Child, Space, Strategy, drive
from tasks.architectures import reward

KEPT = "children.jsonl"
FREE = "out", "record", "cache", "runs", "strategies", "executor"  # children stay what they are
RETRAININGS = 3  # of the best child of a search; the mean of their accuracies is reported


class Outcome(NamedTuple):
    """What came of all searches, as fractions of 1.

    Attributes:
        rewards: by strategy, `[run, child]`.
        best: by strategy, what is reported of the best child of each run.
        broken: by strategy, how many rewards were not finite.
        seconds: by strategy, and `share`, of shared weights.
        facts: what else there is to say; of searches that train, `chosen`, by strategy the accuracy
            and the tokens of each run's best.
    """

    rewards: dict[str, Float[np.ndarray, "run child"]]
    best: dict[str, Float[np.ndarray, " run"]]
    broken: dict[str, int]
    seconds: dict[str, float]
    facts: dict[str, Any]


def measure(
    config: Any,
    compared: dict[str, Strategy],
    space: Space,
    child: reward.Child,
    learning: tuple[dict[str, maml.Sampler], str],
    out: Path,
) -> Outcome:
    """Searches, trains the best children again, and goes on with what `out` already holds.

    Args:
        config: the options of `benchmarks.architecture_search`.
        compared: all strategies; those that `config.strategies` names search.
        space: of what.
        child: from tokens to a model.
        learning: what `children.samplers` gives.
        out: the folder.

    Raises:
        ValueError: `out` holds searches of other options, or has lost them; or no child of a search
            has a finite reward.
    """
    sample, source = learning
    lines = kept_children(config, out)
    again = reward.from_scratch(child, sample["train"], sample["test"], config.budget)
    rewards, best, found = (defaultdict(list) for _ in range(3))
    share = 0.0
    total = config.repeats * len(config.strategies) * config.children
    with bar(total, len(lines)) as move, children.executor(config.executor) as execute:
        for run in range(config.repeats):
            run_key = jax.random.fold_in(jax.random.key(config.seed), run)
            shared_key, *keys = jax.random.split(run_key, 1 + len(compared))
            since = time.perf_counter()
            earned = children.reward(space, child, sample, config, shared_key)
            share += time.perf_counter() - since
            for (name, strategy), key in zip(compared.items(), keys, strict=True):
                if name not in config.strategies:
                    continue
                init_key, key, last_key = jax.random.split(key, 3)
                mine = {"run": run, "strategy": name}
                done = [child_of_line(line) for line in lines if line.items() >= mine.items()]
                keep = child_recorder(out, mine, lines, move)
                start, budget = strategy.init(init_key), config.children
                _, history = drive(
                    strategy, earned, start, key, budget, execute, done=done, keep=keep
                )
                rewards[name].append(np.asarray(history.rewards))
                chosen = history.tokens[best_child(rewards[name][-1])]
                found[name].append(chosen.tolist())
                items = [(chosen, key) for key in jax.random.split(last_key, RETRAININGS)]
                best[name].append(
                    np.mean([raise_if_error(value) for _, value in execute(again, items)])
                )
    stacked = {name: np.stack(found) for name, found in rewards.items()}
    seconds = {n: sum(x["seconds"] for x in lines if x["strategy"] == n) + 0.0 for n in best}
    seconds |= {"share": share} if config.shared_steps else {}
    broken = {name: int((~np.isfinite(values)).sum()) for name, values in stacked.items()}
    reported = {name: np.array(values) for name, values in best.items()}
    chosen = {n: [*zip(reported[n].tolist(), tokens, strict=True)] for n, tokens in found.items()}
    return Outcome(stacked, reported, broken, seconds, {"chosen": chosen, "source": source})


def raise_if_error(outcome: Any) -> Any:
    """The outcome, unless it is an exception."""
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def best_child(rewards: Float[np.ndarray, "*run child"]) -> Int[np.ndarray, "*run"]:
    """The child with the best reward of those that are not broken.

    Raises:
        ValueError: all of a search are.
    """
    finite = np.isfinite(rewards)
    if not finite.any(axis=-1).all():
        raise ValueError("no child of a search has a finite reward, so that none is the best")
    return np.where(finite, rewards, -np.inf).argmax(axis=-1)


def kept_children(config: Any, out: Path) -> list[dict[str, Any]]:
    """The children of these searches that a folder holds.

    A line that was cut off is a child to train again.

    Raises:
        ValueError: they are of other options, or those of the folder's options are missing.
    """
    wanted = {name: value for name, value in options_as_json(config).items() if name not in FREE}
    log, options = out / KEPT, out / "config.json"
    if options.exists() and not log.exists():
        raise ValueError(
            f"{options} tells of a search whose {KEPT} is missing: put it back, or name another"
            " folder with --out"
        )
    lines = recover_lines(log, CHILD)
    if lines and not options.exists():
        raise ValueError(f"{log} holds children, and there is no {options} of theirs: put it back")
    check_free(out, (KEPT,))
    out.mkdir(parents=True, exist_ok=True)
    log.touch()
    claim_folder(out, wanted, (KEPT,))
    return [x for x in lines if x["run"] < config.repeats and x["strategy"] in config.strategies]


def child_of_line(line: dict[str, Any]) -> Child:
    """The child of a line."""
    value = float("nan") if line["reward"] is None else line["reward"]
    return Child(line["number"], np.array(line["tokens"]), value)


def child_recorder(
    out: Path,
    search: dict[str, Any],
    lines: list[dict[str, Any]],
    move: Callable[[int, str, str], None],
) -> Callable[[Child], None]:
    """What is called with each child of a search: it adds a line to the file and to the list."""
    started, before = time.perf_counter(), len(lines)
    since = started

    def keep(child: Child) -> None:
        nonlocal since
        now = time.perf_counter()
        tokens = np.asarray(child.tokens).tolist()
        value = child.reward if np.isfinite(child.reward) else None
        line = {"number": child.number, "tokens": tokens, "reward": value, "seconds": now - since}
        lines.append(search | line)
        with (out / KEPT).open("a") as file:
            file.write(json.dumps(lines[-1]) + "\n")
        rate = (len(lines) - before) / (now - started)
        move(1, f"{rate:.3g} children/s", search["strategy"])
        since = now

    return keep
