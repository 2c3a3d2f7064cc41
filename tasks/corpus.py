"""Texts for training, validation and test as numbers of tokens, which are characters or words."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import UInt16

from maml._checks import check_count

Level = Literal["characters", "words"]
SPLITS = "train", "val", "test"
END, UNKNOWN = "<eos>", "<unk>"  # the end of a line, and a token outside the vocabulary
LARGEST = 2**16  # largest size of a vocabulary, whose numbers have 16 bits


class Corpus(NamedTuple):
    """Texts as numbers of tokens.

    Attributes:
        vocabulary: Tokens in the order of their numbers.
        splits: Texts of "train", "val" and "test", by their names.
        level: Kind of the tokens.
        notes: Sentences on what was left out or replaced.
    """

    vocabulary: tuple[str, ...]
    splits: dict[str, dict[str, UInt16[np.ndarray, " tokens"]]]
    level: Level
    notes: tuple[str, ...]


def make_corpus(
    texts: Mapping[str, Mapping[str, str]],
    level: Level,
    most: int,
    split_line: Callable[[str], list[str]] | None = None,
) -> Corpus:
    """The corpus of texts, whose vocabulary is that of the training texts.

    Where the vocabulary is too large, or another text has a token outside of it, `<unk>` is one of
    the tokens and replaces those outside.

    Args:
        texts: Texts by split and name.
        level: Kind of the tokens. Characters are all characters of a text; words are divided by
            white space, and `<eos>` ends a line.
        most: Largest size of the vocabulary, `<unk>` included; it has the most frequent tokens.
        split_line: Function from a line to its tokens, instead of the rule of the level.

    Returns:
        The corpus; its notes say which texts are left out because they are empty, and how many
        tokens are replaced.

    Raises:
        ValueError: a split has no text, or only empty ones; the training texts have fewer than two
            different tokens.

    >>> corpus = make_corpus({"train": {"a": "abba"}, "val": {"b": "ab"}, "test": {"c": "abc"}},
    ...     "characters", 10)
    >>> corpus.vocabulary, corpus.splits["test"]["c"].tolist(), corpus.notes
    (('a', 'b', '<unk>'), [0, 1, 2], ('1 of 3 tokens of test are outside the vocabulary: <unk>.',))
    """
    check_level(level)
    check_count(most, least=2, of="tokens in the vocabulary")
    if split_line is None and level == "words":
        split_line = _words_of_line
    notes, tokens = [], {}
    for split in SPLITS:
        named = {name: _tokens(text, split_line) for name, text in texts.get(split, {}).items()}
        tokens[split] = {name: text for name, text in named.items() if text}
        if not tokens[split]:
            raise ValueError(f"each split needs a text that is not empty; got none for {split}")
        if empty := [name for name in named if not named[name]]:
            notes.append(f"Empty texts of {split} are left out: {_listed(empty)}.")
    counts = {
        split: Counter(chain.from_iterable(named.values())) for split, named in tokens.items()
    }
    if len(counts["train"]) < 2:
        raise ValueError(
            "a vocabulary needs two different tokens or more; the training texts have only"
            f" {_listed(counts['train'])}"
        )
    vocabulary = _vocabulary(counts, min(most, LARGEST))
    number = {token: place for place, token in enumerate(vocabulary)}
    unknown = number.get(UNKNOWN, 0)
    splits = {
        split: {
            name: np.array([number.get(token, unknown) for token in text], np.uint16)
            for name, text in named.items()
        }
        for split, named in tokens.items()
    }
    for split, count in counts.items():
        if outside := sum(times for token, times in count.items() if token not in number):
            notes.append(
                f"{outside:,} of {count.total():,} tokens of {split} are outside the vocabulary:"
                f" {UNKNOWN}."
            )
    return Corpus(vocabulary, splits, level, tuple(notes))


def encode(corpus: Corpus, text: str) -> UInt16[np.ndarray, " tokens"]:
    """The numbers of the tokens of another text.

    Raises:
        ValueError: a token is outside the vocabulary, which has no `<unk>`.

    >>> corpus = Corpus(("a", "b"), {}, "characters", ())
    >>> encode(corpus, "abba").tolist()
    [0, 1, 1, 0]
    """
    number = {token: place for place, token in enumerate(corpus.vocabulary)}
    tokens = _tokens(text, _words_of_line if corpus.level == "words" else None)
    for token in tokens:
        if token not in number and UNKNOWN not in number:
            raise ValueError(
                f"the vocabulary must have every token of the text, or {UNKNOWN}; got {token!r}"
            )
    return np.array([number.get(token, number.get(UNKNOWN, 0)) for token in tokens], np.uint16)


def check_level(level: str) -> None:
    """Refuses another kind of tokens than characters and words.

    Raises:
        ValueError: the level has another value.
    """
    if level not in get_args(Level):
        raise ValueError(f"the level must be one of {', '.join(get_args(Level))}; got {level!r}")


def _tokens(text: str, split_line: Callable[[str], list[str]] | None) -> list[str]:
    if split_line is None:
        return [*text]
    return [token for line in text.splitlines() for token in split_line(line)]


def _words_of_line(line: str) -> list[str]:
    return [*line.split(), END]


def _vocabulary(counts: Mapping[str, Counter], most: int) -> tuple[str, ...]:
    """The most frequent tokens of training, most frequent first, with `<unk>` if it is needed."""
    train = counts["train"]
    ranked = sorted(train, key=lambda token: (-train[token], token))
    if len(ranked) <= most and all(count.keys() <= train.keys() for count in counts.values()):
        return tuple(ranked)
    return (*[token for token in ranked if token != UNKNOWN][: most - 1], UNKNOWN)


def _listed(names: Iterable[str]) -> str:
    """The first of the names, and how many more there are."""
    first, *others = map(repr, names)
    return f"{first} and {len(others)} more" if others else first
