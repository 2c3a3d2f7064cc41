"""The rows of a batch and their weights.

A batch is `(inputs, targets)` or `(inputs, targets, weights)`, with weights `[n]` that are bools or
numbers >= 0. A row of weight 2 counts as two rows. A row of weight 0 affects no value and no
derivative, whatever it contains. Episodes of unequal size are padded to one shape with rows of
weight 0.

To mask the result is not enough, since 0 x NaN is NaN in the derivative; therefore the inputs of
rows of weight 0 are replaced.
"""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Integer, PyTree

from maml._leaves import is_number
from maml._returns import as_array
from maml.types import Batch, Params

Apply = Callable[[Params, PyTree], Array]
"""`apply(params, inputs) -> outputs`, or `apply(params, inputs, weights=None)` for a model whose
layers take statistics over the rows, such as batch normalisation."""
Weights = Float[Array, " n"] | None
MISTAKEN = (
    "Where a batch of tasks, [task, point, ...], is expected, the points of an episode of ONE task"
    " are mistaken for tasks; an episode with a task axis, or drawn by maml.batch_tasks, would work"
)


def unpack(batch: Batch) -> tuple[PyTree, Array, Weights]:
    """Inputs, targets and weights of a batch; weights of None are 1 for every row.

    Raises:
        ValueError: the batch has another structure, no rows, inputs of which no array has the rows
            of the targets, or weights that `check_weights` refuses.
    """
    if not (isinstance(batch, tuple | list) and len(batch) in (2, 3)):
        got = f"{len(batch)} members" if isinstance(batch, tuple | list) else type(batch).__name__
        raise ValueError(f"a batch is (inputs, targets) or (inputs, targets, weights); got {got}")
    inputs, targets, weights = (*batch, None)[:3]
    if not isinstance(targets, np.ndarray | jax.Array | np.generic | int | float):
        raise ValueError(f"targets must be an array; got {type(targets).__name__}")
    if not is_number(targets):
        raise ValueError(f"targets must be an array of numbers; got {targets!r:.99}")
    targets = jnp.asarray(targets)
    if targets.ndim == 0:
        raise ValueError(f"targets must have a row for each point; got one number. {MISTAKEN}")
    if targets.shape[0] == 0:
        raise ValueError(f"a batch needs at least one row; got targets of {list(targets.shape)}")
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(inputs)]
    if shapes and all(shape[:1] != targets.shape[:1] for shape in shapes):
        raise ValueError(
            "inputs must have as many rows as targets; got the shapes"
            f" {', '.join(map(str, shapes))} for targets {list(targets.shape)}. {MISTAKEN}"
        )
    return inputs, targets, check_weights(weights, len(targets))


def check_weights(weights: Any, rows: int) -> Weights:
    """The weights in float32 at least; a negative weight that is traced becomes NaN.

    Raises:
        ValueError: the weights are not one number for each row, finite and >= 0.
    """
    if weights is None:
        return None
    kinds = jnp.bool_, jnp.integer, jnp.floating
    if not isinstance(weights, np.ndarray | jax.Array) or not any(
        jnp.issubdtype(weights.dtype, kind) for kind in kinds
    ):
        raise ValueError(f"weights must be an array of bools or real numbers; got {weights!r}")
    if weights.shape != (rows,):
        raise ValueError(f"weights must be {[rows]}, one a row; got {list(weights.shape)}")
    if not isinstance(weights, Tracer):
        invalid = np.flatnonzero(~(np.isfinite(weights) & (np.asarray(weights) >= 0)))
        if invalid.size:
            raise ValueError(
                f"weights must be finite and >= 0; got {weights[invalid[0]]} at row {invalid[0]}"
            )
    weights = upcast(weights)
    return jnp.where(weights >= 0, weights, jnp.nan)


def upcast(x: Any) -> Array:
    """The array in float32 at least, for sums and differences.

    >>> upcast(jnp.ones(2, jnp.bfloat16)).dtype, upcast(jnp.arange(2)).dtype
    (dtype('float32'), dtype('float32'))
    """
    return jnp.asarray(x, jnp.promote_types(jnp.result_type(x, 0.0), jnp.float32))


def outputs(apply: Apply, params: Params, inputs: PyTree, weights: Weights) -> Array:
    """The outputs of a model, on which rows of weight 0 have no effect.

    A model with a parameter `weights` that is not one of its first two gets the weights and the
    unchanged inputs. Any other model gets inputs in which rows of weight 0 are replaced by a row of
    positive weight.

    Args:
        apply: Model, `apply(params, inputs)` or `apply(params, inputs, weights=None)`.
        params: Parameters of the model.
        inputs: Inputs, a tree of arrays `[n, ...]`.
        weights: Weights `[n]`; None is 1 for every row.

    Returns:
        The outputs, `[n, ...]`.
    """
    if weights is None:
        return as_array(apply(params, inputs), "apply")
    if _takes_weights(apply):
        return as_array(apply(params, inputs, weights=weights), "apply")  # pyright: ignore[reportCallIssue]
    return as_array(apply(params, replace_unweighted(inputs, weights)), "apply")


def _takes_weights(apply: Apply) -> bool:
    """Whether `weights` is a keyword parameter, and not one of the first two parameters.

    A model may call its parameters, the first argument, `weights`.
    """
    try:
        parameter = inspect.signature(apply).parameters.get("weights")
        leading = [*inspect.signature(apply).parameters][:2]
    except (TypeError, ValueError):  # some built-in functions have no signature
        return False
    if parameter is None or parameter.kind is parameter.KEYWORD_ONLY:
        return parameter is not None
    return parameter.kind is parameter.POSITIONAL_OR_KEYWORD and "weights" not in leading


def replace_unweighted(inputs: PyTree, weights: Weights) -> PyTree:
    """The inputs, with each row of weight 0 replaced by a row of positive weight.

    Only leaves `[n, ...]` are changed. Zeros would suffice for most models, but not for those that
    divide by the norm of their input. If all weights are 0, all rows become ones.

    >>> replace_unweighted(jnp.array([1.0, jnp.nan, 3.0]), jnp.array([0.0, 0.0, 1.0])).tolist()
    [3.0, 3.0, 3.0]
    """
    if weights is None:
        return inputs
    positive = weights != 0

    def replace(leaf: Any) -> Any:
        if jnp.shape(leaf)[:1] != positive.shape or jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            return leaf
        leaf = jnp.asarray(leaf)
        substitute = jnp.where(positive.any(), leaf[jnp.argmax(positive)], 1)
        return jnp.where(_column(positive, leaf), leaf, substitute)

    return jax.tree.map(replace, inputs)


def mask_rows(values: Array, weights: Weights) -> Array:
    """The values `[n, ...]`, with zeros in the rows of weight 0."""
    return values if weights is None else jnp.where(_column(weights != 0, values), values, 0)


def weighted_mean(values: Array, weights: Weights) -> Array:
    """The mean  sum_i w_i v_i / sum_i w_i,  with v_i the mean of row i; 0 if all weights are 0.

    >>> float(weighted_mean(jnp.array([1.0, 2.0, jnp.inf]), jnp.array([3.0, 1.0, 0.0])))
    1.25
    """
    if weights is None:
        return jnp.mean(values)
    rows = mask_rows(values, weights).mean(tuple(range(1, values.ndim)))
    weights = weights.astype(rows.dtype)
    return jnp.sum(weights * rows) / nonzero_divisor(weights.sum())


def metric_or_nan(value: Array, weights: Weights) -> Array:
    """A mean for the metrics: NaN if all weights are 0."""
    return value if weights is None else jnp.where(weights.any(), value, jnp.nan)


def nonzero_divisor(divisor: Array) -> Array:
    """The divisor, with 1 in the place of 0."""
    return jnp.where(divisor == 0, 1, divisor)


def check_labels(
    labels: Array, shape: tuple[int, ...], weights: Weights
) -> tuple[Integer[Array, "*rows"], Bool[Array, "*rows"]]:
    """The labels, with 0 in rows of weight 0, and a mask of the labels in range.

    A traced label out of range cannot be refused. The caller should turn its value and derivative
    into NaN, so that it does not count as another class.

    Args:
        labels: Integers in 0 .. ways - 1, `[*rows]`.
        shape: Shape of the logits, `[*rows, ways]`.
        weights: Weights of the rows, or None.

    Returns:
        The labels and the mask of those in range, `[*rows]` each.

    Raises:
        ValueError: there are fewer than two ways, the labels are not one integer for each row, or
            a label of a row of positive weight is out of range and not traced.
    """
    *expected, ways = shape
    got = f"{labels.dtype}{list(labels.shape)}"
    if not expected or ways < 2:
        raise ValueError(
            f"labels need at least 2 classes, with one output for each; got {got} for outputs"
            f" {list(shape)} (targets of a regression must be floating-point)"
        )
    if labels.shape == shape:
        raise ValueError(
            f"labels must be {expected}; got {got}: their jnp.argmax over the last axis would work"
        )
    if not jnp.issubdtype(labels.dtype, jnp.integer) or labels.shape != shape[:-1]:
        raise ValueError(f"labels must be integers {expected}, in 0 .. {ways - 1}; got {got}")
    if labels.dtype.itemsize < 4:  # uint8 cannot be compared with 300 ways
        labels = labels.astype(jnp.int32)
    labels = mask_rows(labels, weights)
    valid = (labels >= 0) & (labels < ways)
    if not isinstance(valid, Tracer) and not valid.all():
        raise ValueError(f"labels must be in 0 .. {ways - 1}; got {labels[~valid][0]}")
    return labels, valid


def _column(rows: Array, values: Array) -> Array:
    return rows.reshape(-1, *[1] * (values.ndim - 1))
