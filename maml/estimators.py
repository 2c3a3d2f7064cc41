"""Three estimators of the meta-gradient: unrolled, implicit, and the displacement by adaptation.

Each returns the `MetaGradient` of ONE task. Its metrics are `loss`, the outer loss, `query`, the
metrics of the outer loss, and `support`, the metrics of the inner steps, `[K, ...]`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Float, PyTree, Scalar

from maml import rows, tree
from maml._checks import check_callable, check_count, check_number
from maml._contracts import check_learner, check_loss, check_shapes, query_of
from maml._leaves import is_inexact, is_real
from maml._returns import checked_loss
from maml.inner import adapt
from maml.total import cast_like
from maml.types import (
    Batch,
    BatchPerStep,
    Episode,
    Inner,
    Learner,
    LossFn,
    MetaGradient,
    MetaParams,
    Metrics,
    Params,
    RandomKey,
    Step,
)


def unrolled(
    learner: Learner,
    loss: LossFn,
    inner_steps: int,
    *,
    weights: Callable[[Step], Float[Array, " inner_steps"]] | None = None,
) -> MetaGradient:
    """The objective L_query(phi_K(theta)), whose derivative goes through the adaptation.

    `meta_gradient` takes that derivative. It is exact for any learner, including second derivatives
    and optimiser states. With weights the objective is  sum_k w_k L_query(phi_k),  k = 1 .. K.

    Args:
        learner: Function from meta-parameters to the inner problem.
        loss: Outer loss, of the adapted parameters on the query set.
        inner_steps: Number of inner steps K >= 0; K = 0 is joint training on L_query(theta).
        weights: Function from the number of meta-steps taken to the weights `[K]` of the losses
            after 1 .. K inner steps. None: only the loss after the last step counts. In both cases
            the metrics are those after the last step.

    Returns:
        The meta-gradient, with an objective.

    Raises:
        ValueError: `inner_steps` is negative, or 0 with weights; (when traced) there is not one
            weight for each inner step.

    Finn, Abbeel, Levine: Model-agnostic meta-learning (ICML 2017), equation 1,
    https://arxiv.org/abs/1703.03400. With weights: Antoniou, Edwards, Storkey: How to train your
    MAML (ICLR 2019), equation 3, https://arxiv.org/abs/1810.09502
    """
    check_learner(learner)
    check_loss(loss)
    check_count(inner_steps, least=0, of="inner steps")
    if weights is not None:
        check_callable(weights, "weights", "step")
        check_count(inner_steps, least=1, of="inner steps with weights")

    def objective(
        meta_params: MetaParams, episode: Episode, key: RandomKey, step: Step
    ) -> tuple[Scalar, Metrics]:
        support_key, query_key = jax.random.split(key)
        inner = learner(meta_params)

        def evaluate(params: Params) -> tuple[Scalar, Metrics]:
            return checked_loss(loss)(params, query_of(episode), query_key)

        def step_and_evaluate(state: PyTree, batch: Batch, key: RandomKey) -> tuple[PyTree, PyTree]:
            state, metrics = inner.step(state, batch, key)
            return state, (metrics, evaluate(inner.params(state)))

        if weights is None:
            params, trace = adapt(inner, episode.support, support_key, inner_steps)
            value, metrics = evaluate(params)
        else:
            inner_and_outer = inner._replace(step=step_and_evaluate)
            _, traces = adapt(inner_and_outer, episode.support, support_key, inner_steps)
            trace, (values, metrics) = traces
            step_weights = weights(step)
            _check_weights(step_weights, inner_steps)
            value = jnp.asarray(step_weights) @ values
            metrics = jax.tree.map(lambda leaf: leaf[-1], metrics)
        return value, {"loss": value, "query": metrics, "support": trace}

    return MetaGradient(objective)


def implicit(
    learner: Learner,
    loss: LossFn,
    inner_steps: int,
    *,
    regularisation: float,
    cg_steps: int,
    damping: float = 0.0,
) -> MetaGradient:
    """The implicit derivative of the adaptation:  (I + H / (lambda + d))^-1 grad L_query(phi).

    phi is assumed to be the minimiser of  L_support(phi) + lambda/2 ||phi - theta||^2,  and H is
    the Hessian of L_support at phi; with a batch for each step, L_support is the mean over the
    batches. Memory does not grow with the number of inner steps. The errors are the distance of phi
    from the minimiser and the residual of the conjugate gradients.

    Args:
        learner: Function from the model's parameters to an inner problem with this minimiser.
        loss: Loss of both the support and the query set.
        inner_steps: Number of inner steps K >= 1 towards the minimiser.
        regularisation: Regularisation towards theta, lambda > 0.
        cg_steps: Number of conjugate-gradient steps, each with one Hessian-vector product.
        damping: Damping d >= 0 of the curvature. It keeps conjugate gradients stable where the
            Hessian has eigenvalues near -lambda or below; the derivative is exact for 0, and that
            of first order for infinity.

    Returns:
        The meta-gradient, without an objective.

    Raises:
        ValueError: `inner_steps` or `cg_steps` is below 1, `regularisation` is not positive,
            `damping` is negative, or (when traced) the meta-parameters are not the model's
            parameters.

    Rajeswaran, Finn, Kakade, Levine: Meta-learning with implicit gradients (NeurIPS 2019),
    equation 6, https://arxiv.org/abs/1909.04630
    """
    check_learner(learner)
    check_loss(loss)
    check_count(inner_steps, least=1, of="inner steps")
    check_count(cg_steps, least=1, of="conjugate-gradient steps")
    check_number(regularisation, "regularisation", above=0)
    check_number(damping, "damping", least=0)

    def gradient_of(
        meta_params: MetaParams, episode: Episode, key: RandomKey
    ) -> tuple[PyTree, Metrics]:
        support_key, query_key, curvature_key = jax.random.split(key, 3)
        phi, trace = adapt(learner(meta_params), episode.support, support_key, inner_steps)
        _check_same(meta_params, phi)
        floating_leaves, constants = tree.partition(phi, tree.floating_mask(phi))
        learned = jax.tree.map(rows.upcast, floating_leaves)

        def evaluate(learned: Params, batch: Batch, key: RandomKey) -> tuple[Scalar, Metrics]:
            return checked_loss(loss)(tree.combine(cast_like(phi, learned), constants), batch, key)

        (value, metrics), gradient = jax.value_and_grad(evaluate, has_aux=True)(
            learned, query_of(episode), query_key
        )
        flat, unravel = ravel_pytree(gradient)  # one vector, in float32 at least

        def support_loss(learned: Params) -> Scalar:
            if not isinstance(episode.support, BatchPerStep):
                return evaluate(learned, episode.support, curvature_key)[0]
            batch_losses = jax.vmap(evaluate, (None, 0, None))
            return batch_losses(learned, episode.support.batches, curvature_key)[0].mean()

        def curvature_product(v: jax.Array) -> jax.Array:
            # The gradient of a complex parameter is the conjugate of the direction of ascent.
            hessian_v = jax.jvp(jax.grad(support_loss), (learned,), (unravel(v.conj()),))[1]
            return v + ravel_pytree(hessian_v)[0] / (regularisation + damping)

        solved = cg(curvature_product, flat, tol=0.0, maxiter=cg_steps)[0]
        # Conjugate gradients turn NaN into zero. Metrics of NaN mark a query set without a row of
        # positive weight.
        nan = [jnp.isnan(rows.upcast(leaf)).any() for leaf in jax.tree.leaves(metrics)]
        not_finite = jnp.stack([~jnp.isfinite(flat).all(), *nan]).any()
        meta_grads = unravel(jnp.where(not_finite, jnp.nan, solved))
        return cast_like(phi, meta_grads), {"loss": value, "query": metrics, "support": trace}

    return MetaGradient(gradient=gradient_of)


def displacement(
    learner: Learner,
    loss: LossFn,
    inner_steps: int,
    *,
    end: Callable[[Inner, PyTree], MetaParams] = lambda inner, state: inner.params(state),
) -> MetaGradient:
    """The displacement of the parameters by the adaptation:  theta - phi_K.

    The query set does not affect the meta-gradient; its loss is only reported.

    Args:
        learner: Function from the model's parameters to the inner problem.
        loss: Loss that is reported for the adapted parameters on the query set.
        inner_steps: Number of inner steps K >= 1.
        end: Point towards which the meta-parameters move, as a function `end(inner, state)` of the
            last state of the inner problem; by default the adapted parameters.

    Returns:
        The meta-gradient, without an objective.

    Raises:
        ValueError: `inner_steps` is below 1, or (when traced) the meta-parameters are not the
            model's parameters.

    Nichol, Achiam, Schulman: On first-order meta-learning algorithms (2018), algorithm 2,
    https://arxiv.org/abs/1803.02999
    """
    check_learner(learner)
    check_loss(loss)
    check_count(inner_steps, least=1, of="inner steps")
    check_callable(end, "end", "inner, state")

    def gradient_of(
        meta_params: MetaParams, episode: Episode, key: RandomKey
    ) -> tuple[PyTree, Metrics]:
        support_key, query_key = jax.random.split(key)
        inner = learner(meta_params)
        with_state = inner._replace(params=lambda state: state)
        state, trace = adapt(with_state, episode.support, support_key, inner_steps)
        value, metrics = checked_loss(loss)(inner.params(state), query_of(episode), query_key)
        target = end(inner, state)
        _check_same(meta_params, target)
        check_shapes(target, meta_params, "end")
        meta_grads = jax.tree.map(
            lambda theta, phi: theta - phi if is_inexact(theta) else None, meta_params, target
        )
        return meta_grads, {"loss": value, "query": metrics, "support": trace}

    return MetaGradient(gradient=gradient_of)


def _check_weights(weights: Any, inner_steps: int) -> None:
    """Refuses weights that are not one real number for each step, finite unless traced."""
    traced = isinstance(weights, Tracer)
    if not is_real(weights) or not (traced or np.isfinite(np.asarray(weights)).all()):
        raise ValueError(f"weights of the inner steps must be finite real numbers; got {weights}")
    if jnp.shape(weights) != (inner_steps,):
        raise ValueError(
            f"there must be one weight for each of {inner_steps} inner steps; got the shape"
            f" {jnp.shape(weights)}"
        )


def _check_same(meta_params: MetaParams, params: Params) -> None:
    structure, expected = jax.tree.structure(meta_params), jax.tree.structure(params)
    if structure != expected:
        raise ValueError(
            "this estimator needs meta-parameters that are the parameters of the model,"
            f" {expected}; got {structure}"
        )
