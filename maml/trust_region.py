"""A trust-region step: as far along the natural gradient as the divergence allows.

    theta' = theta - s F^-1 g,   s = sqrt(2 radius / g' F^-1 g),   then shorter until it is accepted

with g the meta-gradient and F = mean over tasks of J' M J, where J is the derivative of the adapted
model's outputs by the meta-parameters, through the adaptation, and M the second derivative of the
divergence by the outputs. Where the outputs are those that the divergence is measured from, its
first derivative is zero, so F is its exact second derivative by the meta-parameters, and J needs no
third derivatives of the loss.

Schulman, Levine, Moritz, Jordan, Abbeel: Trust region policy optimization (ICML 2015).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.scipy.sparse.linalg import cg
from jax.sharding import Mesh
from jaxtyping import Array, PyTree, Scalar

from maml.mapping import TASK, across, count_tasks, in_chunks, tasks_at_once
from maml.outer import value_and_grad
from maml.types import Episode, LossFn, MetaParams, Metrics, RandomKey, RandomKeys


class Region(NamedTuple):
    """What a trust-region step goes by.

    Attributes:
        objective: `objective(meta_params, episode, key) -> (scalar, metrics)` of ONE task.
        outputs: `outputs(meta_params, episode, key)` of the adapted model, of ONE task.
        divergence: `divergence(old outputs, outputs, episode) -> scalar` of ONE task.
        measured: from the mean metrics of the objective, the divergence that must stay inside.
    """

    objective: LossFn
    outputs: Callable[[MetaParams, Episode, RandomKey], PyTree]
    divergence: Callable[[PyTree, PyTree, Episode], Scalar]
    measured: Callable[[Metrics], Scalar]


def trust_region_step(
    region: Region,
    meta_params: MetaParams,
    episodes: Episode,
    key: RandomKey,
    *,
    radius: float = 0.01,
    cg_steps: int = 10,
    damping: float = 1e-5,
    backtracks: int = 15,
    shrink: float = 0.8,
    chunk: int | None = None,
    mesh: Mesh | None = None,
) -> tuple[MetaParams, Metrics]:
    """One step inside the trust region, on episodes that stay the same meanwhile.

    Args:
        region: objective and divergence.
        meta_params: before.
        episodes: `Episode[task, ...]`.
        key: split into one key a task.
        radius: the largest divergence.
        cg_steps: conjugate-gradient steps towards F^-1 g.
        damping: added to the diagonal of F.
        backtracks: how many step lengths are tried.
        shrink: from one length to the next, in (0, 1).
        chunk: how many tasks a device maps at once (default: all).
        mesh: devices that share out the tasks.

    Returns:
        The meta-parameters after, and the metrics of the objective before the step, with
        `region`: the length that was accepted, as a fraction of s (0: none, and the parameters
        are the old ones), the divergence there, and what the objective gained.

    Raises:
        ValueError: radius or damping is not positive, shrink is outside (0, 1); chunk or mesh as
            in `meta_gradient`.
    """
    if not (radius > 0 and damping > 0 and 0 < shrink < 1):
        raise ValueError(
            "radius and damping must be positive, and shrink in (0, 1); got"
            f" {radius}, {damping}, {shrink}"
        )
    num_tasks = count_tasks(episodes)
    chunk = tasks_at_once(num_tasks, chunk, mesh)

    def share(meta_params: MetaParams, tasks: tuple[Episode, RandomKeys]) -> Any:
        start, unravel = ravel_pytree(meta_params)

        def mean(local: PyTree) -> PyTree:
            total = local if mesh is None else jax.lax.psum(local, TASK)
            return jax.tree.map(lambda leaf: leaf / num_tasks, total)

        def mapped(function: Callable) -> Callable[[Array], PyTree]:
            def each(flat: Array) -> PyTree:
                one = partial(function, unravel(flat))
                return in_chunks(lambda task: one(*task), tasks, chunk)

            return each

        def measure(flat: Array) -> tuple[Scalar, Metrics]:
            out = mapped(region.objective)(flat)
            return mean(jax.tree.map(lambda leaf: leaf.sum(axis=0), out))

        (value, metrics), grads = mean(value_and_grad(region.objective, meta_params, tasks, chunk))
        gradient = ravel_pytree(grads)[0]
        fisher = _fisher(region, mapped(region.outputs), start, tasks[0])

        def curved(v: Array) -> Array:
            return mean(fisher(v)) + damping * v

        direction = cg(curved, gradient, tol=0.0, maxiter=cg_steps)[0]
        furthest = jnp.sqrt(2 * radius / jnp.vdot(direction, curved(direction)))

        def attempt(count: Array) -> tuple[Array, Scalar, Scalar, Array]:
            fraction = shrink**count
            now, seen = measure(start - fraction * furthest * direction)
            divergence = region.measured(seen)
            return fraction, now, divergence, (now < value) & (divergence <= radius)

        def search(state: tuple) -> tuple:
            count, *_ = state
            return count + 1, *attempt(count)

        def unfinished(state: tuple) -> Array:
            count, *_, accepted = state
            return ~accepted & (count < backtracks)

        nothing = jnp.zeros_like(value)
        state = jnp.zeros((), jnp.int32), nothing, value, nothing, jnp.asarray(False)
        _, fraction, now, divergence, accepted = jax.lax.while_loop(unfinished, search, state)
        fraction = jnp.where(accepted, fraction, 0)
        # Not `fraction * furthest * direction` alone: where nothing is accepted it may be NaN.
        after = jnp.where(accepted, start - fraction * furthest * direction, start)
        went = {
            "fraction": fraction,
            "divergence": jnp.where(accepted, divergence, 0),
            "gain": jnp.where(accepted, value - now, 0),
        }
        return unravel(after), metrics | {"region": went}

    tasks = (episodes, jax.random.split(key, num_tasks))
    return across(mesh, share, summed=True)(meta_params, tasks)


def _fisher(
    region: Region, outputs: Callable[[Array], PyTree], start: Array, episodes: Episode
) -> Callable[[Array], Array]:
    """The function v -> sum over tasks of J' M J v, linearised once."""
    old, push = jax.linearize(outputs, start)
    pull = jax.linear_transpose(push, start)

    def divergence(new: PyTree) -> Scalar:
        return jax.vmap(region.divergence)(old, new, episodes).sum()

    bend = jax.linearize(jax.grad(divergence), old)[1]
    return lambda v: pull(bend(push(v)))[0]
