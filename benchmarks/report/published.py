"""Published results, which tables show beside ours.

They are from Finn et al. (2017) unless another paper is named; for 10-shot sinusoids that paper has
only a curve (figure 3), from which the values are read. The others are from the papers of MAML++
(Antoniou et al. 2019, an ensemble of five checkpoints), Reptile (Nichol et al. 2018, also for
FOMAML), iMAML (Rajeswaran et al. 2019, with gradient descent), Meta-SGD (Li et al. 2017) and
prototypical networks (Snell et al. 2017). Those on CIFAR-FS are from Bertinetto et al. (2019), and
those on FC100 from Oreshkin et al. (2018).
"""

from collections.abc import Container
from typing import Any

Summary = dict[str, Any]
NAVIGATION = "-40.41 ± 4.1", "-11.68 ± 2.2", "-3.33 ± 0.6", "-3.23 ± 0.6", "-3.35 ± 0.6"
PRETRAINED = "-40.81", "-19.73", "-11.72", "-8.47", "-7.49"
RANDOM = "-82.66", "-57.96", "-53.84", "-46.81", "-42.91"
CELLS = tuple(f"omniglot {ways}-way {shots}-shot" for ways in (5, 20) for shots in (1, 5))
# Algorithm -> inner steps of the evaluation, 5-way and 20-way, then the values of `CELLS`.
OMNIGLOT = {
    "maml": ("3", "5", "98.7 ± 0.4", "99.9 ± 0.1", "95.8 ± 0.3", "98.9 ± 0.2"),
    "maml++": ("5", "5", "99.47", "99.93", "97.65 ± 0.05", "99.33 ± 0.03"),
    "fomaml": ("3", "5", "98.3 ± 0.5", "99.2 ± 0.2", "89.4 ± 0.5", "97.9 ± 0.1"),
    "reptile": ("50", "50", "97.68 ± 0.04", "99.48 ± 0.06", "89.43 ± 0.14", "97.12 ± 0.32"),
    "meta_sgd": ("1", "1", "99.53 ± 0.26", "99.93 ± 0.09", "95.93 ± 0.38", "98.97 ± 0.19"),
    "imaml": ("16", "25", "99.16 ± 0.35", "99.67 ± 0.12", "94.46 ± 0.42", "98.69 ± 0.1"),
    "protonet": ("1", "1", "98.8", "99.7", "96.0", "98.9"),
}
# (task, algorithm, model) -> inner step -> value
PUBLISHED: dict[tuple[str, str, str], dict[str, str]] = {
    ("sinusoid 5-shot", "maml", ""): {"1": "0.67", "5": "0.38", "10": "0.35"},
    ("sinusoid 10-shot", "maml", ""): {"1": "0.4 ± 0.1 (curve)", "9": "0.2 ± 0.1 (curve)"},
    ("sinusoid 5-shot", "pretrained", ""): {"1": "2.41", "5": "2.23", "10": "2.19"},
    ("sinusoid of frequencies 5-shot", "maml", ""): {"1": "1.13 ± 0.18"},
    ("sinusoid of frequencies 20-shot", "maml", ""): {"1": "0.48 ± 0.08"},
    ("sinusoid of frequencies 5-shot", "meta_sgd", ""): {"1": "0.90 ± 0.16"},
    ("sinusoid of frequencies 20-shot", "meta_sgd", ""): {"1": "0.31 ± 0.05"},
    **{
        (cell, algorithm, "conv4"): {steps[n // 2]: values[n]}
        for algorithm, (*steps, a, b, c, d) in OMNIGLOT.items()
        for values in ((a, b, c, d),)
        for n, cell in enumerate(CELLS)
    },
    ("cifar-fs 5-way 1-shot", "maml", "conv4"): {"10": "58.9 ± 1.9"},
    ("cifar-fs 5-way 5-shot", "maml", "conv4"): {"10": "71.5 ± 1.0"},
    ("cifar-fs 5-way 1-shot", "protonet", "conv4"): {"1": "55.5 ± 0.7"},
    ("cifar-fs 5-way 5-shot", "protonet", "conv4"): {"1": "72.0 ± 0.6"},
    ("fc100 5-way 1-shot", "protonet", "conv4"): {"1": "35.3 ± 0.6"},
    ("fc100 5-way 5-shot", "protonet", "conv4"): {"1": "48.6 ± 0.6"},
    (CELLS[0], "maml", "fully-connected"): {"3": "89.7 ± 1.1"},
    (CELLS[1], "maml", "fully-connected"): {"3": "97.5 ± 0.6"},
    ("navigation", "maml", ""): dict(zip("01234", NAVIGATION, strict=True)),
    ("navigation", "pretrained", ""): dict(zip("01234", PRETRAINED, strict=True)),
    ("navigation", "random", ""): dict(zip("01234", RANDOM, strict=True)),
    ("navigation", "oracle", ""): {"0": "-2.29 ± 0.1"},
}
# (budget, arms) -> MAML in the table of SNAIL (Mishra et al. 2018), and RL2 (Duan et al. 2016)
BANDITS = {
    (10, 5): ("6.5 ± 0.1", "6.7"),
    (10, 10): ("6.6 ± 0.1", "6.7"),
    (10, 50): ("6.6 ± 0.1", "6.8"),
    (100, 5): ("67.1 ± 1.1", "78.7"),
    (100, 10): ("70.1 ± 0.6", "83.5"),
    (100, 50): ("70.3 ± 0.4", "84.9"),
    (500, 5): ("too expensive", "401.5"),
    (500, 10): ("too expensive", "432.5"),
    (500, 50): ("too expensive", "438.9"),
}
MDPS = {
    10: ("0.563", "0.752"),
    25: ("0.591", "0.859"),
    50: ("too expensive", "0.902"),
    75: ("too expensive", "0.918"),
    100: ("too expensive", "0.922"),
}


def task_title(summary: Summary) -> str:
    """The task of a run, such as `omniglot 5-way 1-shot`."""
    config = summary["config"]
    words = [config.get("dataset") or summary["benchmark"]]
    words += ["corners"] * bool(config.get("corners"))
    words += ["of frequencies"] * bool(config.get("frequencies"))
    words += ["split by alphabet"] * (config.get("split") == "alphabets")
    words += ["within alphabets"] * bool(config.get("within_alphabet"))
    words += [f"{config[name]}-{name[:-1]}" for name in ("ways", "shots") if name in config]
    if summary["benchmark"] == "bandits":
        arms = f"of {config['arms']} arms" if config["problem"] == "bandit" else "episodes"
        words = [config["problem"], f"{config['budget']}", arms]
    return " ".join(words)


def published_values(summary: Summary) -> dict[str, str]:
    """The published values for the task, algorithm and model of a run, by inner step."""
    config = summary["config"]
    if summary["benchmark"] == "bandits":
        budget, place = config["budget"], int(summary["algorithm"] == "rl2")
        bandit = config["problem"] == "bandit"
        cells = BANDITS.get((budget, config["arms"])) if bandit else MDPS.get(budget)
        return dict.fromkeys(("total", "at the last rate"), cells[place]) if cells else {}
    return PUBLISHED.get(key_of(summary), {})


def key_of(summary: Summary) -> tuple[str, str, str]:
    """The task, algorithm and model of a run, the key of its published values."""
    model = summary["config"].get("model") or ""
    return task_title(summary), summary["algorithm"], model.removesuffix("-pool")


def not_run(benchmark: str, present: Container[tuple[str, str, str]]) -> str:
    """The published results that have no run here.

    Args:
        benchmark: Name of the benchmark.
        present: Task, algorithm and model of each run.

    Returns:
        One sentence, which is empty if every result has a run.
    """
    sets = ("cifar-fs", "fc100") if benchmark == "images" else (benchmark,)
    missing: dict[str, list[str]] = {}
    for key, values in PUBLISHED.items():
        task, algorithm, model = key
        if task.startswith(sets) and key not in present:
            shown = f"{task.removeprefix(benchmark).strip()} ({next(iter(values.values()))})"
            name = algorithm if model in ("", "conv4") else f"{algorithm} with a {model} network"
            missing.setdefault(name, []).append(shown)
    parts = [f"{name}: {', '.join(tasks)}" for name, tasks in missing.items()]
    return f"Published, and not run here: {'; '.join(parts)}." if parts else ""
