"""Learners whose single step is the closed form of a linear head on learned features.

    phi_1 = theta with the head  argmin_{W, b} L_support(W, b; features(theta, x)).

The head is computed directly instead of by gradient descent; further steps give the same head. The
derivative of L_query(phi_1) goes through the closed form, so theta learns features with which the
head generalises. As with ANIL, the head is a part of the model: a matrix `[features, outputs]` and
a bias `[outputs]`, whose initial values are not meta-learned.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num, PyTree, Scalar

from maml import rows, tree
from maml._checks import check_callable, check_number
from maml._contracts import check_floating, check_loss, check_mask, check_type
from maml.estimators import unrolled
from maml.linear import solve
from maml.rows import Apply, Weights
from maml.types import Algorithm, Batch, Inner, LossFn, Params, RandomKey

Features = Apply
"""`features(params, inputs) -> [n, features]`, the inputs of the head."""
Fit = Callable[[Float[Array, "n features"], Num[Array, "n ..."], int, Weights], tuple[Array, Array]]
"""`fit(features, targets, outputs, weights) -> (matrix, bias)`."""


def prototypes(
    features: Float[Array, "n features"],
    labels: Num[Array, " n"],
    ways: int,
    weights: Weights = None,
    temperature: float = 1.0,
) -> tuple[Float[Array, "features ways"], Float[Array, " ways"]]:
    """The head with logits  (||f - m||^2 - ||f - c_k||^2) / temperature,  m the mean of all rows.

    The term ||f - m||^2 is the same for all classes and changes no probability; it reduces the
    rounding errors of large features. Means are weighted, and taken in float32 at least. A class
    without a row of positive weight has probability zero.
    """
    features = rows.mask_rows(rows.upcast(features), weights)
    members = _one_hot(labels, ways, weights).T.astype(features.dtype)
    members = members if weights is None else members * weights.astype(features.dtype)
    counts = members.sum(axis=1)
    mean = members.sum(axis=0) @ features / rows.nonzero_divisor(counts.sum())
    centers = members @ (features - mean) / rows.nonzero_divisor(counts)[:, None]
    bias = -jnp.sum(jnp.square(centers), axis=1) - 2 * centers @ mean
    return 2 * centers.T / temperature, _if_any(counts, bias / temperature)


def _one_hot(labels: Array, ways: int, weights: Weights) -> Float[Array, "n ways"]:
    """One-hot labels, NaN for a label that is not a class."""
    labels, valid = rows.check_labels(labels, (len(labels), ways), weights)
    hot = jax.nn.one_hot(labels, ways, dtype=jnp.float32)
    return jnp.where(valid[:, None], hot, jnp.nan)


def _if_any(counts: Float[Array, " ways"], bias: Array) -> Float[Array, " ways"]:
    """The bias, with -inf for classes without rows unless all classes are without rows."""
    return jnp.where((counts > 0) | ~(counts > 0).any(), bias, -jnp.inf)


def ridge(
    features: Float[Array, "n features"],
    targets: Float[Array, "n outputs"],
    regularisation: Scalar,
    weights: Weights = None,
) -> Float[Array, "features outputs"]:
    """The matrix  argmin_W sum_i w_i ||f_i W - y_i||^2 + regularisation ||W||^2.

    It is computed from the smaller of the two systems of normal equations, in float32 at least.
    """
    features, targets = (rows.mask_rows(rows.upcast(x), weights) for x in (features, targets))
    if weights is not None:
        root = jnp.sqrt(rows.nonzero_divisor(weights)) * (weights != 0)
        features, targets = (root.astype(x.dtype)[:, None] * x for x in (features, targets))
    count, size = features.shape
    if count < size:
        gram = features @ features.T + regularisation * jnp.eye(count, dtype=features.dtype)
        return features.T @ solve(gram, targets)
    covariance = features.T @ features + regularisation * jnp.eye(size, dtype=features.dtype)
    return solve(covariance, features.T @ targets)


def _fit_head(params: Params, features: Features, head: PyTree[bool], fit: Fit) -> Inner:
    """The inner problem whose step replaces the head by the fitted matrix and bias.

    The head is kept in float32 at least, so that the fit is not rounded.
    """
    part, body = tree.partition(_check_head(params, head), head)
    part = jax.tree.map(rows.upcast, part)
    size, outputs = next(leaf.shape for leaf in jax.tree.leaves(part) if leaf.ndim == 2)

    def step(params: Params, batch: Batch, key: RandomKey) -> tuple[Params, dict]:
        inputs, targets, weights = rows.unpack(batch)
        head_inputs = rows.outputs(features, params, inputs, weights)
        if head_inputs.shape != (len(targets), size):
            raise ValueError(
                f"the head is a matrix {(size, outputs)}, for features {(len(targets), size)} of"
                f" {len(targets)} rows; got features {head_inputs.shape}"
            )
        matrix, bias = fit(head_inputs, targets, outputs, weights)
        fitted_head = jax.tree.map(
            lambda leaf: (matrix if leaf.ndim == 2 else bias).astype(leaf.dtype), part
        )
        return tree.combine(fitted_head, tree.partition(params, head)[1]), {}

    return Inner(tree.combine(part, body), step, lambda params: params)


def _check_head(params: Params, head: PyTree[bool]) -> Params:
    """The parameters, if the head is a matrix `[features, outputs]` and a bias `[outputs]`.

    Raises:
        ValueError: the head has other leaves, or the mask another structure.
    """
    check_mask(head, params, "head")
    leaves = jax.tree.leaves(tree.partition(params, head)[0])
    shapes = sorted((jnp.shape(leaf) for leaf in leaves), key=len)
    if [len(shape) for shape in shapes] != [1, 2] or shapes[0][0] != shapes[1][1]:
        raise ValueError(f"the head must be one matrix and one bias; got the shapes {shapes}")
    check_floating(params, head, "head")
    return params


def protonet(
    loss: LossFn, features: Features, *, head: PyTree[bool], temperature: float = 1.0
) -> Algorithm:
    """Prototypical networks: the logits are -||f - c_k||^2 / temperature, c_k the mean of class k.

    Args:
        loss: Loss of the whole model on `(inputs, labels)` or `(inputs, labels, weights)`, such as
            `maml.classification(apply)`.
        features: Function `features(params, inputs) -> [n, features]` that returns the inputs of
            the model's head. It gets rows of weight 0 as copies of a row of positive weight, unless
            it has a parameter `weights`.
        head: Tree of bools, True at the matrix and the bias of the head.
        temperature: Number by which squared distances are divided, finite and > 0.

    Returns:
        The algorithm, whose meta-parameters are the parameters of the model.

    Raises:
        ValueError: `loss` or `features` is not a function of its arguments; the temperature is not
            finite and > 0; (from `init` and the learner) the head is not a matrix and a bias, or
            the mask has another structure; (when traced) the features do not fit the head, or there
            is not one label for each row.

    Snell, Swersky, Zemel: Prototypical networks for few-shot learning (NeurIPS 2017),
    https://arxiv.org/abs/1703.05175

    >>> from maml import classification
    >>> model = {"kernel": jnp.zeros((1, 2)), "bias": jnp.zeros(2)}
    >>> loss = classification(lambda params, x: x @ params["kernel"] + params["bias"])
    >>> head = {"kernel": True, "bias": True}
    >>> inner = protonet(loss, lambda params, x: x, head=head).learner(model)
    >>> points = jnp.array([[0.0], [1.0]]), jnp.array([1, 0])
    >>> fitted, _ = inner.step(inner.state, points, jax.random.key(0))
    >>> float(loss(fitted, points, jax.random.key(0))[1]["accuracy"])
    1.0
    """
    check_loss(loss)
    check_callable(features, "features", "params, inputs")
    check_number(temperature, "temperature", above=0)

    def learner(theta: Params) -> Inner:
        return _fit_head(theta, features, head, partial(prototypes, temperature=temperature))

    return Algorithm(lambda params: _check_head(params, head), learner, unrolled(learner, loss, 1))


class R2D2Params(NamedTuple):
    """The meta-parameters of `r2d2`.

    Attributes:
        params: Parameters of the model.
        log_regularisation: Logarithm of the regularisation of the ridge regression, a scalar.
        log_scale: Logarithm of the factor of all outputs, a scalar.
        shift: Number added to all outputs, a scalar.
    """

    params: Params
    log_regularisation: Float[Array, ""]
    log_scale: Float[Array, ""]
    shift: Float[Array, ""]


def r2d2(
    loss: LossFn,
    features: Features,
    *,
    head: PyTree[bool],
    regularisation: float = 1.0,
    scale: float = 1.0,
) -> Algorithm:
    """R2-D2, ridge regression as the head:  F W scale + shift,  with learned hyperparameters.

        W = argmin sum_i w_i ||f_i W - y_i||^2 + regularisation ||W||^2

    The y_i are rows of the targets `[n, outputs]`, or one-hot labels where the targets are integers
    `[n]`; a class without a row of positive weight has probability zero. The w_i are the weights of
    the batch, or 1. Regularisation, scale and shift are learned.

    Args:
        loss, features, head: As in `protonet`; the loss may be `maml.regression(apply)` as well.
        regularisation: Initial regularisation of the ridge regression, finite and > 0.
        scale: Initial factor of the outputs, finite and > 0.

    Returns:
        The algorithm, with meta-parameters `R2D2Params`.

    Raises:
        ValueError: as `protonet`, an initial value is not positive and finite, or (when traced) the
            targets are neither integers `[n]` nor floating-point `[n, outputs]`.

    Bertinetto, Henriques, Torr, Vedaldi: Meta-learning with differentiable closed-form solvers
    (ICLR 2019), https://arxiv.org/abs/1805.08136
    """
    check_loss(loss)
    check_callable(features, "features", "params, inputs")
    check_number(regularisation, "regularisation", above=0)
    check_number(scale, "scale", above=0)

    def init(params: Params) -> R2D2Params:
        leaves = jax.tree.leaves(tree.partition(_check_head(params, head), head)[0])
        dtype = jnp.result_type(*map(rows.upcast, leaves))
        starts = jnp.log(jnp.array([regularisation, scale], dtype))
        return R2D2Params(params, starts[0], starts[1], jnp.zeros_like(starts[0]))

    def learner(meta: R2D2Params) -> Inner:
        check_type(meta, R2D2Params)

        def fit(
            inputs: Array, targets: Array, outputs: int, weights: Weights
        ) -> tuple[Array, Array]:
            bias = jnp.broadcast_to(meta.shift, outputs)
            if jnp.issubdtype(targets.dtype, jnp.floating):
                if targets.shape != (len(inputs), outputs):
                    raise ValueError(
                        f"targets must be {[len(inputs), outputs]}, or labels, integers"
                        f" {[len(inputs)]}; got {targets.dtype}{list(targets.shape)}"
                    )
            else:
                targets = _one_hot(targets, outputs, weights)
                counts = targets if weights is None else targets * weights[:, None]
                bias = _if_any(counts.sum(axis=0), bias)
            regularisation, scale = jnp.exp(meta.log_regularisation), jnp.exp(meta.log_scale)
            return scale * ridge(inputs, targets, regularisation, weights), bias

        return _fit_head(meta.params, features, head, fit)

    return Algorithm(init, learner, unrolled(learner, loss, 1))
