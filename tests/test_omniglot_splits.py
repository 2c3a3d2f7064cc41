"""The splits of Omniglot, on the real data where it is found."""

import hashlib
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tiny_omniglot import BACKGROUND, EVALUATED

from tasks import omniglot
from tasks.characters import Characters, alphabet
from tasks.drawings import zip_drawings
from tasks.omniglot import EVALUATION, load, splits

REPOSITORY = Path(__file__).parents[1]


def named(names: tuple[str, ...]) -> Characters:
    return Characters(np.zeros((len(names), 1, 1, 1), np.uint8), names, "names only")


@pytest.fixture(scope="module")
def characters():
    """1,623 names: 30 background alphabets and the 20 real evaluation alphabets."""
    alphabets = sorted(EVALUATION) + [f"Background{i:02d}" for i in range(30)]
    names = [f"{alphabets[i % 50]}/character{i // 50 + 1:02d}" for i in range(1623)]
    return named(tuple(sorted(names)))


def digests(characters: Characters, name: str, seed: int = 0) -> dict[str, str]:
    return {
        part: hashlib.sha256(" ".join(characters.names[i] for i in indices).encode()).hexdigest()[
            :8
        ]
        for part, indices in splits(characters, name, seed=seed).items()
    }


@pytest.mark.parametrize("name", omniglot.SPLIT_RULES)
def test_the_parts_of_a_split_are_disjoint_and_hold_everything(characters, name):
    parts = splits(characters, name)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(1623))


def test_the_paper_split_is_1100_100_423(characters):
    sizes = {part: len(indices) for part, indices in splits(characters, "paper").items()}
    assert sizes == {"train": 1100, "val": 100, "test": 423}


def test_no_alphabet_is_in_two_parts_and_the_evaluation_set_is_the_test(characters):
    parts = splits(characters, "alphabets")
    kinds = {k: {alphabet(characters.names[i]) for i in parts[k]} for k in parts}
    assert {k: len(kinds[k]) for k in kinds} == {"train": 25, "val": 5, "test": 20}
    assert kinds["test"] == EVALUATION
    assert not kinds["train"] & kinds["val"]


@pytest.mark.parametrize("name", omniglot.SPLIT_RULES)
def test_a_seed_is_another_split(characters, name):
    assert digests(characters, name, seed=0)["val"] != digests(characters, name, seed=1)["val"]


def test_the_splits_are_the_same_for_ever(characters):
    golden = {"train": "00e8faec", "val": "ce258013", "test": "e822716f"}
    assert digests(characters, "paper") == golden
    golden = {"train": "b17429a6", "val": "5f916cd9", "test": "051832e3"}
    assert digests(characters, "alphabets") == golden


def test_a_split_can_be_a_file(characters, tmp_path):
    names = characters.names
    parts = {"train": names[:3], "val": names[3:4], "test": names[7:9]}
    file = tmp_path / "split.json"
    file.write_text(json.dumps(parts))
    assert splits(characters, file)["test"].tolist() == [7, 8]
    assert splits(characters, str(file))["val"].tolist() == [3]


def test_an_unknown_split_names_those_there_are(characters):
    with pytest.raises(ValueError, match=r"no split 'papr': .*paper, alphabets"):
        splits(characters, "papr")


# The real thing


@pytest.fixture(scope="module")
def real():
    folder = Path(os.environ.get("OMNIGLOT_DIR", REPOSITORY.parent / "shared/data/omniglot"))
    if not folder.is_dir():
        pytest.skip(f"no Omniglot in {folder}: set OMNIGLOT_DIR to a folder with its two zips")
    return folder


@pytest.fixture(scope="module")
def omniglot28(real, tmp_path_factory):
    return load(real, cache=tmp_path_factory.mktemp("cache"))


def test_omniglot_is_1623_characters_by_20_drawers_in_two_colours(omniglot28):
    assert omniglot28.images.shape == (1623, 20, 28, 28)
    assert set(np.unique(omniglot28.images)) == {0, 255}
    assert omniglot28.images.mean() / 255 == pytest.approx(0.081, abs=1e-3)


@pytest.mark.slow
def test_antialiased_omniglot_has_as_much_ink_in_grey(real, tmp_path):
    images = load(real, resize="antialias", cache=tmp_path).images
    assert images.mean() / 255 == pytest.approx(0.083, abs=2e-3)
    assert len(np.unique(images)) == 256


def test_the_evaluation_alphabets_are_those_of_its_zip(real):
    with zipfile.ZipFile(real / f"{EVALUATED}.zip") as archive:
        result = {name.split("/")[1] for name in archive.namelist() if name.endswith(".png")}
    assert result == EVALUATION


def test_the_only_two_equal_drawings_are_of_the_first_braille_character(real):
    zips = [real / f"{part}.zip" for part in (BACKGROUND, EVALUATED)]
    files = {where: png for zipped in zips for where, png in zip_drawings(zipped).items()}
    seen: dict[bytes, str] = {}
    pairs = []
    for where, content in files.items():
        if content in seen:
            pairs.append((Path(seen[content]).name, Path(where).name))
        seen[content] = where
    assert pairs == [("0192_03.png", "0192_19.png")]


def test_the_real_splits_are_the_same_for_ever(omniglot28):
    golden = {"train": "7dd52306", "val": "cc53f29a", "test": "3236f154"}
    assert digests(omniglot28, "paper") == golden
    golden = {"train": "339e266e", "val": "78bc7fd8", "test": "01283721"}
    assert digests(omniglot28, "alphabets") == golden
