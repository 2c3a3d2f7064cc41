"""Sampling of few-shot episodes inside jit, from arrays in the memory of the device."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Integer, Real

from maml._checks import check_callable, check_counts, check_flags, check_key
from maml._examples import check_finite, members_of, parse_scaling, scale, sizes_of
from maml.sampling import Query
from maml.types import Episode, RandomKey, Sampler

Augment = Callable[[RandomKey, Array], Array]


def few_shot(
    examples: Real[np.ndarray | Array, "class each *example"],
    ways: int,
    shots: int | tuple[int, int],
    queries: int,
    *,
    counts: Integer[np.ndarray | Array, " class"] | None = None,
    rotate: bool = False,
    augment: Augment | tuple[Augment | None, Augment | None] | None = None,
    normalise: tuple[ArrayLike, ArrayLike] | None = None,
    groups: Integer[np.ndarray | Array, " class"] | None = None,
) -> Sampler:
    """A sampler of N-way K-shot episodes from an array of classes.

    An episode has distinct classes with distinct examples; support and query set are disjoint.
    Labels are 0 .. N - 1 in the order in which the classes are drawn.

    Args:
        examples: Examples of the classes of one split, `[class, example, ...]`. Arrays of uint8 are
            images: their pixels are divided by 255, and images without a channel axis,
            `[class, example, side, side]`, get one. Arrays of other types are converted to float32.
        ways: Number of classes of an episode, N.
        shots: Number of support examples of each class, K; or the fewest and the most, between
            which each episode draws K uniformly. Its support set then has rows for the most, and
            weights that are 0 for those beyond K.
        queries: Number of query examples of each class.
        counts: Number of examples of each class, where classes differ in size; later examples of
            the array are not drawn. None is all of them.
        rotate: Whether each class of an episode is rotated by 0, 90, 180 or 270 degrees, as is
            usual for Omniglot; this needs square images.
        augment: Random change of one example, `augment(key, example) -> example`, for support and
            query; or a pair of such functions, the first for the support set and the second for the
            query set. Their results are converted to float32. None changes nothing.
        normalise: Mean and standard deviation that are subtracted and divided by at the end, each a
            number or an array that broadcasts against an example, such as one number a channel.
        groups: Number of the group of each class, such as its alphabet. All classes of an episode
            are then of one group, drawn uniformly from those with enough classes; None is one
            group of all classes.

    Returns:
        The sampler `sample(key) -> Episode(support=(inputs, labels), query=(Query, labels))`, with
        rows ordered by class; where shots have a range, `support=(inputs, labels, weights)`, and
        the query has the same weights as `support_weights`. A model without batch normalisation
        reads `Query.inputs`; `maml.few_shot_apply` adapts one with batch normalisation. The array
        is an argument of jit, not a constant.

    Raises:
        ValueError: there are more ways than classes or than classes in every group, or more shots
            and queries than examples of a class; a count is not an integer >= 1; the array has no
            examples or fewer than three axes; images to rotate are not square; `counts` or
            `groups` is not an integer for each class; a standard deviation is not > 0; a numpy
            array has an example that is not finite; or (when sampling) the key is not one key, or
            `augment` changes the shape.

    >>> sample = few_shot(np.zeros((9, 20, 28, 28), np.uint8), ways=5, shots=1, queries=3)
    >>> episode = sample(jax.random.key(0))
    >>> episode.query[0].inputs.shape, episode.query[1].tolist()[:4]
    ((15, 28, 28, 1), [0, 0, 0, 1])
    """
    shape, dtype = np.shape(examples), getattr(examples, "dtype", type(examples).__name__)
    real = isinstance(dtype, np.dtype) and np.issubdtype(dtype, np.number) and dtype.kind != "c"
    if not real or len(shape) < 3 or 0 in shape:
        raise ValueError(
            f"examples must be real numbers [class, example, ...]; got {dtype} {list(shape)}"
        )
    fewest, most = shots if isinstance(shots, tuple) and len(shots) == 2 else (shots, shots)
    check_counts(ways=ways, shots=fewest, queries=queries)
    check_counts(shots=most)
    if fewest > most:
        raise ValueError(f"shots must be the fewest and the most; got {shots}")
    check_flags(rotate=rotate)
    changes = augment if isinstance(augment, tuple) else (augment, augment)
    if len(changes) != 2:
        raise ValueError(f"augment must be one function or a pair; got {len(changes)} of them")
    for change in changes:
        if change is not None:
            check_callable(change, "augment", "key, example")
    if rotate and (len(shape) < 4 or shape[2] != shape[3]):
        raise ValueError(
            f"only square images, [class, example, side, side, ...], can be rotated; got"
            f" {list(shape)}: rotate=False would work"
        )
    if ways > shape[0]:
        raise ValueError(f"{ways} ways need as many classes; got a split of {shape[0]} classes")
    if most + queries > shape[1]:
        raise ValueError(
            f"{most} shots + {queries} queries need {most + queries} examples of each class; the"
            f" array has {shape[1]}"
        )
    counts = None if counts is None else np.asarray(counts)
    sizes = None if counts is None else sizes_of(counts, shape, most, queries)
    check_finite(examples, counts)
    members = None if groups is None else members_of(np.asarray(groups), shape[0], ways)
    if dtype == np.uint8 and len(shape) == 4:
        examples, shape = examples[..., None], (*shape, 1)
    scaling = None if normalise is None else parse_scaling(normalise, shape[2:])
    options = {"rotate": rotate, "changes": changes}
    draw = partial(_draw, ways=ways, shots=(fewest, most), queries=queries, **options)
    return jax.tree_util.Partial(draw, jnp.asarray(examples), sizes, members, scaling)


def _draw(
    examples: Real[Array, "class each *example"],
    sizes: Integer[Array, " class"] | None,
    members: Bool[Array, "group class"] | None,
    scaling: tuple[Array, Array] | None,
    key: RandomKey,
    *,
    ways: int,
    shots: tuple[int, int],
    queries: int,
    rotate: bool,
    changes: tuple[Augment | None, Augment | None],
) -> Episode:
    check_key(key)
    (fewest, most), each = shots, examples.shape[1]
    class_key, example_key, rotation_key = jax.random.split(key, 3)
    of_group = None
    if members is not None:
        group_key, class_key = jax.random.split(class_key)
        of_group = jax.random.choice(group_key, members)
    classes = _distinct(class_key, of_group, examples.shape[0], ways)
    keys = jax.random.split(example_key, ways)
    there = None if sizes is None else jnp.arange(each) < sizes[classes, None]
    choose = partial(_distinct, population=each, count=most + queries)
    chosen = jax.vmap(choose)(keys, there)
    images = examples[classes[:, None], chosen].astype(jnp.float32)
    if examples.dtype == jnp.uint8:
        images = images / 255
    if any(changes):
        # Not 0 to 2, which give the keys of the split above.
        keys = jax.random.split(jax.random.fold_in(key, 3), images.shape[:2])
        same = changes[0] is changes[1]
        parts = (slice(None),) if same else (slice(most), slice(most, None))
        changed = [
            _augment(change, keys[:, part], images[:, part])
            for change, part in zip(changes, parts, strict=False)
        ]
        images = jnp.concatenate(changed, axis=1)
    if rotate:
        images = jax.vmap(_rotate)(images, jax.random.randint(rotation_key, (ways,), 0, 4))
    images = scale(images, scaling)

    def flat(part: Array) -> tuple[Array, Integer[Array, " n"]]:
        return part.reshape(-1, *part.shape[2:]), jnp.repeat(jnp.arange(ways), part.shape[1])

    support, support_labels = flat(images[:, :most])
    query, query_labels = flat(images[:, most:])
    if fewest == most:
        return Episode((support, support_labels), (Query(query, support), query_labels))
    drawn = jax.random.randint(jax.random.fold_in(key, 4), (), fewest, most + 1)
    weights = jnp.tile(jnp.arange(most) < drawn, ways).astype(jnp.float32)
    return Episode(
        (support, support_labels, weights), (Query(query, support, weights), query_labels)
    )


def _augment(change: Augment | None, keys: Array, images: Array) -> Array:
    """The examples `[class, example, ...]`, each changed with its key, of one shape and type."""
    if change is None:
        return images
    changed: Any = jax.vmap(jax.vmap(change))(keys, images)
    if getattr(changed, "shape", None) != images.shape:
        raise ValueError(
            f"augment must return an example like its argument, {list(images.shape[2:])}; got"
            f" {jax.tree.map(lambda leaf: list(jnp.shape(leaf)[2:]), changed)}"
        )
    return changed.astype(images.dtype)


def _distinct(
    key: RandomKey, allowed: Bool[Array, " population"] | None, population: int, count: int
) -> Integer[Array, " count"]:
    """Distinct numbers below `population`, of those that are allowed; None allows all."""
    odds = None if allowed is None else allowed / 1.0
    return jax.random.choice(key, population, (count,), replace=False, p=odds)


def _rotate(
    images: Float[Array, "n side side *channels"], quarters: Integer[Array, ""]
) -> Float[Array, "n side side *channels"]:
    rotated = [jnp.rot90(images, k, axes=(1, 2)) for k in range(4)]
    return jax.lax.select_n(quarters, *rotated)
