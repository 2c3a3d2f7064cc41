"""The benchmark on photographs: a folder of pictures, CIFAR-100, and the numbers of a training."""

import hashlib
import io
import shutil
import tarfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import maml
from benchmarks import few_shot_experiment, image_sets, images, trained, weights
from benchmarks.few_shot import network
from tasks import cifar100
from tasks.augmentation import random_photograph

CIFAR = Path(__file__).parents[2] / "shared" / "data" / "cifar100"
TINY = {"meta_steps": 2, "steps_per_call": 1, "val_tasks": 2, "eval_tasks": 3, "meta_batch": 2}
KEY = jax.random.key(0)


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Thirteen classes of 5 or 6 pictures, each class with a colour of its own, and noise."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for label in range(13):
        folder = tmp_path / "data" / f"{'warm' if label < 5 else 'cold'}" / f"class{label}"
        folder.mkdir(parents=True)
        colour = rng.integers(0, 200, 3)
        for number in range(5 + label % 2):
            pixels = colour + rng.integers(0, 56, (20, 16, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "data"


@pytest.fixture
def config(pictures, tmp_path):
    options = TINY | {"ways": 2, "queries": 2, "channels": 4, "size": 16}
    return replace(images.PICTURES, data=pictures, out=tmp_path / "run", **options)


@pytest.mark.parametrize("preset", ["protonet-pictures", "maml-pictures"])
def test_a_folder_of_pictures_is_trained_on_and_evaluated(config, preset, tmp_path):
    kept = ("data", "ways", "queries", "channels", "size")
    options = TINY | {name: getattr(config, name) for name in kept}
    options |= {"inner_steps": 1, "eval_steps": 1, "shots_range": (1, 2)}
    made = replace(images.PRESETS[preset], out=tmp_path / preset, **options)
    result = few_shot_experiment.main(made)
    assert result.summary["benchmark"] == "images" and "13 classes" in result.summary["source"]
    assert 0 <= result.summary["mean"] <= 1
    assert {file.name for file in result.out.glob("*.png")} == {
        "episodes.png",
        "learning_curve.png",
    }
    file = tmp_path / "weights.npz"
    weights.main(weights.Weights(files=(file,), run=result.out))
    for source in (file, result.out):
        scaling = weights.read_normalise(source)
        assert scaling is not None and list(scaling) == result.summary["normalise"]
    fits: list[Any] = [trained.load(source, 2).fit for source in (file, result.out)]
    stored, learned = (fit.args[2] for fit in fits)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-6), stored, learned)


def test_pixels_have_mean_0_and_deviation_1_over_the_training_split(config):
    data = image_sets.load(config)
    assert data.normalise is not None and data.counts is not None
    mean, deviation = data.normalise
    counts = data.counts[data.splits["train"]]
    rows = np.concatenate(
        [data.images[i, :n] for i, n in zip(data.splits["train"], counts, strict=True)]
    )
    scaled = (rows / 255 - mean) / deviation
    np.testing.assert_allclose(scaled.mean((0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(scaled.std((0, 1, 2)), 1, rtol=1e-6)


def test_running_averages_normalise_the_support_set_of_an_evaluation_too(config):
    """With one shot, the logits are minus the squared distances of features by the averages."""
    experiment = few_shot_experiment.experiment(config)
    params = dict(experiment.initial())
    mean = jax.random.uniform(KEY, (4,))
    params["batch_stats"]["norm0"]["averages"] = mean, 0.1 + mean
    (images, labels), _ = experiment.samplers["test"](KEY)
    inner = experiment.algorithm.learner(params)
    fitted = inner.params(inner.step(inner.state, (images, labels), KEY)[0])
    logits = experiment.predict(fitted, maml.Query(images, images))
    model = network(config, ways=config.ways, track=True)
    features = jnp.asarray(model.apply(params, images, running=True, features=True))
    distances = jnp.square(features[:, None] - features).sum(axis=2) / config.temperature
    np.testing.assert_allclose(jax.nn.softmax(logits), jax.nn.softmax(-distances), rtol=1e-4)


def write_split(folder):
    """A CSV file with the first seven classes for training and three each for val and test."""
    groups = ["warm" if label < 5 else "cold" for label in range(13)]
    parts = [*7 * ["train"], *3 * ["val"], *3 * ["test"]]
    rows = [f"{groups[n]}/class{n},{part}\n" for n, part in enumerate(parts)]
    (folder / "split.csv").write_text(f"class,split\n{''.join(rows)}")
    return str(folder / "split.csv")


def test_classes_that_are_too_small_are_refused_by_name_and_count(config, tmp_path):
    config = replace(config, split=write_split(tmp_path), train_queries=5)
    message = r"6 images of each training class, .* have cold/class6 \(5\), .* --leave-out-small"
    with pytest.raises(ValueError, match=message):
        few_shot_experiment.experiment(config)


def test_classes_and_their_splits_are_printed_and_those_that_are_in_none(config, tmp_path, capsys):
    file = Path(write_split(tmp_path))
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    image_sets.load(replace(config, split=str(file)))
    said = capsys.readouterr().out
    assert "13 classes" in said and "Classes: 7 for train, 3 for val, 2 for test." in said
    assert "In no split, and so not used (1): cold/class12." in said


def test_validation_classes_are_needed_only_where_there_are_validation_tasks(config):
    """64, 16 and 20 % of 13 classes are 8, 2 and 3."""
    with pytest.raises(ValueError, match=r"the val split .* --val-tasks 0 needs no validation"):
        few_shot_experiment.experiment(replace(config, ways=3))
    samplers = few_shot_experiment.experiment(replace(config, ways=3, val_tasks=0)).samplers
    assert {*samplers} == {"train", "test"}


def test_the_presets_for_pictures_read_cifar_with_its_own_split():
    assert replace(images.PICTURES, dataset="fc100").split == "paper"
    with pytest.raises(ValueError, match="split is used only with dataset omniglot or images"):
        replace(images.PICTURES, dataset="fc100", split="folders")


def test_classes_that_are_too_small_are_left_out_with_a_line_and_splits_hold(
    config, tmp_path, capsys
):
    """Classes of odd numbers have 6 images, the others 5; val and test need 3 images alone."""
    config = replace(config, split=write_split(tmp_path), train_queries=5, leave_out_small=True)
    data = image_sets.load(replace(config, algorithm="protonet"))
    small = [f"warm/class{n}" for n in (0, 2, 4)] + ["cold/class6"]
    assert {data.names[i] for i in data.splits["train"]} == {
        *("warm/class1", "warm/class3", "cold/class5")
    }
    assert [data.names[i] for i in data.splits["val"]] == [f"cold/class{n}" for n in (7, 8, 9)]
    assert len(data.names) == 13 - len(small) and not {*data.names} & {*small}
    said = capsys.readouterr().out
    assert all(f"{name} (5)" in said for name in small) and said.count("(") == len(small)
    assert data.source.endswith("4 classes with too few images left out")
    for i, name in enumerate(data.names):
        assert (data.images[i, 5].max() > 0) == (int(name[-1]) % 2 == 1)
    with pytest.raises(ValueError, match=r"the train split of .* 4 ways .* split of 3"):
        few_shot_experiment.experiment(replace(config, ways=4, val_tasks=0))
    with pytest.raises(ValueError, match=r"no class of train has the .*class6 \(5\)"):
        image_sets.load(replace(config, train_queries=6))


def test_the_images_of_one_set_alone_may_be_augmented(config, monkeypatch):
    monkeypatch.setattr(image_sets, "random_photograph", lambda: lambda key, image: image + 2)
    config = replace(config, val_tasks=0)

    def drawn(split="train", **options):
        sample = few_shot_experiment.experiment(replace(config, **options)).samplers[split]
        (support, _), (query, _) = sample(KEY)
        return [np.asarray(images).mean() > 2 for images in (support, query.inputs)]

    assert drawn(augment_set="both") == [True, True]
    assert drawn(augment_set="support") == [True, False]
    assert drawn(augment_set="query") == [False, True]
    assert drawn(augment=False) == drawn(split="test") == [False, False]


def test_a_split_by_folders_needs_such_folders(config):
    with pytest.raises(ValueError, match=r"folders train, val and test; got .* --split random"):
        image_sets.load(replace(config, split="folders"))


def test_the_folders_of_the_pictures_are_the_splits_where_there_are_such(config, tmp_path):
    assert {part: len(rows) for part, rows in image_sets.load(config).splits.items()} == {
        "train": 8,
        "val": 2,
        "test": 3,
    }
    for part, group in {"train": "warm", "val": "cold", "test": "cold"}.items():
        shutil.copytree(config.data / group, tmp_path / "parts" / part / f"of_{part}")
    data = image_sets.load(replace(config, data=tmp_path / "parts"))
    assert {part: len(rows) for part, rows in data.splits.items()} == {
        "train": 5,
        "val": 8,
        "test": 8,
    }


def test_own_pictures_need_their_folder(config):
    with pytest.raises(ValueError, match="--dataset images needs the folder of its data"):
        image_sets.load(replace(config, data=None))


def test_photographs_are_cropped_mirrored_and_recoloured_within_bounds():
    """Without colour changes, a ramp of columns shows the crop and the mirror image."""
    ramp = jnp.broadcast_to(jnp.arange(8.0)[None, :, None] / 10, (8, 8, 3))
    keys = jax.random.split(KEY, 300)
    moved = jax.vmap(random_photograph(padding=2, jitter=0.0), (0, None))(keys, ramp)
    rows = np.rint(10 * np.asarray(moved)[:, 3, :, 0]).astype(int)
    expected = {
        tuple(np.clip(np.arange(8) + shift, 0, 7)[::step])
        for shift in range(-2, 3)
        for step in (1, -1)
    }
    assert {*map(tuple, rows.tolist())} == expected
    coloured = np.asarray(jax.vmap(random_photograph(padding=0), (0, None))(keys, ramp))
    assert coloured.min() >= 0 and coloured.max() <= 1
    brightness = coloured.mean((1, 2, 3)) / float(ramp.mean())
    assert 0.55 < brightness.min() < 0.75 and 1.2 < brightness.max() < 1.45


def test_grey_photographs_have_no_saturation_to_change():
    grey = jnp.full((4, 4, 1), 0.5)
    changed = jax.vmap(random_photograph(jitter=0.2), (0, None))(jax.random.split(KEY, 50), grey)
    values = np.asarray(changed)
    np.testing.assert_allclose(values, values[:, :1, :1, :1] * np.ones((4, 4, 1)), rtol=1e-6)
    assert values.min() >= 0.4 and values.max() <= 0.6


@pytest.mark.parametrize(("which", "sizes"), [("cifar-fs", (64, 16, 20)), ("fc100", (60, 20, 20))])
def test_the_splits_of_cifar_divide_its_classes(which, sizes):
    split = cifar100.splits(cifar100.NAMES, which)
    assert tuple(map(len, split.values())) == sizes
    assert sorted(np.concatenate([*split.values()]).tolist()) == list(range(100))
    groups = [{cifar100.NAMES[i].split("/")[0] for i in split[part]} for part in split]
    apart = not (groups[0] & groups[2])
    assert apart == (which == "fc100")


@pytest.mark.parametrize("name", ["cifar-100", None])
def test_another_split_of_cifar_is_refused(name, unchecked):
    with pytest.raises(ValueError, match="a split must be cifar-fs or fc100; got"):
        cifar100.splits(cifar100.NAMES, name)


def test_a_folder_without_cifar_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"tar\.gz or cifar100\.zip, or a folder with one of them; got"
    ):
        cifar100.load(tmp_path)
    (tmp_path / "cifar100.zip").write_bytes(b"no zip")
    with pytest.raises(ValueError, match="corrupt zip"):
        cifar100.load(tmp_path, cache=tmp_path)


@pytest.mark.skipif(not CIFAR.exists(), reason=f"CIFAR-100 is not in {CIFAR}")
def test_the_images_of_cifar_are_those_whose_moments_are_published(tmp_path):
    """`load` refuses other pixels by their SHA-256; the means are those of MetaOptNet's code."""
    data = cifar100.load(CIFAR, cache=tmp_path)
    assert data.images.shape == (100, 600, 32, 32, 3)
    means = data.images.reshape(-1, 3).mean(0, dtype=float) / 255
    np.testing.assert_allclose(means, [0.50736203, 0.48668956, 0.44108857], rtol=1e-7)
    again = cifar100.load(CIFAR, cache=tmp_path)
    np.testing.assert_array_equal(again.images[7], data.images[7])


@pytest.fixture
def few_images(monkeypatch):
    """CIFAR-100 with 6 images a class, and their limit of memory."""
    monkeypatch.setattr(cifar100, "EACH", 6)
    monkeypatch.setattr(cifar100, "MOST", 2**21)
    parts = {"cifar-100-binary/train.bin": 500, "cifar-100-binary/test.bin": 100}
    monkeypatch.setattr(cifar100, "PARTS", parts)


# Images of class 0, 1, ...: a pattern without symmetries, rolled by the number of the class.
LABELS = np.repeat(np.arange(100), 6)
PATTERNS = np.array([np.roll(np.arange(3072) % 251, n) for n in range(100)], np.uint8)
PATTERNS = PATTERNS.reshape(100, 32, 32, 3)


def write_archive(folder, images, labels, test=None):
    """The archive of CIFAR-100's author; `test` replaces the content of its second part."""
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    content = np.column_stack([0 * labels, labels, planes]).astype(np.uint8).tobytes()
    parts = {
        "train": content[: 500 * 3074],
        "test": content[500 * 3074 :] if test is None else test,
    }
    file = folder / "cifar-100-binary.tar.gz"
    with tarfile.open(file, "w:gz") as archive:
        for name, part in parts.items():
            info = tarfile.TarInfo(f"cifar-100-binary/{name}.bin")
            if part == "link":
                info.type, info.linkname, part = tarfile.LNKTYPE, "cifar-100-binary/train.bin", b""
            info.size = len(part)
            archive.addfile(info, io.BytesIO(part))
    return file


@pytest.mark.usefixtures("few_images")
def test_the_archive_of_cifars_author_is_read_in_its_order_of_labels(tmp_path, monkeypatch):
    expected = np.repeat(PATTERNS[:, None], 6, axis=1)
    monkeypatch.setattr(cifar100, "PIXELS", hashlib.sha256(expected.tobytes()).hexdigest())
    order = np.random.default_rng(0).permutation(600)
    write_archive(tmp_path, expected.reshape(-1, 32, 32, 3)[order], LABELS[order])
    data = cifar100.load(tmp_path, cache=tmp_path / "cache")
    for name, label in (("fruit_and_vegetables/apple", 0), ("non-insect_invertebrates/worm", 99)):
        np.testing.assert_array_equal(data.images[data.names.index(name), 4], PATTERNS[label])


@pytest.mark.usefixtures("few_images")
def test_another_archive_than_that_of_cifar_is_refused(tmp_path):
    black = np.zeros((600, 32, 32, 3), np.uint8)
    uneven = np.where(np.arange(600) == 599, 0, LABELS)
    for labels, test, message in (
        (LABELS, None, "SHA-256 differs"),
        (uneven, None, "7 images of class 0 instead of 6"),
        (LABELS, b"", r"test\.bin must be a file of 307400 bytes; got 0 bytes"),
        (LABELS, "link", r"test\.bin must be a file of 307400 bytes; got a link or folder"),
    ):
        file = write_archive(tmp_path, black, labels, test)
        with pytest.raises(ValueError, match=message):
            cifar100.load(file, cache=tmp_path)
    for size, message in (
        (0, r"has no .*/test\.bin; the binary version of CIFAR-100 has it"),
        (2**22, "unpacks to more than 2097152 bytes"),
    ):
        other = tarfile.TarInfo("cifar-100-python/train")
        other.size = size
        with tarfile.open(file, "w:gz") as archive:
            archive.addfile(other, io.BytesIO(bytes(size)))
        with pytest.raises(ValueError, match=message):
            cifar100.load(file, cache=tmp_path)
    file.write_bytes(b"no archive")
    with pytest.raises(
        ValueError, match=r"cannot be read as cifar-100-binary\.tar\.gz: Not a gzip"
    ):
        cifar100.load(tmp_path, cache=tmp_path)
