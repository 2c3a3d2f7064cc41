"""Samplers of passages of texts, and the chunks in which a text is read."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Integer, UInt8

from maml import Episode, Sampler
from maml._checks import check_count, check_counts, check_key
from maml.types import RandomKey

MOST = np.iinfo(np.uint16).max  # the largest token
Place = tuple[int, int]  # number of a text, and the token at which a passage of it begins


def random_readings(
    texts: Sequence[Integer[np.ndarray, "_"]], chunks: int, time: int, *, kind: str = "texts"
) -> Sampler:
    """A sampler of tasks, each a passage of a text from a uniformly random place, in chunks.

    A passage is `chunks * time + 1` tokens of one text. Texts that are shorter are never drawn.

    Args:
        texts: Texts, numbers of tokens.
        chunks: Number of chunks of a passage.
        time: Number of tokens that are predicted in a chunk.
        kind: Words for the texts in a refusal, such as "training texts".

    Returns:
        The sampler `sample(key) -> Episode(support, None)`, as `maml.reading` reads them: chunks
        `[chunks, time + 1]`, each with the first token of the next one. The texts are arguments of
        jit, not constants.

    Raises:
        ValueError: a count is not an integer >= 1, a text is not a row of integers from 0 to 65535,
            or every text is shorter than a passage.

    >>> sample = random_readings([np.arange(7), np.arange(2)], chunks=3, time=2)
    >>> sample(jax.random.key(0)).support.tolist()
    [[0, 1, 2], [2, 3, 4], [4, 5, 6]]
    """
    lengths = _check_texts(texts, chunks, time, kind)
    places = np.maximum(lengths - chunks * time, 0)  # where a passage of the text can begin
    ends, offsets = np.cumsum(places), np.cumsum(lengths) - lengths
    tokens = np.concatenate([np.asarray(text, np.uint16) for text in texts])
    arrays = (jnp.asarray(array) for array in (tokens, ends, offsets - (ends - places)))
    return jax.tree_util.Partial(partial(_draw, chunks=chunks, time=time), *arrays)


def readings(
    texts: Sequence[Integer[np.ndarray, "_"]],
    chunks: int,
    time: int,
    most: int,
    *,
    kind: str = "texts",
) -> tuple[Int[np.ndarray, "text chunk tokens"], list[Place]]:
    """Passages for an evaluation: each text from its beginning, one passage after the other.

    What remains at the end of a text is dropped. Of more passages than `most`, evenly spaced ones
    are taken.

    Args:
        texts, chunks, time, kind: As in `random_readings`.
        most: Largest number of passages.

    Returns:
        The chunks, `[passage, chunks, time + 1]`, and the place of each passage.

    Raises:
        ValueError: as `random_readings`.

    >>> passages, places = readings([np.arange(7), np.arange(9)], chunks=2, time=2, most=9)
    >>> passages[2].tolist(), places
    ([[4, 5, 6], [6, 7, 8]], [(0, 0), (1, 0), (1, 4)])
    """
    lengths, size = _check_texts(texts, chunks, time, kind), chunks * time
    check_count(most, least=1, of="passages")
    starts = [
        (text, place)
        for text, length in enumerate(lengths)
        for place in range(0, length - size, size)
    ]
    if len(starts) > most:
        starts = [starts[place * len(starts) // most] for place in range(most)]
    within = np.arange(chunks)[:, None] * time + np.arange(time + 1)
    passages = [np.asarray(texts[text])[place + within] for text, place in starts]
    return np.stack(passages).astype(np.int32), starts


def text_passages(text: bytes | str, shots: int, queries: int, length: int) -> Sampler:
    """A sampler of tasks, each of consecutive passages from a uniformly random place of a text.

    The first passages are the support set, and the following ones are the query set.

    Args:
        text: Text whose bytes are the tokens; a string is encoded in UTF-8.
        shots: Number of passages of the support set.
        queries: Number of passages of the query set.
        length: Number of tokens of a passage that a model reads.

    Returns:
        The sampler `sample(key) -> Episode(support, query)`, with tokens
        `[shots or queries, length + 1]`. The text is an argument of jit, not a constant.

    Raises:
        ValueError: a count is not an integer >= 1, the text is neither bytes nor a string or is
            shorter than one task, or (when sampling) the key is not one key.

    >>> episode = text_passages("abcdefgh", shots=1, queries=1, length=3)(jax.random.key(0))
    >>> bytes(episode.support[0].tolist()), bytes(episode.query[0].tolist())
    (b'abcd', b'efgh')
    """
    check_counts(shots=shots, queries=queries)
    check_count(length, least=1, of="tokens to read")
    if not isinstance(text, bytes | str):
        raise ValueError(f"the text must be bytes or a string; got {type(text).__name__}")
    tokens = np.frombuffer(text.encode() if isinstance(text, str) else text, np.uint8)
    needed = (shots + queries) * (length + 1)
    if len(tokens) < needed:
        raise ValueError(
            f"{shots} + {queries} passages of {length} + 1 bytes need {needed} bytes of text;"
            f" got {len(tokens)}"
        )
    sizes = {"shots": shots, "queries": queries, "length": length}
    return jax.tree_util.Partial(partial(_read, **sizes), jnp.asarray(tokens))


def _check_texts(texts: Sequence[np.ndarray], chunks: int, time: int, kind: str) -> np.ndarray:
    """The lengths of the texts, after a check of their tokens and that one has a passage."""
    check_counts(chunks=chunks)
    check_count(time, least=1, of="tokens in a chunk")
    for number, text in enumerate(texts):
        tokens = np.asarray(text)
        is_row = tokens.ndim == 1 and (np.issubdtype(tokens.dtype, np.integer) or not tokens.size)
        if not is_row or (tokens.size and (tokens.min() < 0 or tokens.max() > MOST)):
            raise ValueError(
                f"each of the {kind} must be a row of integers from 0 to {MOST}; number {number} is"
                f" {np.array2string(tokens, threshold=5)} of {tokens.dtype}"
            )
    lengths = np.array([len(text) for text in texts], np.int32)
    if not (lengths > chunks * time).any():
        raise ValueError(
            f"a passage of {chunks} chunks of {time} tokens needs a text of"
            f" {chunks * time + 1:,} tokens; the longest of {len(texts)} {kind} has"
            f" {max(lengths, default=0):,}. Fewer chunks or shorter ones would work"
        )
    return lengths


def _draw(
    tokens: Array, ends: Array, shifts: Array, key: RandomKey, *, chunks: int, time: int
) -> Episode:
    check_key(key)
    place = jax.random.randint(key, (), 0, ends[-1])
    start = place + shifts[jnp.searchsorted(ends, place, side="right")]
    within = jnp.arange(chunks)[:, None] * time + jnp.arange(time + 1)
    return Episode(tokens[start + within].astype(jnp.int32), None)


def _read(
    text: UInt8[Array, " bytes"], key: RandomKey, *, shots: int, queries: int, length: int
) -> Episode:
    check_key(key)
    rows, size = shots + queries, (shots + queries) * (length + 1)
    start = jax.random.randint(key, (), 0, text.size - size + 1)
    tokens = jax.lax.dynamic_slice(text, (start,), (size,)).reshape(rows, -1).astype(jnp.int32)
    return Episode(tokens[:shots], tokens[shots:])
