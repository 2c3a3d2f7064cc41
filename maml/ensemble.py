"""Several trained models as one: each adapts by itself, and their probabilities are averaged.

Members are meta-parameters of the same structure, stacked along a first axis of each leaf.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from maml.types import Batch, Inner, Learner, MetaParams, Metrics, Params, RandomKey


def ensemble(learner: Learner) -> Learner:
    """The learner of stacked meta-parameters; its parameters are those of the members, stacked.

    Args:
        learner: of each member.

    >>> import optax
    >>> from maml import adapt, gradient_descent, regression
    >>> loss = regression(lambda params, x: params * x)
    >>> both = ensemble(lambda theta: gradient_descent(loss, optax.sgd(0.5), theta))
    >>> points = jnp.ones(1), jnp.ones(1)
    >>> adapt(both(jnp.array([0.0, 3.0])), points, jax.random.key(0), 1)[0].tolist()
    [1.0, 1.0]
    """

    def together(members: MetaParams) -> Inner:
        def step(states: PyTree, batch: Batch, key: RandomKey) -> tuple[PyTree, Metrics]:
            def one(member: MetaParams, state: PyTree) -> tuple[PyTree, Metrics]:
                return learner(member).step(state, batch, key)

            return jax.vmap(one)(members, states)

        def params(states: PyTree) -> Params:
            return jax.vmap(lambda member, state: learner(member).params(state))(members, states)

        return Inner(jax.vmap(lambda member: learner(member).state)(members), step, params)

    return together


def mixture(
    apply: Callable[[Params, PyTree], Float[Array, "n ways"]],
) -> Callable[[Params, PyTree], Float[Array, "n ways"]]:
    """Of stacked parameters, the logarithm of the mean of the members' probabilities.

        log 1/M sum_m softmax(apply(params_m, inputs))

    It is the logits of `maml.classification`, like those of one model.
    """

    def mixed(params: Params, inputs: PyTree) -> Float[Array, "n ways"]:
        logits = jax.vmap(apply, (0, None))(params, inputs)
        log_probs = jax.nn.log_softmax(logits)
        return jax.nn.logsumexp(log_probs, axis=0) - jnp.log(len(logits))

    return mixed
