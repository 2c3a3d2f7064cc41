"""Splits of classes do not depend on their order, and invalid splits raise ValueError."""

import contextlib
import json
import os
import pickle
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import split_files
from tasks.cache_files import load_or_build
from tasks.characters import SPLITS, shuffle_names, split
from tasks.split_files import read_split

NAMES = ("Greek/alpha", "Greek/beta", "Latin/a", "Latin/b", "Latin/c")
GOOD: dict[str, Sequence[str]] = {
    "train": ["Latin/c", "Greek/alpha"],
    "val": ["Latin/a"],
    "test": ["Greek/beta"],
}
BAD = [
    ({k: GOOD[k] for k in ("train", "test")}, "splits must be train, val, test; got train, test"),
    (GOOD | {"dev": ["Latin/b"]}, "got train, val, test, dev"),
    (GOOD | {"val": []}, "the split 'val' is empty"),
    (GOOD | {"val": ["Latin/d"]}, "'val' names 'Latin/d', which is not a class"),
    (GOOD | {"test": ["Latin/a"]}, "'Latin/a' is in 'val' and again in 'test'"),
    (GOOD | {"val": ["Latin/a", "Latin/a"]}, "'Latin/a' is in 'val' and again in 'val'"),
]


@given(st.permutations(NAMES))
def test_indices_select_the_listed_classes_in_any_order_of_the_set(names):
    parts = split(names, GOOD)
    assert {part: [names[i] for i in parts[part]] for part in SPLITS} == GOOD


@pytest.mark.parametrize(("parts", "message"), BAD)
def test_a_bad_split_is_refused_in_words_from_a_dictionary_and_from_a_file(
    parts, message, tmp_path
):
    file = tmp_path / "split.json"
    file.write_text(json.dumps(parts))
    with pytest.raises(ValueError, match=message):
        split(NAMES, parts)
    with pytest.raises(ValueError, match=message):
        read_split(file, NAMES)


def test_a_file_holds_the_split_that_was_written(tmp_path):
    file = tmp_path / "split.json"
    file.write_text(json.dumps(GOOD))
    got = {part: indices.tolist() for part, indices in read_split(file, NAMES).items()}
    assert got == {"train": [4, 0], "val": [2], "test": [1]}


@pytest.mark.parametrize(
    "text",
    [
        *('{"train": [', "\xff", "", "[]", '"train"', '{"train": "Latin/a"}'),
        *("[" * 100_000, '{"train":' * 100_000, "1" * 5000, "null", " " * 2000),
        json.dumps(GOOD | {"val": [1]}),
        json.dumps(GOOD | {"val": "Latin/a"}),
        json.dumps(GOOD | {"val": {"Latin/a": 1}}),
        json.dumps(GOOD | {"val": [["Latin/a"]]}),
        json.dumps(GOOD)[:-1] + ', "val": ["Latin/b"]}',
        json.dumps(GOOD | {"val": ["Latin/ä"]}, ensure_ascii=False),
    ],
)
def test_an_invalid_json_file_is_refused_with_its_name(text, tmp_path):
    file = tmp_path / "split.json"
    file.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"split\.json") as refusal:
        read_split(file, NAMES)
    assert len(str(refusal.value)) < 500


GOOD_CSV = "class,split\nLatin/c,train\nLatin/a,val\nGreek/alpha,train\nGreek/beta,test\n"
WRONG_CSV = {
    "empty": ("", "first line must have the columns class and split once.* got ''"),
    "no header": ("Latin/a,train\n", "first line .* got 'Latin/a,train'"),
    "filename and label": ("filename,label\n1.png,Latin/a\n", "got 'filename,label'"),
    "semicolons": (GOOD_CSV.replace(",", ";"), "separated by a comma; got 'class;split'"),
    "column twice": (f"class,{GOOD_CSV}", "once, .* got 'class,class,split'"),
    "header alone": ("class,split\n", "the split 'train' is empty"),
    "no val": (GOOD_CSV.replace("val", "test"), "the split 'val' is empty"),
    "unknown class": (f"{GOOD_CSV}\nLatin/d,val\n", "line 7 names 'Latin/d', which is not a class"),
    "unknown split": (f"{GOOD_CSV}Latin/b,dev\n", "line 6: a split must be .* got 'dev'"),
    "in two splits": (
        f"{GOOD_CSV}Latin/a,test\n",
        r"line 6: 'Latin/a' is in 'val' \(line 3\) and again in 'test'",
    ),
    "row twice": (f"{GOOD_CSV}Latin/a,val\n", r"'Latin/a' is in 'val' \(line 3\) and again in"),
    "too short": (f"{GOOD_CSV}Latin/b\n", "line 6 must have 2 values, as the first line has"),
    "too long": (f"{GOOD_CSV}Latin/b,c,val\n", "line 6 must have 2 values"),
    "open quotes": (f'{GOOD_CSV}"Latin/b,val\n', "line 6: unexpected end of data"),
    "a field without end": (f"{GOOD_CSV}{'b' * 200_000},val\n", "line 6: field larger than"),
}


@pytest.mark.parametrize("kind", WRONG_CSV)
def test_a_wrong_csv_file_is_refused_with_its_line(kind, tmp_path):
    text, message = WRONG_CSV[kind]
    (tmp_path / "split.csv").write_text(text)
    with pytest.raises(ValueError, match=f"split.csv is refused: .*{message}") as refusal:
        read_split(tmp_path / "split.csv", NAMES)
    assert len(str(refusal.value)) < 500


@pytest.mark.parametrize(
    "text",
    [
        GOOD_CSV,
        f"\ufeff{GOOD_CSV}",
        GOOD_CSV.replace("\n", "\r\n"),
        GOOD_CSV.replace(",", ', "').replace("\n", '"\n'),
        "split,images,class\ntrain,3,Latin/c\nval,,Latin/a\n\ntrain,9,Greek/alpha\ntest,1,Greek/beta",
    ],
)
def test_a_csv_file_is_the_split_of_its_rows(text, tmp_path):
    (tmp_path / "split.CSV").write_text(text, "utf-8")
    got = {
        part: indices.tolist()
        for part, indices in read_split(tmp_path / "split.CSV", NAMES).items()
    }
    assert got == {"train": [4, 0], "val": [2], "test": [1]}


def test_a_file_too_large_or_not_regular_is_not_read(tmp_path, monkeypatch):
    file, pipe = tmp_path / "split.json", tmp_path / "pipe"
    file.write_text(json.dumps(GOOD) + " " * 999)
    os.mkfifo(pipe)
    with pytest.raises(ValueError, match=r"cannot read .*pipe: it is not a regular file"):
        read_split(pipe, NAMES)
    assert read_split(file, NAMES)["val"].tolist() == [2]
    monkeypatch.setattr(split_files, "LARGEST_SPLIT", 999)
    with pytest.raises(ValueError, match=r"cannot read .*split.json: it has 1\d+ bytes, more than"):
        read_split(file, NAMES)


def test_a_set_in_which_two_classes_have_one_name_is_refused():
    with pytest.raises(ValueError, match="'Latin/a' occurs twice"):
        split((*NAMES, "Latin/a"), GOOD)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (None, "got NoneType"),
        ([["Latin/a"]], "got list"),
        (GOOD | {"val": "Latin/a"}, "'val' must be a list of names; got 'Latin/a'"),
        (GOOD | {"val": [["Latin/a"]]}, "'val' must be a list of names"),
        (GOOD | {"val": [2]}, r"'val' must be a list of names; got \[2\]"),
        (GOOD | {"val": None}, "'val' must be a list of names; got None"),
    ],
)
def test_parts_that_are_no_lists_of_names_are_refused(parts, message, unchecked):
    with pytest.raises(ValueError, match=message):
        split(NAMES, parts)


@pytest.mark.parametrize("missing", ["nowhere.json", "."])
def test_a_file_that_cannot_be_read_is_named(missing, tmp_path):
    with pytest.raises(ValueError, match=f"cannot read the split file {tmp_path / missing}"):
        read_split(tmp_path / missing, NAMES)


@given(st.lists(st.text(), unique=True), st.integers(), st.randoms())
def test_the_shuffled_order_is_of_the_names_and_the_seed_alone(names, seed, random):
    order = shuffle_names(names, seed)
    assert sorted(order) == sorted(names)
    random.shuffle(names)
    assert shuffle_names(names, seed) == order


def test_seeds_give_different_orders():
    names = [*map(str, range(10))]
    assert len({tuple(shuffle_names(names, seed)) for seed in range(20)}) == 20


# The cache


ARRAYS = np.arange(5 * 2 * 3 * 3, dtype=np.uint8).reshape(5, 2, 3, 3), NAMES


def same(arrays):
    return np.array_equal(arrays[0], ARRAYS[0]) and arrays[1] == NAMES


@pytest.mark.parametrize(("name", "save"), [("set.npz", "savez_compressed"), ("set.npy", "save")])
@pytest.mark.parametrize("error", [OSError(28, "No space left"), KeyboardInterrupt()])
@pytest.mark.filterwarnings("ignore:the cache .* is corrupt")
@pytest.mark.filterwarnings("ignore:.* is not cached")
def test_a_partly_written_cache_is_never_found(tmp_path, monkeypatch, error, name, save):
    """What was there before stays, even if it is damaged: only a whole file takes its place."""
    file = tmp_path / name

    def half(to, *_, **__):
        to.write_bytes(b"PK half") if name == "set.npz" else to.write(b"PK half")
        raise error

    file.write_bytes(b"older")
    with monkeypatch.context() as patch:
        patch.setattr(np, save, half)
        with contextlib.suppress(KeyboardInterrupt):
            assert same(load_or_build(file, lambda: ARRAYS))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert file.read_bytes() == b"older"
    assert same(load_or_build(file, lambda: ARRAYS))
    assert same(load_or_build(file, lambda: pytest.fail("built again")))


@pytest.mark.parametrize("name", ["set.npz", "set.npy"])
def test_concurrent_builders_never_read_a_partly_written_cache(tmp_path, name):
    """A warning, which here is an error, would tell of a damaged one."""
    numbers = count()

    def load(_):
        if next(numbers) % 3 == 0:
            (tmp_path / name).unlink(missing_ok=True)
        return load_or_build(tmp_path / name, lambda: ARRAYS)

    with ThreadPoolExecutor(8) as pool:
        assert all(map(same, pool.map(load, range(60))))
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_images_that_are_mapped_may_be_changed_without_changing_the_cache(tmp_path):
    turned = ARRAYS[0][:, ::-1].swapaxes(2, 3)
    for _ in range(3):  # the second and the third are read from the file
        images, names = load_or_build(tmp_path / "set.npy", lambda: (turned.copy("K"), NAMES))
        assert names == NAMES and np.array_equal(images, turned)
        images[:] = 7


def resaved(file, *arrays):
    with file.open("wb") as opened:
        for array in arrays:
            np.save(opened, array)


@pytest.mark.parametrize(
    "damage",
    [
        lambda file, content: file.write_bytes(b""),
        lambda file, content: file.write_bytes(content[:-1]),
        lambda file, content: file.write_bytes(content[:150]),
        lambda file, content: file.write_bytes(content.replace(b"\1\2\3\4", b"\1\2\7\4")),
        lambda file, content: file.write_bytes(content.replace(b"NUMPY", b"numpy")),
        lambda file, content: resaved(file, ARRAYS[0]),
        lambda file, content: resaved(file, ARRAYS[0], np.array(NAMES), np.array(0)),
        lambda file, content: resaved(file, np.zeros(3), np.array(NAMES), np.array(0)),
        lambda file, content: file.write_bytes(pickle.dumps(ARRAYS)),
    ],
)
def test_a_damaged_cache_of_mapped_images_is_made_again_with_a_warning(tmp_path, damage):
    file = tmp_path / "set.npy"
    load_or_build(file, lambda: ARRAYS)
    damage(file, file.read_bytes())
    with pytest.warns(UserWarning, match=r"set\.npy is corrupt and is rebuilt"):
        assert same(load_or_build(file, lambda: ARRAYS))
    assert same(load_or_build(file, lambda: pytest.fail("built again")))
