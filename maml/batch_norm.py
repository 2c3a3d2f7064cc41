"""Batch normalisation of few-shot episodes, for any model.

Results of few-shot learning depend on the rows whose statistics normalise the query set. The
support set is always normalised by its own statistics, and the query set by those of

* `transductive`: the query set, as in MAML's code; predictions then depend on the other queries,
* `support`: the support set, at the same parameters (inductive).

A third mode, running averages, needs a model that stores them; `tasks.batch_norm` of a checkout and
the guide to batch normalisation show one.
"""

from typing import Any, Literal, Protocol, get_args, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from maml._checks import check_callable, check_count, check_number
from maml._returns import as_array
from maml.rows import (
    Apply,
    Weights,
    check_weights,
    mask_rows,
    nonzero_divisor,
    replace_unweighted,
    upcast,
)
from maml.sampling import Query
from maml.types import Params

Mode = Literal["transductive", "support"]
Reference = int | Float[Array, " n"] | None
"""Rows whose statistics are used: a number of leading rows, all rows (None), or weights `[n]`."""


@runtime_checkable
class BatchNormModel(Protocol):
    """A model whose batch normalisation takes its statistics from given rows."""

    def __call__(self, params: Params, inputs: Array, /, *, reference: Reference = None) -> Any:
        """Outputs of the model, `[n, ...]`."""
        ...


def few_shot_apply(apply: BatchNormModel, mode: Mode = "transductive") -> Apply:
    """A model that takes support sets and a `Query`, normalised according to the mode.

    Args:
        apply: Model `apply(params, inputs, reference=None) -> outputs`, which passes `reference`
            to its batch normalisations, see `batch_normalise`.
        mode: Set whose statistics normalise a query set, "transductive" or "support".

    Returns:
        The model `apply(params, inputs or Query, weights=None) -> outputs`, for
        `maml.classification`.

    Raises:
        ValueError: `mode` has another value.
    """
    check_callable(apply, "apply", "params, inputs", "reference" if mode == "support" else "")
    if mode not in get_args(Mode):
        raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}; got {mode!r}")

    def run(params: Params, inputs: Array, **reference: Any) -> Array:
        return as_array(apply(params, inputs, **reference), "apply")

    def few_shot(params: Params, inputs: Array | Query, weights: Weights = None) -> Array:
        if not isinstance(inputs, Query):
            return run(params, replace_unweighted(inputs, weights), **reference_rows(weights))
        query = replace_unweighted(inputs.inputs, weights)
        if mode == "transductive":
            return run(params, query, **reference_rows(weights))
        rows = len(inputs.support)
        support_weights = check_weights(inputs.support_weights, rows)
        joined = jnp.concatenate([replace_unweighted(inputs.support, support_weights), query])
        if support_weights is None:
            return run(params, joined, reference=rows)[rows:]
        return run(params, joined, reference=jnp.pad(support_weights, (0, len(query))))[rows:]

    return few_shot


def reference_rows(weights: Weights) -> dict[str, Any]:
    """The keyword argument `reference` of a model for weighted rows, or none without weights."""
    return {} if weights is None else {"reference": weights}


def batch_normalise(
    x: Float[Array, "n *rest channels"], *, reference: Reference = None, epsilon: float = 1e-3
) -> Float[Array, "n *rest channels"]:
    """Batch normalisation without scale and bias:  (x - mean) / sqrt(var + epsilon).

    Mean and (biased) variance of each channel are computed in float32 at least.

    Args:
        x: Activations `[n, ..., channels]`.
        reference: Rows whose statistics are used: the number of leading rows, a weight for each
            row, or None for all rows.
        epsilon: Constant added to the variance; the default is that of MAML's code.

    Returns:
        The normalised activations, in the type of `x`.

    Raises:
        ValueError: there are fewer rows than reference rows, or not one weight for each row.

    Ioffe, Szegedy: Batch normalization (ICML 2015), https://arxiv.org/abs/1502.03167

    >>> batch_normalise(jnp.array([[1.0], [3.0]]), epsilon=0.0).tolist()
    [[-1.0], [1.0]]
    """
    dtype = getattr(x, "dtype", type(x))
    if jnp.ndim(x) < 2 or not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"x must be floating-point [n, ..., channels]; got {dtype}{jnp.shape(x)}")
    check_number(epsilon, "epsilon", least=0)
    rows, weights = parse_reference(reference, x.shape[0])
    exact = upcast(x)
    mean, var = moments(exact[:rows], weights, covariance=False)
    return ((exact - mean) * jax.lax.rsqrt(var + epsilon)).astype(x.dtype)


def moments(
    x: Float[Array, "n *rest channels"], weights: Weights, *, covariance: bool
) -> tuple[Float[Array, " channels"], Float[Array, "*_"]]:
    """Mean and (biased) variance of each channel, over all axes but the last.

    Args:
        x: Rows of numbers, `[n, ..., channels]`; rows of weight 0 may contain any values.
        weights: Weight of each row, `[n]`; None is 1 for every row.
        covariance: Whether the covariance of the channels is computed instead of their variances.

    Returns:
        The means, `[channels]`, and the variances, `[channels]`, or the covariance,
        `[channels, channels]`.
    """
    axes, channels = tuple(range(x.ndim - 1)), x.shape[-1]
    if weights is None:
        mean = x.mean(axes)
        if not covariance:
            return mean, x.var(axes)
        centered = (x - mean).reshape(-1, channels)
        return mean, centered.T @ centered / centered.shape[0]
    positions = x[0].size // channels
    share = (weights / nonzero_divisor(weights.sum() * positions)).astype(x.dtype)
    share = share.reshape(-1, *[1] * (x.ndim - 1))
    mean = jnp.sum(share * mask_rows(x, weights), axes)
    centered = mask_rows(x - mean, weights)
    if not covariance:
        return mean, jnp.sum(share * jnp.square(centered), axes)
    return mean, (share * centered).reshape(-1, channels).T @ centered.reshape(-1, channels)


def parse_reference(reference: Reference, rows: int) -> tuple[int | None, Weights]:
    """The number of leading rows and the weights of a reference, of which one or both are None.

    Raises:
        ValueError: there are no rows, fewer rows than reference rows, or not one weight for each.
    """
    check_count(rows, least=1, of="rows")
    if isinstance(reference, jax.Array | np.ndarray):
        return None, check_weights(reference, rows)
    if reference is not None:
        check_count(reference, least=1, of="reference rows")
        if reference > rows:
            raise ValueError(f"{reference} reference rows need as many rows; got {rows}")
    return reference, None
