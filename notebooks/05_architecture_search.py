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
# # Architecture search
#
# A controller draws an architecture token by token, is told how good it is, and follows the policy
# gradient. Does it find better ones than chance? Every network of MAML-Bench has been meta-trained
# three times on Omniglot's small alphabets, so a search takes a table's time and can be run often
# enough to know.

# %%
# %matplotlib inline
import os
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from benchmarks import architecture_search, maml_bench
from benchmarks.search import children, drawing, figures, tables, tabulated
from maml.search import entropy, factorised_policy, reinforce, search
from tasks.architectures.tabular import lookup

QUICK = "MAML_QUICK" in os.environ  # what the tests set
SCRATCH = tempfile.TemporaryDirectory()  # runs are written here, and go when the kernel goes

# %% [markdown]
# ## A space and a table
#
# A space is how many options each token has, and a mask over the options of the next token given
# those before: what must not be has probability zero, and nothing is drawn and thrown away.

# %%
ROOT = next(path for path in (Path.cwd(), *Path.cwd().parents) if (path / "results").exists())
CONFIG = architecture_search.Search(
    space="maml-bench",
    table=ROOT / maml_bench.TABLE,
    children=100,
    runs=10 if QUICK else 300,
    out=Path(SCRATCH.name),
)
table, _ = tabulated.read_table(CONFIG)
rewards = np.asarray(table.rewards)
print(f"tokens with {table.space.choices} options")
print(f"{np.isfinite(rewards).sum()} architectures, the best rewards {np.nanmax(rewards):.4f}")
figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
axes.hist(100 * rewards[np.isfinite(rewards)], bins=100)
axes.set(xlabel="reward: accuracy on held-out classes, %", ylabel="architectures")
plt.show()

# %% [markdown]
# ## One search
#
# REINFORCE with a table of logits, one child at a time. The state is arrays alone, and the whole
# search is one jitted scan. What the controller has learned are its probabilities.

# %%
policy = factorised_policy(table.space)
strategy = reinforce(policy, optax.adam(0.05))
key = jax.random.key(1)


@jax.jit
def run(state):
    def reward(tokens, key):
        return lookup(table.rewards, tokens)

    return search(strategy, reward, state, key, 400)


state, history = run(strategy.init(key))
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
left.plot(100 * history.rewards, ".", alpha=0.5)
left.set(xlabel="child", ylabel="reward, %")
best = history.tokens[jnp.argmax(history.rewards)]
chances = jnp.exp(policy.log_probs(state.strategy_state.params, best))
right.imshow(chances, cmap="Blues", vmin=0, vmax=1)
right.plot(best, range(len(best)), "r*")
right.set(xlabel="option", ylabel="token", title="what it has learned, and its best child")
plt.show()
macro = children.macro_config(maml_bench.Bench())
display(drawing.draw_graphs(CONFIG.out, [drawing.network_graph(macro, best)]))
print(f"entropy: {entropy(policy.log_probs(state.strategy_state.params, best)):.2f} nats a child")

# %% [markdown]
# ## Many searches
#
# The same program, mapped over runs, for chance, evolution, REINFORCE and NASNet's PPO. Of each
# run, the child with the best reward is reported by another training of it.

# %%
compared = architecture_search.strategies(CONFIG, table.space)
outcome = tabulated.measure(CONFIG, compared, table)
rewards, statistics = architecture_search.describe_outcome(CONFIG, outcome)
about = {"space": CONFIG.space, "dataset": "omniglot", "children": 100, "runs": CONFIG.runs}
tables.show(about | {"policy": CONFIG.policy, "device": str(jax.devices()[0])} | statistics)

# %%
display(figures.draw_running_mean(CONFIG.out, rewards))
display(figures.draw_top_means(CONFIG.out, rewards))

# %% [markdown]
# What a policy gradient learns shows in the mean of what it samples and in the mean of its best 25,
# much less in the single best: random search is a hard baseline. `docs/architecture-search.md` has
# hundreds of runs of other tables, and what the field has found out about itself.

# %%
for name in ("evolution", "reinforce", "ppo"):
    assert statistics["mean_last_fifth"][name] > statistics["mean_last_fifth"]["random"]
