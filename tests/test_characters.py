"""A split says which classes are whose, whatever the order, or says what is wrong with it."""

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.characters import PARTS, read_split, shuffled, split

NAMES = ("Greek/alpha", "Greek/beta", "Latin/a", "Latin/b", "Latin/c")
GOOD: dict[str, Sequence[str]] = {
    "train": ["Latin/c", "Greek/alpha"],
    "val": ["Latin/a"],
    "test": ["Greek/beta"],
}
BAD = [
    ({k: GOOD[k] for k in ("train", "test")}, "parts train, val, test; got train, test"),
    (GOOD | {"dev": ["Latin/b"]}, "got train, val, test, dev"),
    (GOOD | {"val": []}, "'val' of the split is empty"),
    (GOOD | {"val": ["Latin/d"]}, "'val' names 'Latin/d', which is no class"),
    (GOOD | {"test": ["Latin/a"]}, "'Latin/a' is in 'val' and again in 'test'"),
    (GOOD | {"val": ["Latin/a", "Latin/a"]}, "'Latin/a' is in 'val' and again in 'val'"),
]


@given(st.permutations(NAMES))
def test_indices_point_at_the_listed_classes_whatever_the_order_of_the_set(names):
    parts = split(names, GOOD)
    assert {part: [names[i] for i in parts[part]] for part in PARTS} == GOOD


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
    "text", ['{"train": [', "\xff", "", "[]", '"train"', '{"train": "Latin/a"}']
)
def test_a_file_that_is_no_such_json_is_named(text, tmp_path):
    file = tmp_path / "split.json"
    file.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"split\.json"):
        read_split(file, NAMES)


@pytest.mark.parametrize("missing", ["nowhere.json", "."])
def test_a_file_that_cannot_be_read_is_named(missing, tmp_path):
    with pytest.raises(ValueError, match=f"cannot read the split file {tmp_path / missing}"):
        read_split(tmp_path / missing, NAMES)


@given(st.lists(st.text(), unique=True), st.integers(), st.randoms())
def test_the_shuffled_order_is_of_the_names_and_the_seed_alone(names, seed, random):
    order = shuffled(names, seed)
    assert sorted(order) == sorted(names)
    random.shuffle(names)
    assert shuffled(names, seed) == order


def test_seeds_give_different_orders():
    names = [*map(str, range(10))]
    assert len({tuple(shuffled(names, seed)) for seed in range(20)}) == 20
