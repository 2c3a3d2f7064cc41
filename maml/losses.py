"""Losses of one task made from a model `apply(params, inputs)`, which may come from any library."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from maml import rows
from maml._checks import check_callable, check_number
from maml._contracts import check_loss, check_shapes
from maml._leaves import is_inexact
from maml._returns import checked_loss
from maml.rows import Apply
from maml.types import Batch, LossFn, Params, RandomKey


def regression(apply: Apply) -> LossFn:
    """Mean squared error:  1/n sum_i ||f(x_i) - y_i||^2,  the mean over every number in y.

    With weights it is  sum_i w_i ||f(x_i) - y_i||^2 / sum_i w_i.  If all weights are zero, the loss
    and its derivative are 0 and the metric is NaN. Differences are computed in float32 at least.

    Args:
        apply: Model `apply(params, inputs) -> predictions`, with predictions in the shape of the
            targets. It gets rows of weight 0 as copies of a row of positive weight, unless it has a
            parameter `weights`.

    Returns:
        A loss of the batch `(inputs, targets)` or `(inputs, targets, weights)`, weights `[n]`, with
        the metric `mse`.

    Raises:
        ValueError: `apply` is not a function of `(params, inputs)`, or (when traced) predictions
            and targets differ in shape, predictions are not floating-point, or the batch has
            another structure.

    >>> loss = regression(lambda w, x: w * x)
    >>> value, metrics = loss(2.0, (jnp.ones(3), jnp.zeros(3)), jax.random.key(0))
    >>> float(value)
    4.0
    """
    check_callable(apply, "apply", "params, inputs")

    def loss(params: Params, batch: Batch, key: RandomKey) -> tuple[Array, dict]:
        inputs, targets, weights = rows.unpack(batch)
        predictions = rows.outputs(apply, params, inputs, weights)
        if predictions.shape != targets.shape:
            raise ValueError(
                f"predictions must have the shape of the targets, {targets.shape}; got"
                f" {predictions.shape}"
            )
        if not is_inexact(predictions):
            raise ValueError(f"predictions must be floating-point; got {predictions.dtype}")
        if jnp.iscomplexobj(targets) and not jnp.iscomplexobj(predictions):
            raise ValueError(f"complex targets need complex predictions; got {predictions.dtype}")
        error = rows.mask_rows(rows.upcast(predictions) - rows.upcast(targets), weights)
        mse = rows.weighted_mean(_squared(error), weights)
        return mse, {"mse": rows.metric_or_nan(mse, weights)}

    return loss


def classification(apply: Apply) -> LossFn:
    """Mean cross-entropy:  -1/n sum_i log softmax(f(x_i))[y_i].

    With weights it is  -sum_i w_i log softmax(f(x_i))[y_i] / sum_i w_i,  and the accuracy is a
    weighted mean as well. If all weights are zero, the loss and its derivative are 0 and the
    metrics are NaN. Loss and accuracy are computed in float32 at least. A label out of range is
    refused or, if it is traced, makes the loss and its derivative NaN. A row with logits of NaN
    counts as a wrong answer.

    Args:
        apply: Model `apply(params, inputs) -> logits`, `[n, ways]`. It gets rows of weight 0 as
            copies of a row of positive weight, unless it has a parameter `weights`.

    Returns:
        A loss of the batch `(inputs, labels)` or `(inputs, labels, weights)`, labels `[n]` in
        0 .. ways - 1, weights `[n]`, with the metrics `cross_entropy` (nats) and `accuracy` (a
        fraction).

    Raises:
        ValueError: `apply` is not a function of `(params, inputs)`, or (when traced) the labels are
            out of range or not one integer a row, there are fewer than two logits a row, or the
            batch has another structure.

    >>> loss = classification(lambda params, x: x)
    >>> logits = jnp.array([[0.0, 0.0], [9.0, 0.0]])
    >>> _, metrics = loss(None, (logits, jnp.array([1, 0])), jax.random.key(0))
    >>> float(metrics["accuracy"])
    0.5
    """
    check_callable(apply, "apply", "params, inputs")

    def loss(params: Params, batch: Batch, key: RandomKey) -> tuple[Array, dict]:
        inputs, labels, weights = rows.unpack(batch)
        logits = rows.outputs(apply, params, inputs, weights)
        labels, valid = rows.check_labels(labels, logits.shape, weights)
        if not jnp.issubdtype(logits.dtype, jnp.floating):
            raise ValueError(f"logits must be floating-point; got {logits.dtype}")
        logits = rows.mask_rows(rows.upcast(logits), weights)
        cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
        correct = (jnp.argmax(logits, axis=-1) == labels) & ~jnp.isnan(cross_entropy)
        nan = jnp.float32(jnp.nan)
        # A factor of NaN makes the derivative NaN as well.
        value = rows.weighted_mean(cross_entropy * jnp.where(valid, 1, nan), weights)
        accuracy = rows.weighted_mean(jnp.where(valid, correct, nan), weights)
        metrics = {"cross_entropy": value, "accuracy": accuracy}
        return value, {name: rows.metric_or_nan(mean, weights) for name, mean in metrics.items()}

    return loss


def proximal(loss: LossFn, center: Params, regularisation: float) -> LossFn:
    """A loss with a proximal term:  L(phi) + regularisation/2 ||phi - center||^2.

    The term is summed in float32 at least, with |.|^2 of complex numbers; counters and other leaves
    that are not floating-point are left out.

    Args:
        loss: Loss L, `(params, batch, key) -> (scalar, metrics)`.
        center: Centre of the proximal term, a tree like the parameters.
        regularisation: Factor of half the squared distance, finite and >= 0.

    Returns:
        The loss with the proximal term added; its metrics are those of `loss`.

    Raises:
        ValueError: the regularisation is negative, `loss` is not a loss, or (when traced) the
            parameters have other shapes than the centre.

    >>> loss = proximal(lambda w, batch, key: (0.0 * w, {}), center=1.0, regularisation=3.0)
    >>> float(loss(3.0, None, jax.random.key(0))[0])
    6.0
    """
    check_loss(loss)
    check_number(regularisation, "regularisation", least=0)

    def proximal_loss(params: Params, batch: Batch, key: RandomKey) -> tuple[Array, PyTree]:
        check_shapes(center, params, "centre")
        value, metrics = checked_loss(loss)(params, batch, key)
        distances = [
            jnp.sum(_squared(rows.upcast(p) - rows.upcast(c)))
            for p, c in zip(jax.tree.leaves(params), jax.tree.leaves(center), strict=True)
            if is_inexact(p)
        ]
        return value + 0.5 * regularisation * sum(distances), metrics

    return proximal_loss


def _squared(x: Array) -> Array:
    return (x * x.conj()).real if jnp.iscomplexobj(x) else jnp.square(x)
