"""Optimisers whose updates are finite: differentiable clipping, and skipping of steps.

A meta-step whose gradient is not finite is skipped, and counted for each leaf.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Int, PyTree

from maml._checks import check_number
from maml._optimizers import check_optimizer
from maml.rows import upcast
from maml.tree import leaves_by_path


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Clipping as by `optax.clip_by_global_norm`, with a derivative where the gradient is zero.

        u = g   where ||g|| < c,   else   g c / ||g||

    The norm has no derivative at zero, where a meta-gradient through optax's clipping is NaN. The
    norm is computed in units of the largest entry, in float32 at least, so that it does not
    overflow.

    Args:
        max_norm: Largest norm c > 0 of the updates.

    Returns:
        The transformation, which has no state.

    Raises:
        ValueError: `max_norm` is not positive.

    >>> clip = clip_by_global_norm(1.0)
    >>> jax.grad(lambda g: clip.update(g, clip.init(g))[0].sum())(jnp.zeros(2)).tolist()
    [1.0, 1.0]
    """
    check_number(max_norm, "max_norm", above=0)

    def clip(updates: Any, params: Any) -> Any:
        sizes = [jnp.abs(upcast(leaf)) for leaf in jax.tree.leaves(updates)]
        largest = jnp.stack([jnp.zeros(()), *(size.max(initial=0) for size in sizes)]).max()
        largest = jax.lax.stop_gradient(largest)  # the unit cancels, and so does its derivative
        tiny = jnp.finfo(largest.dtype).tiny  # the smallest number with a finite inverse
        unit = jnp.where(largest < tiny, 1, jnp.minimum(largest, 0.25 / tiny))
        square = jnp.asarray(sum(jnp.sum(jnp.square(size / unit)) for size in sizes))
        root = jnp.sqrt(jnp.where(square > 0, square, 1))  # sqrt has no derivative at zero
        exceeds = (square > 0) & (unit * root >= max_norm)

        def clip_leaf(leaf: Array) -> Array:
            clipped = upcast(leaf) / unit / root * max_norm
            return jnp.where(exceeds, clipped, leaf).astype(jnp.result_type(leaf))

        return jax.tree.map(clip_leaf, updates)

    return optax.stateless(clip)


class SkipCounts(NamedTuple):
    """The counts of `skip_nonfinite`, a part of its state.

    Attributes:
        leaves: Number of meta-steps in which each leaf of the gradient was not finite.
    """

    leaves: PyTree[Int[Array, ""]]


def skip_nonfinite(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimiser, changed so that it skips a step with an entry that is not finite.

    Gradient, update and, if the optimiser uses it, the loss must be finite. Otherwise the
    parameters and the state of the optimiser do not change, and the step is counted, see
    `skip_report`. A mean over tasks already leaves out tasks whose gradient is not finite.

    Args:
        optimizer: Outer optimiser, an optax transformation.

    Returns:
        The optimiser, whose state also has the counts.

    Raises:
        ValueError: the optimiser is not optax's.

    >>> optimizer = skip_nonfinite(optax.sgd(0.1))
    >>> theta = {"w": jnp.ones(2), "b": jnp.ones(1)}
    >>> broken = {"w": jnp.array([jnp.nan, 0.0]), "b": jnp.zeros(1)}
    >>> updates, state = optimizer.update(broken, optimizer.init(theta), theta)
    >>> updates["w"].tolist(), tuple(skip_report(state))
    ([0.0, 0.0], (1, 1, ['w']))
    """
    check_optimizer(optimizer)
    inner = optax.with_extra_args_support(optimizer)
    zero = jnp.zeros((), jnp.int32)

    def init(params: PyTree) -> tuple[SkipCounts, optax.ApplyIfFiniteState]:
        leaves = jax.tree.map(lambda _: zero, params)
        state = optax.ApplyIfFiniteState(zero, jnp.asarray(True), zero, inner.init(params))
        return SkipCounts(leaves), state

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        broken, before = state
        grads = updates
        updates, inner_state = inner.update(grads, before.inner_state, params, **extra)
        finite = is_finite((grads, updates, extra.get("value")))
        zeros = jax.tree.map(jnp.zeros_like, updates)
        updates, inner_state = select_tree(
            finite, (updates, inner_state), (zeros, before.inner_state)
        )
        leaves = jax.tree.map(
            lambda count, grad: count + ~jnp.isfinite(grad).all(), broken.leaves, grads
        )
        in_a_row = jnp.where(finite, 0, before.notfinite_count + 1)
        total = before.total_notfinite + ~finite
        return updates, (
            SkipCounts(leaves),
            optax.ApplyIfFiniteState(in_a_row, finite, total, inner_state),
        )

    return optax.GradientTransformationExtraArgs(init, update)


def is_finite(values: PyTree) -> Bool[Array, ""]:
    """Whether every entry of every leaf is finite."""
    flags = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(values)]
    return jnp.stack([jnp.asarray(True), *flags]).all()


def select_tree(flag: Bool[Array, ""], one: PyTree, other: PyTree) -> PyTree:
    """The first tree if the flag is True, else the second; both have the same structure."""
    return jax.tree.map(partial(jnp.where, flag), one, other)


class SkipReport(NamedTuple):
    """Steps that `skip_nonfinite` has skipped.

    Attributes:
        total: Number of skipped steps.
        in_a_row: Number of skipped steps since the last step with a finite gradient.
        leaves: Paths of the leaves whose gradient was not finite.
    """

    total: int
    in_a_row: int
    leaves: list[str]


def skip_report(opt_state: PyTree) -> SkipReport:
    """The steps that an optimiser made by `skip_nonfinite` has skipped.

    Args:
        opt_state: State of an optimiser made by `skip_nonfinite`.

    Returns:
        The report.

    Raises:
        ValueError: the state is that of another optimiser.
    """
    if not (isinstance(opt_state, tuple) and opt_state and isinstance(opt_state[0], SkipCounts)):
        raise ValueError(
            "skip_report needs the state of an optimiser made by maml.skip_nonfinite, such as"
            f" MetaState.opt_state; got {type(opt_state).__name__}"
        )
    broken, rest = opt_state
    names = [path for path, count in leaves_by_path(broken.leaves).items() if count]
    return SkipReport(int(rest.total_notfinite), int(rest.notfinite_count), names)
