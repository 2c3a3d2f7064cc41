"""Few-shot episodes, drawn inside jit from a data set that lies on the device."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, Shaped, UInt8

from maml import Episode, Sampler
from maml._checks import check_key
from maml.types import RandomKey
from tasks._checks import check_counts, check_flags


class Query(NamedTuple):
    """The inputs of a query set, and the support set's, for whoever needs their statistics.

    Attributes:
        images: `[ways * queries, height, width, 1]`.
        support: `[ways * shots, height, width, 1]`.
        support_weights: Weights of the support set's rows, where they are not all 1.
    """

    images: Float[Array, "n height width 1"]
    support: Float[Array, "m height width 1"]
    support_weights: Shaped[Array, " m"] | None = None


def few_shot(
    images: UInt8[np.ndarray, "class drawing height width"],
    ways: int,
    shots: int,
    queries: int,
    *,
    rotate: bool = True,
) -> Sampler:
    """A sampler of one N-way K-shot episode.

    Distinct classes, distinct drawings, support and query disjoint; each class is turned by one
    of 0, 90, 180, 270 degrees in the whole episode. Pixels are divided by 255.

    Args:
        images: uint8 drawings of the classes of one part of a split.
        ways: classes of an episode, N.
        shots: support drawings a class, K.
        queries: query drawings a class.
        rotate: whether to turn the classes.

    Returns:
        `sample(key) -> Episode(support=(images, labels), query=(Query, labels))`, ordered by
        class, with the data set as an argument of jit, not a constant. A model without batch
        normalisation reads a `Query` by its `.images`; `batch_norm.few_shot_loss` takes both.

    Raises:
        ValueError: more ways than classes, more shots + queries than drawings, a count that is no
            integer or below 1, drawings that are empty, not square or not uint8, a `rotate` that
            is not True or False, or (when sampling) a key that is not one key.

    >>> sample = few_shot(np.zeros((9, 20, 28, 28), np.uint8), ways=5, shots=1, queries=3)
    >>> episode = sample(jax.random.key(0))
    >>> episode.query[0].images.shape, episode.query[1].tolist()[:4]
    ((15, 28, 28, 1), [0, 0, 0, 1])
    """
    shape, dtype = np.shape(images), getattr(images, "dtype", type(images).__name__)
    if dtype != np.uint8 or len(shape) != 4 or shape[2] != shape[3] or shape[2] == 0:
        raise ValueError(
            f"images must be uint8 [class, drawing, side, side]; got {dtype} {list(shape)}"
        )
    check_counts(ways=ways, shots=shots, queries=queries)
    check_flags(rotate=rotate)
    classes, drawings = shape[:2]
    if ways > classes:
        raise ValueError(f"{ways} ways need as many classes; the split has {classes}")
    if shots + queries > drawings:
        raise ValueError(
            f"{shots} shots + {queries} queries need as many drawings; a class has {drawings}"
        )
    draw = partial(_draw, ways=ways, shots=shots, queries=queries, rotate=rotate)
    return jax.tree_util.Partial(draw, jnp.asarray(images))


def _draw(
    images: UInt8[Array, "class drawing side side"],
    key: RandomKey,
    *,
    ways: int,
    shots: int,
    queries: int,
    rotate: bool,
) -> Episode:
    check_key(key)
    class_key, drawing_key, turn_key = jax.random.split(key, 3)
    chosen = _distinct(class_key, images.shape[0], ways)
    drawings = jax.vmap(lambda key: _distinct(key, images.shape[1], shots + queries))(
        jax.random.split(drawing_key, ways)
    )
    drawn = images[chosen[:, None], drawings].astype(jnp.float32) / 255
    if rotate:
        drawn = jax.vmap(_turn)(drawn, jax.random.randint(turn_key, (ways,), 0, 4))
    drawn = drawn[..., None]

    def flat(part: Array) -> tuple[Array, Integer[Array, " n"]]:
        return part.reshape(-1, *part.shape[2:]), jnp.repeat(jnp.arange(ways), part.shape[1])

    support, support_labels = flat(drawn[:, :shots])
    query, query_labels = flat(drawn[:, shots:])
    return Episode((support, support_labels), (Query(query, support), query_labels))


def _distinct(key: RandomKey, population: int, count: int) -> Integer[Array, " count"]:
    return jax.random.choice(key, population, (count,), replace=False)


def _turn(
    drawings: Float[Array, "n side side"], quarters: Integer[Array, ""]
) -> Float[Array, "n side side"]:
    turned = [jnp.rot90(drawings, k, axes=(1, 2)) for k in range(4)]
    return jax.lax.select_n(quarters, *turned)
