"""Texts become the tokens that the sources say, in disjoint splits, and bad files are refused."""

import gzip
import hashlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import KEY

import maml
from tasks import text
from tasks.corpus import SPLITS, Corpus, encode, make_corpus
from tasks.passages import random_readings, readings

PENN = Path(__file__).parents[2] / "shared" / "data" / "ptb"
LINES = " the cat <unk> \n a dog \n"


def decoded(corpus, split, name):
    return [corpus.vocabulary[token] for token in corpus.splits[split][name]]


def write_penn(folder, monkeypatch, content=LINES):
    """Three files of the names of Penn Treebank, whose text is taken for the true one."""
    folder.mkdir()
    for name in ("train", "valid", "test"):
        (folder / f"ptb.{name}.txt.gz").write_bytes(gzip.compress(content.encode()))
    digest = hashlib.md5(content.encode()).hexdigest()
    monkeypatch.setattr(text, "PENN", dict.fromkeys(SPLITS, digest))
    return folder


def test_penn_treebank_is_words_or_characters_with_an_end_of_each_line(tmp_path, monkeypatch):
    folder = write_penn(tmp_path / "ptb", monkeypatch)
    words = text.penn_treebank(folder, "words")
    assert decoded(words, "val", "ptb.valid.txt") == [
        *("the", "cat", "<unk>", "<eos>", "a", "dog", "<eos>"),
    ]
    characters = text.penn_treebank(folder)
    expected = [*"the_cat_<unk>", "<eos>", *"a_dog", "<eos>"]
    assert decoded(characters, "test", "ptb.test.txt") == expected
    assert words.notes == characters.notes == ()


@pytest.mark.skipif(not PENN.is_dir(), reason=f"there is no Penn Treebank in {PENN}")
def test_penn_treebank_has_the_published_numbers_of_words():
    corpus = text.penn_treebank(PENN, "words")
    sizes = [sum(map(len, corpus.splits[split].values())) for split in SPLITS]
    assert sizes == [929_589, 73_760, 82_430] and len(corpus.vocabulary) == 10_000


def test_files_of_penn_treebank_that_are_missing_damaged_or_others_are_refused(
    tmp_path, monkeypatch
):
    folder = write_penn(tmp_path / "ptb", monkeypatch)
    with pytest.raises(ValueError, match=r"ptb.train.txt or ptb.train.txt.gz.*; got .*nowhere"):
        text.penn_treebank(tmp_path / "nowhere")
    file = folder / "ptb.valid.txt.gz"
    whole = file.read_bytes()
    for damage in (whole[:-9], b"no gzip", b""):
        file.write_bytes(damage)
        with pytest.raises(ValueError, match=r"ptb.valid.txt.gz (cannot be read|is damaged)"):
            text.penn_treebank(folder)
    file.write_bytes(gzip.compress(b"another text"))
    with pytest.raises(ValueError, match=r"damaged, or another text than Mikolov's ptb.valid.txt"):
        text.penn_treebank(folder)
    file.unlink()
    with pytest.raises(ValueError, match=r"with ptb.valid.txt or ptb.valid.txt.gz"):
        text.penn_treebank(folder)


def test_a_file_is_cut_at_eight_and_nine_tenths(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("abababab" + "a" + "b")
    corpus = text.own_texts(file)
    got = {split: "".join(decoded(corpus, split, "a.txt")) for split in SPLITS}
    assert got == {"train": "abababab", "val": "a", "test": "b"}


def test_a_folder_is_split_by_its_files_or_by_folders_of_splits(tmp_path):
    many, split = tmp_path / "many", tmp_path / "split"
    for number in range(20):
        (many / f"{number // 10}").mkdir(parents=True, exist_ok=True)
        (many / f"{number // 10}" / f"{number % 10}.txt").write_text("ab" * (number + 1))
    (many / ".hidden").write_bytes(b"\xff")
    corpus = text.own_texts(many)
    assert {s: [*corpus.splits[s]] for s in ("val", "test")} == {
        "val": ["0/4.txt", "1/4.txt"],
        "test": ["0/9.txt", "1/9.txt"],
    }
    assert sum(len(corpus.splits[s]) for s in SPLITS) == 20
    for name in SPLITS:
        (split / name).mkdir(parents=True)
        (split / name / "a.txt").write_text(f"{name} b")
    assert decoded(text.own_texts(split, "words"), "train", "train/a.txt") == [
        *("train", "b", "<eos>"),
    ]
    (split / "README").write_text("not read")
    assert text.own_texts(split).notes[0] == (
        "Files outside of the folders train, val, test are left out: 1."
    )
    (split / "val" / "a.txt").unlink()
    with pytest.raises(ValueError, match=r"all of the folders train, val, test.*; got train, test"):
        text.own_texts(split)


def test_texts_that_cannot_be_read_are_refused_by_name(tmp_path, unchecked):
    with pytest.raises(ValueError, match=r"must be a file or a folder; there is no .*nowhere"):
        text.own_texts(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"a folder of texts must have a file; .* has none"):
        text.own_texts(tmp_path)
    file = tmp_path / "a.txt"
    file.write_bytes(b"abc\xffdef")
    for path in (file, tmp_path):
        with pytest.raises(
            ValueError, match=r"a.txt must be a text in UTF-8; got the byte 0xff at 3"
        ):
            text.own_texts(path)
    file.write_text("")
    with pytest.raises(ValueError, match=r"a.txt is empty"):
        text.own_texts(file)
    with pytest.raises(ValueError, match=r"ten characters or more; too few have a.txt"):
        text.own_texts(tmp_path)
    for split, content in (("train", "abba"), ("val", ""), ("test", "ab")):
        (tmp_path / "folders" / split).mkdir(parents=True)
        (tmp_path / "folders" / split / "a.txt").write_text(content)
    with pytest.raises(ValueError, match=r"folders is refused: each split .*; got none for val$"):
        text.own_texts(tmp_path / "folders")
    with pytest.raises(ValueError, match="got none for val"):
        make_corpus({"train": {"a": "abba"}}, "characters", 10)
    file.write_text("aaaaaaaaaa")
    with pytest.raises(ValueError, match=r"two different tokens or more; .* only 'a'"):
        text.own_texts(file)
    with pytest.raises(ValueError, match="level must be one of characters, words; got 'bytes'"):
        text.own_texts(file, "bytes")  # pyright: ignore[reportArgumentType]


def test_tokens_outside_the_vocabulary_are_replaced_and_counted_or_refused():
    texts = {"train": {"a": "aaabbc", "e": ""}, "val": {"b": "ab"}, "test": {"c": "abd"}}
    corpus = make_corpus(texts, "characters", 3)
    assert corpus.vocabulary == ("a", "b", "<unk>")
    assert corpus.splits["train"]["a"].tolist() == [0, 0, 0, 1, 1, 2]
    assert corpus.notes == (
        "Empty texts of train are left out: 'e'.",
        "1 of 6 tokens of train are outside the vocabulary: <unk>.",
        "1 of 3 tokens of test are outside the vocabulary: <unk>.",
    )
    assert encode(corpus, "bd").tolist() == [1, 2]
    whole = make_corpus({**texts, "test": {"c": "ab"}}, "characters", 9)
    assert whole.vocabulary == ("a", "b", "c")
    with pytest.raises(ValueError, match="every token of the text, or <unk>; got 'd'"):
        encode(whole, "bd")
    words = Corpus(("a", "<eos>"), {}, "words", ())
    assert encode(words, "a\n a").tolist() == [0, 1, 0, 1]
    with pytest.raises(ValueError, match="got 'dog'"):
        encode(words, "a dog")


def test_the_standard_library_is_split_by_its_modules():
    corpus = text.standard_library()
    names = {split: set(corpus.splits[split]) for split in SPLITS}
    modules = {s: {name.removesuffix(".py").split("/")[0] for name in names[s]} for s in SPLITS}
    assert not modules["train"] & (modules["val"] | modules["test"])
    assert not modules["val"] & modules["test"]
    assert all(len(modules[split]) >= 10 for split in SPLITS)
    source = Path(jax.tree_util.__file__)  # any text of ASCII has all its characters
    assert "".join(corpus.vocabulary[t] for t in encode(corpus, source.read_text()[:1000]))
    assert len(corpus.vocabulary) == 128


def test_a_passage_is_consecutive_chunks_of_one_text_from_any_place():
    texts = [np.arange(9), np.arange(100, 105), np.arange(200, 202), np.arange(300, 310)]
    sample = maml.batch_tasks(random_readings(texts, chunks=2, time=2), 2000)
    drawn = np.asarray(jax.jit(sample)(KEY).support)
    assert drawn.shape == (2000, 2, 3)
    first = drawn[:, :1, :1]
    np.testing.assert_array_equal(drawn - first, np.tile([[[0, 1, 2], [2, 3, 4]]], (2000, 1, 1)))
    places, counts = np.unique(first, return_counts=True)
    assert places.tolist() == [0, 1, 2, 3, 4, 100, 300, 301, 302, 303, 304, 305]
    assert counts.min() > 2000 / 12 * 0.7 and counts.max() < 2000 / 12 * 1.3


def test_an_evaluation_reads_each_text_from_its_beginning():
    texts = [np.arange(9), np.arange(100, 104), np.arange(200, 205)]
    got, places = readings(texts, chunks=1, time=4, most=9)
    assert places == [(0, 0), (0, 4), (2, 0)]
    assert got[:, 0].tolist() == [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8], [200, 201, 202, 203, 204]]
    assert readings(texts, 1, 4, most=2)[1] == [(0, 0), (0, 4)]


def test_texts_shorter_than_a_passage_are_refused_with_both_lengths():
    texts = [np.arange(4), np.arange(3)]
    message = "2 chunks of 2 tokens needs a text of 5 tokens; the longest of 2 texts has 4"
    for read in (lambda: random_readings(texts, 2, 2), lambda: readings(texts, 2, 2, 9)):
        with pytest.raises(ValueError, match=message):
            read()
    with pytest.raises(ValueError, match="chunks must be an integer >= 1; got 0"):
        random_readings(texts, 0, 2)
    with pytest.raises(ValueError, match="the longest of 0 val texts has 0"):
        random_readings([], 1, 1, kind="val texts")
    assert jnp.issubdtype(random_readings(texts, 1, 2)(KEY).support.dtype, jnp.int32)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "text", [[0, 1, 70_000], [0, 1, -1], [0.0, 1.0, 2.5], [[0, 1, 2]]], ids=str
)
def test_tokens_that_are_no_row_of_small_integers_are_refused(text):
    texts = [np.arange(9), np.array(text)]
    for read in (lambda: random_readings(texts, 1, 2), lambda: readings(texts, 1, 2, 9)):
        with pytest.raises(ValueError, match="row of integers from 0 to 65535; number 1 is"):
            read()
