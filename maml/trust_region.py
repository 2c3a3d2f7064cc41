"""A trust-region step: as far along the natural gradient as the divergence allows.

    theta' = theta - s F^-1 g,   s = sqrt(2 radius / g' F^-1 g),   then shorter until it is accepted

with g the meta-gradient and F = mean over tasks of J' M J, where J is the derivative of the adapted
model's outputs by the meta-parameters, through the adaptation, and M the second derivative of the
divergence by the outputs. Where the outputs are those that the divergence is measured from, its
first derivative is zero, so F is its exact second derivative by the meta-parameters, and J needs no
third derivatives of the loss.

Schulman, Levine, Moritz, Jordan, Abbeel: Trust region policy optimization (ICML 2015).
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.scipy.sparse.linalg import cg
from jax.sharding import Mesh
from jaxtyping import Array, Bool, PyTree, Scalar

from maml import tree
from maml._checks import check_count, check_key, check_number
from maml.mapping import TASK, across, check_tasks, count_tasks, in_chunks, tasks_at_once
from maml.rows import wide
from maml.total import Tasks, like, only, sum_over, total_gradient
from maml.types import Episode, LossFn, MetaGradient, MetaParams, Metrics, RandomKey


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


def check_region(**options: Any) -> None:
    """Refuses options that `trust_region_step` does not have, or that are out of range.

    Raises:
        ValueError: with the name of the option.
    """
    known = inspect.signature(trust_region_step).parameters
    names = [name for name in known if known[name].kind is inspect.Parameter.KEYWORD_ONLY]
    if unknown := [name for name in options if name not in names]:
        raise ValueError(f"got the option {unknown[0]}; {', '.join(names)} would work")
    for name in options.keys() & {"radius", "damping"}:
        check_number(options[name], name, above=0)
    if "shrink" in options:
        check_number(options["shrink"], "shrink", above=0, below=1)
    for name, of in {"cg_steps": "conjugate-gradient steps", "backtracks": "step lengths"}.items():
        if name in options:
            check_count(options[name], least=1, of=of)


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

    Tasks whose gradient is not finite, or which have a metric of NaN, are left out of everything. A
    step length at which objective or divergence is not finite is not accepted.

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
        `left_out`, the share of tasks left out, and `region`: the length that was accepted, as a
        fraction of s (0: none, and the parameters are the old ones), the divergence there, and what
        the objective gained.

    Raises:
        ValueError: radius or damping is not positive, shrink is outside (0, 1), a count is below
            1; chunk or mesh as in `meta_gradient`.
    """
    check_region(
        radius=radius, damping=damping, shrink=shrink, cg_steps=cg_steps, backtracks=backtracks
    )
    check_key(key)
    check_tasks(episodes)
    num_tasks = count_tasks(episodes)
    chunk = tasks_at_once(num_tasks, chunk, mesh)

    def share(meta_params: MetaParams, tasks: Tasks) -> tuple[MetaParams, Metrics]:
        learned, constants = tree.partition(meta_params, tree.floating(meta_params))
        start, unravel = ravel_pytree(jax.tree.map(wide, learned))
        grad = MetaGradient(lambda theta, *task: region.objective(theta, *task[:2]))
        local, kept = total_gradient(grad, 0, meta_params, tasks, chunk)
        mean = across_devices(local).mean()
        count, value, metrics, grads = mean.number, mean.value, mean.metrics, mean.grads
        gradient, tasks = ravel_pytree(grads)[0], only(kept, tasks)

        def theta(flat: Array) -> MetaParams:
            return tree.combine(like(meta_params, unravel(flat)), constants)

        def mapped(function: Callable) -> Callable[[Array], PyTree]:
            def each(flat: Array) -> PyTree:
                one = partial(function, theta(flat))
                return in_chunks(lambda task: one(*task), tasks, chunk)

            return each

        def measure(flat: Array) -> tuple[Scalar, Metrics]:
            totals = across_devices(sum_over(kept, mapped(region.objective)(flat)))
            return jax.tree.map(lambda leaf: leaf / count, totals)

        fisher = _fisher(region, mapped(region.outputs), start, tasks[0], kept)

        def curved(v: Array) -> Array:
            return across_devices(fisher(v)) / count + damping * v

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
        left_out = 1 - count / num_tasks
        return theta(after), metrics | {"left_out": left_out, "region": went}

    def across_devices(local: PyTree) -> PyTree:
        return local if mesh is None else jax.lax.psum(local, TASK)

    tasks = (episodes, jax.random.split(key, num_tasks))
    return across(mesh, share, summed=True)(meta_params, tasks)


def _fisher(
    region: Region,
    outputs: Callable[[Array], PyTree],
    start: Array,
    episodes: Episode,
    kept: Bool[Array, " task"],
) -> Callable[[Array], Array]:
    """The function v -> sum over the tasks that are kept of J' M J v, linearised once."""
    old, push = jax.linearize(outputs, start)
    pull = jax.linear_transpose(push, start)

    def divergence(new: PyTree) -> Scalar:
        return sum_over(kept, jax.vmap(region.divergence)(old, new, episodes))

    bend = jax.linearize(jax.grad(divergence), old)[1]
    return lambda v: pull(bend(push(v)))[0]
