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
# # Sine waves
#
# A network is shown ten points of a wave and has to draw the rest. Ten points are few for 1,761
# parameters, but all waves have the same shape, and good initial parameters make use of that. This
# is the first experiment of MAML's paper (Finn, Abbeel, Levine 2017), with the library.

# %%
# %matplotlib inline
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from progress_bar import progress  # a file beside this notebook

import maml
from tasks.models import MLP
from tasks.sinusoid import INPUT, Wave, draw_wave, few_points, points

QUICK = "MAML_QUICK" in os.environ  # set by the tests
META_STEPS, EACH, TEST_TASKS = (400, 200, 50) if QUICK else (20_000, 1000, 1000)

# %% [markdown]
# ## The tasks
#
# A task is one wave $y = A \sin(x - \varphi)$, with an amplitude $A \sim U[0.1, 5]$ and a phase
# $\varphi \sim U[0, \pi]$ of its own. Ten of its points are the *support set*, from which the
# network learns; ten others are the *query set*, on which it is judged.

# %%
sample = few_points(shots=10, queries=10)
x = jnp.linspace(*INPUT, 200)
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), sharey=True, layout="constrained")
for key in jax.random.split(jax.random.key(0), 12):
    left.plot(x, draw_wave(key)(x))
left.set(title="twelve tasks", xlabel="x", ylabel="y")
for (name, batch), marker in zip(sample(jax.random.key(7))._asdict().items(), "^o", strict=True):
    right.plot(*batch, marker, label=f"{name} set")
right.set(title="what the network gets of one task", xlabel="x")
right.legend()
plt.show()

# %% [markdown]
# ## The algorithm in three lines
#
# The inner optimiser adapts to a task, the outer one improves the initial parameters, and a
# meta-step has 25 tasks. The network is the paper's, with two hidden layers of 40 units; any
# function `apply(params, inputs)` would do.

# %%
network = MLP()
params = network.init(jax.random.key(0), jnp.zeros((1, 1)))
loss = maml.regression(network.apply)

algorithm = maml.maml(loss, optax.sgd(0.01), inner_steps=1)
optimizer = optax.adam(1e-3)
tasks = maml.batch_tasks(sample, num_tasks=25)

# %% [markdown]
# `maml.init` makes the state before the first meta-step, and `maml.train` takes many meta-steps in
# one compiled program. Here it is called for a thousand meta-steps at a time, so that the progress
# bar moves. In between, the error on 500 validation waves is measured before and after an inner
# step.

# %%
validation = maml.batch_tasks(sample, 500)(jax.random.key(1))
test = maml.batch_tasks(sample, TEST_TASKS)(jax.random.key(2))


def meta_train(algorithm):
    @jax.jit
    def train(state):
        return maml.train(algorithm, optimizer, tasks, state, jax.random.key(3), EACH)[0]

    @jax.jit
    def validate(meta_params):
        key = jax.random.key(4)
        return maml.evaluate(algorithm.learner, loss, meta_params, validation, key, 1)[0]

    state = maml.init(algorithm, optimizer, params)
    errors = [validate(state.params)]
    for _ in progress(META_STEPS, EACH):
        state = train(state)
        errors.append(np.asarray(validate(state.params)))
    return state.params, np.stack(errors)


learned, errors = meta_train(algorithm)

# %%
figure, axes = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
for step, label in enumerate(("before the inner step", "after it")):
    mean, ci95 = np.array([maml.mean_ci95(e[:, step]) for e in errors]).T
    steps = EACH * np.arange(len(mean))
    axes.plot(steps, mean, label=label)
    axes.fill_between(steps, mean - ci95, mean + ci95, alpha=0.2)
axes.set(
    xlabel="meta-steps", ylabel="mean squared error\n(500 waves, 95% interval)", ylim=(0, None)
)
axes.grid(alpha=0.3)
axes.legend()
plt.show()
mean, ci95 = maml.mean_ci95(errors[-1])
print(
    f"before the inner step {mean[0]:.2f} ± {ci95[0]:.2f}, after it {mean[1]:.2f} ± {ci95[1]:.2f}"
)

# %% [markdown]
# Before the inner step the network knows nothing about the wave, and its error stays large. What
# falls is the error *after* it: the network is trained to learn from ten points.
#
# ## Against a network that is trained on all waves at once
#
# Does meta-training need the inner step? With `inner_steps=0` the same lines train one network on
# all tasks together, which then adapts to a new task in the same way.

# %%
joint, _ = meta_train(maml.maml(loss, optax.sgd(0.01), inner_steps=0))

# %% [markdown]
# To be fair, the joint network adapts with the learning rate that is best for it on the validation
# waves, after ten steps. MAML keeps the learning rate of its training. `maml.evaluate` gives the
# error of every test wave after 0, 1, ..., 10 inner steps.


# %%
def learner(rate):
    return maml.maml(loss, optax.sgd(rate), inner_steps=1).learner


@jax.jit
def error_after_each_step(meta_params, episodes, rate):
    return maml.evaluate(learner(rate), loss, meta_params, episodes, jax.random.key(5), 10)[0]


RATES = (0.001, 0.003, 0.01, 0.03, 0.1)
joint_rate = min(RATES, key=lambda r: error_after_each_step(joint, validation, r)[:, -1].mean())
networks = {
    "MAML": (learned, 0.01, "tab:green"),
    f"joint network, learning rate {joint_rate}": (joint, joint_rate, "tab:orange"),
}
figure, axes = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
for name, (meta_params, rate, color) in networks.items():
    mean, ci95 = maml.mean_ci95(error_after_each_step(meta_params, test, rate))
    axes.plot(mean, "o-", color=color, markersize=3, label=name)
    axes.fill_between(range(11), mean - ci95, mean + ci95, color=color, alpha=0.2)
    numbers = ", ".join(f"{mean[k]:.2f} ± {ci95[k]:.2f} after {k}" for k in (0, 1, 10))
    print(f"{name}: {numbers} inner steps")
axes.set(xlabel="inner steps", ylabel=f"mean squared error\n({TEST_TASKS} waves, 95% interval)")
axes.set_ylim(bottom=0)
axes.grid(alpha=0.3)
axes.legend()
plt.show()

# %% [markdown]
# ## The curves
#
# `maml.adapt` returns the adapted parameters of one task. Below is a wave that neither network has
# seen. Its ten points lie everywhere in the upper row, and only on the right in the lower row.

# %%
wave = Wave(jnp.array(3.5), jnp.array(2.5))
places = {"points everywhere": (-4.5, 4.5), "points on the right": (0.5, 4.5)}
figure, grid = plt.subplots(2, 2, figsize=(10, 6), sharex=True, sharey=True, layout="constrained")
for row, (where, ends) in zip(grid, places.items(), strict=True):
    support = points(wave, jnp.linspace(*ends, 10))
    for axes, (name, (meta_params, rate, color)) in zip(row, networks.items(), strict=True):
        axes.plot(x, wave(x), color="tab:red", linewidth=1, label="the wave")
        for steps, style in ((0, ":"), (1, "--"), (10, "-")):
            inner = learner(rate)(meta_params)
            adapted, _ = maml.adapt(inner, support, jax.random.key(0), steps)
            label = f"after {steps} step{'s' * (steps != 1)}"
            axes.plot(x, network.apply(adapted, x[:, None]), style, color=color, label=label)
        axes.plot(*support, "^", color="tab:purple", label="support set")
        axes.set_title(f"{name.split(',')[0]}, {where}", fontsize="medium")
        axes.set_ylim(-4.8, 7.5)
    row[0].set_ylabel("y")
for axes in grid[1]:
    axes.set_xlabel("x")
for axes in grid[0]:
    axes.legend(loc="upper center", ncols=3, fontsize="small")
plt.show()

# %% [markdown]
# Both start near the mean of all waves, $-\frac{2 \cdot 2.55}{\pi} \cos x$. MAML moves the whole
# curve, even where there are no points, because it has meta-learned the shape of waves. The joint
# network changes near the points only. Over many waves, with all points on the right, the error on
# the left falls for MAML and rises for the joint network:


# %%
def one_sided(key):
    right, left = jnp.linspace(0.5, 4.5, 10), jnp.linspace(-4.5, -0.5, 10)
    return maml.Episode(*(points(draw_wave(key), x) for x in (right, left)))


one_sided_waves = maml.batch_tasks(one_sided, TEST_TASKS)(jax.random.key(6))
for name, (meta_params, rate, _) in networks.items():
    mean, ci95 = maml.mean_ci95(error_after_each_step(meta_params, one_sided_waves, rate))
    numbers = ", ".join(f"{mean[k]:.2f} ± {ci95[k]:.2f} after {k}" for k in (0, 1, 10))
    print(f"{name}: error on the left {numbers} inner steps")

# %% [markdown]
# ## Other algorithms
#
# Another algorithm is another line of code. First-order MAML leaves out the second derivatives.
# Meta-SGD also learns a learning rate for every parameter (Li, Zhou, Chen, Li 2017). Nothing else
# changes.

# %%
others = {
    "first-order MAML": maml.fomaml(loss, optax.sgd(0.01), inner_steps=1),
    "Meta-SGD": maml.meta_sgd(loss, optax.sgd(1.0), inner_steps=1, rate=0.01),
}
results = {"MAML": (algorithm, learned)}
for name, other in others.items():
    results[name] = other, meta_train(other)[0]
for name, (other, meta_params) in results.items():
    key = jax.random.key(5)
    mean, ci95 = maml.mean_ci95(maml.evaluate(other.learner, loss, meta_params, test, key, 1)[0])
    print(f"{name:>16}: {mean[1]:.2f} ± {ci95[1]:.2f} after one inner step")

# %% [markdown]
# Each number comes from one meta-training; the intervals are over test waves. The page of
# [results](../docs/results.md#sinusoid) has numbers for the paper's 70,000 meta-steps, over several
# seeds. Next: [characters](03_omniglot.ipynb).
