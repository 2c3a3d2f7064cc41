"""Meta-steps whose gradient is not finite change nothing, and are counted leaf by leaf."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

FOR_EVER = 2**31 - 1  # optax applies what is not finite after so many in a row


class Broken(NamedTuple):
    """State of the counting half of `skip_nonfinite`.

    Attributes:
        leaves: in how many meta-steps each leaf of the gradient was not finite.
    """

    leaves: PyTree[Int[Array, ""]]


def skip_nonfinite(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimiser, which leaves a step out whose gradient has an entry that is not finite.

    Parameters and the optimiser's own state stay as they were. What was left out is in its state,
    see `skipped`.

    >>> optimizer = skip_nonfinite(optax.sgd(0.1))
    >>> theta = {"w": jnp.ones(2), "b": jnp.ones(1)}
    >>> broken = {"w": jnp.array([jnp.nan, 0.0]), "b": jnp.zeros(1)}
    >>> updates, state = optimizer.update(broken, optimizer.init(theta), theta)
    >>> updates["w"].tolist(), skipped(state)
    ([0.0, 0.0], (1, 1, ["['w']"]))
    """

    def init(params: PyTree) -> Broken:
        return Broken(jax.tree.map(lambda _: jnp.zeros((), jnp.int32), params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Broken]:
        def count(before: Array, gradient: Array) -> Array:
            return before + ~jnp.isfinite(gradient).all()

        return updates, Broken(jax.tree.map(count, state.leaves, updates))

    counting = optax.GradientTransformation(init, update)
    return optax.chain(counting, optax.apply_if_finite(optimizer, FOR_EVER))


def skipped(opt_state: PyTree) -> tuple[int, int, list[str]]:
    """(steps left out, those since the last good one, names of the leaves) by `skip_nonfinite`."""
    broken, rest = opt_state
    paths = jax.tree.leaves_with_path(broken.leaves)
    names = [jax.tree_util.keystr(path) for path, count in paths if count]
    return int(rest.total_notfinite), int(rest.notfinite_count), names
