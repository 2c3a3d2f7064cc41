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
from maml._checks import check_number
from maml._contracts import check_floating, check_mask, check_params
from maml._optimizers import check_differentiable, check_optimizer
from maml.estimators import displacement, implicit, unrolled
from maml.inner import gradient_descent
from maml.losses import proximal
from maml.memory import Memory, check_memory
from maml.types import Algorithm, Inner, Learner, LossFn, Params


def _initially(params: Params, mask: PyTree[bool] | None = None) -> Params:
    check_params(params)
    if mask is not None:
        check_mask(mask, params)
        check_floating(params, mask)
    return params


def _descent(
    loss: LossFn,
    optimizer: optax.GradientTransformation,
    mask: PyTree[bool] | None = None,
    *,
    first_order: bool = False,
    memory: Memory = "store",
) -> Learner:
    check_memory(memory)
    check_optimizer(optimizer)
    if mask is not None:
        check_mask(mask)
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
        optimizer: the inner optimiser, an optax transformation that has a derivative: Adam and its
            relatives need `eps_root`, and `maml.clip_by_global_norm` clips.
        num_steps: K >= 0; with K = 0 it is joint training: adaptation comes only afterwards.
        mask: True where a leaf adapts (default: every floating-point leaf).
        memory: what is kept of the inner steps, and how they are derived: `maml.Memory`.

    Raises:
        ValueError: K negative, no optax optimiser or one without a derivative at a gradient of
            zero, a mask that lets nothing adapt or (from `init`) of another structure, no such
            memory mode.

    Finn, Abbeel, Levine: Model-agnostic meta-learning (ICML 2017).

    >>> loss = lambda w, target, key: (0.5 * (w - target) ** 2, {})
    >>> from maml import Episode
    >>> algorithm = maml(loss, optax.sgd(0.1), 1)
    >>> grads, _ = algorithm.grad(3.0, Episode(support=0.0, query=0.0), jax.random.key(0))
    >>> round(float(grads), 6)  # (1 - 0.1)^2 * 3
    2.43
    """
    learner = _descent(loss, optimizer, mask, memory=memory)
    check_differentiable(optimizer)
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
    check_differentiable(optimizer, first_order=True)
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
    check_mask(head, name="head")
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
    check_mask(head, name="head")
    return maml(loss, optimizer, num_steps, mask=tree.complement(head), memory=memory)


class MetaSGD(NamedTuple):
    """The meta-parameters of `meta_sgd`: an initialisation, and a rate for each of its numbers.

    Leaves without a derivative have no rate, but None.
    """

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
        rate: where every rate starts, > 0.

    Raises:
        ValueError: as MAML, or the rate is not positive.

    Li, Zhou, Chen, Li: Meta-SGD, learning to learn quickly for few-shot learning (2017).
    """
    check_memory(memory)
    check_optimizer(optimizer)
    check_differentiable(optimizer)
    check_number(rate, "rate", above=0)

    def init(params: Params) -> MetaSGD:
        learned, _ = tree.partition(_initially(params, mask), tree.floating(params))
        return MetaSGD(params, jax.tree.map(lambda leaf: jnp.full_like(leaf, rate), learned))

    def learner(meta: MetaSGD) -> Inner:
        rates = meta.rates
        if mask is not None:
            rates = jax.tree.map(lambda adapts, rate: rate if adapts else None, mask, rates)
        scale = optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, rates, updates))
        chained = optax.chain(optimizer, scale)
        return gradient_descent(loss, chained, meta.params, mask=mask, memory=memory)

    return Algorithm(init, learner, unrolled(learner, loss, num_steps))


class Reptile(NamedTuple):
    """The meta-parameters of `reptile` with `keep_state`: the model's, and the inner optimiser's.

    Attributes:
        params: of the model.
        opt_state: the inner optimiser's state after the tasks before, in floating point.
    """

    params: Params
    opt_state: PyTree


def reptile(
    loss: LossFn,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    *,
    keep_state: bool = False,
) -> Algorithm:
    """Reptile:  the meta-gradient is theta - phi_K.

    With `optax.sgd(epsilon)` outside, theta moves the fraction epsilon of the way to the mean of
    the adapted parameters. Everything adapts, since what does not is not learned either; and one
    step is joint training, K >= 2 is meant.

    Args:
        loss, optimizer, num_steps: as MAML's.
        keep_state: let the inner optimiser go on from its state after the tasks before, as the
            paper's Adam does, instead of starting anew. The state is then a part of the
            meta-parameters, `Reptile`, and `keeping(optimizer)` has to be the outer optimiser.

    Raises:
        ValueError: as MAML.

    Nichol, Achiam, Schulman: On first-order meta-learning algorithms (2018).
    """
    if not keep_state:
        from_new = _descent(loss, optimizer)
        return Algorithm(_initially, from_new, displacement(from_new, loss, num_steps))
    check_optimizer(optimizer)

    def start(params: Params) -> PyTree:
        return optimizer.init(tree.partition(params, tree.floating(params))[0])

    def init(params: Params) -> Reptile:
        return Reptile(_initially(params), _as_floats(start(params)))

    def learner(meta: Reptile) -> Inner:
        like = jax.eval_shape(start, meta.params)
        state = jax.tree.map(lambda leaf, was: leaf.astype(was.dtype), meta.opt_state, like)
        return gradient_descent(loss, optimizer, meta.params, opt_state=state)

    def end(inner: Inner, state: PyTree) -> Reptile:
        return Reptile(inner.params(state), _as_floats(state[1]))

    return Algorithm(init, learner, displacement(learner, loss, num_steps, end=end))


def _as_floats(opt_state: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf, float)), opt_state)


def keeping(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The outer optimiser of `reptile` with `keep_state`: the model's parameters are its own.

    The inner optimiser's state becomes the mean of the tasks' states as it is.
    """

    def labels(meta: Reptile) -> PyTree[str]:
        names = Reptile("learned", "kept")
        return jax.tree.map(lambda name, part: jax.tree.map(lambda _: name, part), names, meta)

    return optax.partition({"learned": optimizer, "kept": optax.sgd(1.0)}, labels)


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
    check_number(strength, "the strength of the pull", above=0)

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
    check_memory(memory)
    check_optimizer(optimizer)
    check_differentiable(optimizer)
    check_mask(context, name="context")

    def learner(theta: Params) -> Inner:
        part, network = tree.partition(theta, context)
        zeros = tree.combine(jax.tree.map(jnp.zeros_like, part), network)
        return gradient_descent(loss, optimizer, zeros, mask=context, memory=memory)

    return Algorithm(
        lambda params: _initially(params, context), learner, unrolled(learner, loss, num_steps)
    )
