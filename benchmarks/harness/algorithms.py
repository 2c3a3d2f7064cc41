"""The algorithms that benchmarks offer, and which options each reads."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any, get_args

import maml
from maml.types import LossFn
from tasks import recipes

DESCENT = "inner_rate", "inner_steps"
# Adaptation by policy gradients, and the terms of the outer loss that concern it.
POLICY_GRADIENT = *DESCENT, "inner_reward", "surrogate", "exploration_coef", "kl_coef"
SECOND_ORDER = *POLICY_GRADIENT, "hvp", "remat"  # differentiates through the inner steps
PLUS_PLUS = "learn_rates", "multi_step", "per_step_norm"
# The options that each algorithm reads, among those that not every algorithm reads.
ALGORITHMS: dict[str, tuple[str, ...]] = {
    "maml": (*SECOND_ORDER, "first_order"),
    "maml++": (*SECOND_ORDER, "first_order", *PLUS_PLUS),
    "fomaml": (*POLICY_GRADIENT, "remat"),
    "anil": SECOND_ORDER,
    "boil": SECOND_ORDER,
    "meta_sgd": SECOND_ORDER,
    "reptile": DESCENT,
    "imaml": (*DESCENT, "regularisation", "damping"),
    "cavia": (*SECOND_ORDER, "context"),
    "protonet": ("train_ways", "temperature"),
    "r2d2": ("train_ways",),
    **dict.fromkeys(("pretrained", "oracle", "random"), (*DESCENT, "inner_reward")),
    "rl2": ("inner_steps",),
}
JOINT = ("pretrained", "oracle", "random", "rl2")  # meta-trained without inner steps
UNTRAINED = ("random",)  # evaluated as initialised


def build(name: str, loss: LossFn, rate: float, steps: int, **options: Any) -> maml.Algorithm:
    """Builds an algorithm for meta-training, as `tasks.recipes.build`.

    Those in `JOINT` are MAML without inner steps in meta-training.
    """
    if name in JOINT:
        return recipes.build("maml", loss, rate, 0, **options)
    return recipes.build(name, loss, rate, steps, **options)


def unread(options: Any) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yields options that the chosen algorithm does not read, and words for those that do.

    The `algorithm` of the options, a dataclass, is a choice of names in `ALGORITHMS`.
    """
    types = {field.name: field.type for field in fields(options)}
    for option in dict.fromkeys(name for reads in ALGORITHMS.values() for name in reads):
        readers = [n for n in get_args(types["algorithm"]) if option in ALGORITHMS[n]]
        if option in types and options.algorithm not in readers:
            yield (option,), f"algorithm {' or '.join(readers)}"
