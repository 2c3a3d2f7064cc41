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
# # Omniglot
#
# Section 5.2 of MAML's paper, in 1,200 meta-steps of 2 tasks instead of 60,000 of 32: tell five new
# characters apart, given one drawing of each. And the question that few-shot results hang on:
# *whose statistics normalise the query?*

# %%
# %matplotlib inline
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import maml
from benchmarks import omniglot
from benchmarks.harness import supervised
from benchmarks.report import figures, published
from maml.sampling import Query, few_shot
from tasks import glyphs
from tasks import omniglot as drawings
from tasks.batch_norm import Mode
from tasks.characters import alphabet

QUICK = "MAML_QUICK" in os.environ  # what the tests set
SCRATCH = tempfile.TemporaryDirectory()  # runs are written here, and go when the kernel goes

# %% [markdown]
# ## The characters
#
# Omniglot is taken from the folder that `OMNIGLOT_DIR` names, or from `../shared/data/omniglot`
# beside the repository. Without it, the characters of matplotlib's fonts stand in.

# %%
beside = Path(maml.__file__).parents[2] / "shared/data/omniglot"
folder = Path(os.environ.get("OMNIGLOT_DIR", beside))
REAL = "OMNIGLOT_DIR" in os.environ or folder.is_dir()
characters = drawings.load(folder) if REAL else glyphs.load()
print(f"{characters.images.shape[0]:,} characters, {characters.images.shape[1]} drawings of each")
print("This is the real Omniglot." if REAL else "Omniglot was NOT found: these are glyphs.")
print(characters.source)


# %%
def sheet(images):
    """`[row, column, height, width]` as one picture with thin lines in between."""
    framed = np.pad(255 - np.asarray(images), [(0, 0), (0, 0), (0, 1), (0, 1)], constant_values=200)
    rows, columns, height, width = framed.shape
    return framed.transpose(0, 2, 1, 3).reshape(rows * height, columns * width)


def show(axes, images):
    axes.imshow(sheet(images), cmap="gray", vmin=0, vmax=255)
    height = images.shape[2] + 1
    axes.set(xticks=[], yticks=height * (np.arange(images.shape[0]) + 0.5))
    axes.tick_params(length=0)


ROWS, COLUMNS = 12, 16
members = {}
for index, name in enumerate(characters.names):
    members.setdefault(alphabet(name), []).append(index)
large = [name for name, indices in members.items() if len(indices) >= COLUMNS]
chosen = [large[i] for i in np.linspace(0, len(large) - 1, min(ROWS, len(large))).astype(int)]
figure, axes = plt.subplots(figsize=(10, 8), layout="constrained")
show(axes, characters.images[[members[name][:COLUMNS] for name in chosen], 0])
axes.set_yticklabels([name.replace("_", " ") for name in chosen])
axes.set_title(f"{len(chosen)} of {len(members)} alphabets, one drawing of each character")
plt.show()

# %% [markdown]
# ## One episode
#
# Five classes, one support drawing and here five query drawings of each, all of them different.
# Which of the five classes is called 0 means nothing, and each class is turned by a multiple of 90
# degrees, so no label can be known by heart.

# %%
SHOTS, SHOWN = 1, 5
sample = few_shot(characters.images, ways=5, shots=SHOTS, queries=SHOWN, rotate=True)
(support, _), (query, _) = sample(jax.random.key(3))
pictures = {"support": support, "query": query.inputs}
figure, both = plt.subplots(1, 2, figsize=(7, 5), width_ratios=(SHOTS, SHOWN), layout="constrained")
for axes, (name, images) in zip(both, pictures.items(), strict=True):
    show(axes, (255 * images).reshape(5, -1, *images.shape[1:3]))
    axes.set_title(name)
both[0].set_yticklabels([f"class {label}" for label in range(5)])
both[1].set_yticks([])
plt.show()

# %% [markdown]
# ## Whose statistics normalise the query?
#
# The network has batch normalisation, and a query set can be normalised by
#
# - `transductive`: its own statistics, as in MAML's code,
# - `support`: those of the support set, taken at the same parameters,
# - `running`: averages over meta-training.
#
# In the first mode the answer for an image depends on the images that are asked about with it. So
# every query image is judged twice: *together* with the other four, and *alone*.


# %%
def also_alone(experiment):
    """The experiment with another metric: the accuracy when queries come one at a time."""

    def metric(params, query, key):
        value, metrics = experiment.metric(params, query, key)
        (images, support, _), labels = query

        def answer(image):
            return experiment.predict(params, Query(image[None], support))[0].argmax()

        return value, metrics | {"alone": jnp.mean(jax.vmap(answer)(images) == labels)}

    return experiment._replace(metric=metric)


CONFIG = replace(
    omniglot.PRESETS["glyphs-5-way-1-shot"],
    dataset="omniglot" if REAL else "glyphs",
    data=folder if REAL else None,
    meta_batch=2,
    meta_steps=4 if QUICK else 1200,
    steps_per_call=2 if QUICK else 100,
    val_tasks=0,
    eval_tasks=10 if QUICK else 600,
    eval_steps=3,
)
experiments, results = {}, {}
for mode in Mode.__args__:
    averages = {"momentum": 0.98} if mode == "running" else {}
    out = Path(tempfile.mkdtemp(dir=SCRATCH.name))
    config = replace(CONFIG, batch_norm=mode, out=out, **averages)
    experiments[mode] = also_alone(omniglot.experiment(config))
    print(f"batch norm: {mode}")
    results[mode] = supervised.run(experiments[mode], config)

# %%
PAPER = published.PUBLISHED["omniglot 5-way 1-shot", "maml", "conv4"] if REAL else {}
figure, grid = plt.subplots(1, 3, figsize=(11, 3.8), sharey=True, layout="constrained")
for axes, (mode, result) in zip(grid, results.items(), strict=True):
    for metric, name, style in (("accuracy", "together", "o-"), ("alone", "alone", "s--")):
        points = result.summary[metric].values()
        mean, ci95 = (100 * np.array([point[of] for point in points]) for of in ("mean", "ci95"))
        axes.errorbar(range(len(mean)), mean, ci95, fmt=style, capsize=3, markersize=4, label=name)
    axes.set(title=mode, xlabel="inner steps", xticks=range(len(mean)), ylim=(0, 103))
    axes.axhline(20, color="gray", linestyle=":", label="chance")
    axes.grid(alpha=0.3)
for step, value in PAPER.items():
    percent = float(value.split()[0])
    grid[0].plot(int(step), percent, "k*", markersize=10, label="together, in the paper")
grid[0].set_ylabel("test accuracy, % (95% CI)")
figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
plt.show()

print(f"after {CONFIG.eval_steps} inner steps, {CONFIG.eval_tasks} test tasks:")
for mode, result in results.items():
    last = (result.summary[metric][str(CONFIG.eval_steps)] for metric in ("accuracy", "alone"))
    together, alone = (f"{100 * point['mean']:.1f} ± {100 * point['ci95']:.1f} %" for point in last)
    print(f"{mode:>12}: together {together}, alone {alone}")

# %% [markdown]
# Only in the mode `transductive` does it matter what else is asked, and there it is nearly
# everything: the query set of the benchmark holds exactly one drawing of each class, and the
# network relies on it. Asked about one image, normalised by that image's own statistics, it does
# little better than chance. Numbers of different modes, or of different query sizes, cannot be
# compared.

# %%
for mode in ("support", "running"):
    accuracies = (results[mode].summary[metric] for metric in ("accuracy", "alone"))
    together, alone = ([point["mean"] for point in curve.values()] for curve in accuracies)
    np.testing.assert_allclose(together, alone, atol=0.02)

# %% [markdown]
# ## What it answers
#
# Four test episodes: the support drawing above, one query below with the class that was answered,
# green where it is right.

# %%
figures.episodes(
    results["transductive"].out,
    experiments["transductive"],
    results["transductive"].of_seed(),
    steps=CONFIG.eval_steps,
)

# %% [markdown]
# The rest is patience: `python -m benchmarks.omniglot --help` has the paper's presets, the same
# code with 800 times as many tasks, and one that takes half an hour on two cores.
