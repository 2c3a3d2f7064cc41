"""The batch-norm modes of `maml.batch_norm` for flax modules, and running averages beside them.

In the mode `running` a query set is evaluated with averages over meta-training. During
meta-training it is normalised by its own statistics, which are recorded, as in the train and eval
modes of every framework.

Running averages r are meta-parameters with an objective of their own, 1/2 ||r - observed||^2, so
gradient descent with rate 1 - momentum is the moving average, and nothing else has to know of it.
(Reptile does not learn from query sets, and so would never record: it has no `running` mode.)

Rows with weights, as in `maml.rows`, count as much as those in all statistics.
"""

from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, PyTree

from maml import LossFn, batch_norm, classification
from maml.batch_norm import reference_rows
from maml.rows import Apply, Weights, replaced, unpack
from maml.sampling import Query
from maml.types import Batch, Params, RandomKey

Mode = Literal["transductive", "support", "running"]
STATISTICS = "batch_stats"


def few_shot_apply(
    model: nn.Module, mode: Mode, *, evaluating: bool = False, features: bool = False
) -> Apply:
    """Logits of a model whose batch normalisation takes the mode's statistics.

    Args:
        model: called as `model(images, reference=..., running=...)`; `track` is set for `running`.
        mode: whose statistics normalise a query set, see above.
        evaluating: in the mode `running`, use the averages.
        features: give what the head sees instead of the logits.

    Returns:
        `apply(variables, images or Query, weights=None) -> logits`, weights of the rows that logits
        are for.

    Raises:
        ValueError: there is no such mode, or the model does not track what it asks for.
    """
    if mode not in get_args(Mode):
        raise ValueError(f"batch norm is one of {', '.join(get_args(Mode))}; got {mode!r}")
    if (mode == "running") != getattr(model, "track", False):
        raise ValueError(f"batch norm {mode!r} needs a model with track={mode == 'running'}")

    options: dict[str, Any] = {"features": True} if features else {}
    run = partial(model.apply, **options)
    if mode != "running":
        return batch_norm.few_shot_apply(run, mode)

    def apply(variables: Params, inputs: Array | Query, weights: Weights = None) -> Array:
        query = isinstance(inputs, Query)
        rows = replaced(inputs.inputs if query else inputs, weights)
        statistics = reference_rows(weights)
        return jnp.asarray(run(variables, rows, running=query and evaluating, **statistics))

    return apply


def few_shot_loss(model: nn.Module, mode: Mode, *, evaluating: bool = False) -> LossFn:
    """Cross-entropy of `few_shot_apply`, with the objective of the running averages.

    Args:
        model: see `few_shot_apply`.
        mode: whose statistics normalise a query set, see above.
        evaluating: use the running averages instead of recording them.

    Returns:
        A loss of `(images, labels)`, a support set, or of `(Query, labels)`; weights of the rows
        may be a third member.

    Raises:
        ValueError: as `few_shot_apply`.
    """
    loss = classification(few_shot_apply(model, mode, evaluating=evaluating))

    def recording(variables: Params, batch: Batch, key: RandomKey) -> tuple[Array, PyTree]:
        inputs, labels, weights = unpack(batch)
        if not isinstance(inputs, Query):
            return loss(variables, batch, key)
        images = replaced(inputs.inputs, weights)
        logits, observed = model.apply(
            variables, images, mutable=STATISTICS, **reference_rows(weights)
        )
        judge = classification(lambda _, logits: logits)
        value, metrics = judge(None, (logits, labels, weights), key)
        return value + _distance(variables[STATISTICS], observed[STATISTICS]), metrics

    return recording if mode == "running" and not evaluating else loss


def _distance(averages: PyTree, observed: PyTree) -> Array:
    squares = jax.tree.map(
        lambda r, seen: 0.5 * jnp.sum(jnp.square(r - jax.lax.stop_gradient(seen))),
        averages,
        observed,
    )
    return jnp.asarray(sum(jax.tree.leaves(squares)))


def averaging(
    optimizer: optax.GradientTransformation, momentum: float
) -> optax.GradientTransformation:
    """The optimiser, with running averages  r <- momentum r + (1 - momentum) observed.

    Args:
        optimizer: of every other leaf.
        momentum: of the moving average over meta-steps, in [0, 1).

    Raises:
        ValueError: the momentum is outside.
    """
    if not 0 <= momentum < 1:
        raise ValueError(f"the momentum of an average must be in [0, 1); got {momentum!r}")

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
