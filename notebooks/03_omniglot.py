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
# # Characters
#
# You are shown five characters of an unknown alphabet, one drawing of each. Which of them does a
# sixth drawing show? People find this easy. A network finds it hard, unless it has learned from
# other characters how to learn a new one. Three ways of doing so are compared here: MAML, ANIL and
# prototypes.

# %%
# %matplotlib inline
import os
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from progress_bar import progress  # a file beside this notebook

import maml
from tasks import glyphs, omniglot
from tasks.characters import alphabet
from tasks.models import Conv4

QUICK = "MAML_QUICK" in os.environ  # set by the tests
META_STEPS, EACH, TEST_TASKS = (4, 2, 10) if QUICK else (1000, 50, 200)

# %% [markdown]
# ## The drawings
#
# Omniglot has 1,623 characters of 50 alphabets, each drawn by 20 people (Lake, Salakhutdinov,
# Tenenbaum 2015). Set `OMNIGLOT_DIR` to the folder with its two zips. Without them, characters of
# matplotlib's fonts are used instead, slanted and warped. The splits divide the characters: those
# of the test split are never seen in meta-training.

# %%
if "OMNIGLOT_DIR" in os.environ:
    characters = omniglot.load(Path(os.environ["OMNIGLOT_DIR"]))
    split = omniglot.splits(characters, "paper")
    print("These are the drawings of Omniglot.")
else:
    characters = glyphs.load()
    split = glyphs.splits(characters)
    print("OMNIGLOT_DIR is not set, so these are characters of fonts instead of Omniglot.")
for part, classes in split.items():
    print(f"{part}: {len(classes)} characters, {characters.images.shape[1]} drawings of each")


def show(axes, images):
    """Draws a table of images, [row, column, height, width], in black on white."""
    framed = np.pad(1 - np.asarray(images), [(0, 0), (0, 0), (1, 1), (1, 1)], constant_values=0.8)
    rows, columns, height, width = framed.shape
    picture = framed.transpose(0, 2, 1, 3).reshape(rows * height, columns * width)
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=height * (np.arange(rows) + 0.5))
    axes.tick_params(length=0)


names = [alphabet(name) for name in characters.names]
large = [name for name in dict.fromkeys(names) if names.count(name) >= 20]
chosen = [large[i] for i in np.linspace(0, len(large) - 1, min(7, len(large))).astype(int)]
rows = [[i for i, name in enumerate(names) if name == row][:20] for row in chosen]
figure, axes = plt.subplots(figsize=(10, 4), layout="constrained")
show(axes, characters.images[rows, 0] / 255)
axes.set_yticklabels([name.replace("_", " ") for name in chosen])
axes.set_title(f"twenty characters of {len(chosen)} alphabets")
plt.show()

# %% [markdown]
# ## An episode
#
# `maml.few_shot` draws a task from the array of drawings: five characters, one drawing of each to
# learn from (the support set) and five to be judged by (the query set). The classes are numbered
# anew in every task, so the number of a character cannot be memorised.

# %%
samplers = {
    part: maml.few_shot(characters.images[classes], ways=5, shots=1, queries=5, rotate=True)
    for part, classes in split.items()
}
(support, labels), (query, _) = samplers["test"](jax.random.key(0))
pictures = {"support": support, "query": query.inputs}
figure, both = plt.subplots(1, 2, figsize=(6, 3.6), width_ratios=(1, 5), layout="constrained")
for axes, (title, images) in zip(both, pictures.items(), strict=True):
    show(axes, images.reshape(5, -1, *images.shape[1:3]))
    axes.set_title(title)
both[0].set_yticklabels([f"class {label}" for label in labels])
both[1].set_yticks([])
plt.show()

# %% [markdown]
# ## Three algorithms
#
# All of them train the same network of four convolutions and a linear head, and adapt it by one
# step on the support set:
#
# - **MAML**: a gradient step of all parameters,
# - **ANIL**, *almost no inner loop*: a gradient step of the head alone (Raghu et al. 2020),
# - **prototypes**: no gradient; a drawing is given the class whose mean features are nearest
#   (Snell, Swersky, Zemel 2017). In the library this is a head that is computed in closed form.
#
# The network has batch normalisation. In the mode `"support"`, the statistics are those of the
# support set, so that each query drawing is classified by itself. The inner learning rates, 0.4 for
# MAML and 2.0 for ANIL, are for the mean of the losses and not tuned. The paper's 0.4 is for their
# sum, which is 2.0 for the mean of five drawings. In a training as short as this one MAML is worse
# with it: 69 % after one step, instead of the 82 % below.

# %%
network = Conv4(ways=5, features=32)
params = network.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
apply = maml.few_shot_apply(network.apply, "support")
features = maml.few_shot_apply(partial(network.apply, features=True), "support")
loss = maml.classification(apply)

head = maml.mask_by_path(params, "/head/")
algorithms = {
    "MAML": maml.maml(loss, optax.sgd(0.4), inner_steps=1, hvp="forward"),
    "ANIL": maml.anil(loss, optax.sgd(2.0), inner_steps=1, head=head),
    "prototypes": maml.protonet(loss, features, head=head),
}
optimizer = optax.adam(3e-3)
tasks = maml.batch_tasks(samplers["train"], num_tasks=4)


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


# %%
learned, history = {}, {}
for name, algorithm in algorithms.items():
    print(name)
    learned[name], history[name] = meta_train(algorithm)

# %% [markdown]
# ## New characters
#
# `maml.evaluate` adapts to every test task and gives the accuracy after each step. The tasks are
# the same for all algorithms.

# %%
test = maml.batch_tasks(samplers["test"], TEST_TASKS)(jax.random.key(2))
accuracy = {}
for name, algorithm in algorithms.items():

    @jax.jit
    def evaluate(meta_params, learner=algorithm.learner):
        return maml.evaluate(learner, loss, meta_params, test, jax.random.key(3), 3, chunk=1)

    accuracy[name] = 100 * np.asarray(evaluate(learned[name])[1]["accuracy"])

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
for values in history.values():
    left.plot(EACH * (1 + np.arange(len(values) // EACH)), 100 * values.reshape(-1, EACH).mean(1))
left.set(xlabel="meta-steps", ylabel="accuracy in training, %", title="meta-training, adapted")
for number, (name, values) in enumerate(accuracy.items()):
    last = 2 if name == "prototypes" else 4  # its step computes the head, and again the same one
    mean, ci95 = (np.asarray(v)[:last] for v in maml.mean_ci95(values))
    right.errorbar(
        np.arange(last) + 0.06 * (number - 1), mean, ci95, capsize=3, fmt="o-", label=name
    )
right.axhline(20, color="gray", linestyle=":", label="guessing")
right.set(xlabel="inner steps", ylabel="accuracy, % (95% interval)", ylim=(0, 103), xticks=range(4))
right.set_title(f"{TEST_TASKS} tasks of new characters")
right.legend(loc="lower right")
for axes in (left, right):
    axes.grid(alpha=0.3)
plt.show()

for name, values in accuracy.items():
    mean, ci95 = maml.mean_ci95(values[:, 1])
    print(f"{name:>10}: {mean:.1f} ± {ci95:.1f} % after one step")
for name in ("ANIL", "prototypes"):
    mean, ci95 = maml.mean_ci95(accuracy[name][:, 1] - accuracy["MAML"][:, 1])
    print(f"{name} minus MAML, on the same tasks: {mean:+.1f} ± {ci95:.1f} points")

# %% [markdown]
# After such a short training the closed form is ahead; it needs no meta-learned head. ANIL is far
# behind, but with a learning rate that is not tuned this says little about ANIL. After longer
# training MAML and prototypes are closer to each other; see the
# [results](../docs/results.md#omniglot). The intervals are over tasks, for one meta-training each.
#
# ## Which drawings are taken for another character?
#
# `maml.adapt` adapts to one support set, and `apply` then gives the logits of any drawings. These
# are the eight mistakes in which MAML is most confident, each from a different test task.


# %%
@partial(jax.jit, static_argnames="name")
def answers(meta_params, name):
    def answer(episode):
        inner = algorithms[name].learner(meta_params)
        adapted, _ = maml.adapt(inner, episode.support, jax.random.key(0), inner_steps=1)
        return jax.nn.softmax(apply(adapted, episode.query[0]))

    return jax.lax.map(answer, test)


probabilities = {name: np.asarray(answers(learned[name], name)) for name in algorithms}
(drawings, truth) = test.query[0].inputs[..., 0], np.asarray(test.query[1])
wrong = {name: p.argmax(-1) != truth for name, p in probabilities.items()}
confidence = np.where(wrong["MAML"], probabilities["MAML"].max(-1), 0)
worst = np.argsort(-confidence.max(1))[:8]
columns = []
for task in worst:
    place = confidence[task].argmax()
    answer = probabilities["MAML"][task, place].argmax()
    examples = test.support[0][task, ..., 0]
    columns.append([drawings[task, place], examples[answer], examples[truth[task, place]]])
figure, axes = plt.subplots(figsize=(10, 4), layout="constrained")
show(axes, np.array(columns).swapaxes(0, 1))
axes.set_yticklabels(["this drawing", "was taken for this", "but belongs to this"])
axes.set_xticks(30 * (np.arange(len(worst)) + 0.5))
axes.set_xticklabels([f"{100 * confidence[task].max():.0f} % sure" for task in worst])
plt.show()
for name in ("ANIL", "prototypes"):
    share = 100 * wrong[name][wrong["MAML"]].mean()
    print(f"{name} gets {100 * wrong[name].mean():.0f} % of all drawings wrong,", end=" ")
    print(f"but {share:.0f} % of those that MAML gets wrong.")

# %% [markdown]
# A drawing that is hard for one algorithm is often hard for the others too. A person would get most
# of these right: after such a short training there is much left to learn. Next: [finding a
# goal](04_navigation.ipynb), by trial and error.
