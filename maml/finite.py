"""Optimisers that stay finite: a clip with a derivative everywhere, and steps left out and counted.

A meta-step whose gradient is not finite changes nothing, and is counted leaf by leaf.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Int, PyTree

from maml._checks import check_number
from maml._optimizers import check_optimizer
from maml.rows import wide


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Clips as `optax.clip_by_global_norm`, with a derivative where the gradient is zero.

        u = g   where ||g|| < c,   else   g c / ||g||

    The derivative of the norm is not defined at zero, where optax's clip makes NaN of a
    meta-gradient that goes through it. The norm is taken in units of the largest entry, in float32
    at least, and so does not overflow.

    Args:
        max_norm: c > 0.

    Raises:
        ValueError: it is not positive.

    >>> clip = clip_by_global_norm(1.0)
    >>> jax.grad(lambda g: clip.update(g, clip.init(g))[0].sum())(jnp.zeros(2)).tolist()
    [1.0, 1.0]
    """
    check_number(max_norm, "max_norm", above=0)

    def clipped(updates: Any, params: Any) -> Any:
        sizes = [jnp.abs(wide(leaf)) for leaf in jax.tree.leaves(updates)]
        largest = jnp.stack([jnp.zeros(()), *(size.max(initial=0) for size in sizes)]).max()
        largest = jax.lax.stop_gradient(largest)  # it cancels
        tiny = jnp.finfo(largest.dtype).tiny  # whose inverse is finite
        unit = jnp.where(largest < tiny, 1, jnp.minimum(largest, 0.25 / tiny))
        square = jnp.asarray(sum(jnp.sum(jnp.square(size / unit)) for size in sizes))
        root = jnp.sqrt(jnp.where(square > 0, square, 1))  # never the root of zero
        long = (square > 0) & (unit * root >= max_norm)

        def scaled(leaf: Array) -> Array:
            short = wide(leaf) / unit / root * max_norm
            return jnp.where(long, short, leaf).astype(jnp.result_type(leaf))

        return jax.tree.map(scaled, updates)

    return optax.stateless(clipped)


class Broken(NamedTuple):
    """State of the counting half of `skip_nonfinite`.

    Attributes:
        leaves: in how many meta-steps each leaf of the gradient was not finite.
    """

    leaves: PyTree[Int[Array, ""]]


def skip_nonfinite(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimiser, which leaves a step out that has an entry which is not finite.

    Gradient, update and, where the optimiser asks for it, the loss have to be finite. Else the
    parameters and the optimiser's own state stay as they were, and the step is counted in its
    state, see `skipped`. Tasks whose gradient is not finite are left out of the mean before.

    Raises:
        ValueError: the optimiser is not optax's.

    >>> optimizer = skip_nonfinite(optax.sgd(0.1))
    >>> theta = {"w": jnp.ones(2), "b": jnp.ones(1)}
    >>> broken = {"w": jnp.array([jnp.nan, 0.0]), "b": jnp.zeros(1)}
    >>> updates, state = optimizer.update(broken, optimizer.init(theta), theta)
    >>> updates["w"].tolist(), skipped(state)
    ([0.0, 0.0], (1, 1, ["['w']"]))
    """
    check_optimizer(optimizer)
    inner = optax.with_extra_args_support(optimizer)
    none = jnp.zeros((), jnp.int32)

    def init(params: PyTree) -> tuple[Broken, optax.ApplyIfFiniteState]:
        leaves = jax.tree.map(lambda _: none, params)
        state = optax.ApplyIfFiniteState(none, jnp.asarray(True), none, inner.init(params))
        return Broken(leaves), state

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        broken, before = state
        grads = updates
        updates, inner_state = inner.update(grads, before.inner_state, params, **extra)
        finite = is_finite((grads, updates, extra.get("value")))
        zeros = jax.tree.map(jnp.zeros_like, updates)
        updates, inner_state = where(finite, (updates, inner_state), (zeros, before.inner_state))
        leaves = jax.tree.map(
            lambda count, grad: count + ~jnp.isfinite(grad).all(), broken.leaves, grads
        )
        in_a_row = jnp.where(finite, 0, before.notfinite_count + 1)
        total = before.total_notfinite + ~finite
        return updates, (
            Broken(leaves),
            optax.ApplyIfFiniteState(in_a_row, finite, total, inner_state),
        )

    return optax.GradientTransformationExtraArgs(init, update)


def is_finite(values: PyTree) -> Bool[Array, ""]:
    """Whether every entry of every leaf is finite."""
    each = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(values)]
    return jnp.stack([jnp.asarray(True), *each]).all()


def where(chosen: Bool[Array, ""], one: PyTree, other: PyTree) -> PyTree:
    """One tree, or the other where the flag is False; both have the same leaves."""
    return jax.tree.map(partial(jnp.where, chosen), one, other)


def skipped(opt_state: PyTree) -> tuple[int, int, list[str]]:
    """(steps left out, those since the last good one, names of the leaves) by `skip_nonfinite`.

    Raises:
        ValueError: it is not the state of such an optimiser.
    """
    if not (isinstance(opt_state, tuple) and opt_state and isinstance(opt_state[0], Broken)):
        raise ValueError(
            "the state of an optimiser made by maml.skip_nonfinite is wanted, MetaState.opt_state;"
            f" got {type(opt_state).__name__}"
        )
    broken, rest = opt_state
    paths = jax.tree.leaves_with_path(broken.leaves)
    names = [jax.tree_util.keystr(path) for path, count in paths if count]
    return int(rest.total_notfinite), int(rest.notfinite_count), names
