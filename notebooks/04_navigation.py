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
# # Navigation
#
# Section 5.3 of MAML's paper: a point walks to a goal that it cannot see. It is told, at every
# step, how far away it is; from some walks it has to learn, by one gradient step, where the goal
# lies.

# %%
# %matplotlib inline
import os
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from IPython.display import HTML
from matplotlib.animation import FuncAnimation

import maml
from benchmarks import estimators, navigation
from benchmarks.harness import hardware
from maml.rl.environment import rollout
from maml.rl.losses import collector, policy_gradient
from maml.rl.policies import gaussian_policy
from tasks.rl.navigation import draw_goal, held_out_goals
from tasks.rl.navigation import navigation as walks_to
from tasks.rl.networks import GaussianMLP

QUICK = "MAML_QUICK" in os.environ  # what the tests set
SCRATCH = tempfile.TemporaryDirectory()  # runs are written here, and go when the kernel goes
hardware.start(cache=not QUICK)  # the cores become devices that share out the tasks

# %% [markdown]
# ## An environment is two functions of a task
#
# `reset(key, goal)` and `step(key, position, action, goal)`. The goal is an argument, so the map
# over tasks is the same one as everywhere. Here is what a policy does that has learned nothing.

# %%
environment = walks_to()
policy = gaussian_policy(GaussianMLP(2))
params = policy.init(jax.random.key(0), jnp.zeros(2))
goal = held_out_goals()[1]
counts = {"horizon": 100, "trajectories": 8}
trajectories = rollout(environment, policy, params, goal, jax.random.key(1), **counts)
figure, axes = plt.subplots(figsize=(4, 4), layout="constrained")
for walk in trajectories.observation:
    axes.plot(*walk.T, linewidth=0.8)
axes.plot(0, 0, "ko")
axes.plot(*goal, "*", color="tab:red", markersize=14)
axes.set(title="eight walks of 100 steps", aspect="equal")
plt.show()

# %% [markdown]
# ## A policy gradient is a loss
#
# `policy_gradient` lets the policy act in the task, with the key of the call, and returns minus a
# surrogate of its value. From there on nothing knows of reinforcement learning: the loss goes into
# the same `maml`, and `train` and `evaluate` are those of the sinusoids. A few meta-steps of Adam:

# %%
collect = collector(environment, policy, **counts)
loss = policy_gradient(collect, policy)
algorithm, outer = maml.maml(loss, optax.sgd(0.5), inner_steps=1), optax.adam(1e-2)


def sample(key):
    goal = draw_goal(key)
    return maml.Episode(goal, goal)  # adapt in the task, and be judged in it


walks, steps = maml.batch_tasks(sample, num_tasks=4), 2 if QUICK else 60
train = jax.jit(partial(maml.train, algorithm, outer, walks, meta_steps=steps))
state, metrics = train(maml.init(algorithm, outer, params), jax.random.key(2))
returns = metrics["query"]["return"]
print(f"mean return after adaptation: {returns[0]:.1f} at first, {returns[-1]:.1f} at last")

# %% [markdown]
# ## In a trust region, with the settings of the paper's code
#
# The benchmark collects the walks once a meta-step, and takes TRPO's step on them: natural
# gradient, line search, never further than a divergence of 0.01. Its evaluation is the paper's: 40
# goals of a fixed seed, the rate halved from the second update on.

# %%
SMALL = {"meta_steps": 1, "steps_per_call": 1, "goals": 4, "horizon": 10, "width": 16}
CHANGES = {"seeds": 1} | (SMALL if QUICK else {"meta_steps": 40})


def trained(preset):
    config = replace(navigation.PRESETS[preset], **CHANGES)
    result = navigation.main(replace(config, out=Path(SCRATCH.name) / preset))
    return config, result.of_seed()


finn = trained("finn-2017")

# %% [markdown]
# ## The distance says where to, its square how far
#
# One update finds the direction, and then over- or undershoots. That is no lack of training:
# however far the goal, the distance falls by one for each unit walked towards it, and so the
# gradient of the reward says where to go and not how far. The gradient of the *squared* distance
# does. The preset `best` adapts to minus the square of the reward it is paid, as it is, without
# scaling it to deviation 1, and is still judged by the reward itself.

# %%
best = trained("best")

# %%
goals = held_out_goals(3)
figure, grid = plt.subplots(2, 3, figsize=(9, 6), sharex=True, sharey=True, layout="constrained")
figure.suptitle("gray before, green after one update")
for row, (config, learned), name in zip(grid, (finn, best), ("finn-2017", "best"), strict=True):
    walked = jax.jit(partial(navigation.walks, config))(learned, goals)
    for axes, place, updates in zip(row, goals, np.asarray(walked), strict=True):
        for update, color in ((0, "lightgray"), (1, "tab:green")):
            for walk in updates[update]:
                axes.plot(*walk.T, color=color, linewidth=0.8)
        axes.plot(*place, "*", color="tab:red", markersize=14, markeredgecolor="white")
        axes.set(title=name, aspect="equal")
plt.show()

# %% [markdown]
# The same, walking: gray before the update, green after it.

# %%
config, learned = best
walked = np.asarray(jax.jit(partial(navigation.walks, config))(learned, goals[:1]))[0]
figure, axes = plt.subplots(figsize=(4, 4), layout="constrained")
axes.set(xlim=(-0.6, 0.6), ylim=(-0.6, 0.6), aspect="equal")
axes.plot(*goals[0], "*", color="tab:red", markersize=14)
dots = [axes.plot([], [], "o", color=color)[0] for color in ("gray", "tab:green")]


def frame(time):
    for dot, update in zip(dots, walked[:2], strict=True):
        dot.set_data(*update[:, time].T)
    axes.set_title(f"step {time}")
    return dots


moving = FuncAnimation(figure, frame, frames=min(25, walked.shape[2]), interval=120)
plt.close(figure)
HTML(moving.to_jshtml())

# %% [markdown]
# ## Which meta-gradient?
#
# A surrogate's first derivative is the policy gradient, whichever it is. Adaptation is
# differentiated, so its second derivative counts too, and there they differ. On a decision process
# small enough the meta-gradient is known exactly:

# %%
config = estimators.Estimators(
    out=Path(SCRATCH.name), largest=6 if QUICK else 12, repeats=2 if QUICK else 8
)
estimators.main(config)
plt.figure(figsize=(10, 5))
plt.imshow(plt.imread(config.out / "estimators.png"))
plt.axis("off")
plt.show()

# %% [markdown]
# `score function`, which MAML's code differentiates twice, settles on something else. The
# likelihood ratio is off by a few per cent, and better than the exact ones as long as walks are
# few: it takes the places that actions lead to for given, and so does not pay for their noise.
