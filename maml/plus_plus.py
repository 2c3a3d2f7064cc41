"""MAML++: six changes that stabilise the training of MAML, each with its own option.

| change | option |
|---|---|
| multi-step loss (MSL): all inner steps' losses count at first, later the last | `multi_step=` |
| derivative-order annealing (DA): meta-gradients are of first order at first | `first_order=` |
| learned learning rates for each layer and inner step (LSLR) | `learn_rates=` |
| batch-norm statistics for each inner step (BNRS) | `per_step=` of running averages |
| batch-norm weights and biases for each inner step (BNWB) | `per_step=` of these leaves |
| cosine annealing of the outer learning rate (CA) | `optax.cosine_decay_schedule` |

Antoniou, Edwards, Storkey: How to train your MAML (ICLR 2019), https://arxiv.org/abs/1810.09502
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from maml import tree
from maml._checks import check_count, check_flags, check_number
from maml._contracts import check_mask, check_type
from maml._optimizers import check_differentiable, check_optimizer
from maml.algorithms import checked_params
from maml.descent import check_per_step, gradient_descent
from maml.estimators import unrolled
from maml.hvp import Hvp, check_hvp
from maml.types import Algorithm, Inner, Learner, LossFn, MetaGradient, Params, Step


class PlusPlusParams(NamedTuple):
    """The meta-parameters of `maml_plus_plus`.

    Attributes:
        params: Parameters of the model; leaves with a value for each inner step are `[K + 1, ...]`.
        rates: Learning rates `[K]` of each leaf that adapts, or () if they are not learned.
    """

    params: Params
    rates: PyTree


def multi_step_weights(step: Step, inner_steps: int, until: int) -> Float[Array, " inner_steps"]:
    """Weights of the losses after 1 .. K inner steps, of which finally only the last is not zero.

    All are 1 / K before the first meta-step; they change linearly over `until` meta-steps.

    Args:
        step: Number of meta-steps taken before.
        inner_steps: Number of inner steps K.
        until: Number of meta-steps after which only the last loss counts.

    Returns:
        The weights, `[K]`, with sum 1.

    >>> multi_step_weights(jnp.array(5), 2, 10).tolist()
    [0.25, 0.75]
    """
    last = jnp.zeros(inner_steps).at[-1].set(1.0)
    progress = jnp.minimum(step / until, 1.0)
    return progress * last + (1 - progress) / inner_steps


def _scale_by_rates(rates: PyTree) -> optax.GradientTransformation:
    """Scales the k-th update of each leaf by its k-th rate, and later updates by its last rate."""

    def init(params: Any) -> Any:
        return jnp.zeros((), jnp.int32)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        def scale_leaf(rate: Array, update: Array) -> Array:
            return rate[jnp.minimum(state, rate.shape[0] - 1)] * update

        return jax.tree.map(scale_leaf, rates, updates), state + 1

    return optax.GradientTransformation(init, update)


def maml_plus_plus(
    loss: LossFn,
    optimizer: optax.GradientTransformation,
    inner_steps: int,
    *,
    rate: float,
    learn_rates: bool = True,
    multi_step: int = 0,
    first_order: int = 0,
    mask: PyTree[bool] | None = None,
    per_step: PyTree[bool] | None = None,
    hvp: Hvp = "reverse",
    remat: bool = False,
) -> Algorithm:
    """MAML++:  phi_{k+1} = phi_k + rates_k * u(grad L_support(phi_k)),  learning theta and rates.

    With all options off it is MAML with the inner optimiser `chain(optimizer, scale(rate))`.

    Args:
        loss, inner_steps, mask, hvp, remat: As in `maml`, with K >= 1.
        optimizer: Inner optimiser; with `optax.sgd(1.0)` the rates are learning rates.
        rate: Initial value of every learning rate, > 0.
        learn_rates: Whether a learning rate is learned for each leaf and inner step; otherwise all
            keep their initial value.
        multi_step: Number of meta-steps over which the multi-step loss is annealed, see
            `multi_step_weights`; with 0 only the loss after the last inner step counts.
        first_order: Number of meta-steps at the start whose meta-gradient is of first order, which
            is cheaper; later ones are of second order.
        per_step: Tree of bools, True at the leaves that have a value for each inner step; none of
            them may adapt.

    Returns:
        The algorithm, with meta-parameters `PlusPlusParams`.

    Raises:
        ValueError: a count is below its least value, or the rate is not positive; otherwise as
            `maml`.

    Antoniou, Edwards, Storkey: How to train your MAML (ICLR 2019),
    https://arxiv.org/abs/1810.09502
    """
    check_hvp(hvp, remat)
    check_optimizer(optimizer)
    check_differentiable(optimizer)
    check_number(rate, "rate", above=0)
    check_count(inner_steps, least=1, of="inner steps")
    check_count(multi_step, least=0, of="meta-steps of the multi-step loss")
    check_count(first_order, least=0, of="meta-steps of first order")
    check_flags(learn_rates=learn_rates)
    for name, leaves in {"mask": mask, "per_step mask": per_step}.items():
        if leaves is not None:
            check_mask(leaves, name=name, some=name == "mask")

    def init(params: Params) -> PlusPlusParams:
        checked_params(params, optimizer, mask)
        adapts = tree.floating_mask(params) if mask is None else mask
        adapted, _ = tree.partition(params, adapts)
        if per_step is not None:
            check_per_step(per_step, adapts, params)
        types = jax.tree.map(jnp.result_type, adapted)
        rates = jax.tree.map(lambda dtype: jnp.full(inner_steps, rate, dtype), types)
        if per_step is not None:
            varying, others = tree.partition(params, per_step)
            copies = jax.tree.map(lambda leaf: jnp.stack([leaf] * (inner_steps + 1)), varying)
            params = tree.combine(copies, others)
        return PlusPlusParams(params, rates if learn_rates else ())

    def learner_of(first_order: bool) -> Learner:
        options: dict[str, Any] = {"mask": mask, "per_step": per_step}
        options |= {"first_order": True} if first_order else {"hvp": hvp, "remat": remat}

        def learner(meta: PlusPlusParams) -> Inner:
            check_type(meta, PlusPlusParams)
            scale = _scale_by_rates(meta.rates) if learn_rates else optax.scale(rate)
            return gradient_descent(loss, optax.chain(optimizer, scale), meta.params, **options)

        return learner

    learner = learner_of(False)

    def weights(step: Step) -> Float[Array, " inner_steps"]:
        return multi_step_weights(step, inner_steps, multi_step)

    def grad(learner: Learner) -> MetaGradient:
        return unrolled(learner, loss, inner_steps, weights=weights if multi_step else None)

    late = grad(learner)
    if not first_order:
        return Algorithm(init, learner, late)
    annealed = late._replace(early=grad(learner_of(True)), early_steps=first_order)
    return Algorithm(init, learner, annealed)
