"""The data set of glyphs: its classes, its splits and its cache."""

import time
from collections import Counter
from itertools import islice

import numpy as np
import pytest

from tasks import glyphs, lookalikes
from tasks.characters import alphabet


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("glyphs")


@pytest.fixture(scope="module")
def characters(cache):
    return glyphs.load(cache=cache)


@pytest.fixture(scope="module")
def shapes():
    return glyphs.classes()


def test_there_are_a_thousand_classes_of_twenty_scripts(characters):
    scripts = Counter(map(alphabet, characters.names))
    assert len(characters.names) >= 1000 and len(scripts) >= 20
    assert min(scripts.values()) >= 5, scripts  # a task of five ways fits into any script


def test_every_class_has_a_name_and_twenty_images(characters):
    assert characters.images.shape == (len(characters.names), 20, 28, 28)
    assert characters.images.dtype == np.uint8
    assert len(set(characters.names)) == len(characters.names)


def test_every_image_has_some_ink_and_more_paper(characters):
    ink = characters.images.mean((2, 3)) / 255
    assert ink.min() > 0.01 and ink.max() < 0.5
    assert characters.images.max((2, 3)).min() > 64


def test_no_image_touches_the_edge_of_its_paper(characters):
    edges = characters.images[..., [0, -1], :], characters.images[..., [0, -1]]
    assert not any(edge.any() for edge in edges)


def test_no_image_occurs_twice(characters):
    flat = characters.images.reshape(-1, 28 * 28)
    assert len(np.unique(flat, axis=0)) == len(flat)


def test_the_drawings_of_a_class_differ_noticeably(characters):
    drawings = characters.images.reshape(-1, 20, 28 * 28).astype(np.float32) / 255
    centred = drawings - drawings.mean(-1, keepdims=True)
    unit = centred / np.linalg.norm(centred, axis=-1, keepdims=True)
    correlation = (unit @ unit.swapaxes(1, 2))[:, *np.triu_indices(20, 1)]
    assert 0.3 < correlation.mean() < 0.8
    assert correlation.max() < 0.995


def test_no_two_classes_have_nearly_one_shape(shapes):
    blurred = np.stack([glyphs.blur(shape) for shape in shapes.values()])
    alike = np.triu(lookalikes.correlate(blurred, blurred), 1)
    assert alike.max() < lookalikes.LOOKALIKE + 1e-5  # sums in another order round differently


def test_only_the_first_of_several_lookalikes_is_a_class(shapes):
    assert "Latin/U+0041" in shapes
    assert not {"Greek/U+0391", "Cyrillic/U+0410"} & set(shapes)
    assert len({"Latin/U+004F", "Latin/U+006F", "Cyrillic/U+041E"} & set(shapes)) <= 1


def test_no_class_is_the_box_of_a_missing_glyph(shapes):
    missing = glyphs.blur(glyphs.fit_to_canvas("\uffff", glyphs.BASE))[None]
    blurred = np.stack([glyphs.blur(shape) for shape in shapes.values()])
    assert lookalikes.correlate(missing, blurred).max() < lookalikes.LOOKALIKE + 1e-5


def test_pixels_alone_make_the_task_neither_trivial_nor_impossible(characters):
    pixels = characters.images.reshape(-1, 20, 28 * 28).astype(np.float32)
    classes, rng, hits = glyphs.splits(characters)["test"], np.random.default_rng(0), []
    for _ in range(1000):
        drawings = rng.permuted(np.tile(np.arange(20), (5, 1)), axis=1)[:, :2]
        support, query = pixels[rng.choice(classes, (5, 1), replace=False), drawings].swapaxes(0, 1)
        distances = np.square(query[:, None] - support).sum(-1)
        hits.append(distances.argmin(1) == np.arange(5))
    accuracy = np.mean(hits)
    print(f"5-way 1-shot by the nearest neighbour in pixel space: {accuracy:.1%}")
    assert 0.5 < accuracy < 0.9


def test_parts_share_no_script_and_hold_every_class(characters):
    split = glyphs.splits(characters)
    scripts = [{alphabet(characters.names[i]) for i in part} for part in split.values()]
    assert sum(map(len, scripts)) == len(set.union(*scripts))
    assert sorted(np.concatenate(list(split.values()))) == list(range(len(characters.names)))


def test_a_fifth_of_the_classes_is_for_the_test_and_a_tenth_for_validation(characters):
    share = {part: len(i) / len(characters.names) for part, i in glyphs.splits(characters).items()}
    assert abs(share["test"] - 0.2) < 0.05 and abs(share["val"] - 0.1) < 0.05


def test_rendering_is_reproducible_and_each_class_is_rendered_on_its_own(characters, shapes):
    some = dict(islice(shapes.items(), 0, None, 100))
    images, _ = glyphs.render(some)
    index = [characters.names.index(name) for name in some]
    np.testing.assert_array_equal(images, characters.images[index])


def test_the_second_load_reads_the_cache(characters, cache, monkeypatch):
    monkeypatch.setattr(glyphs, "classes", lambda: pytest.fail("rendered again"))
    start = time.perf_counter()
    again = glyphs.load(cache=cache)
    assert time.perf_counter() - start < 5
    np.testing.assert_array_equal(again.images, characters.images)
    assert again[1:] == characters[1:]


@pytest.mark.parametrize("damage", ["empty", "noise", "truncated", "flipped"])
def test_a_corrupt_cache_is_rebuilt_with_a_warning(
    damage, characters, cache, shapes, tmp_path, monkeypatch
):
    few = dict(islice(shapes.items(), 5))
    monkeypatch.setattr(glyphs, "classes", lambda: few)
    (whole,) = cache.glob("*.npz")
    content = whole.read_bytes()
    middle = len(content) // 2
    broken = {
        "empty": b"",
        "noise": b"no archive at all",
        "truncated": content[:middle],
        "flipped": content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :],
    }
    (tmp_path / whole.name).write_bytes(broken[damage])
    with pytest.warns(UserWarning, match="corrupt"):
        rebuilt = glyphs.load(cache=tmp_path)
    np.testing.assert_array_equal(rebuilt.images, characters.images[:5])
    np.testing.assert_array_equal(glyphs.load(cache=tmp_path).images, rebuilt.images)
    assert [path.name for path in tmp_path.iterdir()] == [whole.name]
