"""The batch-norm modes of `maml.batch_norm` for flax modules, and a mode with running averages.

In the mode `running`, a query set is evaluated with averages over meta-training. During
meta-training it is normalised by its own statistics, which are recorded, as in the train and eval
modes of other frameworks.

Running averages r are meta-parameters with their own objective, 1/2 ||r - observed||^2. Gradient
descent on it with learning rate 1 - momentum is the moving average, and no other code depends on
it. (Reptile has no `running` mode: it does not learn from query sets, and would record nothing.)

Every statistic is weighted by the weights of the rows, as in `maml.rows`.
"""

from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, PyTree

from maml import LossFn, batch_norm, classification
from maml._checks import check_flags, check_number
from maml._optimizers import check_transformation
from maml.batch_norm import reference_rows
from maml.rows import Apply, Weights, replace_unweighted, unpack
from maml.sampling import Query
from maml.types import Batch, Params, RandomKey
from tasks._checks import check_is

Mode = Literal["transductive", "support", "running"]
STATISTICS = "batch_stats"


def flax_apply(
    model: nn.Module, mode: Mode, *, evaluating: bool = False, features: bool = False
) -> Apply:
    """A function that computes the logits of a model with the batch-norm statistics of a mode.

    Args:
        model: Model, called as `model(images, reference=..., running=...)`; its `track` must be
            True in the mode `running` and False in the others.
        mode: Mode "transductive", "support" or "running", see `maml.batch_norm` and this module.
        evaluating: Whether the mode `running` uses the running averages.
        features: Whether the function returns the inputs of the head instead of the logits.

    Returns:
        The function `apply(variables, images or Query, weights=None) -> logits`, whose weights are
        those of the rows of the logits.

    Raises:
        ValueError: the mode is unknown, or the model's `track` does not fit it.
    """
    check_is(model, "the model", nn.Module)
    check_flags(evaluating=evaluating, features=features)
    if mode not in get_args(Mode):
        raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}; got {mode!r}")
    if (mode == "running") != getattr(model, "track", False):
        raise ValueError(f"the mode {mode!r} needs a model with track={mode == 'running'}")

    options: dict[str, Any] = {"features": True} if features else {}
    run = partial(model.apply, **options)
    if mode != "running":
        return batch_norm.few_shot_apply(run, mode)

    def apply(variables: Params, inputs: Array | Query, weights: Weights = None) -> Array:
        query = isinstance(inputs, Query)
        rows = replace_unweighted(inputs.inputs if query else inputs, weights)
        statistics = reference_rows(weights)
        return jnp.asarray(run(variables, rows, running=query and evaluating, **statistics))

    return apply


def flax_loss(model: nn.Module, mode: Mode, *, evaluating: bool = False) -> LossFn:
    """The cross-entropy of `flax_apply`, plus the objective of the running averages.

    Args:
        model, mode: As in `flax_apply`.
        evaluating: Whether the mode `running` uses the running averages instead of recording them.

    Returns:
        A loss of a support set `(images, labels)` or a query set `(Query, labels)`, both with the
        weights of the rows as an optional third member.

    Raises:
        ValueError: as `flax_apply`.
    """
    loss = classification(flax_apply(model, mode, evaluating=evaluating))

    def recording_loss(variables: Params, batch: Batch, key: RandomKey) -> tuple[Array, PyTree]:
        inputs, labels, weights = unpack(batch)
        if not isinstance(inputs, Query):
            return loss(variables, batch, key)
        images = replace_unweighted(inputs.inputs, weights)
        logits, observed = model.apply(
            variables, images, mutable=STATISTICS, **reference_rows(weights)
        )
        classify = classification(lambda _, logits: logits)
        value, metrics = classify(None, (logits, labels, weights), key)
        return value + _distance(variables[STATISTICS], observed[STATISTICS]), metrics

    return recording_loss if mode == "running" and not evaluating else loss


def _distance(averages: PyTree, observed: PyTree) -> Array:
    """The objective of the running averages, 1/2 ||r - observed||^2."""
    squares = jax.tree.map(
        lambda r, statistic: 0.5 * jnp.sum(jnp.square(r - jax.lax.stop_gradient(statistic))),
        averages,
        observed,
    )
    return jnp.asarray(sum(jax.tree.leaves(squares)))


def track_running_averages(
    optimizer: optax.GradientTransformation, momentum: float
) -> optax.GradientTransformation:
    """An optimiser that updates running averages by  r <- momentum r + (1 - momentum) observed.

    Args:
        optimizer: Optimiser of every other leaf, an optax transformation.
        momentum: Momentum of the moving average over meta-steps, in [0, 1).

    Returns:
        The optimiser of all leaves, an optax transformation.

    Raises:
        ValueError: the momentum is outside [0, 1).
    """
    check_number(momentum, "the momentum", least=0, below=1)
    check_transformation(optimizer)

    def labels(params: Params) -> PyTree[str]:
        return jax.tree.map_with_path(
            lambda path, _: (
                "averaged"
                if STATISTICS in jax.tree_util.keystr(path, simple=True, separator="/")
                else "learned"
            ),
            params,
        )

    moving_average = optax.sgd(1 - momentum)
    return optax.partition({"averaged": moving_average, "learned": optimizer}, labels)
