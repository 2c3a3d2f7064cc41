"""The algorithms, each composed of a learner and an estimator, with its equation and paper.

In all of them theta are the meta-parameters, phi_k the parameters after k inner steps on the
support set, phi_0 = theta, and u the update of the inner optimiser. The outer loss is
L_query(phi_K).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from maml import tree
from maml._checks import check_number
from maml._contracts import check_floating, check_mask, check_params
from maml._optimizers import check_differentiable, check_on_small_arrays, check_optimizer
from maml.descent import gradient_descent
from maml.estimators import implicit, unrolled
from maml.hvp import Hvp, check_hvp
from maml.losses import proximal
from maml.types import Algorithm, Inner, Learner, LossFn, Params


def checked_params(
    params: Params,
    optimizer: optax.GradientTransformation | None = None,
    mask: PyTree[bool] | None = None,
    check: Callable[..., None] = check_differentiable,
) -> Params:
    """The parameters, after a check that mask and inner optimiser fit them.

    Raises:
        ValueError: no leaf can be learned, the mask does not fit the parameters, or the check
            refuses the optimiser for the leaves that adapt.
    """
    check_params(params)
    mask = tree.floating_mask(params) if mask is None else mask
    check_mask(mask, params)
    check_floating(params, mask)
    if optimizer is not None:
        check_on_small_arrays(optimizer, tree.partition(params, mask)[0], check)
    return params


def descent_learner(
    loss: LossFn,
    optimizer: optax.GradientTransformation,
    mask: PyTree[bool] | None = None,
    *,
    first_order: bool = False,
    hvp: Hvp = "reverse",
    remat: bool = False,
) -> Learner:
    """The learner that starts gradient descent from the meta-parameters.

    Raises:
        ValueError: as `gradient_descent`, for arguments that can be checked without parameters.
    """
    check_hvp(hvp, remat)
    check_optimizer(optimizer)
    if mask is not None:
        check_mask(mask)
    return lambda theta: gradient_descent(
        loss, optimizer, theta, mask=mask, first_order=first_order, hvp=hvp, remat=remat
    )


def maml(
    loss: LossFn,
    optimizer: optax.GradientTransformation,
    inner_steps: int,
    *,
    mask: PyTree[bool] | None = None,
    hvp: Hvp = "reverse",
    remat: bool = False,
) -> Algorithm:
    """MAML:  phi_{k+1} = phi_k + u(grad L_support(phi_k)),  d L_query(phi_K) / d theta.

    Args:
        loss: Inner and outer loss, `(params, batch, key) -> (scalar, metrics)`.
        optimizer: Inner optimiser, an optax transformation that has a derivative. Adam and its
            variants need `eps_root`; for clipping there is `maml.clip_by_global_norm`.
        inner_steps: Number of inner steps K >= 0; K = 0 is joint training, with adaptation only
            in the evaluation.
        mask: Tree of bools, True where a leaf adapts. None: every floating-point leaf adapts.
        hvp: Mode in which second derivatives are computed, `maml.Hvp`; "forward" is usually faster.
        remat: Whether inner steps are recomputed for the meta-gradient, which needs the memory of
            about 2 sqrt(K) steps instead of K.

    Returns:
        The algorithm, whose meta-parameters are the parameters of the model.

    Raises:
        ValueError: K is negative; the optimiser is not optax's, or has no derivative at a gradient
            of zero; the mask is False everywhere or (from `init`) has another structure than the
            parameters; `hvp` or `remat` has another value.

    Finn, Abbeel, Levine: Model-agnostic meta-learning (ICML 2017), https://arxiv.org/abs/1703.03400

    >>> loss = lambda w, target, key: (0.5 * (w - target) ** 2, {})
    >>> from maml import Episode, task_gradient
    >>> algorithm, episode = maml(loss, optax.sgd(0.1), 1), Episode(support=0.0, query=0.0)
    >>> grads, _ = task_gradient(algorithm.grad, 3.0, episode, jax.random.key(0))
    >>> round(float(grads), 6)  # (1 - 0.1)^2 * 3
    2.43
    """
    learner = descent_learner(loss, optimizer, mask, hvp=hvp, remat=remat)
    check_differentiable(optimizer)
    return Algorithm(
        lambda params: checked_params(params, optimizer, mask),
        learner,
        unrolled(learner, loss, inner_steps),
    )


def anil(
    loss: LossFn,
    optimizer: optax.GradientTransformation,
    inner_steps: int,
    *,
    head: PyTree[bool],
    hvp: Hvp = "reverse",
    remat: bool = False,
) -> Algorithm:
    """ANIL (almost no inner loop): MAML in which only the head adapts.

    Args:
        loss, optimizer, inner_steps, hvp, remat: As in `maml`.
        head: Tree of bools, True at the leaves of the head; see `mask_by_path`.

    Returns:
        The algorithm, whose meta-parameters are the parameters of the model.

    Raises:
        ValueError: as `maml`.

    Raghu, Raghu, Bengio, Vinyals: Rapid learning or feature reuse? (ICLR 2020),
    https://arxiv.org/abs/1909.09157
    """
    check_mask(head, name="head")
    return maml(loss, optimizer, inner_steps, mask=head, hvp=hvp, remat=remat)


def boil(
    loss: LossFn,
    optimizer: optax.GradientTransformation,
    inner_steps: int,
    *,
    head: PyTree[bool],
    hvp: Hvp = "reverse",
    remat: bool = False,
) -> Algorithm:
    """BOIL (body only in the inner loop): MAML in which everything but the head adapts.

    Args:
        loss, optimizer, inner_steps, hvp, remat: As in `maml`.
        head: Tree of bools, True at the leaves of the head; see `mask_by_path`.

    Returns:
        The algorithm, whose meta-parameters are the parameters of the model.

    Raises:
        ValueError: as `maml`.

    Oh, Yoo, Kim, Yun: BOIL, towards representation change for few-shot learning (ICLR 2021),
    https://arxiv.org/abs/2008.08882
    """
    check_mask(head, name="head")
    if all(jax.tree.leaves(head)):
        raise ValueError(f"the head is True everywhere, so that no leaf adapts; got {head!r}")
    return maml(loss, optimizer, inner_steps, mask=tree.complement(head), hvp=hvp, remat=remat)


def imaml(
    loss: LossFn,
    optimizer: optax.GradientTransformation,
    inner_steps: int,
    *,
    regularisation: float,
    cg_steps: int,
    damping: float = 0.0,
) -> Algorithm:
    """Implicit MAML: the derivative of  phi = argmin L_support(phi) + lambda/2 ||phi - theta||^2.

    The authors' code solves (2 I + H / (lambda + 10)) x = grad L_query(phi) by default, which is
    half of the meta-gradient with a damping of lambda + 20.

    Args:
        loss, optimizer, inner_steps: As in `maml`; inner steps descend on the regularised loss.
        regularisation: Regularisation towards theta, lambda > 0, such as 2 for few-shot images.
        cg_steps: Number of conjugate-gradient steps for (I + H / (lambda + damping))^-1, such as 5.
        damping: Damping of the curvature, >= 0; see `implicit`.

    Returns:
        The algorithm, whose meta-parameters are the parameters of the model.

    Raises:
        ValueError: as `maml` or `implicit`.

    Rajeswaran, Finn, Kakade, Levine: Meta-learning with implicit gradients (NeurIPS 2019),
    https://arxiv.org/abs/1909.04630
    """
    check_optimizer(optimizer)
    check_number(regularisation, "regularisation", above=0)

    def learner(theta: Params) -> Inner:
        return gradient_descent(proximal(loss, theta, regularisation), optimizer, theta)

    curvature = {"regularisation": regularisation, "cg_steps": cg_steps, "damping": damping}
    grad = implicit(learner, loss, inner_steps, **curvature)
    return Algorithm(
        lambda params: checked_params(params, optimizer, check=check_optimizer), learner, grad
    )


def cavia(
    loss: LossFn,
    optimizer: optax.GradientTransformation,
    inner_steps: int,
    *,
    context: PyTree[bool],
    hvp: Hvp = "reverse",
    remat: bool = False,
) -> Algorithm:
    """CAVIA: MAML in which only context parameters adapt, starting at zero in every task.

    Args:
        loss, optimizer, inner_steps, hvp, remat: As in `maml`.
        context: Tree of bools, True at the context parameters, which are inputs of the model.

    Returns:
        The algorithm, whose meta-parameters are the parameters of the model.

    Raises:
        ValueError: as `maml`.

    Zintgraf, Shiarlis, Kurin, Hofmann, Whiteson: Fast context adaptation via meta-learning (ICML
    2019), https://arxiv.org/abs/1810.03642
    """
    check_hvp(hvp, remat)
    check_optimizer(optimizer)
    check_differentiable(optimizer)
    check_mask(context, name="context")

    def learner(theta: Params) -> Inner:
        context_params, network = tree.partition(theta, context)
        zeros = tree.combine(jax.tree.map(jnp.zeros_like, context_params), network)
        return gradient_descent(loss, optimizer, zeros, mask=context, hvp=hvp, remat=remat)

    return Algorithm(
        lambda params: checked_params(params, optimizer, context),
        learner,
        unrolled(learner, loss, inner_steps),
    )
