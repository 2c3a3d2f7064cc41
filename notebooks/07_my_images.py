# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Pictures of your own
#
# You have a folder of pictures, with one folder for each class, and you want a classifier that
# learns a new class from one or two pictures of it. This notebook goes all the way: from the folder
# to meta-training, to classes that were held back, and to the answer for a single picture.
#
# The pictures here are made up, so that the notebook needs no download: blobs whose outline is that
# of their class, while size, place, angle and light change from picture to picture. To use your
# own, set `FOLDER` to the path of your folder or zip. It needs about 30 classes with 10 pictures
# each, or more.

# %%
# %matplotlib inline
import os
import tempfile
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from matplotlib.colors import hsv_to_rgb
from PIL import Image
from progress_bar import progress  # a file beside this notebook

import maml
from tasks import images
from tasks.batch_norm import flax_apply
from tasks.models import Conv4
from tasks.recipes import image_classifier

QUICK = "MAML_QUICK" in os.environ  # set by the tests
META_STEPS, EACH, TEST_TASKS = (4, 2, 10) if QUICK else (500, 50, 200)
SIZE = 32  # pixels
FOLDER = None


def made_up(folder, classes=30, each=12, seed=0):
    """Writes pictures of blobs, one folder a class; classes differ in outline and in hue."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[-1 : 1 : 1j * SIZE, -1 : 1 : 1j * SIZE]
    waves = np.arange(2, 7)
    for label in range(classes):
        outline, hue = rng.normal(0, 0.16, (2, len(waves))), rng.uniform()
        (folder / f"blob{label:02d}").mkdir(parents=True)
        for number in range(each):
            place, size = rng.uniform(-0.2, 0.2, 2), rng.uniform(0.4, 0.6)
            down, right = rows - place[0], columns - place[1]
            angle = waves * (np.arctan2(down, right) - rng.uniform(0, 0.6))[..., None]
            edge = 1 + np.cos(angle) @ outline[0] + np.sin(angle) @ outline[1]
            inside = np.hypot(down, right) < size * edge
            hues = (hue + rng.normal(0, 0.07) + np.where(inside, 0, 0.45)) % 1
            light = np.clip(np.where(inside, 0.9, 0.5) * rng.uniform(0.6, 1.1), 0, 1)
            colours = hsv_to_rgb(np.stack([hues, np.full_like(hues, 0.6), light], axis=-1))
            noisy = np.clip(255 * colours + rng.normal(0, 12, colours.shape), 0, 255)
            Image.fromarray(noisy.astype(np.uint8)).save(folder / f"blob{label:02d}/{number}.png")
    return folder


if FOLDER is None:
    FOLDER = made_up(Path(tempfile.mkdtemp()) / "pictures")

# %% [markdown]
# ## From the folder to arrays
#
# `images.load` reads PNG, JPEG, WebP, BMP, GIF and TIFF, brings all pictures to one size, and keeps
# the result in a cache for the next time. Classes may differ in their number of pictures. The
# *classes* are divided into splits, by folders `train`, `val` and `test` if there are such, and
# those of the test split are never seen in meta-training.

# %%
data = images.load(FOLDER, size=SIZE)
split = data.splits or images.fraction_splits(data.names, seed=0)
print(f"{data.counts.sum()} pictures of {len(data.names)} classes")
for part, classes in split.items():
    print(f"{part}: {len(classes)} classes, such as {data.names[classes[0]]}")


def show(axes, image, title="", color="black"):
    axes.imshow(image)
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, color=color, fontsize="small")


figure, grid = plt.subplots(4, 10, figsize=(10, 4.2), layout="constrained")
for row, label in zip(grid, split["train"], strict=False):
    for column, axes in enumerate(row):
        show(axes, data.images[label, column], data.names[label] if column == 0 else "")
plt.show()

# %% [markdown]
# ## Meta-training
#
# An episode has five classes with one picture each to learn from (the support set) and five to be
# judged by (the query set). `image_classifier` builds an algorithm for a network of `tasks.models`
# with what works for images. Prototypes and MAML are compared:
#
# - **prototypes** give a picture the class whose mean features are nearest,
# - **MAML** takes three gradient steps on the support set; its head starts at zero.
#
# Batch normalisation uses the support set (`"support"`), so that each picture is answered by
# itself.

# %%
model = Conv4(ways=5, features=32, pool=True, zero_head=True)
params = model.init(jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)))
algorithms = {
    "prototypes": image_classifier("protonet", model, params, temperature=32.0),
    "MAML": image_classifier("maml", model, params, inner_rate=0.1, inner_steps=3),
}
samplers = {
    part: maml.few_shot(
        data.images[split[part]], ways=5, shots=1, queries=5, counts=data.counts[split[part]]
    )
    for part in ("train", "test")
}
tasks = maml.batch_tasks(samplers["train"], num_tasks=4)
optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, META_STEPS))


def meta_train(algorithm):
    @jax.jit
    def train(state):
        key = jax.random.key(1)
        return maml.train(algorithm, optimizer, tasks, state, key, EACH, chunk=1)

    state, accuracy = maml.init(algorithm, optimizer, params), []
    for _ in progress(META_STEPS, EACH):
        state, metrics = train(state)
        accuracy.append(np.asarray(metrics["query"]["accuracy"]))
    return state.params, np.concatenate(accuracy)


learned, history = {}, {}
for name, algorithm in algorithms.items():
    print(name)
    learned[name], history[name] = meta_train(algorithm)

# %% [markdown]
# ## New classes
#
# The accuracy on episodes of the classes that were held back says what to expect of new classes.

# %%
apply = flax_apply(model, "support", evaluating=True)
loss = maml.classification(apply)
test = maml.batch_tasks(samplers["test"], TEST_TASKS)(jax.random.key(2))
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
for number, (name, algorithm) in enumerate(algorithms.items()):

    @jax.jit
    def evaluate(meta_params, learner=algorithm.learner):
        return maml.evaluate(learner, loss, meta_params, test, jax.random.key(3), 3, chunk=1)

    accuracy = 100 * np.asarray(evaluate(learned[name])[1]["accuracy"])
    mean, ci95 = (np.asarray(value) for value in maml.mean_ci95(accuracy))
    curve = 100 * history[name].reshape(-1, EACH).mean(1)
    left.plot(EACH * (1 + np.arange(len(curve))), curve, label=name)
    right.errorbar(np.arange(4) + 0.06 * number, mean, ci95, capsize=3, fmt="o-", label=name)
    best = 1 if name == "prototypes" else 3
    print(f"{name}: {mean[best]:.1f} ± {ci95[best]:.1f} % of the pictures of new classes are right")
left.set(xlabel="meta-steps", ylabel="accuracy in training, %", title="meta-training, adapted")
right.axhline(20, color="gray", linestyle=":", label="guessing")
right.set(xlabel="inner steps", xticks=range(4), ylabel="accuracy, % (95% interval)", ylim=(0, 103))
right.set_title(f"{TEST_TASKS} tasks of new classes")
for axes in (left, right):
    axes.grid(alpha=0.3)
    axes.legend()
plt.show()

# %% [markdown]
# ## The answer for one picture
#
# `maml.fit_classifier` adapts once to pictures with their classes, of which each class may have any
# number. The classifier then answers for one picture or for many. Here three new classes have three
# pictures, two and one, and further pictures of them are classified one at a time. For a picture in
# a file, `tasks.pictures.read_image(file, size=SIZE)` gives what `images.load` makes of it.

# %%
new = split["test"][:3]
counts = (3, 2, 1)
support = np.concatenate([data.images[label, :n] for label, n in zip(new, counts, strict=True)])
labels = np.repeat(np.arange(3), counts)
fit = partial(maml.fit_classifier, algorithms["prototypes"].learner, apply, inner_steps=1)
classifier = jax.jit(fit)(learned["prototypes"], support, labels)
predict_proba = jax.jit(maml.Classifier.predict_proba)

names = [data.names[label] for label in new]
figure, grid = plt.subplots(2, 6, figsize=(10, 3.8), layout="constrained")
for axes, image, label in zip(grid[0], support, labels, strict=True):
    show(axes, image, names[label])
for column, axes in enumerate(grid[1]):
    truth = column // 2
    picture = data.images[new[truth], min(5 + column % 2, data.counts[new[truth]] - 1)]
    probabilities = predict_proba(classifier, picture)
    answer = int(probabilities.argmax())
    color = "tab:green" if answer == truth else "tab:red"
    show(axes, picture, f"{names[answer]}, {probabilities[answer]:.0%}", color)
grid[0, 0].set_ylabel("support")
grid[1, 0].set_ylabel("query")
plt.show()

# %% [markdown]
# ## The same from the command line
#
# Two commands do the same with longer training, augmented pictures, checkpoints and figures. The
# first meta-trains on most classes of a folder and evaluates on the others; the second adapts to a
# folder of new classes and prints the probabilities for other files:
#
# ```
# python -m benchmarks.images --data FOLDER --out results/runs/mine
# python -m benchmarks.classify results/runs/mine --support NEW_CLASSES --query FILE FILE ...
# ```
#
# The guide on [your own data](../docs/guides/own-data.md) says more.
