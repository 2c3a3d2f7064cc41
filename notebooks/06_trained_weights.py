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
#
# %% [markdown]
# # Trained weights
#
# `results/weights` has meta-parameters of trained networks, in half precision, each with the
# options of its run. Here they meet characters that they have never seen: the test part of Omniglot
# where it is at hand, and the characters of matplotlib's fonts, which nobody drew by hand.

# %%
# %matplotlib inline
import os
import tempfile
from pathlib import Path

import jax
import matplotlib.pyplot as plt

from benchmarks import weights
from benchmarks.harness import supervised
from benchmarks.report import figures

QUICK = "MAML_QUICK" in os.environ  # what the tests set
ROOT = next(path for path in (Path.cwd(), *Path.cwd().parents) if (path / "results").exists())
folder = Path(os.environ.get("OMNIGLOT_DIR", ROOT.parent / "shared/data/omniglot"))
OMNIGLOT = {"data": folder} if folder.exists() else None
print(f"Omniglot: {'at hand' if OMNIGLOT else 'not here, so glyphs alone'}")

# %% [markdown]
# ## What is there
#
# A file holds arrays and text, and nothing that is executed when it is read.

# %%
FILES = sorted((ROOT / "results" / "weights").glob("*.npz"))
for file in FILES:
    options = weights.read_options(file)
    cell = f"{options.ways}-way {options.shots}-shot {options.dataset}"
    size = file.stat().st_size / 1024
    print(f"{file.name}: {options.algorithm} on {cell}, {options.meta_steps} steps, {size:.0f} KB")

# %% [markdown]
# ## What they achieve
#
# `weights.trained` rebuilds the experiment that a file comes from. Options can be changed as long
# as the network stays the same: here the test tasks are fewer than the 10,000 of the README, and
# some are of another data set.

# %%
curves = {}
for file in FILES:
    for name, data in (("omniglot", OMNIGLOT), ("glyphs", {"data": None})):
        if data is not None:
            sizes = {"eval_tasks": 10 if QUICK else 600, "eval_steps": 3}
            experiment, config, meta_params = weights.load_trained(
                file, dataset=name, **data, **sizes
            )
            result = supervised.evaluate_on_test(experiment, config, meta_params)
            curves[file.stem, name] = result["accuracy"]

figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
for (stem, name), curve in curves.items():
    mean, ci95 = ([100 * point[of] for point in curve.values()] for of in ("mean", "ci95"))
    axes.errorbar(range(len(mean)), mean, ci95, capsize=3, marker="o", label=f"{stem}, on {name}")
axes.set(xlabel="inner steps", xticks=range(4), ylim=(0, 103))
axes.set_ylabel("test accuracy, % (95% CI)")
axes.grid(alpha=0.3)
axes.legend(fontsize="small")
plt.show()

# %% [markdown]
# Learned on one data set, the way to learn serves the other too: alphabets that are printed, not
# drawn, cost two points among five classes and twenty among twenty, and chance is far below.

# %%
for (stem, name), curve in curves.items():
    print(f"{stem} on {name}: {100 * curve['1']['mean']:.1f} %")
    assert curve["1"]["mean"] > curve["0"]["mean"] + 0.2

# %% [markdown]
# ## Some episodes
#
# Support above, and one query below with the class that was answered.

# %%
name = "omniglot" if OMNIGLOT else "glyphs"
experiment, _, meta_params = weights.load_trained(
    FILES[0], dataset=name, **(OMNIGLOT or {"data": None})
)
with tempfile.TemporaryDirectory() as scratch:
    figure = figures.episodes(Path(scratch), experiment, jax.device_put(meta_params), steps=1)
display(figure)
