"""Three ways to the meta-gradient: through the adaptation, around it, from where it ended.

Each builds `grad(meta_params, episode, key) -> (meta_grads, metrics)` for ONE task, with
`metrics = {"loss": outer loss, "query": metrics of the outer loss, "support": [K, ...]}`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Float, PyTree, Scalar

from maml import tree
from maml._checks import check_count, check_number
from maml._contracts import check_learner, check_loss, checked, is_inexact
from maml.inner import adapt
from maml.types import (
    Batch,
    Derivative,
    Episode,
    Inner,
    Learner,
    LossFn,
    MetaGrad,
    MetaParams,
    Metrics,
    Params,
    PerStep,
    RandomKey,
)


def unrolled(
    learner: Learner,
    loss: LossFn,
    num_steps: int,
    *,
    weights: Float[Array, " num_steps"] | None = None,
) -> Derivative:
    """The derivative through the adaptation:  d/dtheta L_query(phi_K(theta)).

    Exact for whatever the learner does, second derivatives and optimiser states included. With
    weights it is the derivative of  sum_k w_k L_query(phi_k),  k = 1 .. K.

    Args:
        learner: meta-parameters to inner problem.
        loss: the outer loss, on the query set at the adapted parameters.
        num_steps: K >= 0; without a step it is joint training, the gradient of L_query(theta).
        weights: of the losses after 1 .. K steps; default: only the last counts. The metrics are
            those of the last.

    Raises:
        ValueError: `num_steps` is negative, or there are not as many weights.

    Finn, Abbeel, Levine: Model-agnostic meta-learning (ICML 2017), equation 1. With weights:
    Antoniou, Edwards, Storkey: How to train your MAML (ICLR 2019), equation 3.
    """
    check_learner(learner)
    check_loss(loss)
    check_count(num_steps, least=0)
    if weights is not None and (jnp.shape(weights) != (num_steps,) or not num_steps):
        raise ValueError(
            "weights are one for each of at least one step; got the shape"
            f" {jnp.shape(weights)} for {num_steps} steps"
        )

    def objective(
        meta_params: MetaParams, episode: Episode, key: RandomKey
    ) -> tuple[Scalar, Metrics]:
        support_key, query_key = jax.random.split(key)
        inner = learner(meta_params)

        def judge(params: Params) -> tuple[Scalar, Metrics]:
            return checked(loss)(params, episode.query, query_key)

        def judged(state: PyTree, batch: Batch, key: RandomKey) -> tuple[PyTree, PyTree]:
            state, metrics = inner.step(state, batch, key)
            return state, (metrics, judge(inner.params(state)))

        if weights is None:
            params, trace = adapt(inner, episode.support, support_key, num_steps)
            value, metrics = judge(params)
        else:
            inner_and_outer = inner._replace(step=judged)
            _, seen = adapt(inner_and_outer, episode.support, support_key, num_steps)
            trace, (values, metrics) = seen
            value, metrics = weights @ values, jax.tree.map(lambda leaf: leaf[-1], metrics)
        return value, {"loss": value, "query": metrics, "support": trace}

    return Derivative(objective)


def implicit(
    learner: Learner, loss: LossFn, num_steps: int, *, strength: float, cg_steps: int
) -> MetaGrad:
    """The derivative around the adaptation:  (I + H / lambda)^-1 grad L_query(phi).

    phi is taken for the minimiser of  L_support(phi) + lambda/2 ||phi - theta||^2,  and H is the
    Hessian of L_support at phi; with a batch for each step, L_support is the mean over them. Memory
    does not grow with the number of inner steps; the error is that of phi not being the minimiser,
    and of the conjugate gradients.

    Args:
        learner: meta-parameters, which are the model's, to an inner problem with that minimiser.
        loss: the loss of support and query.
        num_steps: K >= 1 inner steps towards the minimiser.
        strength: lambda > 0, the pull towards theta.
        cg_steps: conjugate-gradient steps, each one Hessian-vector product.

    Raises:
        ValueError: `num_steps` or `cg_steps` is below 1, `strength` is not positive, or (when
            traced) the meta-parameters are not the model's.

    Rajeswaran, Finn, Kakade, Levine: Meta-learning with implicit gradients (NeurIPS 2019), eq. 6.
    """
    check_learner(learner)
    check_loss(loss)
    check_count(num_steps, least=1)
    check_count(cg_steps, least=1, of="conjugate-gradient steps")
    check_number(strength, "the strength of the pull", above=0)

    def grad(meta_params: MetaParams, episode: Episode, key: RandomKey) -> tuple[PyTree, Metrics]:
        support_key, query_key, curvature_key = jax.random.split(key, 3)
        phi, trace = adapt(learner(meta_params), episode.support, support_key, num_steps)
        _check_same(meta_params, phi)
        learned, rest = tree.partition(phi, tree.floating(phi))

        def judge(learned: Params, batch: Batch, key: RandomKey) -> tuple[Scalar, Metrics]:
            return checked(loss)(tree.combine(learned, rest), batch, key)

        (value, metrics), gradient = jax.value_and_grad(judge, has_aux=True)(
            learned, episode.query, query_key
        )

        flat, unravel = ravel_pytree(gradient)  # one vector, even if leaves differ in precision

        def support_loss(learned: Params) -> Scalar:
            if not isinstance(episode.support, PerStep):
                return judge(learned, episode.support, curvature_key)[0]
            each = jax.vmap(judge, (None, 0, None))
            return each(learned, episode.support.batches, curvature_key)[0].mean()

        def curved(v: jax.Array) -> jax.Array:
            # The gradient of a complex parameter is the conjugate of the direction of ascent.
            hessian_v = jax.jvp(jax.grad(support_loss), (learned,), (unravel(v.conj()),))[1]
            return v + ravel_pytree(hessian_v)[0] / strength

        meta_grads = unravel(cg(curved, flat, tol=0.0, maxiter=cg_steps)[0])
        return meta_grads, {"loss": value, "query": metrics, "support": trace}

    return grad


def displacement(
    learner: Learner,
    loss: LossFn,
    num_steps: int,
    *,
    end: Callable[[Inner, PyTree], MetaParams] = lambda inner, state: inner.params(state),
) -> MetaGrad:
    """From where the adaptation ended:  theta - phi_K.

    The query set is not learned from; its loss is only reported.

    Args:
        learner: meta-parameters, which are the model's, to inner problem.
        loss: reported on the query set at the adapted parameters.
        num_steps: K >= 1.
        end: `end(inner, state)`, where the meta-parameters are drawn to from the last state of the
            inner problem (default: to the adapted parameters).

    Raises:
        ValueError: `num_steps` is below 1, or (when traced) the meta-parameters are not the
            model's.

    Nichol, Achiam, Schulman: On first-order meta-learning algorithms (2018), algorithm 2.
    """
    check_learner(learner)
    check_loss(loss)
    check_count(num_steps, least=1)

    def grad(meta_params: MetaParams, episode: Episode, key: RandomKey) -> tuple[PyTree, Metrics]:
        support_key, query_key = jax.random.split(key)
        inner = learner(meta_params)
        whole = inner._replace(params=lambda state: state)
        state, trace = adapt(whole, episode.support, support_key, num_steps)
        value, metrics = checked(loss)(inner.params(state), episode.query, query_key)
        target = end(inner, state)
        _check_same(meta_params, target)
        meta_grads = jax.tree.map(
            lambda theta, phi: theta - phi if is_inexact(theta) else None, meta_params, target
        )
        return meta_grads, {"loss": value, "query": metrics, "support": trace}

    return grad


def _check_same(meta_params: MetaParams, params: Params) -> None:
    got, wanted = jax.tree.structure(meta_params), jax.tree.structure(params)
    if got != wanted:
        raise ValueError(
            "this estimator is for meta-parameters that are the parameters of the model; got"
            f" {got} for {wanted}"
        )
