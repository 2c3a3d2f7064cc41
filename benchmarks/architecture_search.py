"""Architecture search: random search, evolution, REINFORCE and PPO, over many runs.

A search proposes architectures, the child networks. The reward of each child network is read from a
table, or the child network is trained. The result is the accuracy, or the perplexity, of the best
child network of each strategy, with the p-value against random search.

    python -m benchmarks.architecture_search --space nasbench201 --table FILE --dataset cifar100
    python -m benchmarks.architecture_search --space nasbench201 --table FILE --children 500
    python -m benchmarks.architecture_search --space macro-table --table FILE --children 300
    python -m benchmarks.architecture_search --space graphs --dataset cora     # needs no file
    python -m benchmarks.architecture_search --space maml-bench                # needs no file
    python -m benchmarks.architecture_search --space macro --data FOLDER --children 200
    python -m benchmarks.architecture_search --space cells --data FOLDER --shared-steps 2000
    python -m benchmarks.architecture_search --space nasbench-nlp --table FILE
    python -m benchmarks.architecture_search --space recurrent --data FOLDER --children 150

With a table, 500 searches of each strategy take half a minute on two cores; the spaces macro, cells
and recurrent train their child networks. The reward is the accuracy after a short training. The
reported accuracy is that of other trainings of the child network with the best reward. For
recurrent cells the reward is c / perplexity^2, and perplexities are shown and reported. Figures
show the mean of the best 5 and 25 rewards over the number of child networks, as in NASNet, and how
much better the best 1, 5 and 15 are than with random search, as in Zoph and Le.
"""

from functools import partial
from typing import Any

import numpy as np
import optax

from benchmarks.harness.command_line import launch
from benchmarks.harness.folders import new_folder
from benchmarks.harness.statistics import count_not_finite, finite_or_none, welch
from benchmarks.harness.summary import write_summary
from benchmarks.search import children, drawing, figures, live, report, tabulated
from benchmarks.search.figures import Rewards, gain_over_random, mean_of_top, replace_broken
from benchmarks.search.live import SearchResult
from benchmarks.search.options import NAMES, Search
from benchmarks.search.recurrent import DATASET, recurrent_rewards
from maml.search import (
    Space,
    Strategy,
    evolution,
    factorised_policy,
    lstm_policy,
    ppo,
    random_search,
    reinforce,
)


def strategies(config: Search, space: Space) -> dict[str, Strategy]:
    """All strategies by name."""
    choices = {"factorised": (factorised_policy, 0.05), "lstm": (lstm_policy, 0.001)}
    make_policy, default = choices[config.policy]
    policy, rate = make_policy(space), default if config.rate is None else config.rate
    values = (
        random_search(space),
        evolution(space),
        reinforce(policy, optax.adam(rate)),
        ppo(policy, optax.adam(rate), batch=config.batch, baseline_decay=0.9),
    )
    return dict(zip(NAMES, values, strict=True))


def describe_outcome(
    config: Search, outcome: SearchResult
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Rewards `[run, child]` by strategy, in percent, 0 if broken, and their statistics."""
    scale, last = config.scale, config.children // 5
    rewards = {name: replace_broken(100 * x) for name, x in outcome.rewards.items()}
    best = {name: scale.show(100 * reported) for name, reported in outcome.best.items()}
    results = {
        "best": {
            n: {"mean": float(x.mean()), "std": float(x.std(ddof=1))} for n, x in best.items()
        },
        "p_over_random": {
            name: p_value(scale.sign * x, scale.sign * best["random"]) for name, x in best.items()
        },
        "mean_last_fifth": {
            name: float(scale.show(x[:, -last:].mean())) for name, x in rewards.items()
        },
        "broken": {name: int((~np.isfinite(x)).sum()) for name, x in outcome.rewards.items()},
        "seconds": outcome.seconds,
        **outcome.facts,
        **count_not_finite({"best": best}),
    }
    for count in figures.TOPS:
        means = {name: mean_of_top(x, count)[-1] for name, x in rewards.items()}
        results[f"top{count}"] = {name: float(scale.show(x)) for name, x in means.items()}
    results["gain_over_random"] = {
        name: {str(count): _last_gain(config, rewards, name, count) for count in figures.GAINS}
        for name in rewards
        if name != "random"
    }
    return rewards, results


def _last_gain(
    config: Search, rewards: dict[str, Rewards], name: str, count: int
) -> dict[str, float | None]:
    """The gain over random search after all children, with its 95% interval."""
    paired = config.shared_steps > 0
    mean, half = gain_over_random(rewards, name, count, config.scale, paired=paired)
    return {"mean": finite_or_none(mean[-1]), "ci95": finite_or_none(half[-1])}


def p_value(values: np.ndarray, baseline: np.ndarray) -> float:
    """The p-value of a mean no larger than that of a baseline, by Welch's one-sided test."""
    difference, _, two_sided = welch(values, baseline)
    return float(two_sided / 2 if difference > 0 else 1 - two_sided / 2)


def main(config: Search) -> dict[str, Any]:
    """Searches, prints the table, draws the figures and writes `summary.json`."""
    if config.trains:
        if config.space == "recurrent":
            dataset, trained = DATASET, recurrent_rewards(config, config.data, config.dataset)
        else:
            dataset = config.dataset or children.DATASETS[0]
            trained = children.image_rewards(config, config.space, dataset)
        space = trained.space
        search = partial(live.measure, config, strategies(config, space), trained)
    else:
        table, dataset = tabulated.read_table(config)
        space = table.space
        search = partial(tabulated.measure, config, strategies(config, space), table)
    out = config.out or new_folder(f"architecture-search-{config.space}-{dataset}")
    rewards, results = describe_outcome(config, search(out))
    about = {name: getattr(config, name) for name in ("space", "children", "policy", "seed")}
    summary = (
        about | {"runs": config.repeats, "dataset": dataset, "unit": config.scale.unit} | results
    )
    summary = write_summary("architecture_search", config, out, summary, record=config.record)
    report.show(summary)
    figures.draw_running_mean(out, rewards, config.scale)
    figures.draw_top_means(out, rewards, config.scale)
    figures.draw_gains(out, rewards, config.scale, paired=config.shared_steps > 0)
    if config.trains:
        drawing.draw_best(out, config, summary["chosen"])
        words = space.words(np.array(drawing.best_tokens(summary["chosen"])))
        print(f"best network: {', '.join(words)}")
    print(f"figures: {out}")
    return summary


if __name__ == "__main__":
    launch(main, Search, __doc__)
