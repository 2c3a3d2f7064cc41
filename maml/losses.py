"""From a model to a LossFn of one task. `apply(params, inputs)` may come from any library."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from maml._checks import checked
from maml.types import LossFn, Params, RandomKey

Apply = Callable[[Params, PyTree], Array]


def regression(apply: Apply) -> LossFn:
    """Mean squared error:  1/n sum_i ||f(x_i) - y_i||^2,  the mean over every number in y.

    Args:
        apply: `apply(params, inputs) -> predictions`, like the targets in shape.

    Returns:
        A loss of the batch `(inputs, targets)`, with the metric `mse`.

    Raises:
        ValueError: (when traced) predictions and targets differ in shape.

    >>> loss = regression(lambda w, x: w * x)
    >>> value, metrics = loss(2.0, (jnp.ones(3), jnp.zeros(3)), jax.random.key(0))
    >>> float(value)
    4.0
    """

    def loss(params: Params, batch: tuple[PyTree, Array], key: RandomKey) -> tuple[Array, dict]:
        inputs, targets = batch
        predictions = apply(params, inputs)
        if predictions.shape != targets.shape:
            raise ValueError(f"predictions {predictions.shape} for targets {targets.shape}")
        mse = jnp.mean(jnp.square(predictions - targets))
        return mse, {"mse": mse}

    return loss


def classification(apply: Apply) -> LossFn:
    """Mean cross-entropy:  -1/n sum_i log softmax(f(x_i))[y_i].

    Args:
        apply: `apply(params, inputs) -> logits`, `[n, ways]`.

    Returns:
        A loss of the batch `(inputs, labels)`, labels `[n]` in 0 .. ways - 1, with the metrics
        `cross_entropy` (nats) and `accuracy` (a fraction).

    >>> loss = classification(lambda params, x: x)
    >>> logits = jnp.array([[0.0, 0.0], [9.0, 0.0]])
    >>> _, metrics = loss(None, (logits, jnp.array([1, 0])), jax.random.key(0))
    >>> float(metrics["accuracy"])
    0.5
    """

    def loss(params: Params, batch: tuple[PyTree, Array], key: RandomKey) -> tuple[Array, dict]:
        inputs, labels = batch
        logits = apply(params, inputs)
        value = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == labels)
        return value, {"cross_entropy": value, "accuracy": accuracy}

    return loss


def proximal(loss: LossFn, center: Params, strength: float) -> LossFn:
    """A loss with a pull:  L(phi) + strength/2 ||phi - center||^2.

    >>> loss = proximal(lambda w, batch, key: (0.0 * w, {}), center=1.0, strength=3.0)
    >>> float(loss(3.0, None, jax.random.key(0))[0])
    6.0
    """

    def pulled(params: Params, batch: PyTree, key: RandomKey) -> tuple[Array, PyTree]:
        value, metrics = checked(loss)(params, batch, key)
        pull = jax.tree.map(lambda p, c: jnp.sum(jnp.square(p - c)), params, center)
        return value + 0.5 * strength * sum(jax.tree.leaves(pull)), metrics

    return pulled
