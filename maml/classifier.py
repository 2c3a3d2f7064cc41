"""From trained meta-parameters to the classes of new images: adapt once, then answer.

    phi_K = adapt(theta, support set),   p(y | x) = softmax(apply(phi_K, x))

Queries are passed as a `maml.Query` with the support set, so that a model whose batch normalisation
uses the support set or running averages gives a query the same answer alone and among others.
"""

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.tree_util import Partial
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Integer, Num

from maml._checks import check_callable
from maml._contracts import check_learner
from maml._examples import parse_scaling, scale
from maml.inner import adapt
from maml.rows import Apply, Weights, check_labels, check_weights, outputs, upcast
from maml.sampling import Query
from maml.types import Learner, MetaParams, Params, RandomKey

TOLERANCE = 0.01  # largest difference between equal log-odds, as bfloat16 rounds them


class Classifier(NamedTuple):
    """A model that is adapted to one support set, as a tree that jit takes and returns.

    Attributes:
        apply: Model, `apply(params, Query) -> logits [n, ways]`, a `Partial`.
        params: Adapted parameters.
        support: Prepared images of the support set, `[m, h, w, c]`.
        weights: Weights of these images, `[m]`; None is 1 for every image.
        has_images: Whether a class has an image in the support set, `[ways]`.
        scaling: Mean and standard deviation of `normalise`, or None.
    """

    apply: Partial
    params: Params
    support: Float[Array, "m h w c"]
    weights: Weights
    has_images: Bool[Array, " ways"]
    scaling: tuple[Array, Array] | None

    def predict_proba(self, inputs: Num[np.ndarray | Array, "..."]) -> Float[Array, "*n ways"]:
        """The probabilities of the classes for one image or several.

        Args:
            inputs: One image `[h, w, c]`, or several `[n, h, w, c]`, as in `fit_classifier`.

        Returns:
            The probabilities, `[ways]` for one image and else `[n, ways]`. They are 0 for classes
            without an image in the support set.

        Raises:
            ValueError: the images have another shape than those of the support set, or other
                numbers than `fit_classifier` takes.
        """
        one, shape = self.support.shape[1:], np.shape(inputs)
        if shape != one and (shape[1:] != one or shape[0] == 0):
            raise ValueError(
                f"the query must be one image {list(one)}, as in the support set, or several"
                f" {['n', *one]}; got {list(shape)}"
            )
        images = _prepare(inputs, self.scaling, "query").reshape(-1, *one)
        query = Query(images, self.support, self.weights)
        logits = outputs(self.apply, self.params, query, None)
        logits = jnp.where(self.has_images, upcast(logits), -jnp.inf)
        return jax.nn.softmax(logits).reshape(*shape[:-3], -1)

    def predict(self, inputs: Num[np.ndarray | Array, "..."]) -> Integer[Array, "*n"]:
        """The most likely class of one image or several; arguments are as in `predict_proba`."""
        return jnp.argmax(self.predict_proba(inputs), axis=-1)


def fit_classifier(
    learner: Learner,
    apply: Apply,
    meta_params: MetaParams,
    inputs: Num[np.ndarray | Array, "..."],
    labels: Num[np.ndarray | Array, "..."],
    *,
    inner_steps: int,
    weights: Num[np.ndarray | Array, "..."] | Bool[np.ndarray | Array, "..."] | None = None,
    key: RandomKey | None = None,
    normalise: tuple[ArrayLike, ArrayLike] | None = None,
) -> Classifier:
    """Adapts a model to a support set, and returns the classifier of its classes.

    It warns where the model's answer to a query depends on the other queries, as that of batch
    normalisation by the query set does.

    Args:
        learner: Learner of an algorithm, `algorithm.learner`.
        apply: Model, `apply(params, images or Query) -> logits [n, ways]`, such as
            `maml.few_shot_apply(model, "support")`.
        meta_params: Meta-parameters of the algorithm.
        inputs: Images of the support set, `[m, h, w, c]`: uint8, which are divided by 255, or
            floating-point numbers from 0 to 1. Classes may differ in their number of images.
        labels: Class of each image, `[m]`, integers from 0 to ways - 1, of two classes at least.
        inner_steps: Number of inner steps K >= 0.
        weights: Weight of each image, `[m]`; None is 1. Images of weight 0 fill a support set up to
            a size for which a program is compiled already, and have no effect.
        key: Random key of the inner steps, for losses that draw noise. None: that of seed 0.
        normalise: Mean and standard deviation of the meta-training, as in `maml.few_shot`.

    Returns:
        The classifier. Its methods are `predict_proba(inputs)` and `predict(inputs)`.

    Raises:
        ValueError: the images have another shape or other numbers; a label is not an integer or out
            of range; all images are of one class; `normalise` does not fit the images; or as
            `maml.adapt`.
    """
    check_learner(learner)
    check_callable(apply, "apply", "params, inputs")
    shape = np.shape(inputs)
    if len(shape) != 4 or 0 in shape:
        raise ValueError(
            f"the support set must be images [n, height, width, channels]; got {list(shape)}"
        )
    scaling = None if normalise is None else parse_scaling(normalise, shape[1:])
    support = _prepare(inputs, scaling, "support set")
    given = labels, 1 if weights is None else weights
    labels = jnp.asarray(labels)
    if labels.shape != shape[:1]:
        raise ValueError(f"labels must be {[shape[0]]}, one an image; got {list(labels.shape)}")
    inner = learner(meta_params)
    start = inner.params(inner.state)
    try:
        logits = jax.eval_shape(lambda: outputs(apply, start, support, None))
    except Exception as error:
        error.add_note(f"The model was called with images of the shape {list(support.shape)}.")
        raise
    weights = check_weights(weights, shape[0])
    labels, _ = check_labels(labels, logits.shape, weights)
    numbers = jnp.zeros(logits.shape[-1]).at[labels].add(1.0 if weights is None else weights)
    _check_classes(*given)
    key = jax.random.key(0) if key is None else key
    batch = (support, labels) if weights is None else (support, labels, weights)
    params, _ = adapt(inner, batch, key, inner_steps)
    _warn_of_company(apply, params, support, weights)
    return Classifier(Partial(apply), params, support, weights, numbers > 0, scaling)


def _check_classes(labels: Num[np.ndarray | Array, " m"], weights: Any) -> None:
    """Refuses a support set of fewer than two classes, where labels and weights are known."""
    if isinstance(labels, Tracer) or isinstance(weights, Tracer):
        return
    classes = np.unique(np.asarray(labels)[np.broadcast_to(weights, np.shape(labels)) > 0])
    if len(classes) < 2:
        got = f"images of class {classes[0]} alone" if len(classes) else "no image of weight > 0"
        raise ValueError(f"the support set must have images of at least 2 classes; got {got}")


def _prepare(
    inputs: Num[np.ndarray | Array, "*n h w c"], scaling: tuple[Array, Array] | None, name: str
) -> Float[Array, "*n h w c"]:
    """The images as the model takes them, after a check of their numbers."""
    known = not isinstance(inputs, Tracer)
    if known:
        inputs = np.asarray(inputs)  # within jit, a comparison of a jax.Array would be traced
    if inputs.dtype == jnp.uint8:
        inputs = inputs.astype(np.float32) / 255
    in_range = not known or bool(np.all((inputs >= 0) & (inputs <= 1)))
    if not jnp.issubdtype(inputs.dtype, jnp.floating) or not in_range:
        values = f" from {inputs.min():.4g} to {inputs.max():.4g}" if known else ""
        raise ValueError(
            f"images of the {name} must be uint8, or floating-point from 0 to 1; got"
            f" {inputs.dtype}{values}"
        )
    return scale(jnp.asarray(inputs), scaling)


def _warn_of_company(
    apply: Apply, params: Params, support: Float[Array, "m h w c"], weights: Weights
) -> None:
    """Warns where the logits of the first image change when the others are queries as well."""
    alone, among = (
        jax.nn.log_softmax(upcast(outputs(apply, params, Query(q, support, weights), None))[0])
        for q in (support[:1], support)
    )
    if isinstance(alone, Tracer) or np.allclose(alone, among, TOLERANCE, TOLERANCE, equal_nan=True):
        return
    warnings.warn(
        "the answer to a query depends on the other queries, and one alone may be answered wrongly:"
        ' use batch normalisation by the support set, maml.few_shot_apply(model, "support"), or by'
        " running averages",
        stacklevel=3,
    )
