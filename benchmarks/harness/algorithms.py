"""The algorithms that benchmarks offer: how each is built, and which options it reads."""

from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial
from inspect import signature
from typing import Any, NamedTuple, get_args

import jax
import optax
from jaxtyping import PyTree

import maml
from maml.closed_form import Features
from maml.types import LossFn


class Entry(NamedTuple):
    """An algorithm.

    Attributes:
        function: Function that builds it.
        reads: Options that it reads, among those that not every algorithm reads.
    """

    function: Callable[..., maml.Algorithm]
    reads: tuple[str, ...] = ()


def _boil(
    loss: LossFn,
    optimizer: optax.GradientTransformation,
    inner_steps: int,
    *,
    head: PyTree[bool],
    mask: PyTree[bool],
    hvp: maml.Hvp,
    remat: bool,
) -> maml.Algorithm:
    """BOIL, in which neither the head nor what the mask leaves out adapts."""
    fixed = jax.tree.map(lambda in_head, adapts: in_head or not adapts, head, mask)
    return maml.boil(loss, optimizer, inner_steps, head=fixed, hvp=hvp, remat=remat)


def _r2d2(
    loss: LossFn, features: Features, *, head: PyTree[bool], ridge: float = 1.0, scale: float = 1.0
) -> maml.Algorithm:
    """R2D2; its regularisation has a name of its own, since the option is that of imaml."""
    return maml.r2d2(loss, features, head=head, regularisation=ridge, scale=scale)


DESCENT = "inner_rate", "inner_steps"
# Adaptation by policy gradients, and the terms of the outer loss that concern it.
POLICY_GRADIENT = *DESCENT, "inner_reward", "surrogate", "exploration_coef", "kl_coef"
SECOND_ORDER = *POLICY_GRADIENT, "hvp", "remat"  # differentiates through the inner steps
PLUS_PLUS = "learn_rates", "multi_step", "per_step_norm"
ALGORITHMS = {
    "maml": Entry(maml.maml, (*SECOND_ORDER, "first_order")),
    "maml++": Entry(maml.maml_plus_plus, (*SECOND_ORDER, "first_order", *PLUS_PLUS)),
    "fomaml": Entry(maml.fomaml, POLICY_GRADIENT),
    "anil": Entry(maml.anil, SECOND_ORDER),
    "boil": Entry(_boil, SECOND_ORDER),
    "meta_sgd": Entry(maml.meta_sgd, SECOND_ORDER),
    "reptile": Entry(maml.reptile, DESCENT),
    "imaml": Entry(partial(maml.imaml, cg_steps=5), (*DESCENT, "regularisation")),
    "cavia": Entry(maml.cavia, (*SECOND_ORDER, "context")),
    "protonet": Entry(maml.protonet, ("train_ways", "temperature")),
    "r2d2": Entry(_r2d2, ("train_ways",)),
    **dict.fromkeys(
        ("pretrained", "oracle", "random"), Entry(maml.maml, (*DESCENT, "inner_reward"))
    ),
    "rl2": Entry(maml.maml, ("inner_steps",)),
}
JOINT = ("pretrained", "oracle", "random", "rl2")  # meta-trained without inner steps
UNTRAINED = ("random",)  # evaluated as initialised


def build(
    name: str,
    loss: LossFn,
    rate: float,
    steps: int,
    *,
    optimizer: Callable[[float], optax.GradientTransformation] = optax.sgd,
    **options: Any,
) -> maml.Algorithm:
    """Builds an algorithm for meta-training.

    Args:
        name: Name in `ALGORITHMS`.
        loss: Loss of the inner steps.
        rate: Learning rate of the inner steps.
        steps: Number of inner steps; algorithms that train jointly take none.
        optimizer: Inner optimiser, from a learning rate.
        options: Further arguments of the functions in `ALGORITHMS`; each gets those that it has.

    Returns:
        The algorithm.

    Raises:
        TypeError: No function has an argument of such a name.
    """
    known = {name for entry in ALGORITHMS.values() for name in signature(entry.function).parameters}
    if unknown := options.keys() - known:
        raise TypeError(f"no algorithm has an argument {min(unknown)!r}")
    if name == "maml" and options.get("first_order"):
        name = "maml++"  # with its other components off
        options |= {"learn_rates": False, "multi_step": 0, "per_step": None}
    function = ALGORITHMS[name].function
    takes = signature(function).parameters
    inner = optimizer(1.0 if "rate" in takes else rate)
    options |= {"optimizer": inner, "rate": rate, "inner_steps": 0 if name in JOINT else steps}
    return function(loss, **{name: value for name, value in options.items() if name in takes})


def unread(options: Any) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yields options that the chosen algorithm does not read, and words for those that do.

    The `algorithm` of the options, a dataclass, is a choice of names in `ALGORITHMS`.
    """
    types = {field.name: field.type for field in fields(options)}
    for option in dict.fromkeys(name for entry in ALGORITHMS.values() for name in entry.reads):
        readers = [n for n in get_args(types["algorithm"]) if option in ALGORITHMS[n].reads]
        if option in types and options.algorithm not in readers:
            yield (option,), f"algorithm {' or '.join(readers)}"
