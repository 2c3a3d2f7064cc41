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
# # Finding a goal
#
# A point in the plane has to reach a goal that it cannot see. Its reward at every step tells only
# how far away the goal is. From twenty attempts and one policy-gradient step it has to learn where
# the goal lies. This is the navigation task of MAML's paper (Finn, Abbeel, Levine 2017, section
# 5.3).

# %%
# %matplotlib inline
import os
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from progress_bar import progress  # a file beside this notebook

import maml
from maml import rl
from tasks.rl.networks import GaussianMLP

QUICK = "MAML_QUICK" in os.environ  # set by the tests
META_STEPS, EACH, TEST_GOALS = (4, 2, 8) if QUICK else (200, 10, 200)
HORIZON, TRAJECTORIES, GOALS = 20, 20, 20

# %% [markdown]
# ## An environment is two functions of a task
#
# `reset` starts an episode and `step` continues it. Both have the task, here the goal, as an
# argument. The point starts in the middle and moves by at most 0.1 in each direction. Its reward
# is minus the squared distance from the goal.


# %%
def reset(key, goal):
    position = jnp.zeros(2)
    return position, position  # state, observation


def step(key, position, action, goal):
    position = position + 0.1 * jnp.clip(action, -1, 1)
    reward = -jnp.sum((position - goal) ** 2)
    return position, position, reward, jnp.asarray(False)  # the last says whether the episode ends


def draw_goal(key):
    return jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)


environment = rl.Environment(reset, step, actions=(2,))

# %% [markdown]
# ## A policy and its paths
#
# The policy is a network that maps the position to a normal distribution of the action. `rollout`
# draws a batch of trajectories. Those of an untrained policy wander about.

# %%
policy = rl.gaussian_policy(GaussianMLP(2, widths=(64, 64), std=0.5))
params = policy.init(jax.random.key(0), jnp.zeros(2))


@jax.jit
def paths(params, goal, key):
    counts = {"horizon": HORIZON, "trajectories": TRAJECTORIES}
    return rl.rollout(environment, policy, params, goal, key, **counts).observation


def draw_paths(axes, positions, goal, color):
    for path in positions:
        axes.plot(*path.T, color=color, linewidth=0.8, alpha=0.7)
    axes.plot(*goal, "*", color="tab:red", markersize=13, markeredgecolor="white")
    axes.set(aspect="equal", xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), xlabel="x")


goal = jnp.array([0.7, 0.4])
figure, axes = plt.subplots(figsize=(3.4, 3.4), layout="constrained")
draw_paths(axes, paths(params, goal, jax.random.key(1)), goal, "tab:gray")
axes.set(title="twenty paths before any training", ylabel="y")
plt.show()

# %% [markdown]
# ## The policy gradient is a loss
#
# With the advantages $A_t$ of the actions in some trajectories, the policy gradient is
#
# $$\nabla_\theta\, \mathbb{E}\Big[\sum_t r_t\Big] =
# \mathbb{E}\Big[\sum_t A_t \nabla_\theta \log \pi_\theta(a_t \mid s_t)\Big].$$
#
# `rl.policy_gradient` is a loss whose gradient is minus this one: each call draws trajectories and
# computes their advantages. So the three lines that define the algorithm for sine waves do so here
# as well. Support and query set are both the goal, since the trajectories are drawn during
# training: those of the support set before the inner step, those of the query set after it.

# %%
collect = rl.collector(
    environment, policy, horizon=HORIZON, trajectories=TRAJECTORIES, normalise=False
)
loss = rl.policy_gradient(collect, policy)


def sample(key):
    goal = draw_goal(key)
    return maml.Episode(support=goal, query=goal)


algorithm = maml.maml(loss, optax.sgd(0.3), inner_steps=1)
optimizer = optax.adam(3e-3)
tasks = maml.batch_tasks(sample, num_tasks=GOALS)


def meta_train(algorithm):
    @jax.jit
    def train(state):
        return maml.train(algorithm, optimizer, tasks, state, jax.random.key(2), EACH)

    state, history = maml.init(algorithm, optimizer, params), []
    for _ in progress(META_STEPS, EACH):
        state, metrics = train(state)
        history.append(jax.device_get(metrics))
    return state.params, jax.tree.map(lambda *parts: np.concatenate(parts), *history)


learned, history = meta_train(algorithm)

# %%
figure, axes = plt.subplots(figsize=(6.5, 3.4), layout="constrained")
for part, label in (("support", "before the inner step"), ("query", "after it")):
    means = history[part]["return"].reshape(-1, EACH).mean(1)
    axes.plot(EACH * (0.5 + np.arange(len(means))), means, label=label)
axes.set(xlabel="meta-steps", ylabel=f"return of {HORIZON} steps\n(mean of {EACH * GOALS} goals)")
axes.grid(alpha=0.3)
axes.legend()
plt.show()

# %% [markdown]
# ## Before and after an inner step
#
# Before an inner step the policy does not know the goal, and stays near the middle. One step, from
# twenty such paths, sends it towards the goal; two more correct the distance.

# %%
goals = jnp.array([[0.7, 0.4], [-0.8, 0.7], [-0.4, -0.8], [0.6, -0.6]])


@partial(jax.jit, static_argnames="inner_steps")
def adapt(params, goal, inner_steps):
    return maml.adapt(algorithm.learner(params), goal, jax.random.key(3), inner_steps)[0]


figure, grid = plt.subplots(1, 4, figsize=(11, 3.2), sharey=True, layout="constrained")
for axes, goal in zip(grid, goals, strict=True):
    for inner_steps, color in {0: "tab:gray", 1: "tab:green", 3: "tab:blue"}.items():
        adapted = adapt(learned, goal, inner_steps)
        draw_paths(axes, paths(adapted, goal, jax.random.key(4)), goal, color)
grid[0].set_ylabel("y")
figure.suptitle("twenty paths before any inner step (gray), after one (green), after three (blue)")
plt.show()

# %% [markdown]
# The same policies as arrows, which show the mean action at each place.

# %%
places = jnp.stack(jnp.meshgrid(*[jnp.linspace(-1.2, 1.2, 11)] * 2), -1).reshape(-1, 2)
goal = goals[1]
policies = {"before any inner step": learned, "after one inner step": adapt(learned, goal, 1)}
figure, grid = plt.subplots(1, 2, figsize=(7.5, 3.8), sharey=True, layout="constrained")
for axes, (name, params_of) in zip(grid, policies.items(), strict=True):
    mean = 0.1 * jnp.clip(policy.apply_sequence(params_of, places).mean, -1, 1)
    axes.quiver(*places.T, *mean.T, angles="xy", scale_units="xy", scale=0.5, color="tab:blue")
    axes.plot(*goal, "*", color="tab:red", markersize=13)
    axes.set(title=name, aspect="equal", xlabel="x")
grid[0].set_ylabel("y")
plt.show()

# %% [markdown]
# ## Does it need meta-training?
#
# A policy that was trained on all goals together, with `inner_steps=0`, adapts in the same way, and
# so does an untrained policy.

# %%
joint, _ = meta_train(maml.maml(loss, optax.sgd(0.3), inner_steps=0))

# %% [markdown]
# To be fair, each of the two adapts with the inner learning rate that is best for it after three
# steps, on other goals than those of the test. MAML keeps the learning rate of its training.

# %%
RATES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
validation, test = (maml.batch_tasks(sample, TEST_GOALS)(jax.random.key(k)) for k in (7, 5))


@jax.jit
def returns(params, goals, rate):
    learner = maml.maml(loss, optax.sgd(rate), inner_steps=1).learner
    key = jax.random.key(6)
    return maml.evaluate(learner, loss, params, goals, key, 3, chunk=20)[1]["return"]


def best_rate(params):
    return max(RATES, key=lambda rate: returns(params, validation, rate)[:, -1].mean())


compared = {
    "MAML": (learned, 0.3),
    "trained on all goals": (joint, best_rate(joint)),
    "untrained": (params, best_rate(params)),
}
straight = [jnp.clip(test.query, -0.1 * t, 0.1 * t) for t in range(1, HORIZON + 1)]
most = -sum(((places - test.query) ** 2).sum(1) for places in straight).mean()
figure, axes = plt.subplots(figsize=(6.5, 3.4), layout="constrained")
axes.axhline(most, color="gray", linestyle=":", label="straight to the goal")
for name, (start, rate) in compared.items():
    mean, ci95 = maml.mean_ci95(returns(start, test, rate))
    label = f"{name}, learning rate {rate}"
    axes.errorbar(range(4), mean, ci95, fmt="o-", capsize=3, label=label)
    numbers = ", ".join(f"{m:.1f} ± {c:.1f}" for m, c in zip(mean, ci95, strict=True))
    print(f"{label}: return after 0, 1, 2, 3 inner steps {numbers}")
print(f"straight to the goal: {most:.1f}")
axes.set(xlabel="inner steps, each from twenty new paths", xticks=range(4))
axes.set_ylabel(f"return of {HORIZON} steps\n({TEST_GOALS} goals, 95% interval)")
axes.grid(alpha=0.3)
axes.legend()
plt.show()

# %% [markdown]
# After one step, for which it was meta-trained, MAML is ahead; after three, the policy that was
# trained on all goals has caught up. It has learned what is best on average, to return to the
# middle, and needs a larger learning rate to leave it: with MAML's 0.3 even the untrained policy
# does better (not shown).
#
# The squared distance matters. The gradient of the distance itself has the same length however far
# away the goal is: it tells where to go, but not how far. The page on [reinforcement
# learning](../docs/reinforcement-learning.md#navigation) measures this, for longer episodes and
# with outer steps in a trust region, `rl.trpo`. The intervals here are over goals, for one
# meta-training each. Next: [architecture search](05_architecture_search.ipynb).
