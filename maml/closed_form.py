"""Learners whose single step is the closed form of a linear head on learned features.

    phi_1 = theta with the head  argmin_{W, b} L_support(W, b; features(theta, x)),

found at once instead of descended to; further steps find the same. The derivative of L_query(phi_1)
goes through the closed form, so theta learns features in which it generalises. As with ANIL, the
head is a part of the model: a matrix `[features, outputs]` and a bias `[outputs]`, which start as
they were drawn and are never learned.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num, PyTree, Scalar

from maml import tree
from maml.estimators import unrolled
from maml.linear import solve
from maml.types import Algorithm, Batch, Inner, LossFn, Params, RandomKey

Features = Callable[[Params, PyTree], Array]
"""`features(params, inputs) -> [n, features]`: what the head sees."""
Fit = Callable[[Float[Array, "n features"], Num[Array, "n ..."], int], tuple[Array, Array]]
"""`fit(features, targets, outputs) -> (matrix, bias)`."""


def prototypes(
    features: Float[Array, "n features"], labels: Num[Array, " n"], ways: int
) -> tuple[Float[Array, "features ways"], Float[Array, " ways"]]:
    """The head with logits  -||f - c_k||^2 + ||f||^2,  c_k the mean feature of class k.

    The term ||f||^2 is the same for all classes and changes no probability. A class without a
    label is never the answer.
    """
    chosen = jax.nn.one_hot(labels, ways, axis=0, dtype=features.dtype)
    counts = chosen.sum(axis=1)
    centers = chosen @ features / jnp.maximum(counts, 1)[:, None]
    return 2 * centers.T, _if_any(counts, -jnp.sum(jnp.square(centers), axis=1))


def _if_any(counts: Float[Array, " ways"], bias: Array) -> Float[Array, " ways"]:
    return jnp.where(counts > 0, bias, -jnp.inf)


def ridge(
    features: Float[Array, "n features"], targets: Float[Array, "n outputs"], strength: Scalar
) -> Float[Array, "features outputs"]:
    """argmin_W ||F W - Y||^2 + strength ||W||^2, by the smaller of the two normal equations."""
    count, size = features.shape
    if count < size:
        gram = features @ features.T + strength * jnp.eye(count, dtype=features.dtype)
        return features.T @ solve(gram, targets)
    covariance = features.T @ features + strength * jnp.eye(size, dtype=features.dtype)
    return solve(covariance, features.T @ targets)


def _fitted(params: Params, features: Features, head: PyTree[bool], fit: Fit) -> Inner:
    """The inner problem whose step puts the fitted matrix and bias in the head's place."""

    def step(params: Params, batch: Batch, key: RandomKey) -> tuple[Params, dict]:
        inputs, targets = batch
        part, body = tree.partition(params, head)
        outputs = min((leaf.shape for leaf in jax.tree.leaves(part)), key=len)[0]
        matrix, bias = fit(features(params, inputs), targets, outputs)
        placed = jax.tree.map(lambda leaf: matrix if leaf.ndim == 2 else bias, part)
        return tree.combine(placed, body), {}

    return Inner(params, step, lambda params: params)


def _checked(params: Params, head: PyTree[bool]) -> Params:
    """Refuses a head that is not a matrix and a bias.

    Raises:
        ValueError: saying which shapes it has.
    """
    shapes = sorted(leaf.shape for leaf in jax.tree.leaves(tree.partition(params, head)[0]))
    if [len(shape) for shape in sorted(shapes, key=len)] != [1, 2]:
        raise ValueError(f"the head must be one matrix and one bias; got the shapes {shapes}")
    return params


def protonet(loss: LossFn, features: Features, *, head: PyTree[bool]) -> Algorithm:
    """Prototypical networks: the head says which class's mean feature is nearest.

    Args:
        loss: of the whole model, on `(inputs, labels)`; `maml.classification(apply)`.
        features: `(params, inputs) -> [n, features]`, what the model's head sees.
        head: True at the head's matrix and bias.

    Raises:
        ValueError: (from `init`) the head is something else, or the mask of another structure.

    Snell, Swersky, Zemel: Prototypical networks for few-shot learning (NeurIPS 2017).

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

    def learner(theta: Params) -> Inner:
        return _fitted(theta, features, head, prototypes)

    return Algorithm(lambda params: _checked(params, head), learner, unrolled(learner, loss, 1))


class R2D2(NamedTuple):
    """The meta-parameters of `r2d2`.

    Attributes:
        params: of the model.
        log_strength: log of the ridge's strength.
        log_scale: log of the factor of all outputs.
        shift: added to all outputs.
    """

    params: Params
    log_strength: Float[Array, ""]
    log_scale: Float[Array, ""]
    shift: Float[Array, ""]


def r2d2(
    loss: LossFn,
    features: Features,
    *,
    head: PyTree[bool],
    strength: float = 1.0,
    scale: float = 1.0,
) -> Algorithm:
    """Ridge regression as the head:  F W scale + shift,  learning strength, scale and shift too.

        W = argmin ||F W - Y||^2 + strength ||W||^2

    Y are the targets, or one-hot labels where they are integers; a class without a label is never
    the answer.

    Args:
        loss, features, head: as `protonet`'s; also for regression, `maml.regression(apply)`.
        strength: where that of the ridge starts, > 0.
        scale: where the factor of the outputs starts, > 0.

    Raises:
        ValueError: as `protonet`, or a start is not positive.

    Bertinetto, Henriques, Torr, Vedaldi: Meta-learning with differentiable closed-form solvers
    (ICLR 2019).
    """
    if not (strength > 0 and scale > 0):
        raise ValueError(f"strength and scale must be positive; got {strength!r} and {scale!r}")

    def init(params: Params) -> R2D2:
        dtype = jnp.result_type(*jax.tree.leaves(_checked(params, head)))
        starts = jnp.log(jnp.array([strength, scale], dtype))
        return R2D2(params, starts[0], starts[1], jnp.zeros((), dtype))

    def learner(meta: R2D2) -> Inner:
        def fit(seen: Array, targets: Array, outputs: int) -> tuple[Array, Array]:
            bias = jnp.broadcast_to(meta.shift, outputs)
            if jnp.issubdtype(targets.dtype, jnp.integer):
                targets = jax.nn.one_hot(targets, outputs, dtype=seen.dtype)
                bias = _if_any(targets.sum(axis=0), bias)
            matrix = jnp.exp(meta.log_scale) * ridge(seen, targets, jnp.exp(meta.log_strength))
            return matrix, bias

        return _fitted(meta.params, features, head, fit)

    return Algorithm(init, learner, unrolled(learner, loss, 1))
