"""Searches whose child networks are trained; every reward is written to a file at once."""

import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from benchmarks.harness.display import bar
from benchmarks.harness.files import COUNT, NUMBER, TEXT, append_line, sole_writer
from benchmarks.harness.folders import check_free, claim_folder, options_as_json, recover_lines
from benchmarks.harness.hardware import timed
from benchmarks.search import children
from benchmarks.search.options import Search
from maml.search import Child, Strategy, best, search_on_host

KEPT = "children.jsonl"
# A line of that file.
COUNTS = {"run": COUNT, "number": COUNT, "tokens": [COUNT]}
CHILD = COUNTS | {"strategy": TEXT, "reward": (NUMBER, None), "seconds": NUMBER}
NO_EFFECT = "out", "record", "cache", "runs", "strategies", "executor"  # change no child network
RETRAININGS = 3  # trainings of the best child of a search, whose mean reward is reported


class SearchResult(NamedTuple):
    """The outcome of all searches; rewards that are accuracies are fractions of 1.

    Attributes:
        rewards: Rewards `[run, child]` by strategy.
        best: Reported rewards `[run]` of the best child of each run, by strategy.
        seconds: Seconds by strategy, and `share`, those of training shared weights.
        facts: Further entries of the summary; for searches that train, `chosen` has the reported
            reward and the tokens of the best child of each run, by strategy.
    """

    rewards: dict[str, Float[np.ndarray, "run child"]]
    best: dict[str, Float[np.ndarray, " run"]]
    seconds: dict[str, float]
    facts: dict[str, Any]


def measure(
    config: Search,
    compared: dict[str, Strategy],
    trained: children.ChildRewards,
    out: Path,
) -> SearchResult:
    """Searches, or resumes the searches of a folder, and trains the best children again.

    Raises:
        ValueError: The folder holds searches of other options, or lacks a file of its searches; or
            no child of a search has a finite reward.
    """
    out.mkdir(parents=True, exist_ok=True)
    rewards, chosen = defaultdict(list), defaultdict(list)
    share = 0.0
    total = config.repeats * len(config.strategies) * config.children
    with ExitStack() as stack:
        stack.enter_context(sole_writer(out))
        lines = load_children(config, out)
        move = stack.enter_context(bar(total, len(lines)))
        execute = stack.enter_context(children.executor(config.executor))
        for run in range(config.repeats):
            run_key = jax.random.fold_in(jax.random.key(config.seed), run)
            shared_key, *keys = jax.random.split(run_key, 1 + len(compared))
            earned, spent = timed(trained.reward, shared_key)
            share += spent
            for (name, strategy), key in zip(compared.items(), keys, strict=True):
                if name not in config.strategies:
                    continue
                init_key, key, last_key = jax.random.split(key, 3)
                labels = {"run": run, "strategy": name}
                done = [child_of_line(x) for x in lines if x.items() >= labels.items()]
                calls = {
                    "on_child": child_recorder(out, labels, lines),
                    "report": bar_mover(move, name, len(done)),
                }
                start, budget = strategy.init(init_key), config.children
                _, history = search_on_host(
                    strategy, earned, start, key, budget, execute, finished=done, **calls
                )
                rewards[name].append(np.asarray(history.rewards))
                winner = best(history).tokens
                items = [(winner, key) for key in jax.random.split(last_key, RETRAININGS)]
                accuracies = [
                    raise_if_error(value) for _, value in execute(trained.reported, items)
                ]
                chosen[name].append((np.mean(accuracies), winner.tolist()))
    stacked = {name: np.stack(values) for name, values in rewards.items()}
    reported = {name: np.array([value for value, _ in pairs]) for name, pairs in chosen.items()}
    seconds = {n: sum(x["seconds"] for x in lines if x["strategy"] == n) + 0.0 for n in reported}
    seconds |= {"share": share} if config.shared_steps else {}
    pairs = {n: [(value.item(), tokens) for value, tokens in chosen[n]] for n in reported}
    return SearchResult(stacked, reported, seconds, {"chosen": pairs, "source": trained.source})


def raise_if_error(outcome: Any) -> Any:
    """Returns an outcome of an executor, or raises it if it is an exception."""
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def load_children(config: Search, out: Path) -> list[dict[str, Any]]:
    """Claims a folder for searches, and reads the children that it holds.

    A child whose line was cut off is trained again.

    Returns:
        A line for each child of these searches, as `CHILD`.

    Raises:
        ValueError: The folder holds searches of other options, or lacks its children or options.
    """
    options = {
        name: value for name, value in options_as_json(config).items() if name not in NO_EFFECT
    }
    log, file = out / KEPT, out / "config.json"
    if file.exists() and not log.exists():
        raise ValueError(
            f"{file} is that of a search whose {KEPT} is missing; put it back, or name another"
            " folder with --out"
        )
    lines = recover_lines(log, CHILD)
    if lines and not file.exists():
        raise ValueError(f"{log} holds children, but their {file} is missing; put it back")
    check_free(out, (KEPT,))
    log.touch()
    claim_folder(out, options, (KEPT,))
    return [x for x in lines if x["run"] < config.repeats and x["strategy"] in config.strategies]


def child_of_line(line: dict[str, Any]) -> Child:
    """The child that a line of the file describes."""
    value = float("nan") if line["reward"] is None else line["reward"]
    return Child(line["number"], np.array(line["tokens"]), value)


def child_recorder(
    out: Path,
    labels: dict[str, Any],
    lines: list[dict[str, Any]],
) -> Callable[[Child], None]:
    """The function that adds each new child of a search to the file and the list."""
    since = time.perf_counter()

    def keep(child: Child) -> None:
        nonlocal since
        now = time.perf_counter()
        tokens = np.asarray(child.tokens).tolist()
        value = child.reward if np.isfinite(child.reward) else None
        line = {"number": child.number, "tokens": tokens, "reward": value, "seconds": now - since}
        lines.append(labels | line)
        append_line(out / KEPT, lines[-1])
        since = now

    return keep


def bar_mover(
    move: Callable[[int, str, str], None], strategy: str, finished: int
) -> Callable[[int, int, float], None]:
    """The function that moves a bar with a search; the bar counts its finished children already."""
    started = time.perf_counter()

    def report(known: int, children: int, best: float) -> None:
        if known > finished:
            rate = (known - finished) / (time.perf_counter() - started)
            move(1, f"{rate:.3g} children/s", f"{strategy}, best {best:.3g}")

    return report
