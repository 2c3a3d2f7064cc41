"""Trust-region steps: the natural gradient with a line search under a limit on the divergence.

    theta' = theta - s F^-1 g,   s = sqrt(2 radius / g' F^-1 g),   s reduced until it is accepted

Here g is the meta-gradient, and F the mean over tasks of J' M J, where J is the derivative of the
adapted model's outputs with respect to the meta-parameters, through the adaptation, and M the
second derivative of the divergence with respect to the outputs. At the old outputs the first
derivative of the divergence is zero, so F is its exact second derivative with respect to the
meta-parameters, and no third derivatives of the loss are needed.

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
from maml._checks import check_callable, check_count, check_key, check_number
from maml._contracts import check_episode, check_params
from maml._returns import checked_number, checked_objective
from maml.mapping import (
    TASK_AXIS,
    check_tasks,
    count_tasks,
    map_in_chunks,
    shard_over_devices,
    tasks_at_once,
)
from maml.rows import upcast
from maml.total import Tasks, cast_like, replace_excluded, sum_included, total_gradient
from maml.types import Episode, LossFn, MetaGradient, MetaParams, Metrics, RandomKey


class TrustRegion(NamedTuple):
    """The objective of a trust-region step, and the divergence that limits it.

    Attributes:
        objective: Objective `objective(meta_params, episode, key) -> (scalar, metrics)` of ONE
            task.
        outputs: Outputs `outputs(meta_params, episode, key)` of the adapted model in ONE task.
        divergence: Divergence `divergence(old outputs, outputs, episode) -> scalar` in ONE task.
        measured: Function `measured(metrics) -> scalar` from the mean metrics of the objective to
            the divergence that must not exceed the radius.
    """

    objective: LossFn
    outputs: Callable[[MetaParams, Episode, RandomKey], PyTree]
    divergence: Callable[[PyTree, PyTree, Episode], Scalar]
    measured: Callable[[Metrics], Scalar]


def check_region(**options: Any) -> None:
    """Refuses options that `trust_region_step` does not have, or that are out of range.

    Raises:
        ValueError: an option is unknown or out of range; the error names it.
    """
    parameters = inspect.signature(trust_region_step).parameters
    names = [name for name in parameters if parameters[name].kind is inspect.Parameter.KEYWORD_ONLY]
    if unknown := [name for name in options if name not in names]:
        raise ValueError(f"got the option {unknown[0]}; {', '.join(names)} would work")
    for name in options.keys() & {"radius", "damping"}:
        check_number(options[name], name, above=0)
    if "shrink" in options:
        check_number(options["shrink"], "shrink", above=0, below=1)
    for name, description in {
        "cg_steps": "conjugate-gradient steps",
        "backtracks": "step lengths",
    }.items():
        if name in options:
            check_count(options[name], least=1, of=description)


def trust_region_step(
    region: TrustRegion,
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
    """One step inside the trust region, on one meta-batch.

    Tasks whose gradient is not finite, and tasks with a metric of NaN, are left out of all means. A
    step length at which objective or divergence is not finite is not accepted.

    Args:
        region: Objective and divergence.
        meta_params: Meta-parameters before the step.
        episodes: Tasks of the meta-batch, `Episode[task, ...]`.
        key: Random key, split into one for each task.
        radius: Largest divergence that is accepted, > 0.
        cg_steps: Number of conjugate-gradient steps for F^-1 g, >= 1.
        damping: Number added to the diagonal of F, > 0.
        backtracks: Maximum number of step lengths to try, >= 1.
        shrink: Ratio of one step length to the one before, in (0, 1).
        chunk: Number of tasks that a device maps at once. None: all at once.
        mesh: Devices that share the tasks, see `task_mesh`. None: one device.

    Returns:
        The meta-parameters after the step, and the metrics of the objective before it, with
        `left_out`, the fraction of tasks left out, and `region`: the accepted step length as a
        `fraction` of s (0 if none is accepted and the meta-parameters are unchanged), the
        `divergence` there, and the `gain`, the decrease of the objective.

    Raises:
        ValueError: radius or damping is not positive, shrink is outside (0, 1), or a count is below
            1; or, as in `meta_gradient`, chunk or mesh does not fit the tasks.
    """
    check_region(
        radius=radius, damping=damping, shrink=shrink, cg_steps=cg_steps, backtracks=backtracks
    )
    if not isinstance(region, TrustRegion):
        raise ValueError(f"the region must be a TrustRegion; got {region!r}")
    check_callable(region.objective, "objective", "meta_params, episode, key")
    check_callable(region.outputs, "outputs", "meta_params, episode, key")
    check_callable(region.divergence, "divergence", "old, new, episode")
    check_callable(region.measured, "measured", "metrics")
    region = region._replace(
        objective=checked_objective(region.objective),
        divergence=checked_number(region.divergence, "divergence"),
        measured=checked_number(region.measured, "measured"),
    )
    check_params(meta_params)
    check_key(key)
    check_episode(episodes)
    check_tasks(episodes, mesh)
    num_tasks = count_tasks(episodes)
    chunk = tasks_at_once(num_tasks, chunk, mesh)

    def share(meta_params: MetaParams, tasks: Tasks) -> tuple[MetaParams, Metrics]:
        learned, constants = tree.partition(meta_params, tree.floating_mask(meta_params))
        start, unravel = ravel_pytree(jax.tree.map(upcast, learned))
        grad = MetaGradient(lambda theta, *task: region.objective(theta, *task[:2]))
        local, included = total_gradient(grad, 0, meta_params, tasks, chunk)
        mean = across_devices(local).mean()
        count, value, metrics, grads = mean.number, mean.value, mean.metrics, mean.grads
        gradient, tasks = ravel_pytree(grads)[0], replace_excluded(included, tasks)

        def theta(flat: Array) -> MetaParams:
            return tree.combine(cast_like(meta_params, unravel(flat)), constants)

        def mapped(function: Callable) -> Callable[[Array], PyTree]:
            def map_tasks(flat: Array) -> PyTree:
                task_function = partial(function, theta(flat))
                return map_in_chunks(lambda task: task_function(*task), tasks, chunk)

            return map_tasks

        def measure(flat: Array) -> tuple[Scalar, Metrics]:
            totals = across_devices(sum_included(included, mapped(region.objective)(flat)))
            return jax.tree.map(lambda leaf: leaf / count, totals)

        fisher = _fisher(region, mapped(region.outputs), start, tasks[0], included)

        def fisher_product(v: Array) -> Array:
            return across_devices(fisher(v)) / count + damping * v

        direction = cg(fisher_product, gradient, tol=0.0, maxiter=cg_steps)[0]
        largest_step = jnp.sqrt(2 * radius / jnp.vdot(direction, fisher_product(direction)))

        def attempt(count: Array) -> tuple[Array, Scalar, Scalar, Array]:
            fraction = shrink**count
            reached, measured_metrics = measure(start - fraction * largest_step * direction)
            divergence = region.measured(measured_metrics)
            return fraction, reached, divergence, (reached < value) & (divergence <= radius)

        def search(state: tuple) -> tuple:
            count, *_ = state
            return count + 1, *attempt(count)

        def unfinished(state: tuple) -> Array:
            count, *_, accepted = state
            return ~accepted & (count < backtracks)

        zero = jnp.zeros_like(value)
        state = jnp.zeros((), jnp.int32), zero, value, zero, jnp.asarray(False)
        _, fraction, reached, divergence, accepted = jax.lax.while_loop(unfinished, search, state)
        fraction = jnp.where(accepted, fraction, 0)
        # If no length is accepted, 0 * largest_step * direction may be NaN, hence the `where`.
        params = jnp.where(accepted, start - fraction * largest_step * direction, start)
        report = {
            "fraction": fraction,
            "divergence": jnp.where(accepted, divergence, 0),
            "gain": jnp.where(accepted, value - reached, 0),
        }
        left_out = (num_tasks - count) / num_tasks
        return theta(params), metrics | {"left_out": left_out, "region": report}

    def across_devices(local: PyTree) -> PyTree:
        return local if mesh is None else jax.lax.psum(local, TASK_AXIS)

    tasks = (episodes, jax.random.split(key, num_tasks))
    return shard_over_devices(mesh, share, summed=True)(meta_params, tasks)


def _fisher(
    region: TrustRegion,
    outputs: Callable[[Array], PyTree],
    start: Array,
    episodes: Episode,
    included: Bool[Array, " task"],
) -> Callable[[Array], Array]:
    """The function v -> sum over the included tasks of J' M J v, linearised once."""
    old_outputs, push = jax.linearize(outputs, start)
    pull = jax.linear_transpose(push, start)

    def divergence(new: PyTree) -> Scalar:
        return sum_included(included, jax.vmap(region.divergence)(old_outputs, new, episodes))

    curvature = jax.linearize(jax.grad(divergence), old_outputs)[1]
    # Where all tasks of a device are left out, `episodes` still holds one whose product is NaN.
    return lambda v: jnp.where(included.any(), pull(curvature(push(v)))[0], 0)
