"""Ensembles of trained models, whose members adapt separately and whose probabilities are averaged.

Members are meta-parameters of the same structure, stacked along a new first axis of each leaf.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from maml import rows
from maml._checks import check_callable
from maml._contracts import check_inner
from maml.rows import Apply, Weights
from maml.types import Batch, Inner, Learner, MetaParams, Metrics, Params, RandomKey


def ensemble(learner: Learner) -> Learner:
    """The learner of an ensemble, from stacked meta-parameters to stacked adapted parameters.

    Members share the random keys of the inner steps. If they have a `begin`, see `Inner`, each has
    a key of its own for it, so that members that start at random start differently.

    Args:
        learner: Learner of each member.

    Returns:
        The learner of all members.

    Raises:
        ValueError: `learner` is not a function of meta-parameters, or (when called) there is no
            member, or the members are not stacked.

    >>> import optax
    >>> from maml import adapt, gradient_descent, regression
    >>> loss = regression(lambda params, x: params * x)
    >>> pair = ensemble(lambda theta: gradient_descent(loss, optax.sgd(0.5), theta))
    >>> points = jnp.ones(1), jnp.ones(1)
    >>> adapt(pair(jnp.array([0.0, 3.0])), points, jax.random.key(0), 1)[0].tolist()
    [1.0, 1.0]
    """
    check_callable(learner, "learner", "meta_params")

    def ensemble_learner(members: MetaParams) -> Inner:
        _check_members(members)
        first = learner(jax.tree.map(lambda leaf: leaf[0], members))
        check_inner(first)

        def step(states: PyTree, batch: Batch, key: RandomKey) -> tuple[PyTree, Metrics]:
            def member_step(member: MetaParams, state: PyTree) -> tuple[PyTree, Metrics]:
                return learner(member).step(state, batch, key)

            return jax.vmap(member_step)(members, states)

        def params(states: PyTree) -> Params:
            return jax.vmap(lambda member, state: learner(member).params(state))(members, states)

        def begin(states: PyTree, batch: Batch, key: RandomKey) -> PyTree:
            def member_begin(member: MetaParams, state: PyTree, key: RandomKey) -> PyTree:
                begin = learner(member).begin
                return state if begin is None else begin(state, batch, key)

            keys = jax.random.split(key, len(jax.tree.leaves(members)[0]))
            return jax.vmap(member_begin)(members, states, keys)

        states = jax.vmap(lambda member: learner(member).state)(members)
        return Inner(states, step, params, first.remat, None if first.begin is None else begin)

    return ensemble_learner


def mixture(apply: Apply) -> Callable[..., Float[Array, "n ways"]]:
    """The model of an ensemble, whose logits are the logarithms of the mean probabilities.

        log 1/M sum_m softmax(apply(params_m, inputs))

    `maml.classification` takes these logits as those of a single model. They are in float32 at
    least. If every member gives a class the probability zero, its logit is -inf and has no
    derivative.

    Args:
        apply: Model of one member, `apply(params, inputs) -> logits`, `[n, ways]`.

    Returns:
        The model `apply(stacked, inputs, weights=None) -> logits`, `[n, ways]`, of stacked
        parameters.

    Raises:
        ValueError: `apply` is not a function of `(params, inputs)`, or (when called) there is no
            member, the members are not stacked, or their outputs are not logits of two classes or
            more.
    """
    check_callable(apply, "apply", "params, inputs")

    def mixture_logits(
        params: Params, inputs: PyTree, weights: Weights = None
    ) -> Float[Array, "n ways"]:
        _check_members(params)
        logits = jax.vmap(lambda params: rows.outputs(apply, params, inputs, weights))(params)
        is_floating = jnp.issubdtype(logits.dtype, jnp.floating)
        if logits.ndim < 3 or logits.shape[-1] < 2 or not is_floating:
            raise ValueError(
                "a mixture of probabilities needs logits [n, ways], at least 2 a row, in floating"
                f" point; got {logits.dtype}{list(logits.shape[1:])}"
            )
        log_probs = jax.nn.log_softmax(rows.upcast(logits))
        impossible = jnp.isneginf(log_probs).all(axis=0)
        total = jax.nn.logsumexp(jnp.where(impossible, 0, log_probs), axis=0)
        return jnp.where(impossible, -jnp.inf, total - jnp.log(len(logits)))

    return mixture_logits


def _check_members(members: PyTree) -> None:
    """Refuses parameters that are not stacked, or have no member.

    Raises:
        ValueError: the leaves have no common first axis of size >= 1.
    """
    counts = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(members)}
    if len(counts) != 1 or counts & {(), (0,)}:
        raise ValueError(
            "an ensemble needs parameters of one member or more, stacked along one first axis; got"
            f" first axes {sorted(counts)}"
        )
