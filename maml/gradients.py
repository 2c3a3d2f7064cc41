"""The meta-gradient of one task."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from maml import tree
from maml._checks import check_key
from maml._contracts import (
    check_episode,
    check_gradient,
    check_params,
    check_shapes,
    check_step,
)
from maml._leaves import is_number
from maml._returns import check_metrics, checked_objective
from maml.types import Episode, MetaGradient, MetaParams, Metrics, RandomKey, Step


def task_gradient(
    grad: MetaGradient,
    meta_params: MetaParams,
    episode: Episode,
    key: RandomKey,
    *,
    step: Step = 0,
) -> tuple[MetaParams, Metrics]:
    """The meta-gradient of ONE task; `maml.meta_gradient` is the mean over many.

    Args:
        grad: Meta-gradient of an algorithm, `algorithm.grad`.
        meta_params: Meta-parameters at which the meta-gradient is taken.
        episode: The task.
        key: Random key of the task.
        step: Number of meta-steps taken before, on which some meta-gradients depend.

    Returns:
        The meta-gradient, a tree like the meta-parameters with None where a leaf has no
        derivative, and the metrics.

    Raises:
        ValueError: `grad` is not a `MetaGradient`, or (when traced) its result has other shapes
            than the meta-parameters.
    """
    check_gradient(grad)
    check_params(meta_params)
    check_episode(episode)
    check_key(key)
    check_step(step)

    def run(part: MetaGradient, *task: Any) -> tuple[Array, Metrics, PyTree]:
        return value_and_gradient(part, step, *task)

    _, metrics, grads = run_phase(grad, step, run, meta_params, episode, key)
    return grads, metrics


def run_phase(grad: MetaGradient, step: Step, run: Callable[..., Any], *args: Any) -> Any:
    """The result of `run(part, *args)`, with the part of a meta-gradient used in a meta-step.

    Args:
        grad: Meta-gradient, whose `early` part is used in the first meta-steps.
        step: Number of meta-steps taken before.
        run: Function of a meta-gradient without `early`; it is evaluated for one part only.
        args: Further arguments of `run`, trees of arrays.

    Returns:
        The result of `run`.
    """
    parts = (grad,) if grad.early is None else (grad.early, grad)
    branches = [
        partial(
            run,
            MetaGradient(checked_objective(part.objective), part.gradient),
        )
        for part in parts
    ]
    if grad.early is None:
        return branches[0](*args)
    return jax.lax.cond(jnp.asarray(step) < grad.early_steps, *branches, *args)


def value_and_gradient(
    grad: MetaGradient, step: Step, meta_params: MetaParams, episode: Episode, key: RandomKey
) -> tuple[Array, Metrics, PyTree]:
    """Value, metrics and meta-gradient of one task; the value is 0 if there is no objective.

    Raises:
        ValueError: the gradient has other shapes than the meta-parameters, or its metrics are not
            a dictionary.
    """
    learned, constants = tree.partition(meta_params, tree.floating_mask(meta_params))
    if grad.objective is not None:
        objective = grad.objective

        def learned_objective(learned: PyTree) -> tuple[Array, Metrics]:
            return objective(tree.combine(learned, constants), episode, key, step)

        (value, metrics), grads = jax.value_and_grad(learned_objective, has_aux=True)(learned)
        return value, metrics, grads
    out: Any = grad.gradient(meta_params, episode, key) if grad.gradient else None
    grads, metrics = out if isinstance(out, tuple) and len(out) == 2 else (out, None)
    if not isinstance(metrics, dict):
        raise ValueError(f"a meta-gradient returns (gradients, metrics by name); got {out!r}")
    check_metrics(metrics)
    if strange := [leaf for leaf in jax.tree.leaves(grads) if not is_number(leaf)]:
        raise ValueError(f"a meta-gradient must be a tree of numbers; got {strange[0]!r}")
    check_shapes(grads, learned, "meta-gradient", "meta-parameters have")
    return jnp.zeros(()), metrics, grads
