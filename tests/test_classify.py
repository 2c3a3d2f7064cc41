"""Shipped weights classify new drawings one at a time, prepared as the weights say."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps
from tiny_pictures import BLUE, GREEN, RED, plain, write, write_zip

import maml
from benchmarks import classify, images, trained, weights
from benchmarks.few_shot_experiment import build
from tasks.omniglot import read_drawing

FILES = Path(__file__).parents[1] / "results" / "weights"
MAML = FILES / "maml-5-way-1-shot.npz"
PROTONET = FILES / "prototypes-augmented-20-way-1-shot.npz"
ALPHABETS = FILES / "prototypes-augmented-alphabets-20-way-1-shot.npz"
STROKES = {  # corners of the strokes of each character
    "cross": [[(25, 25), (80, 80)], [(80, 25), (25, 80)]],
    "ladder": [[(35, 20), (35, 85)], [(70, 20), (70, 85)], [(35, 52), (70, 52)]],
    "tent": [[(20, 82), (52, 22), (85, 82)]],
    "stairs": [[(20, 30), (50, 30), (50, 75), (85, 75)]],
    "ring": [],
}
MEAN, DEVIATION = [0.5, 0.4, 0.3], [0.2, 0.3, 0.2]


def draw(name, number):
    """A drawing of 105x105 pixels, with strokes of 2 to 4 pixels at a place of its own."""
    rng = np.random.default_rng((number, *name.encode()))
    image = Image.new("L", (105, 105), "white")
    pen, width, shift = ImageDraw.Draw(image), 2 + number, rng.integers(-6, 7, 2)
    for corners in STROKES[name]:
        points = np.array(corners) + shift + rng.normal(0, 2, (len(corners), 2))
        pen.line([tuple(point) for point in points], "black", width)
    if not STROKES[name]:
        ends = np.array([(25, 25), (80, 80)]) + shift + rng.normal(0, 2, (2, 2))
        pen.ellipse([tuple(point) for point in ends], outline="black", width=width)
    return image


@pytest.fixture
def drawings(tmp_path):
    """A folder with two drawings of each character in its support set, and one as a query."""
    for name in STROKES:
        for number, folder in enumerate(("support", "support", "query")):
            file = tmp_path / folder / name / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            draw(name, number).save(file)
    return tmp_path


def options_of(folder, *files, **changes):
    query = tuple(sorted((folder / "query").rglob("*.png")))
    options = {"weights": files, "support": folder / "support", "query": query}
    return classify.Classify(**(options | {"out": folder / "out"} | changes))


@pytest.mark.parametrize(
    "file", [MAML, PROTONET, ALPHABETS], ids=["maml", "protonet", "new alphabets"]
)
def test_five_new_drawings_are_classified_one_at_a_time(drawings, file):
    names = sorted(STROKES)
    loaded = trained.load(file, len(names))
    support = [loaded.read(drawings / "support" / n / f"{i}.png") for n in names for i in (0, 1)]
    classifier = jax.jit(loaded.fit)(np.stack(support), np.repeat(np.arange(5), 2))
    predict = jax.jit(maml.Classifier.predict)
    queries = [loaded.read(drawings / "query" / name / "2.png") for name in names]
    assert [int(predict(classifier, query)) for query in queries] == [0, 1, 2, 3, 4]


def test_the_command_prints_probabilities_and_draws_a_figure(drawings, capsys):
    """More images of one class than of another, and fewer classes than in the training."""
    for name in ("ring", "stairs"):
        (drawings / "support" / name).rename(drawings / name)
    draw("tent", 1).convert("RGB").save(drawings / "support" / "tent" / "3.jpg")
    options = options_of(drawings, PROTONET)
    classified = classify.main(replace(options, query=options.query[:1]))
    assert classified.names == ["cross", "ladder", "tent"]
    assert classified.probabilities.shape == (1, 3)
    assert classified.probabilities.sum() == pytest.approx(1, abs=1e-5)
    assert (classified.out / "classified.png").exists()
    printed = capsys.readouterr().out
    assert "28x28 pixels of ink, dark on light paper; colours are dropped" in printed
    assert f"{100 * classified.probabilities[0, 0]:.1f}" in printed


def test_a_drawing_is_ink_on_paper_whatever_its_size_and_colours(tmp_path):
    image = draw("tent", 2)
    image.save(tmp_path / "tent.png")
    ink = read_drawing(tmp_path / "tent.png")
    assert ink.shape == (28, 28, 1) and ink.dtype == np.uint8 and 0 < ink.mean() < 50
    blue = ImageOps.colorize(image, "#204080", "#f0e8d0").resize((420, 420))
    blue.save(tmp_path / "blue.png")
    assert np.abs(read_drawing(tmp_path / "blue.png") - ink.astype(float)).mean() < 5
    ImageOps.invert(image).save(tmp_path / "inverted.png")
    Image.new("L", (105, 105), "white").save(tmp_path / "blank.png")
    for name in ("inverted", "blank"):
        with pytest.raises(ValueError, match=f"{name}.png must be dark ink on light paper"):
            read_drawing(tmp_path / f"{name}.png")


@pytest.fixture
def photographs(tmp_path):
    """A folder of red and green pictures with a blue query, and the options of tiny weights."""
    files = {f"support/{name}/1.png": plain(c) for name, c in (("green", GREEN), ("red", RED))}
    write(tmp_path, files | {"query/1.png": plain(RED), "query/2.png": plain(BLUE, (9, 5))})
    return tmp_path


def saved(folder, preset, normalise):
    """A file of weights that are not trained."""
    config = replace(images.PRESETS[preset], ways=3, channels=2, size=16)
    _, init, _, algorithm = build(config, config.network_ways)
    learned = jax.jit(lambda key: algorithm.init(init(key)))(jax.random.key(0))
    stored = weights.folders.options_as_json(config) | {"normalise": normalise}
    weights.save_weights(folder / f"{preset}.npz", learned, stored)
    return folder / f"{preset}.npz"


@pytest.mark.parametrize("preset", ["protonet-pictures", "maml-pictures"])
def test_photographs_are_prepared_as_the_weights_say(photographs, preset, capsys):
    file = saved(photographs, preset, [MEAN, DEVIATION])
    assert weights.read_normalise(file) == (MEAN, DEVIATION)
    classified = classify.main(options_of(photographs, file))
    assert classified.names == ["green", "red"]
    np.testing.assert_allclose(classified.probabilities.sum(axis=1), 1, rtol=1e-5)
    assert "16x16 pixels in colours, by crop" in capsys.readouterr().out
    if preset == "protonet-pictures":
        assert classified.probabilities[0, 1] > 0.5  # it is an image of the support set
    loaded = trained.load(file, 2)
    red, green = (loaded.read(plain(colour)) for colour in (RED, GREEN))
    classifier = jax.jit(loaded.fit)(np.stack([red, green]), np.array([0, 1]))
    pixel = (np.array([1, 0, 0]) - MEAN) / DEVIATION
    np.testing.assert_allclose(classifier.support[0, 0, 0], pixel, rtol=1e-5)


def test_several_weights_answer_with_the_mean_and_a_zip_is_as_good_as_a_folder(photographs):
    presets = "protonet-pictures", "maml-pictures"
    files = [saved(photographs, preset, [MEAN, DEVIATION]) for preset in presets]
    each = [
        classify.main(options_of(photographs, file, out=photographs / file.stem)).probabilities
        for file in files
    ]
    assert np.abs(each[0] - each[1]).max() > 0.001
    pictures = sorted((photographs / "support").rglob("*.png"))
    contents = {f"{path.parent.name}/{path.name}": path.read_bytes() for path in pictures}
    support = write_zip(photographs, contents)
    both = classify.main(options_of(photographs, *files, support=support))
    np.testing.assert_allclose(both.probabilities, np.mean(each, axis=0), rtol=1e-5)
    support = write_zip(photographs, contents | {"red/2.png": b"no picture"})
    with pytest.raises(ValueError, match=r"cannot read the picture .*set\.zip/red/2\.png"):
        classify.main(options_of(photographs, *files, support=support))


def test_what_weights_do_not_allow_is_refused(photographs, drawings):
    with pytest.raises(ValueError, match=r"head of 5 classes, which is the most .*; got 6"):
        trained.load(MAML, 6)
    assert trained.load(PROTONET, 70).config.batch_norm == "support"
    file = saved(photographs, "protonet-pictures", None)
    with pytest.raises(ValueError, match="holds no mean and deviation of its photographs"):
        trained.load(file, 2)
    file = saved(photographs, "maml-pictures", [MEAN])
    with pytest.raises(ValueError, match="normalise must be a mean and a deviation"):
        trained.load(file, 2)
    with pytest.raises(ValueError, match="support must be a folder or a zip of classes"):
        options_of(drawings, MAML, support=drawings / "nowhere")
    only = drawings / "only"
    only.mkdir()
    (drawings / "support" / "ring").rename(only / "ring")
    with pytest.raises(ValueError, match="must hold 2 classes or more; got 'ring' alone"):
        classify.main(options_of(drawings, MAML, support=only))
