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
# # Trained networks
#
# Meta-training takes half an hour, but only once. This repository has the weights of networks that
# were meta-trained on Omniglot. They are loaded here and applied to characters that they have never
# seen: they adapt to five drawings with their classes, and predict the classes of new drawings.

# %%
# %matplotlib inline
import json
import os
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax.traverse_util import unflatten_dict

import maml
from tasks import glyphs, omniglot
from tasks.models import Conv4

QUICK = "MAML_QUICK" in os.environ  # set by the tests
TEST_TASKS = 10 if QUICK else 200

# %% [markdown]
# ## A file of weights
#
# A file holds arrays by name, in half precision, and the options of the run that they come from.
# Nothing in it is executed.


# %%
def load(name):
    file = Path("../results/weights") / f"{name}.npz"
    arrays = dict(np.load(file))
    options = json.loads(str(arrays.pop("options")))
    params = {path: jnp.asarray(array, jnp.float32) for path, array in arrays.items()}
    print(f"{file.name}, {file.stat().st_size / 1000:.0f} kB: {options['ways']} classes,")
    print(f"{options['algorithm']} on {options['dataset']}, {options['meta_steps']:,} meta-steps")
    return unflatten_dict(params, sep="/"), options


params, options = load("maml-5-way-1-shot")

# %% [markdown]
# The algorithm is that of the training: one step of gradient descent on the support set, with the
# learning rate of the run. As in the paper's code, the biases of the batch normalisation do not
# adapt.

# %%
network = Conv4(ways=5)
adapts = maml.complement(maml.mask_by_path(params, "/norm"))
inner = optax.sgd(options["inner_rate"])
MODES = "support", "transductive"  # explained below
apply = {mode: maml.few_shot_apply(network.apply, mode) for mode in MODES}


@partial(jax.jit, static_argnames="mode")
def predict(support, drawings, mode="support"):
    """The probabilities of the classes 0 .. 4 for each drawing, `[drawing, class]`."""
    algorithm = maml.maml(maml.classification(apply[mode]), inner, 1, mask=adapts)
    batch = support, jnp.repeat(jnp.arange(5), len(support) // 5)
    adapted, _ = maml.adapt(algorithm.learner(params), batch, jax.random.key(0), inner_steps=1)
    return jax.nn.softmax(apply[mode](adapted, maml.Query(drawings, support)))


# %% [markdown]
# ## Five new characters
#
# These are signs of the zodiac from matplotlib's fonts, slanted and warped. Nobody drew them by
# hand, and none of them is in Omniglot. The third and the fourth are not easy to tell apart. The
# bar of the right sign is green.

# %%
characters = glyphs.load()
signs = [characters.names.index(f"Symbols/U+{ord(sign):04X}") for sign in "♉♌♍♏♑"]
images = characters.images[signs][..., None] / np.float32(255)  # [class, drawing, 28, 28, 1]
support, drawings = images[:, 0], images[:, 12]
probabilities = predict(support, drawings)


def show(axes, image):
    axes.imshow(1 - image[..., 0], cmap="gray", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])


figure, grid = plt.subplots(2, 5, figsize=(10, 4), height_ratios=(1, 1.3), layout="constrained")
for number, (above, below) in enumerate(grid.T):
    show(above, drawings[number])
    colors = ["tab:green" if label == number else "tab:gray" for label in range(5)]
    below.bar(range(5), probabilities[number], color=colors)
    below.set(ylim=(-0.4, 1.05), xlim=(-0.6, 4.6), xticks=[], yticks=[0, 0.5, 1])
    for label in range(5):
        extent = (label - 0.45, -0.36, 0.9, 0.32)
        show(below.inset_axes(extent, transform=below.transData), support[label])
grid[0, 0].set_ylabel("new drawing")
grid[1, 0].set_ylabel("probability")
figure.supxlabel("the five drawings that were learned from, under the probability of their class")
plt.show()
right = probabilities[jnp.arange(5), jnp.arange(5)]
print("probability of the right sign:", *(f"{p:.3f}" for p in right))

# %% [markdown]
# The network is wrong about the third drawing: with a probability of 0.249 for the right sign, it
# takes the drawing for the fourth sign, whose bar is the highest.
#
# ## Inductive or transductive?
#
# Batch normalisation needs the statistics of some images. A new drawing can be normalised with
#
# - those of the support set, mode `"support"`: each drawing is classified by itself (*inductive*),
# - those of all drawings that are classified together, mode `"transductive"`, as in MAML's paper.
#
# In the second mode the answer for a drawing depends on the drawings in the same query set. How
# much does that matter? Every drawing of the test tasks is classified three times: together with
# one drawing of each other class, alone, and together with four others of its own class.

# %%
if "OMNIGLOT_DIR" in os.environ:
    characters = omniglot.load(Path(os.environ["OMNIGLOT_DIR"]))
    new = characters.images[omniglot.splits(characters, "paper")["test"]]
    print(f"The tasks are made of the {len(new)} test characters of Omniglot.")
else:
    new = characters.images
    print(f"OMNIGLOT_DIR is not set, so the tasks are made of {len(new)} characters of fonts.")


def test_tasks(ways):
    sample = maml.few_shot(new, ways, shots=1, queries=5, rotate=True)
    return maml.batch_tasks(sample, TEST_TASKS)(jax.random.key(1))


@partial(jax.jit, static_argnames="mode")
def accuracies(tasks, mode):
    def of_task(task):
        support, drawings = task.support[0], task.query[0].inputs.reshape(5, 5, 28, 28, 1)
        right = jnp.arange(5)

        def is_right(drawings, classes):
            return predict(support, drawings, mode).argmax(-1) == classes

        mixed = jax.vmap(is_right, (1, None))(drawings, right).mean()
        alone = jax.vmap(is_right)(drawings.reshape(25, 1, 28, 28, 1), jnp.repeat(right, 5)).mean()
        same = jax.vmap(is_right)(drawings, right).mean()
        return 100 * jnp.stack([mixed, alone, same])

    return jax.lax.map(of_task, tasks)


BESIDE = "one of each class", "alone", "five of one class"
figure, axes = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
for mode, shift in zip(MODES, (-0.19, 0.19), strict=True):
    mean, ci95 = maml.mean_ci95(accuracies(test_tasks(5), mode))
    axes.bar(np.arange(3) + shift, mean, 0.36, yerr=ci95, capsize=4, label=f"mode {mode}")
    for beside, m, c in zip(BESIDE, mean, ci95, strict=True):
        print(f"{mode:>12}, {beside}: {m:.1f} ± {c:.1f} %")
axes.axhline(20, color="gray", linestyle=":", label="guessing")
axes.set_xticks(range(3), BESIDE)
axes.set(xlabel="drawings that are asked about together", ylim=(0, 105))
axes.set_ylabel(f"accuracy, %\n({TEST_TASKS} tasks, 95% interval)")
figure.legend(loc="outside upper center", ncols=3)
plt.show()

# %% [markdown]
# The network was meta-trained in the transductive mode, on query sets with one drawing of each
# class. In that mode it is most accurate on such query sets, and hardly better than guessing on the
# others; in the mode `"support"` its accuracy is the same on all three. An application that
# classifies one image at a time needs the mode `"support"`, and a published accuracy means little
# without its mode.
#
# ## More classes than five
#
# The head of a prototypical network is computed from the support set, so such a network can
# classify any number of classes. The stored head has 20 outputs, which is enough for up to 20
# classes here; `benchmarks.classify` makes it as large as it has to be.

# %%
params, options = load("prototypes-20-way-1-shot")
network = Conv4(ways=20)
head = maml.mask_by_path(params, "/head/")
WAYS = 2, 5, 10, 15, 20
figure, axes = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
for mode in MODES:
    loss = maml.classification(maml.few_shot_apply(network.apply, mode))
    features = maml.few_shot_apply(partial(network.apply, features=True), mode)
    learner = maml.protonet(loss, features, head=head).learner

    @jax.jit
    def evaluate(tasks, learner=learner, loss=loss):
        return maml.evaluate(learner, loss, params, tasks, jax.random.key(2), 1, chunk=1)

    curve = []
    for ways in WAYS:
        _, metrics = evaluate(test_tasks(ways))
        curve.append(maml.mean_ci95(100 * metrics["accuracy"][:, 1]))
    mean, ci95 = np.array(curve).T
    axes.errorbar(WAYS, mean, ci95, fmt="o-", capsize=3, label=f"mode {mode}")
    cells = (f"{m:.1f} ± {c:.1f} % of {w}" for w, m, c in zip(WAYS, mean, ci95, strict=True))
    print(f"{mode}: {', '.join(cells)}")
axes.set(xlabel="number of classes, one drawing of each", xticks=WAYS)
axes.set_ylabel(f"accuracy, %\n({TEST_TASKS} tasks, 95% interval)")
axes.grid(alpha=0.3)
axes.legend()
plt.show()

# %% [markdown]
# `python -m benchmarks.weights` writes such a file from a run of yours, and evaluates it on 10,000
# test tasks; see [running the benchmarks](../docs/guides/benchmarks.md).
