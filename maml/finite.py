"""Optimisers that stay finite: a clip with a derivative everywhere, and steps left out and counted.

A meta-step whose gradient is not finite changes nothing, and is counted leaf by leaf.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from maml._checks import check_number
from maml._optimizers import check_optimizer

FOR_EVER = 2**31 - 1  # optax applies what is not finite after so many in a row


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Clips as `optax.clip_by_global_norm`, with a derivative where the gradient is zero.

        u = g   where ||g|| < c,   else   g c / ||g||

    The derivative of the norm is not defined at zero, where optax's clip makes NaN of a
    meta-gradient that goes through it.

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
        square = sum(jnp.sum(jnp.square(jnp.abs(leaf))) for leaf in jax.tree.leaves(updates))
        long = jnp.asarray(square) >= max_norm**2
        norm = jnp.sqrt(jnp.where(long, square, 1.0))  # never the root of zero
        return jax.tree.map(lambda leaf: jnp.where(long, leaf / norm * max_norm, leaf), updates)

    return optax.stateless(clipped)


class Broken(NamedTuple):
    """State of the counting half of `skip_nonfinite`.

    Attributes:
        leaves: in how many meta-steps each leaf of the gradient was not finite.
    """

    leaves: PyTree[Int[Array, ""]]


def skip_nonfinite(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimiser, which leaves a step out whose gradient has an entry that is not finite.

    Parameters and the optimiser's own state stay as they were. What was left out is in its state,
    see `skipped`. Tasks whose gradient is not finite are left out of the mean before.

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

    def init(params: PyTree) -> Broken:
        return Broken(jax.tree.map(lambda _: jnp.zeros((), jnp.int32), params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Broken]:
        def count(before: Array, gradient: Array) -> Array:
            return before + ~jnp.isfinite(gradient).all()

        return updates, Broken(jax.tree.map(count, state.leaves, updates))

    counting = optax.GradientTransformation(init, update)
    return optax.chain(counting, optax.apply_if_finite(optimizer, FOR_EVER))


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
