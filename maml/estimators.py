"""Three ways to the meta-gradient: through the adaptation, around it, from where it ended.

Each builds `grad(meta_params, episode, key) -> (meta_grads, metrics)` for ONE task, with
`metrics = {"loss": outer loss, "query": metrics of the outer loss, "support": [K, ...]}`.
"""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Float, PyTree, Scalar

from maml._checks import check_count, checked
from maml.inner import adapt
from maml.types import (
    Batch,
    Derivative,
    Episode,
    Learner,
    LossFn,
    MetaGrad,
    MetaParams,
    Metrics,
    Params,
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
    check_count(num_steps, least=0)
    if weights is not None and (weights.shape != (num_steps,) or not num_steps):
        raise ValueError(
            f"weights are one for each of at least one step; got {weights.shape} for {num_steps}"
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
    Hessian of L_support at phi. Memory does not grow with the number of inner steps; the error is
    that of phi not being the minimiser, and of the conjugate gradients.

    Args:
        learner: meta-parameters, which are the model's, to an inner problem with that minimiser.
        loss: the loss of support and query.
        num_steps: K >= 1 inner steps towards the minimiser.
        strength: lambda > 0, the pull towards theta.
        cg_steps: conjugate-gradient steps, each one Hessian-vector product.

    Raises:
        ValueError: `num_steps` or `cg_steps` is below 1, or `strength` is not positive.

    Rajeswaran, Finn, Kakade, Levine: Meta-learning with implicit gradients (NeurIPS 2019), eq. 6.
    """
    check_count(num_steps, least=1)
    check_count(cg_steps, least=1)
    if not strength > 0:
        raise ValueError(f"the strength of the pull must be positive; got {strength!r}")

    def grad(meta_params: MetaParams, episode: Episode, key: RandomKey) -> tuple[PyTree, Metrics]:
        support_key, query_key, curvature_key = jax.random.split(key, 3)
        phi, trace = adapt(learner(meta_params), episode.support, support_key, num_steps)
        (value, metrics), gradient = jax.value_and_grad(checked(loss), has_aux=True)(
            phi, episode.query, query_key
        )

        flat, unravel = ravel_pytree(gradient)  # one vector, even if leaves differ in precision

        def support_gradient(phi: Params) -> Params:
            return jax.grad(loss, has_aux=True)(phi, episode.support, curvature_key)[0]

        def curved(v: jax.Array) -> jax.Array:
            hessian_v = jax.jvp(support_gradient, (phi,), (unravel(v),))[1]
            return v + ravel_pytree(hessian_v)[0] / strength

        meta_grads = unravel(cg(curved, flat, tol=0.0, maxiter=cg_steps)[0])
        return meta_grads, {"loss": value, "query": metrics, "support": trace}

    return grad


def displacement(learner: Learner, loss: LossFn, num_steps: int) -> MetaGrad:
    """From where the adaptation ended:  theta - phi_K.

    The query set is not learned from; its loss is only reported.

    Args:
        learner: meta-parameters, which are the model's, to inner problem.
        loss: reported on the query set at the adapted parameters.
        num_steps: K >= 1.

    Raises:
        ValueError: `num_steps` is below 1.

    Nichol, Achiam, Schulman: On first-order meta-learning algorithms (2018), algorithm 2.
    """
    check_count(num_steps, least=1)

    def grad(meta_params: MetaParams, episode: Episode, key: RandomKey) -> tuple[PyTree, Metrics]:
        support_key, query_key = jax.random.split(key)
        params, trace = adapt(learner(meta_params), episode.support, support_key, num_steps)
        value, metrics = checked(loss)(params, episode.query, query_key)
        meta_grads = jax.tree.map(jnp.subtract, meta_params, params)
        return meta_grads, {"loss": value, "query": metrics, "support": trace}

    return grad
