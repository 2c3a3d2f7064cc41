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
# # Architecture search
#
# The architecture of a network can be learned as well. A *search strategy* proposes a network, is
# told its reward, and proposes the next one. Three strategies are compared here: random search,
# evolution, and a controller that learns by policy gradient (Zoph, Le 2017).

# %%
# %matplotlib inline
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import maml
from maml import search
from tasks.architectures.table_files import maml_bench
from tasks.architectures.tabular import lookup

QUICK = "MAML_QUICK" in os.environ  # set by the tests
RUNS, CHILDREN = (10, 40) if QUICK else (500, 200)

# %% [markdown]
# ## A search space
#
# An architecture is a sequence of *tokens*, and a space says how many options each token has. Here
# the networks have two convolutions, and the second reads the output of the first or the image:
# seven tokens, 648 networks. (A space may also forbid combinations, with a function
# `allowed(tokens, position)`.)

# %%
OPTIONS = {
    "filter height 1": (1, 3, 5),
    "filter width 1": (1, 3, 5),
    "filters 1": (4, 8),
    "reads layer 1": ("no", "yes"),
    "filter height 2": (1, 3, 5),
    "filter width 2": (1, 3, 5),
    "filters 2": (4, 8),
}
space = search.Space(tuple(len(options) for options in OPTIONS.values()))
for number in range(3):
    tokens = search.random_architecture(space, jax.random.key(number))
    print(tokens, *(options[t] for options, t in zip(OPTIONS.values(), tokens, strict=True)))

# %% [markdown]
# ## A reward
#
# The reward is the accuracy of the network on held-out characters of Omniglot, after a short
# meta-training. All 648 networks were trained in advance, three times each, so that a reward can be
# looked up. Hundreds of searches then take seconds, and show which differences are more than luck.
# The reward is that of the first training. The other two are tested on further characters, and no
# search sees their results: they tell how good the network is that a search has found.

# %%
table = maml_bench(Path("../results/maml-bench/table.npz"))
rewards = 100 * table.rewards.reshape(space.choices)  # without the tokens that have one option
tested = 100 * table.reported.reshape(space.choices)


def reward(tokens, key):
    return lookup(rewards, tokens)


figure, (left, right) = plt.subplots(
    1, 2, figsize=(11, 3.4), width_ratios=(1, 1.6), layout="constrained"
)
left.hist(rewards.ravel(), bins=40)
left.set(xlabel="accuracy on held-out characters, %", ylabel="networks")
place, ticks = 0, {}
for axis, (name, options) in enumerate(OPTIONS.items()):
    means = np.moveaxis(np.asarray(rewards), axis, 0).reshape(len(options), -1).mean(1)
    places = place + np.arange(len(options))
    right.plot(places, means, "o-")
    title = name.replace(" ", "\n", 1)
    right.text(places.mean(), 47, title, ha="center", va="top", fontsize="small")
    ticks |= dict(zip(places, options, strict=True))
    place = places[-1] + 2
right.set_xticks(list(ticks), list(ticks.values()), fontsize="small")
right.set(ylabel="mean accuracy, %", title="mean of all networks with an option", ylim=(37, 48))
plt.show()

# %% [markdown]
# ## Three strategies
#
# *Evolution* changes one token of the best of three networks, which it draws from the latest ten.
# The *policy gradient* has a table of logits, a row for each token, and with a moving average $b$
# of the rewards it follows
#
# $$\nabla_\theta\, \mathbb{E}[R] = \mathbb{E}\big[(R - b)\, \nabla_\theta \log \pi_\theta(
# \text{tokens})\big].$$

# %%
policy = search.factorised_policy(space)
strategies = {
    "random search": search.random_search(space),
    "evolution": search.evolution(space, population=10, sample=3),
    "policy gradient": search.reinforce(policy, optax.adam(0.05)),
}

# %% [markdown]
# A search is a function of arrays, `search.search`. So `vmap` runs hundreds of searches side by
# side, each with a random key of its own.

# %%
keys = jax.random.split(jax.random.key(0), RUNS)
statistics = {}
for name, strategy in strategies.items():

    def run(key, strategy=strategy):
        init_key, key = jax.random.split(key)
        return search.search(strategy, reward, strategy.init(init_key), key, CHILDREN)[1]

    statistics[name] = jax.jit(jax.vmap(run))(keys)

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
window = 20
for name, history in statistics.items():
    best = jax.lax.cummax(history.rewards, axis=1)
    recent = history.rewards.reshape(RUNS, -1, window).mean(2)
    places = window * (0.5 + np.arange(CHILDREN // window))
    for axes, at, values in ((left, np.arange(1, CHILDREN + 1), best), (right, places, recent)):
        mean, ci95 = maml.mean_ci95(values)
        axes.plot(at, mean, label=name)
        axes.fill_between(at, mean - ci95, mean + ci95, alpha=0.2)
left.axhline(rewards.max(), color="gray", linestyle=":", label="best of the table")
left.set(ylabel="best reward so far, %", title=f"the best network ({RUNS} runs, 95% interval)")
right.set(ylabel="reward, %", title=f"{window} networks in a row, on average")
for axes in (left, right):
    axes.set_xlabel("networks tried")
    axes.grid(alpha=0.3)
left.legend()
plt.show()

# %% [markdown]
# The policy gradient proposes better and better networks, evolution also tries bad neighbours of
# good ones until the end, and random search learns nothing. How good is the best network of a
# search?


# %%
def interval(values):
    return "{:.1f} ± {:.1f}".format(*maml.mean_ci95(values))


test_accuracy = {}
for name, history in statistics.items():
    winners = history.tokens[jnp.arange(RUNS), history.rewards.argmax(1)]
    test_accuracy[name] = jax.vmap(lambda tokens: lookup(tested, tokens))(winners)
    print(f"{name}: best reward {interval(history.rewards.max(1))} %,", end=" ")
    print(f"its test accuracy {interval(test_accuracy[name])} %")
print(f"all networks: mean reward {rewards.mean():.1f} %, mean test accuracy {tested.mean():.1f} %")
for name in ("evolution", "policy gradient"):
    difference = test_accuracy[name] - test_accuracy["random search"]
    print(f"{name} minus random search: {interval(difference)} points of test accuracy")

# %% [markdown]
# In test accuracy the policy gradient stays ahead of random search, but by much less than in
# rewards. The reward of one short training is noisy, and the largest of 200 rewards is partly luck.
# Random search is a baseline that every search should be compared with.

# %% [markdown]
# ## How the policy becomes certain
#
# This is one search, in pieces of five networks: its state has only arrays, and with the same key
# the pieces give the same result as one long search. Each panel is a token, and each shade is one
# of its options: the height of a shade is the probability of the option.

# %%
strategy, key = strategies["policy gradient"], jax.random.key(1)


@jax.jit
def go_on(state):
    state, history = search.search(strategy, reward, state, key, 5)
    return state, jnp.exp(policy.log_probs(state.strategy_state.params, history.tokens[0]))


state = strategy.init(key)
probabilities = [jnp.exp(policy.log_probs(state.strategy_state.params, jnp.zeros(7, int)))]
for _ in range(2 * CHILDREN // 5):
    state, now = go_on(state)
    probabilities.append(now)
probabilities = np.stack(probabilities)  # [piece, token, option]

tried = 5 * np.arange(len(probabilities))
figure, grid = plt.subplots(1, 7, figsize=(12, 2.8), sharey=True, layout="constrained")
for token, (axes, (name, options)) in enumerate(zip(grid, OPTIONS.items(), strict=True)):
    bands = probabilities[:, token, : len(options)].T
    axes.stackplot(tried, bands, colors=plt.cm.Blues(np.linspace(0.3, 0.85, len(options))))
    heights = bands[:, -1].cumsum() - bands[:, -1] / 2
    for height, band, option in zip(heights, bands[:, -1], options, strict=True):
        if band > 0.1:
            axes.text(0.95 * tried[-1], height, option, color="white", ha="right", va="center")
    axes.set(xlim=(0, tried[-1]), ylim=(0, 1))
    axes.set_title(name, fontsize="small")
grid[0].set_ylabel("probability")
grid[3].set_xlabel("networks tried")
plt.show()

best = probabilities[-1].argmax(1)
for (name, options), token in zip(OPTIONS.items(), best, strict=True):
    print(f"{name}: {options[token]}", end=", ")
print(f"reward {rewards[tuple(best)]:.1f} %, test accuracy {tested[tuple(best)]:.1f} %")

# %% [markdown]
# If the reward has to train a network, it is an ordinary Python function, and
# `search.search_on_host` runs the same search with it, on devices side by side or on a cluster: see
# [your own search space](../docs/guides/own-search-space.md). Next: [networks that are trained
# already](06_trained_weights.ipynb).
