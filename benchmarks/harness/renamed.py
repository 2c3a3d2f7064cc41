"""Names and values of today for the options of runs that were recorded earlier."""

from typing import Any

# Options of recorded runs that have another name today. `memory` always had its default, so it is
# dropped.
RENAMED = {
    "anchor": "kl_coef",
    "credit": "exploration_coef",
    "curvature": "fvp_trajectories",
    "draw": "prefetch",
    "lesson": "inner_reward",
    "smoothing": "gae_lambda",
    "strength": "regularisation",
}

# Options that older runs lack, with the values that they had in effect, by an option that all runs
# of their kind have.
ADDED = {
    "rotate": {
        "augment": False,
        "augment_set": "both",
        "channels": 64,
        "damping": 0.0,
        "fit": "crop",
        "leave_out_small": False,
        "shots_range": None,
        "size": 32,
        "temperature": 1.0,
        "within_alphabet": False,
        "zero_head": False,
    },
    "std": {"activation": "relu"},
}

# Names of presets in recorded runs and weights, and the names that they have today.
RENAMED_PRESETS = {
    "half-hour-5-way-1-shot": "short-5-way-1-shot",
    "two-cores-5-way-5-shot": "short-5-way-5-shot",
    "two-cores-20-way-1-shot": "short-20-way-1-shot",
    **{f"alpha-of-the-text-{n}-shot": f"inner-rate-0.01-{n}-shot" for n in (5, 10, 20)},
}


def preset_of_today(name: str) -> str:
    """The name that a preset has today.

    >>> preset_of_today("half-hour-5-way-1-shot")
    'short-5-way-1-shot'
    """
    return RENAMED_PRESETS.get(name, name)


def config_of_today(config: dict[str, Any]) -> dict[str, Any]:
    """The options of a recorded run, with the names and values that they have today."""
    today = {RENAMED.get(name, name): value for name, value in config.items() if name != "memory"}
    for name, added in ADDED.items():
        today = (added if name in today else {}) | today
    if isinstance(name := today.get("preset"), str):
        today |= {"preset": preset_of_today(name)}
    return today | ({"chunk": "auto"} if today.get("chunk", "auto") is None else {})
