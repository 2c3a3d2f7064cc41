"""Meta-SGD: MAML whose inner learning rates are meta-parameters."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from maml import tree
from maml._checks import check_number
from maml._contracts import check_mask, check_type
from maml._optimizers import check_differentiable, check_optimizer
from maml.algorithms import checked_params
from maml.descent import gradient_descent
from maml.estimators import unrolled
from maml.hvp import Hvp, check_hvp
from maml.types import Algorithm, Inner, LossFn, Params


class MetaSGDParams(NamedTuple):
    """The meta-parameters of `meta_sgd`.

    Attributes:
        params: Initial parameters of the model.
        rates: Learning rates, arrays like `params`; None for leaves without a derivative.
    """

    params: Params
    rates: Params


def meta_sgd(
    loss: LossFn,
    optimizer: optax.GradientTransformation,
    inner_steps: int,
    *,
    rate: float,
    mask: PyTree[bool] | None = None,
    hvp: Hvp = "reverse",
    remat: bool = False,
) -> Algorithm:
    """Meta-SGD:  phi_{k+1} = phi_k + rates * u(grad L_support(phi_k)),  learning theta and rates.

    With `optax.sgd(1.0)` the rates are alpha in the paper, a learning rate for each entry of theta.

    Args:
        loss, inner_steps, mask, hvp, remat: As in `maml`.
        optimizer: Inner optimiser, usually `optax.sgd(1.0)`, since its learning rate multiplies the
            learned ones.
        rate: Initial value of every learning rate, > 0.

    Returns:
        The algorithm, with meta-parameters `MetaSGDParams`.

    Raises:
        ValueError: as `maml`, or the rate is not positive.

    Li, Zhou, Chen, Li: Meta-SGD, learning to learn quickly for few-shot learning (2017),
    https://arxiv.org/abs/1707.09835
    """
    check_hvp(hvp, remat)
    check_optimizer(optimizer)
    check_differentiable(optimizer)
    check_number(rate, "rate", above=0)
    if mask is not None:
        check_mask(mask)

    def init(params: Params) -> MetaSGDParams:
        learned, _ = tree.partition(
            checked_params(params, optimizer, mask), tree.floating_mask(params)
        )
        return MetaSGDParams(params, jax.tree.map(lambda leaf: jnp.full_like(leaf, rate), learned))

    def learner(meta: MetaSGDParams) -> Inner:
        check_type(meta, MetaSGDParams)
        rates = meta.rates
        if mask is not None:
            rates = jax.tree.map(lambda adapts, rate: rate if adapts else None, mask, rates)
        scale = optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, rates, updates))
        chained = optax.chain(optimizer, scale)
        return gradient_descent(loss, chained, meta.params, mask=mask, hvp=hvp, remat=remat)

    return Algorithm(init, learner, unrolled(learner, loss, inner_steps))
