"""Sampling of few-shot episodes inside jit, from arrays in the memory of the device."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer, Real, Shaped

from maml._checks import check_callable, check_count, check_counts, check_flags, check_key
from maml._returns import check_arrays
from maml.types import Episode, RandomKey, Sampler


class Query(NamedTuple):
    """The inputs of a query set, with the support inputs for batch normalisation.

    Attributes:
        inputs: Query inputs, `[ways * queries, *example]`.
        support: Support inputs, `[ways * shots, *example]`.
        support_weights: Weights of the support rows, `[ways * shots]`; None is 1 for every row.
    """

    inputs: Float[Array, "n *example"]
    support: Float[Array, "m *example"]
    support_weights: Shaped[Array, " m"] | None = None


def few_shot(
    examples: Real[np.ndarray | Array, "class each *example"],
    ways: int,
    shots: int,
    queries: int,
    *,
    rotate: bool = False,
    augment: Callable[[RandomKey, Array], Array] | None = None,
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
        shots: Number of support examples of each class, K.
        queries: Number of query examples of each class.
        rotate: Whether each class of an episode is rotated by 0, 90, 180 or 270 degrees, as is
            usual for Omniglot; this needs square images.
        augment: Random change of one example, `augment(key, example) -> example`, for support and
            query; its result is converted to float32. None changes nothing.
        groups: Number of the group of each class, such as its alphabet. All classes of an episode
            are then of one group, drawn uniformly from those with enough classes; None is one
            group of all classes.

    Returns:
        The sampler `sample(key) -> Episode(support=(inputs, labels), query=(Query, labels))`, with
        rows ordered by class. A model without batch normalisation reads `Query.inputs`;
        `maml.few_shot_apply` adapts one with batch normalisation. The array is an argument of jit,
        not a constant.

    Raises:
        ValueError: there are more ways than classes or than classes in every group, or more shots
            and queries than examples of a class; a count is not an integer >= 1; the array has no
            examples or fewer than three axes; images to rotate are not square; `groups` is not an
            integer for each class; or (when sampling) the key is not one key, or `augment` changes
            the shape.

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
    check_counts(ways=ways, shots=shots, queries=queries)
    check_flags(rotate=rotate)
    if augment is not None:
        check_callable(augment, "augment", "key, example")
    if rotate and (len(shape) < 4 or shape[2] != shape[3]):
        raise ValueError(
            f"only square images, [class, example, side, side, ...], can be rotated; got"
            f" {list(shape)}: rotate=False would work"
        )
    if ways > shape[0]:
        raise ValueError(f"{ways} ways need as many classes; got a split of {shape[0]} classes")
    if shots + queries > shape[1]:
        raise ValueError(
            f"{shots} shots + {queries} queries need as many examples of each class; got {shape[1]}"
        )
    members = None if groups is None else _members(np.asarray(groups), shape[0], ways)
    if dtype == np.uint8 and len(shape) == 4:
        examples = examples[..., None]
    options = {"rotate": rotate, "augment": augment}
    draw = partial(_draw, ways=ways, shots=shots, queries=queries, **options)
    return jax.tree_util.Partial(draw, jnp.asarray(examples), members)


def _members(groups: np.ndarray, classes: int, ways: int) -> Bool[Array, "group class"]:
    """The classes of each group that has enough of them."""
    if groups.shape != (classes,) or not np.issubdtype(groups.dtype, np.integer):
        raise ValueError(
            f"groups must be integers, one for each of {classes} classes; got {groups.dtype}"
            f" {list(groups.shape)}"
        )
    numbers, counts = np.unique(groups, return_counts=True)
    if counts.max() < ways:
        raise ValueError(f"{ways} ways need a group of as many classes; got {counts.max()} at most")
    return jnp.asarray(groups == numbers[counts >= ways, None])


def _draw(
    examples: Real[Array, "class each *example"],
    members: Bool[Array, "group class"] | None,
    key: RandomKey,
    *,
    ways: int,
    shots: int,
    queries: int,
    rotate: bool,
    augment: Callable[[RandomKey, Array], Array] | None,
) -> Episode:
    check_key(key)
    class_key, example_key, rotation_key = jax.random.split(key, 3)
    classes = _distinct(class_key, examples.shape[0], ways, members)
    chosen_examples = jax.vmap(lambda key: _distinct(key, examples.shape[1], shots + queries))(
        jax.random.split(example_key, ways)
    )
    images = examples[classes[:, None], chosen_examples].astype(jnp.float32)
    if examples.dtype == jnp.uint8:
        images = images / 255
    if augment is not None:
        # Not 0 to 2, which give the keys of the split above.
        keys = jax.random.split(jax.random.fold_in(key, 3), images.shape[:2])
        images = _checked_like(jax.vmap(jax.vmap(augment))(keys, images), images)
    if rotate:
        images = jax.vmap(_rotate)(images, jax.random.randint(rotation_key, (ways,), 0, 4))

    def flat(part: Array) -> tuple[Array, Integer[Array, " n"]]:
        return part.reshape(-1, *part.shape[2:]), jnp.repeat(jnp.arange(ways), part.shape[1])

    support, support_labels = flat(images[:, :shots])
    query, query_labels = flat(images[:, shots:])
    return Episode((support, support_labels), (Query(query, support), query_labels))


def _checked_like(augmented: Any, images: Array) -> Array:
    if getattr(augmented, "shape", None) != images.shape:
        raise ValueError(
            f"augment must return an example like its argument, {list(images.shape[2:])}; got"
            f" {jax.tree.map(lambda leaf: list(jnp.shape(leaf)[2:]), augmented)}"
        )
    return augmented.astype(images.dtype)


def _distinct(
    key: RandomKey, population: int, count: int, members: Bool[Array, "group each"] | None = None
) -> Integer[Array, " count"]:
    """Distinct numbers below `population`, or distinct members of one group."""
    odds = None
    if members is not None:
        group_key, key = jax.random.split(key)
        odds = jax.random.choice(group_key, members) / 1.0
    return jax.random.choice(key, population, (count,), replace=False, p=odds)


def _rotate(
    images: Float[Array, "n side side *channels"], quarters: Integer[Array, ""]
) -> Float[Array, "n side side *channels"]:
    rotated = [jnp.rot90(images, k, axes=(1, 2)) for k in range(4)]
    return jax.lax.select_n(quarters, *rotated)


def batch_tasks(sample: Sampler, num_tasks: int) -> Sampler:
    """A sampler of meta-batches, `Episode[task, ...]`, from a sampler of one task.

    Args:
        sample: Sampler of one task. If it is a `Partial`, its arrays remain arguments of jit.
        num_tasks: Number of tasks of a meta-batch, >= 1.

    Returns:
        The sampler, a `Partial`. Samplers made from one sampler with one size are the same
        function to jit.

    Raises:
        ValueError: `num_tasks` is below 1, or the sampler is not a function of a key or already
            returns meta-batches.

    >>> from maml import Episode
    >>> sample = batch_tasks(lambda key: Episode(*jax.random.normal(key, (2, 5))), 3)
    >>> sample(jax.random.key(0)).support.shape
    (3, 5)
    """
    check_count(num_tasks, least=1, of="tasks")
    check_callable(sample, "sample", "key")
    if is_batched(sample):
        raise ValueError("this sampler returns meta-batches already: pass the sampler of one task")
    partial_type = jax.tree_util.Partial
    sample = sample if isinstance(sample, partial_type) else partial_type(sample)
    return partial_type(_BatchSampler(num_tasks), sample)


class _BatchSampler(NamedTuple):
    """A batched sampler, compared by value so that jit compiles equal ones once.

    Two equal `functools.partial` would differ.
    """

    num_tasks: int

    def __call__(self, sample: Sampler, key: RandomKey) -> Episode:
        check_key(key)

        def checked_sample(key: RandomKey) -> Episode:
            episode = sample(key)
            check_arrays(episode, "a sampler")
            if not jax.tree.leaves(episode):
                raise ValueError(f"a sampler returns arrays; got {episode!r}")
            return episode

        return jax.vmap(checked_sample)(jax.random.split(key, self.num_tasks))


def is_batched(sample: Any) -> bool:
    """Whether a sampler is one that `batch_tasks` has made."""
    return isinstance(getattr(sample, "func", None), _BatchSampler)
