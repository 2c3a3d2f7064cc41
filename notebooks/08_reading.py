# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A model that adapts while it reads
#
# A language model usually has the same parameters on every page of a text. Here it takes a gradient
# step after every few characters, on the characters that it has just read, so that it learns the
# names and habits of the text while it reads. Each chunk is *scored before* the step on it (its
# loss is computed), so the model never sees what it is about to predict.
#
# Steps on a text help little if the model was not trained for them. Meta-training differentiates
# the mean score of a text through all of its steps, so that the initial parameters become ones
# from which a step helps.
#
# The texts are the source files of Python's standard library, so the notebook needs no download. To
# read a file of your own, set `FILE` to its path. Python code fits best, because the model was
# trained on Python code.

# %%
# %matplotlib inline
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from progress_bar import progress  # a file beside this notebook

import maml
from tasks.corpus import encode
from tasks.language_models import WindowTransformer, next_chunk
from tasks.passages import random_readings, readings
from tasks.text import standard_library

QUICK = "MAML_QUICK" in os.environ  # set by the tests
META_STEPS, EACH, TEXTS, LAYERS = (2, 1, 4, 1) if QUICK else (500, 25, 100, 2)
CHUNKS, TIME = (4, 8) if QUICK else (32, 16)  # chunks of a text, and characters of a chunk
FILE = None

# %% [markdown]
# ## Texts
#
# A file is a text, and a character is a token. All files of one module are in the same split, so
# that the files of the test are from modules that meta-training never saw.

# %%
corpus = standard_library()
for split, texts in corpus.splits.items():
    print(f"{split}: {len(texts)} files, {sum(map(len, texts.values())):,} characters")
texts = {split: [*named.values()] for split, named in corpus.splits.items()}
sample = random_readings(texts["train"], CHUNKS, TIME)

# %% [markdown]
# ## Model and algorithm
#
# The model is a small transformer. In each of its two layers a character attends to the 32
# characters before it, so the model sees at most 64 characters back. Whatever it knows of earlier
# ones must be in its parameters. The keys and values of the last characters are
# carried from chunk to chunk. What adapts is a second feed-forward network in the last layer
# (`/second`), as in [TTT-E2E](https://arxiv.org/abs/2512.23675), by SGD on clipped gradients.
#
# `maml.reading` replaces MAML's estimator of the meta-gradient by one that scores each chunk before
# the step on it. With `adapts=False` the same function trains
# the *static* model, the baseline.

# %%
model = WindowTransformer(len(corpus.vocabulary), 64, LAYERS, heads=2, window=32)
params = model.init(jax.random.key(0), jnp.zeros(1, jnp.int32), model.start())
clipped_sgd = optax.chain(maml.clip_by_global_norm(1.0), optax.sgd(1.0))
algorithm = maml.maml(
    next_chunk(model), clipped_sgd, CHUNKS, mask=maml.mask_by_path(params, "/second")
)


def start(params):
    return model.start()


def meta_train(adapts):
    trained = algorithm._replace(grad=maml.reading(algorithm.learner, start, adapts=adapts))
    adam = optax.adam(optax.cosine_decay_schedule(5e-3, META_STEPS))
    optimizer = optax.chain(maml.clip_by_global_norm(1.0), adam)
    tasks = maml.batch_tasks(sample, num_tasks=4)

    @jax.jit
    def train(state):
        return maml.train(trained, optimizer, tasks, state, jax.random.key(1), EACH)

    state, bits = maml.init(trained, optimizer, params), []
    for _ in progress(META_STEPS, EACH):
        state, metrics = train(state)
        bits.append(np.asarray(metrics["loss"]) / np.log(2))
    return state.params, np.concatenate(bits)


learned = {"static model": meta_train(adapts=False)}
learned["meta-trained through its steps"] = meta_train(adapts=True)

# %% [markdown]
# ## Bits for each character, by the place in a text
#
# Both models read test texts with and without steps. The score of the first chunk is the same in
# both cases, since no step was taken yet. In later chunks the steps should lower the bits.

# %%
chunks, _ = readings(texts["test"], CHUNKS, TIME, TEXTS)


def reader(adapts):
    """The function from meta-parameters to bits for each character, [text, chunk]."""

    @jax.jit
    def bits(meta_params):
        episodes, key = maml.Episode(chunks, None), jax.random.key(2)
        read = maml.evaluate_reading(
            algorithm.learner, start, meta_params, episodes, key, adapts=adapts, chunk=10
        )
        return read[0] / jnp.log(2)

    return bits


readers = {"without steps": reader(False), "with a step after each chunk": reader(True)}
figure, panels = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True, layout="constrained")
places = TIME * np.arange(CHUNKS)
for axes, (name, (meta_params, _)) in zip(panels, learned.items(), strict=True):
    for label, read in readers.items():
        bits = read(meta_params)
        mean, ci95 = (np.asarray(value) for value in maml.mean_ci95(bits))
        (line,) = axes.plot(places, mean, label=label)
        axes.fill_between(places, mean - ci95, mean + ci95, color=line.get_color(), alpha=0.2)
        overall, interval = maml.mean_ci95(bits.mean(axis=1))
        print(f"{name}, {label}: {overall:.2f} ± {interval:.2f} bits a character")
    axes.set(xlabel="characters read before the chunk", title=name)
    axes.grid(alpha=0.3)
panels[0].set_ylabel("bits a character (95% interval)")
panels[1].legend()
plt.show()

# %% [markdown]
# ## One file, line by line
#
# `maml.read` reads one text and returns the loss of each token too. Here it reads the first 4,096
# characters of a file. On the left are the last 40 lines of these, and beside them the bits for
# each character of the line with and without steps. Green lines became easier by what was read
# before them, and red ones harder: a step on a list of names helps with the next name, and hurts
# where the list ends.

# %%
if FILE is None:
    name = max(corpus.splits["test"], key=lambda name: len(corpus.splits["test"][name]))
    tokens = corpus.splits["test"][name]
else:
    name, tokens = Path(FILE).name, encode(corpus, Path(FILE).read_text("utf-8"))
passages, _ = readings([tokens], min(CHUNKS * 8, (len(tokens) - 1) // TIME), TIME, 1)
file = passages[0]

meta_params, _ = learned["meta-trained through its steps"]


def bits_of_tokens(adapts):
    def read(params):
        inner = algorithm.learner(params)
        return maml.read(inner, start, file, jax.random.key(3), adapts=adapts)[1][1]["nats"]

    return np.asarray(jax.jit(read)(meta_params)).ravel() / np.log(2)


without, adapted = bits_of_tokens(False), bits_of_tokens(True)
read_characters = [corpus.vocabulary[token] for token in file[:, 1:].ravel()]
line_of = np.cumsum([0] + [character == "\n" for character in read_characters])[:-1]
lines = "".join(c if len(c) == 1 else "?" for c in read_characters).split("\n")[: line_of[-1] + 1]
counts = np.bincount(line_of)
before, after = (np.bincount(line_of, bits) / counts for bits in (without, adapted))
gain = without.sum() - adapted.sum()
print(f"{name}: {gain:,.0f} bits saved in {len(without):,} characters")

shown = np.arange(len(lines))[-40:]
figure, (left, right) = plt.subplots(
    1, 2, figsize=(11, 0.2 * len(shown) + 1), width_ratios=(3, 2), sharey=True, layout="constrained"
)
for row in shown + 1:  # lines are counted from 1
    line, old, new = lines[row - 1][:90], before[row - 1], after[row - 1]
    color = "tab:green" if new < old else "tab:red"
    left.text(0.01, row, line.replace("$", r"\$"), size=7, va="center", family="monospace")
    right.plot([old, new], [row, row], color=color, linewidth=3)
    right.plot(new, row, "o", color=color, markersize=4)
left.set(xlim=(0, 1), ylim=(shown[-1] + 1.7, shown[0] + 0.3), ylabel=f"line of {name}")
left.set(xticks=[])
right.set(xlabel="bits a character: from without steps to with steps (dot)")
right.grid(alpha=0.3)
plt.show()

# %% [markdown]
# ## Further reading
#
# The guide on adapting while reading explains the objective and how to read sequences of your own.
# A command runs the same experiment with checkpoints and figures, also on Penn Treebank:
#
# ```
# python -m benchmarks.language
# python -m benchmarks.language --dataset texts --data FILE_OR_FOLDER
# ```
