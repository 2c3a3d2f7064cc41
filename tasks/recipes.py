"""The algorithms by name, and what works for classifiers of images."""

from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, PyTree

import maml
from maml._checks import check_count, check_flags
from maml.closed_form import Features
from maml.rows import Weights
from maml.sampling import Query
from maml.types import LossFn, Params
from tasks.batch_norm import Mode, flax_apply, flax_loss


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


FUNCTIONS: dict[str, Callable[..., maml.Algorithm]] = {
    "maml": maml.maml,
    "maml++": maml.maml_plus_plus,
    "fomaml": maml.fomaml,
    "anil": maml.anil,
    "boil": _boil,
    "meta_sgd": maml.meta_sgd,
    "reptile": maml.reptile,
    "imaml": partial(maml.imaml, cg_steps=5),
    "cavia": maml.cavia,
    "protonet": maml.protonet,
    "r2d2": _r2d2,
}

CLOSED_FORM = "protonet", "r2d2"


def build(
    name: str,
    loss: LossFn,
    rate: float,
    steps: int,
    *,
    optimizer: Callable[[float], optax.GradientTransformation] = optax.sgd,
    **options: Any,
) -> maml.Algorithm:
    """Builds an algorithm from the options of all algorithms.

    Args:
        name: Name in `FUNCTIONS`.
        loss: Loss of the inner steps.
        rate: Learning rate of the inner steps.
        steps: Number of inner steps.
        optimizer: Inner optimiser, from a learning rate.
        options: Further arguments of the functions in `FUNCTIONS`; each gets those that it has.

    Returns:
        The algorithm.

    Raises:
        ValueError: The name is unknown.
        TypeError: No function has an argument of such a name.
    """
    if name not in FUNCTIONS:
        raise ValueError(f"the algorithm must be one of {', '.join(FUNCTIONS)}; got {name!r}")
    known = {name for function in FUNCTIONS.values() for name in signature(function).parameters}
    if unknown := options.keys() - known:
        raise TypeError(f"no algorithm has an argument {min(unknown)!r}")
    if name == "maml" and options.get("first_order"):
        name = "maml++"  # with its other components off
        options |= {"learn_rates": False, "multi_step": 0, "per_step": None}
    function = FUNCTIONS[name]
    takes = signature(function).parameters
    inner = optimizer(1.0 if "rate" in takes else rate)
    options |= {"optimizer": inner, "rate": rate, "inner_steps": steps}
    return function(loss, **{name: value for name, value in options.items() if name in takes})


def image_classifier(
    name: str,
    model: nn.Module,
    params: Params,
    *,
    inner_rate: float = 0.1,
    inner_steps: int = 5,
    batch_norm: Mode = "support",
    per_step_norm: bool = False,
    hvp: maml.Hvp = "forward",
    remat: bool = False,
    regularisation: float = 2.0,
    **options: Any,
) -> maml.Algorithm:
    """An algorithm for a network of `tasks.models`, as the benchmarks of images build it.

    The inner optimiser is gradient descent. Every leaf but the biases of batch normalisation
    adapts, as in MAML's code; in reptile and imaml those adapt as well. In anil the head alone
    adapts, in boil all but the head. R2D2 multiplies its logits by 10 and ProtoNet divides its
    distances by the option `temperature`, since logits near zero teach little.

    With running averages, the learner of a closed-form head normalises the support set by them too,
    as the query set of an evaluation is; the meta-gradient uses the statistics of each set.

    Args:
        name: Name in `FUNCTIONS`, without cavia.
        model: Network whose head is named "head", and whose batch normalisations have names that
            start with "norm".
        params: Parameters of the model, or the shapes that `jax.eval_shape` gives.
        inner_rate: Learning rate of the inner steps on the MEAN loss of the support set. MAML's
            code takes the sum over the classes, so that a rate of 0.4 there is one of 2.0 here for
            five classes. Closed-form heads have no inner steps.
        inner_steps: Number of inner steps in meta-training.
        batch_norm: Statistics that normalise the query set, as in `flax_apply`. With those of the
            support set, each query is answered on its own.
        per_step_norm: Whether maml++ has separate biases of batch normalisation for each step.
        hvp: Mode of second derivatives; "forward" is the faster one for convolutions.
        remat: Whether inner steps are recomputed in the meta-gradient, which takes less memory.
        regularisation: Strength lambda of imaml's penalty on the distance to the meta-parameters;
            `inner_rate * regularisation` must be below 2.
        options: Further options of one algorithm, such as `temperature` of protonet or
            `learn_rates` of maml++; other algorithms ignore them.

    Returns:
        The algorithm, whose `init` takes the parameters of the model.

    Raises:
        ValueError: The name is unknown, or the algorithm or `flax_apply` refuses an option.
        TypeError: No algorithm has an option of such a name.
    """
    check_flags(per_step_norm=per_step_norm)
    norm = maml.mask_by_path(params, "/norm")
    make = partial(
        build,
        name,
        flax_loss(model, batch_norm),
        inner_rate,
        inner_steps,
        mask=maml.complement(norm),
        head=maml.mask_by_path(params, "/head/"),
        per_step=norm if per_step_norm else None,
        hvp=hvp,
        remat=remat,
        regularisation=regularisation,
        **{"scale": 10.0, **options},
    )
    algorithm = make(features=flax_apply(model, batch_norm, features=True))
    if batch_norm != "running" or name not in CLOSED_FORM:
        return algorithm
    averaged: Any = flax_apply(model, batch_norm, evaluating=True, features=True)

    def of_support(variables: Params, images: Array, weights: Weights = None) -> Array:
        return averaged(variables, Query(images, images), weights)

    return algorithm._replace(learner=make(features=of_support).learner)


def with_ways(params: PyTree, ways: int) -> PyTree:
    """Parameters, or meta-parameters, with a head of zeros for another number of classes.

    The heads of protonet and r2d2 are computed from the support set, so that a network that was
    trained with one number of classes can distinguish any other, by a model with as many ways and
    parameters whose head fits it.

    Args:
        params: Tree with leaves of a head, whose paths contain "/head/".
        ways: Number of classes, >= 2.

    Returns:
        The tree, whose leaves of the head are zeros `[..., ways]`.

    Raises:
        ValueError: `ways` is below 2, or no leaf belongs to a head.
    """
    check_count(ways, least=2, of="classes")
    head = maml.mask_by_path(params, "/head/")
    return jax.tree.map(
        lambda leaf, is_head: jnp.zeros((*leaf.shape[:-1], ways), leaf.dtype) if is_head else leaf,
        params,
        head,
    )
