"""From a model to a LossFn of one task. `apply(params, inputs)` may come from any library."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from maml import rows
from maml._checks import check_callable, check_number
from maml._contracts import check_loss, check_shapes, checked, is_inexact
from maml.rows import Apply
from maml.types import Batch, LossFn, Params, RandomKey


def regression(apply: Apply) -> LossFn:
    """Mean squared error:  1/n sum_i ||f(x_i) - y_i||^2,  the mean over every number in y.

    With weights it is  sum_i w_i ||f(x_i) - y_i||^2 / sum_i w_i.  Where all weights are zero the
    loss is 0, with a derivative of zero, and the metric NaN. Differences are taken in float32 at
    least.

    Args:
        apply: `apply(params, inputs) -> predictions`, like the targets in shape. Rows of weight 0
            are shown to it as copies of a row that counts, unless it has a parameter `weights`.

    Returns:
        A loss of the batch `(inputs, targets)` or `(inputs, targets, weights)`, weights `[n]`, with
        the metric `mse`.

    Raises:
        ValueError: `apply` is no function of `(params, inputs)`, or (when traced) predictions and
            targets differ in shape, predictions are not floating-point, or the batch is another.

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
            raise ValueError(f"predictions {predictions.shape} for targets {targets.shape}")
        if not is_inexact(predictions):
            raise ValueError(f"predictions must be floating-point; got {predictions.dtype}")
        if jnp.iscomplexobj(targets) and not jnp.iscomplexobj(predictions):
            raise ValueError(f"complex targets need complex predictions; got {predictions.dtype}")
        error = rows.masked(rows.wide(predictions) - rows.wide(targets), weights)
        mse = rows.mean(_squared(error), weights)
        return mse, {"mse": rows.metric(mse, weights)}

    return loss


def classification(apply: Apply) -> LossFn:
    """Mean cross-entropy:  -1/n sum_i log softmax(f(x_i))[y_i].

    With weights it is  -sum_i w_i log softmax(f(x_i))[y_i] / sum_i w_i,  and so is the accuracy.
    Where all weights are zero the loss is 0, with a derivative of zero, and the metrics are NaN.
    Both are computed in float32 at least. A label that is out of range is no class: it is refused
    or, where it is traced, makes loss and derivative NaN. A row whose logits are NaN is a wrong
    answer.

    Args:
        apply: `apply(params, inputs) -> logits`, `[n, ways]`. Rows of weight 0 are shown to it as
            copies of a row that counts, unless it has a parameter `weights`.

    Returns:
        A loss of the batch `(inputs, labels)` or `(inputs, labels, weights)`, labels `[n]` in
        0 .. ways - 1, weights `[n]`, with the metrics `cross_entropy` (nats) and `accuracy` (a
        fraction).

    Raises:
        ValueError: `apply` is no function of `(params, inputs)`, or (when traced) the labels are
            not one integer a row, or out of range, there are fewer than two logits a row, or the
            batch is another.

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
        labels, valid = rows.classes(labels, logits.shape, weights)
        if not jnp.issubdtype(logits.dtype, jnp.floating):
            raise ValueError(f"logits must be floating-point; got {logits.dtype}")
        logits = rows.masked(rows.wide(logits), weights)
        surprise = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
        right = (jnp.argmax(logits, axis=-1) == labels) & ~jnp.isnan(surprise)
        nan = jnp.float32(jnp.nan)
        # A factor makes NaN of the derivative too.
        value = rows.mean(surprise * jnp.where(valid, 1, nan), weights)
        accuracy = rows.mean(jnp.where(valid, right, nan), weights)
        metrics = {"cross_entropy": value, "accuracy": accuracy}
        return value, {name: rows.metric(mean, weights) for name, mean in metrics.items()}

    return loss


def proximal(loss: LossFn, center: Params, regularisation: float) -> LossFn:
    """A loss with a pull:  L(phi) + regularisation/2 ||phi - center||^2.

    The pull is summed in float32 at least, with |.|^2 of complex numbers; counters and other leaves
    that are not floating-point are not pulled.

    Args:
        loss: `(params, batch, key) -> (scalar, metrics)`.
        center: Parameters that the loss pulls towards.
        regularisation: Factor of half the squared distance, finite and >= 0.

    Returns:
        The loss with the pull added, and its metrics.

    Raises:
        ValueError: the regularisation is negative, `loss` is no loss, or (when traced) the
            parameters have other shapes than the centre.

    >>> loss = proximal(lambda w, batch, key: (0.0 * w, {}), center=1.0, regularisation=3.0)
    >>> float(loss(3.0, None, jax.random.key(0))[0])
    6.0
    """
    check_loss(loss)
    check_number(regularisation, "regularisation", least=0)

    def pulled(params: Params, batch: Batch, key: RandomKey) -> tuple[Array, PyTree]:
        check_shapes(center, params, "centre")
        value, metrics = checked(loss)(params, batch, key)
        pull = [
            jnp.sum(_squared(rows.wide(p) - rows.wide(c)))
            for p, c in zip(jax.tree.leaves(params), jax.tree.leaves(center), strict=True)
            if is_inexact(p)
        ]
        return value + 0.5 * regularisation * sum(pull), metrics

    return pulled


def _squared(x: Array) -> Array:
    return (x * x.conj()).real if jnp.iscomplexobj(x) else jnp.square(x)
