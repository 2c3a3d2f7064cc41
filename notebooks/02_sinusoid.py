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
# # Sinusoids
#
# Section 5.1 of MAML's paper, in 30,000 meta-steps instead of 70,000. Everything runs through the
# machinery of `benchmarks`: the same code as `python -m benchmarks.sinusoid`, called from Python.

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
import optax

import maml
from benchmarks import sinusoid
from benchmarks.harness import statistics, supervised
from benchmarks.report import figures, published, tables
from tasks.sinusoid import INPUT, draw_wave, few_points

QUICK = "MAML_QUICK" in os.environ  # what the tests set
SCRATCH = tempfile.TemporaryDirectory()  # runs are written here, and go when the kernel goes

# %% [markdown]
# ## The tasks
#
# $y = A \sin(x - \varphi)$ with $A \sim U[0.1, 5]$, $\varphi \sim U[0, \pi]$, $x \sim U[-5, 5]$. A
# task is one wave, of which a few points are known; the loss is the mean squared error.

# %%
x = jnp.linspace(*INPUT, 200)
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), sharey=True, layout="constrained")
for key in jax.random.split(jax.random.key(0), 12):
    left.plot(x, draw_wave(key)(x))
left.set(title="twelve tasks", xlabel="x", ylabel="y", xlim=INPUT)
episode = few_points(shots=5, queries=5)(jax.random.key(1))
for name, (inputs, targets), style in zip(episode._fields, episode, ("^", "o"), strict=True):
    right.plot(inputs, targets, style, color="tab:purple" if style == "^" else "tab:orange")
    right.lines[-1].set_label(f"{name} set")
right.set(title="one episode, 5 shots", xlabel="x", xlim=INPUT)
right.legend()
plt.show()

# %% [markdown]
# ## Meta-training
#
# The paper's configuration with fewer meta-steps: meta-trained with one inner step on ten points,
# tested on five. The inner rate is that of the paper's code, 0.001. Two baselines have the same
# network and the same number of meta-steps: `pretrained` learns all tasks at once and adapts only
# when tested, `oracle` is told amplitude and phase. In this library each is MAML without a step.

# %%
PRESET = replace(
    sinusoid.PRESETS["maml-paper-5-shot"],
    meta_steps=400 if QUICK else 30_000,
    steps_per_call=200 if QUICK else 1000,
    val_tasks=0,
    eval_tasks=100 if QUICK else 1000,
)


def trained(experiment, config):
    out = Path(tempfile.mkdtemp(dir=SCRATCH.name))
    return supervised.run(experiment, replace(config, out=out))


experiments, results = {}, {}
for name in ("maml", "pretrained", "oracle"):
    config = replace(PRESET, algorithm=name, val_tasks=100 if name == "maml" else 0)
    experiments[name] = sinusoid.experiment(config)
    results[name] = trained(experiments[name], config)
tables.show(results["maml"].summary)

# %% [markdown]
# Over meta-training, the error before adaptation hardly moves; the error after one step is what
# falls. (Meta-training tasks have ten support points, validation tasks five.)

# %%
figures.learning_curve(
    results["maml"].out,
    {"mse": "meta-training tasks, adapted"},
    "mean squared error",
    title="MAML on sinusoids",
    validated="mse",
)

# %% [markdown]
# ## What a network learns that cannot adapt
#
# The best single answer to all tasks is their mean,
# $\mathbb{E}[A]\,\mathbb{E}[\sin(x - \varphi)] = -\frac{2 \cdot 2.55}{\pi} \cos x$, and that is
# what the pretrained network becomes. MAML's start looks much the same. What has been learned does
# not show in the curve; it is how the curve moves when a step is taken.

# %%
figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
axes.plot(x, -2 * 2.55 / jnp.pi * jnp.cos(x), color="black", label="mean of the tasks")
for name in ("pretrained", "maml"):
    fit = experiments[name].predict(results[name].of_seed(), x[:, None])
    axes.plot(x, fit, "--", label=f"{name}, before adaptation")
axes.set(xlabel="x", ylabel="y")
axes.legend(fontsize="small")
plt.show()

# %% [markdown]
# ## Error after each inner step
#
# Five points of a new wave, the same 1000 test waves for everyone. To be fair to the pretrained
# network, it adapts with the rate that suits it best on validation waves; MAML uses the rate that
# it was meta-trained with. The oracle need not adapt.

# %%
loss, pretrained = experiments["maml"].metric, results["pretrained"].of_seed()
waves = maml.batch_tasks(experiments["pretrained"].samplers["val"], 300)(jax.random.key(0))


def with_rate(rate):
    return maml.maml(loss, optax.sgd(rate), inner_steps=0)


@jax.jit
def after_ten_steps(rate):
    learner = with_rate(rate).learner
    return maml.evaluate(learner, loss, pretrained, waves, jax.random.key(1), 10)[0][:, -1].mean()


RATES = (0.001, 0.003, 0.01, 0.03, 0.1)
rate = min(RATES, key=after_ten_steps)
best = experiments["pretrained"]._replace(algorithm=with_rate(rate))
curves = {
    "MAML": results["maml"].summary["mse"],
    f"pretrained, rate {rate}": statistics.curve(
        supervised.evaluate(best, PRESET, pretrained, "test")["mse"]
    ),
}
oracle = results["oracle"].summary["mse"]["0"]

# %%
PAPER = published.PUBLISHED["sinusoid 5-shot", "maml", ""]


def plot(axes, curve, label):
    mean, ci95 = (np.array([point[of] for point in curve.values()]) for of in ("mean", "ci95"))
    (line,) = axes.plot(mean, "o-", markersize=3, label=label)
    axes.fill_between(range(len(mean)), mean - ci95, mean + ci95, alpha=0.2, color=line.get_color())


figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
for label, curve in curves.items():
    plot(axes, curve, label)
axes.axhline(oracle["mean"], color="tab:green", label="oracle")
steps, values = [int(step) for step in PAPER], [float(value) for value in PAPER.values()]
axes.plot(steps, values, "k*", markersize=10, label="MAML in the paper, 70,000 meta-steps")
axes.set(xlabel="inner steps", ylabel="mean squared error (95% CI)")
axes.grid(alpha=0.3)
axes.legend(loc="center right", bbox_to_anchor=(1, 0.38), fontsize="small")
plt.show()
for name, curve in curves.items():
    cells = (f"{curve[step]['mean']:.2f} ± {curve[step]['ci95']:.2f} ({step})" for step in PAPER)
    print(f"{name}: {', '.join(cells)}")
print(f"oracle: {oracle['mean']:.4f}; in the paper: {', '.join(PAPER.values())}")

# %% [markdown]
# ## Fits
#
# The paper's figure 2. Above left, the ten support points are all in one half of the range, and the
# other half, where there is none, moves along: what has been learned is the shape of waves.

# %%
figures.fits(results["maml"].out, experiments["maml"], results["maml"].of_seed())

# %% [markdown]
# The pretrained network, at its best rate, bends where the points are and hardly elsewhere.

# %%
figures.fits(results["pretrained"].out, best, pretrained)

# %% [markdown]
# ## Any optax inside
#
# The inner optimiser is an argument, and the derivative goes through its state. One trap: Adam
# divides by $\sqrt{v}$, whose derivative is infinite at $v = 0$, where a dead ReLU puts it. The
# gradient itself is fine; the *meta*-gradient is not. `eps_root`, inside of the root, is the cure.
# `maml.maml` refuses an Adam without it; the function below passes, because its `eps_root` is
# traced.

# %%
start = experiments["maml"].initial()
episode = experiments["maml"].samplers["train"](jax.random.key(0))


@jax.jit
def count_nan(eps_root):
    inner = optax.adam(0.01, eps_root=eps_root)
    grads, _ = maml.task_gradient(
        maml.maml(loss, inner, inner_steps=2).grad, start, episode, jax.random.key(0)
    )
    return sum(jnp.isnan(leaf).sum() for leaf in jax.tree.leaves(grads))


numbers = sum(leaf.size for leaf in jax.tree.leaves(start))
for eps_root in (0.0, 1e-8):
    print(f"eps_root={eps_root:g}: {count_nan(eps_root)} of {numbers} numbers are NaN")

# %% [markdown]
# Meta-training with three inner steps and three optimisers, everything else alike.

# %%
OPTIMIZERS = {
    "sgd": optax.sgd(0.003),
    "momentum": optax.sgd(0.003, momentum=0.8, nesterov=True),
    "adam": optax.adam(0.02, eps_root=1e-8),
}
STEPS = 3
short = replace(PRESET, meta_steps=200 if QUICK else 6000, inner_steps=STEPS)
figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
for name, inner in OPTIMIZERS.items():
    swapped = experiments["maml"]._replace(algorithm=maml.maml(loss, inner, STEPS))
    plot(axes, trained(swapped, short).summary["mse"], name)
axes.axvline(STEPS, color="gray", linestyle=":", label="inner steps while meta-training")
axes.set(xlabel="inner steps", ylabel="mean squared error (95% CI)")
axes.set_ylim(bottom=0)
axes.grid(alpha=0.3)
axes.legend(fontsize="small")
plt.show()

# %% [markdown]
# Nothing but the argument changes. It is no contest, since rates are a matter of tuning; but Adam
# is at a loss here for a reason: its first step has the same size whatever the size of the error,
# and these waves differ in amplitude. Next: [characters from one example](03_omniglot.ipynb).
