"""First-order algorithms, which compute no second derivatives of the loss.

The notation is that of `maml.algorithms`.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Array, PyTree

from maml import tree
from maml._checks import check_flags
from maml._contracts import check_type
from maml._optimizers import check_differentiable, check_optimizer
from maml._updates import init_state
from maml.algorithms import checked_params, descent_learner
from maml.descent import gradient_descent
from maml.estimators import displacement, unrolled
from maml.types import Algorithm, Inner, LossFn, Params


def fomaml(
    loss: LossFn,
    optimizer: optax.GradientTransformation,
    inner_steps: int,
    *,
    mask: PyTree[bool] | None = None,
    remat: bool = False,
) -> Algorithm:
    """First-order MAML: MAML in which every grad L_support(phi_k) is treated as a constant.

    If the inner optimiser is SGD, momentum, Adam, RMSProp or clipping, the meta-gradient is
    grad L_query(phi_K).

    Args:
        loss, optimizer, inner_steps, mask: As in `maml`.
        remat: As in `maml`. It saves memory where the meta-gradient goes through what the inner
            steps compute besides gradients, as the scores of `maml.reading`.

    Returns:
        The algorithm, whose meta-parameters are the parameters of the model.

    Raises:
        ValueError: as `maml`.

    Finn, Abbeel, Levine: Model-agnostic meta-learning (ICML 2017), section 5.2,
    https://arxiv.org/abs/1703.03400
    """
    learner = descent_learner(loss, optimizer, mask, first_order=True, remat=remat)
    check_differentiable(optimizer, first_order=True)
    check = partial(check_differentiable, first_order=True)
    return Algorithm(
        lambda params: checked_params(params, optimizer, mask, check),
        learner,
        unrolled(learner, loss, inner_steps),
    )


class ReptileParams(NamedTuple):
    """The meta-parameters of `reptile` with `keep_state`.

    Attributes:
        params: Parameters of the model.
        opt_state: State of the inner optimiser after the last meta-batch, in floating point.
    """

    params: Params
    opt_state: PyTree


def reptile(
    loss: LossFn,
    optimizer: optax.GradientTransformation,
    inner_steps: int,
    *,
    keep_state: bool = False,
) -> Algorithm:
    """Reptile:  the meta-gradient is theta - phi_K.

    With `optax.sgd(epsilon)` as the outer optimiser, theta moves the fraction epsilon of the way to
    the mean of the adapted parameters. Every leaf adapts, since a leaf that does not adapt would
    not be learned either. With K = 1 this is joint training; use K >= 2.

    Args:
        loss, optimizer, inner_steps: As in `maml`, with K >= 1.
        keep_state: Whether the inner optimiser continues from its state after the last meta-batch,
            as Adam does in the paper, instead of starting from a new state in every task. The state
            is then part of the meta-parameters, and the outer optimiser must be
            `keep_inner_state(optimizer)`.

    Returns:
        The algorithm, whose meta-parameters are those of the model, or with `keep_state` a
        `ReptileParams`.

    Raises:
        ValueError: as `maml`, or K is 0; (from `init`) the state to keep has a random key, or a
            number that is not finite, as the state of `optax.lbfgs` has.

    Nichol, Achiam, Schulman: On first-order meta-learning algorithms (2018),
    https://arxiv.org/abs/1803.02999
    """
    check_flags(keep_state=keep_state)
    check_params = partial(checked_params, optimizer=optimizer, check=check_optimizer)
    if not keep_state:
        stateless = descent_learner(loss, optimizer)
        return Algorithm(check_params, stateless, displacement(stateless, loss, inner_steps))
    check_optimizer(optimizer)

    def start(params: Params) -> PyTree:
        return init_state(optimizer, tree.partition(params, tree.floating_mask(params))[0])

    def init(params: Params) -> ReptileParams:
        return ReptileParams(check_params(params), _to_floats(_check_averageable(start(params))))

    def learner(meta: ReptileParams) -> Inner:
        check_type(meta, ReptileParams)
        initial = jax.eval_shape(start, meta.params)
        state = jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), meta.opt_state, initial)
        return gradient_descent(loss, optimizer, meta.params, opt_state=state)

    def end(inner: Inner, state: PyTree) -> ReptileParams:
        return ReptileParams(inner.params(state), _to_floats(state[1]))

    return Algorithm(init, learner, displacement(learner, loss, inner_steps, end=end))


def _check_averageable(opt_state: PyTree) -> PyTree:
    """The state of an inner optimiser, after a check that it has a mean over tasks."""
    for leaf in jax.tree.leaves(opt_state):
        is_key = jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)
        if is_key or not (isinstance(leaf, Tracer) or np.isfinite(np.asarray(leaf)).all()):
            raise ValueError(
                "the state of the inner optimiser is kept as its mean over tasks; got"
                f" {'a random key' if is_key else leaf}, which has none: keep_state=False would"
                " work"
            )
    return opt_state


def _to_floats(opt_state: PyTree) -> PyTree:
    """The state with integers converted to floating point, so that it can be averaged."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf, float)), opt_state)


def keep_inner_state(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The outer optimiser of `reptile` with `keep_state`.

    It updates the parameters of the model by `optimizer`, and replaces the state of the inner
    optimiser by the mean of the states after the tasks of the meta-batch.

    Args:
        optimizer: Outer optimiser of the model's parameters.

    Returns:
        The optimiser of all meta-parameters, a `ReptileParams`.

    Raises:
        ValueError: the optimiser is not optax's.
    """
    check_optimizer(optimizer)

    def labels(meta: ReptileParams) -> PyTree[str]:
        names = ReptileParams("learned", "kept")
        return jax.tree.map(lambda name, part: jax.tree.map(lambda _: name, part), names, meta)

    kept = optax.stateless_with_tree_map(_replace_by_mean)
    return optax.partition({"learned": optimizer, "kept": kept}, labels)


def _replace_by_mean(displacement: Any, state: Any) -> Array:
    """The update that replaces a state by its mean, from the mean displacement.

    A mean that is only the rounding error of the difference is zero: a second moment that decayed
    by many orders of magnitude would otherwise become negative.
    """
    error = 16 * jnp.finfo(state.dtype).eps * jnp.abs(state)
    return jnp.where(jnp.abs(state - displacement) <= error, -state, -displacement)


def check_keeps_inner_state(meta_params: Any, opt_state: PyTree) -> None:
    """Refuses an outer optimiser that would learn the inner optimiser's state as parameters.

    Args:
        meta_params: Meta-parameters of any algorithm.
        opt_state: State of the outer optimiser.

    Raises:
        ValueError: the meta-parameters are a `ReptileParams`, and the optimiser is not one made by
            `keep_inner_state`.
    """

    def keeps(part: Any) -> bool:
        return isinstance(part, optax.transforms.PartitionState) and "kept" in part.inner_states

    parts = jax.tree.leaves(opt_state, is_leaf=keeps)
    if isinstance(meta_params, ReptileParams) and not any(map(keeps, parts)):
        raise ValueError(
            "the meta-parameters of reptile with keep_state include the inner optimiser's state;"
            " got an outer optimiser that would learn it; maml.keep_inner_state(optimizer) would"
            " work"
        )
