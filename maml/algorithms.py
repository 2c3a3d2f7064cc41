"""The algorithms, each a learner times an estimator: an equation, a paper, a composition.

Everywhere theta are the meta-parameters, phi_k the parameters after k inner steps on the support
set, phi_0 = theta, and u the update of the inner optimiser. The outer loss is L_query(phi_K).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from maml import tree
from maml._checks import check_optimizer
from maml.estimators import displacement, implicit, unrolled
from maml.inner import gradient_descent
from maml.losses import proximal
from maml.memory import Memory, check_memory
from maml.types import Algorithm, Inner, Learner, LossFn, Params


def _initially(params: Params, mask: PyTree[bool] | None = None) -> Params:
    if mask is not None:
        tree.partition(params, mask)  # refuses a mask of another structure before any work
    return params


def _descent(
    loss: LossFn,
    optimizer: optax.GradientTransformation,
    mask: PyTree[bool] | None = None,
    *,
    first_order: bool = False,
    memory: Memory = "store",
) -> Learner:
    check_optimizer(optimizer)
    check_memory(memory)
    return lambda theta: gradient_descent(
        loss, optimizer, theta, mask=mask, first_order=first_order, memory=memory
    )


def maml(
    loss: LossFn,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    *,
    mask: PyTree[bool] | None = None,
    memory: Memory = "store",
) -> Algorithm:
    """MAML:  phi_{k+1} = phi_k + u(grad L_support(phi_k)),  d L_query(phi_K) / d theta.

    Args:
        loss: `(params, batch, key) -> (scalar, metrics)`.
        optimizer: the inner optimiser, any optax transformation.
        num_steps: K >= 0; with K = 0 it is joint training: adaptation comes only afterwards.
        mask: True where a leaf adapts (default: everywhere).
        memory: what is kept of the inner steps, and how they are derived: `maml.Memory`.

    Raises:
        ValueError: K negative, no optax optimiser, a mask of another structure (from `init`), no
            such memory mode.

    Finn, Abbeel, Levine: Model-agnostic meta-learning (ICML 2017).

    >>> loss = lambda w, target, key: (0.5 * (w - target) ** 2, {})
    >>> from maml import Episode
    >>> algorithm = maml(loss, optax.sgd(0.1), 1)
    >>> grads, _ = algorithm.grad(3.0, Episode(support=0.0, query=0.0), jax.random.key(0))
    >>> round(float(grads), 6)  # (1 - 0.1)^2 * 3
    2.43
    """
    learner = _descent(loss, optimizer, mask, memory=memory)
    return Algorithm(
        lambda params: _initially(params, mask), learner, unrolled(learner, loss, num_steps)
    )


def fomaml(
    loss: LossFn,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    *,
    mask: PyTree[bool] | None = None,
) -> Algorithm:
    """First-order MAML: as MAML, with every grad L_support(phi_k) taken for a constant.

    With SGD, momentum, Adam, RMSProp or clipping inside, the meta-gradient is grad L_query(phi_K).
    Arguments and errors are MAML's; there are no second derivatives whose memory to choose.

    Finn, Abbeel, Levine: Model-agnostic meta-learning (ICML 2017), section 5.2.
    """
    learner = _descent(loss, optimizer, mask, first_order=True)
    return Algorithm(
        lambda params: _initially(params, mask), learner, unrolled(learner, loss, num_steps)
    )


def anil(
    loss: LossFn,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    *,
    head: PyTree[bool],
    memory: Memory = "store",
) -> Algorithm:
    """Almost no inner loop: MAML in which only the head adapts.

    Args:
        loss, optimizer, num_steps, memory: as MAML's.
        head: True at the leaves of the head; `mask_by_path` makes it.

    Raghu, Raghu, Bengio, Vinyals: Rapid learning or feature reuse? (ICLR 2020).
    """
    return maml(loss, optimizer, num_steps, mask=head, memory=memory)


def boil(
    loss: LossFn,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    *,
    head: PyTree[bool],
    memory: Memory = "store",
) -> Algorithm:
    """Body only in the inner loop: MAML in which everything but the head adapts.

    Args:
        loss, optimizer, num_steps, memory: as MAML's.
        head: True at the leaves of the head.

    Oh, Yoo, Kim, Yun: BOIL, towards representation change for few-shot learning (ICLR 2021).
    """
    return maml(loss, optimizer, num_steps, mask=tree.complement(head), memory=memory)


class MetaSGD(NamedTuple):
    """The meta-parameters of `meta_sgd`: an initialisation, and a rate for each of its numbers."""

    params: Params
    rates: Params


def meta_sgd(
    loss: LossFn,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    *,
    rate: float,
    mask: PyTree[bool] | None = None,
    memory: Memory = "store",
) -> Algorithm:
    """Meta-SGD:  phi_{k+1} = phi_k + rates * u(grad L_support(phi_k)),  learning theta and rates.

    With `optax.sgd(1.0)` the rates are the paper's alpha, a learned learning rate for each number.

    Args:
        loss, optimizer, num_steps, mask, memory: as MAML's.
        rate: where every rate starts.

    Li, Zhou, Chen, Li: Meta-SGD, learning to learn quickly for few-shot learning (2017).
    """
    check_optimizer(optimizer)
    check_memory(memory)

    def init(params: Params) -> MetaSGD:
        rates = jax.tree.map(lambda leaf: jnp.full_like(leaf, rate), params)
        return MetaSGD(_initially(params, mask), rates)

    def learner(meta: MetaSGD) -> Inner:
        rates = meta.rates if mask is None else tree.partition(meta.rates, mask)[0]
        scale = optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, rates, updates))
        chained = optax.chain(optimizer, scale)
        return gradient_descent(loss, chained, meta.params, mask=mask, memory=memory)

    return Algorithm(init, learner, unrolled(learner, loss, num_steps))


def reptile(loss: LossFn, optimizer: optax.GradientTransformation, num_steps: int) -> Algorithm:
    """Reptile:  the meta-gradient is theta - phi_K.

    With `optax.sgd(epsilon)` outside, theta moves the fraction epsilon of the way to the mean of
    the adapted parameters. Everything adapts, since what does not is not learned either; and one
    step is joint training, K >= 2 is meant. Arguments and errors are MAML's.

    Nichol, Achiam, Schulman: On first-order meta-learning algorithms (2018).
    """
    learner = _descent(loss, optimizer)
    return Algorithm(_initially, learner, displacement(learner, loss, num_steps))


def imaml(
    loss: LossFn,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    *,
    strength: float,
    cg_steps: int,
) -> Algorithm:
    """Implicit MAML:  phi = argmin L_support(phi) + lambda/2 ||phi - theta||^2,  differentiated.

    Args:
        loss, optimizer, num_steps: as MAML's; the inner steps descend on the pulled loss.
        strength: lambda > 0.
        cg_steps: conjugate-gradient steps for (I + H / lambda)^-1.

    Raises:
        ValueError: as MAML's, or as `implicit`'s.

    Rajeswaran, Finn, Kakade, Levine: Meta-learning with implicit gradients (NeurIPS 2019).
    """
    check_optimizer(optimizer)

    def learner(theta: Params) -> Inner:
        return gradient_descent(proximal(loss, theta, strength), optimizer, theta)

    grad = implicit(learner, loss, num_steps, strength=strength, cg_steps=cg_steps)
    return Algorithm(_initially, learner, grad)


def cavia(
    loss: LossFn,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    *,
    context: PyTree[bool],
    memory: Memory = "store",
) -> Algorithm:
    """CAVIA: MAML in which only context parameters adapt, from zero in every task.

    Args:
        loss, optimizer, num_steps, memory: as MAML's.
        context: True at the leaves that are context: inputs of the model, not weights.

    Zintgraf, Shiarlis, Kurin, Hofmann, Whiteson: Fast context adaptation (ICML 2019).
    """
    check_optimizer(optimizer)
    check_memory(memory)

    def learner(theta: Params) -> Inner:
        part, network = tree.partition(theta, context)
        zeros = tree.combine(jax.tree.map(jnp.zeros_like, part), network)
        return gradient_descent(loss, optimizer, zeros, mask=context, memory=memory)

    return Algorithm(
        lambda params: _initially(params, context), learner, unrolled(learner, loss, num_steps)
    )
