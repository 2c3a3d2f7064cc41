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
# # MAML from scratch
#
# A *task* is a small data set: a support set to learn from, and a query set to be judged by. MAML
# (Finn, Abbeel, Levine 2017) learns one starting point $\theta$ for all tasks, such that a step of
# gradient descent on the support set of a new task does well on its query set:
#
# $$\phi_i = \theta - \alpha \nabla L^\text{support}_i(\theta), \qquad
# \theta \leftarrow \theta - \beta\, \nabla_\theta\, \frac{1}{n} \sum_i L^\text{query}_i(\phi_i).$$
#
# The outer gradient goes *through* the inner step. In JAX a gradient is a function like any other,
# so the whole algorithm is `jax.grad` of a function that calls `jax.grad`.

# %%
# %matplotlib inline
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

QUICK = "MAML_QUICK" in os.environ  # set by the tests
META_STEPS = 300 if QUICK else 15_000

# %% [markdown]
# ## Forty lines
#
# Nothing but `jax` and `jax.numpy`. Every task is a sine wave of its own amplitude and phase, given
# by ten of its points; the network is a list of six arrays. A function handles one task, and `vmap`
# makes a meta-batch of it.


# %%
ALPHA, BETA, SHOTS, TASKS = 0.01, 0.001, 10, 25


def initial(key):
    shapes = [(1, 40), (40,), (40, 40), (40,), (40, 1), (1,)]
    keys = jax.random.split(key, len(shapes))
    return [0.1 * jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)]


def network(params, x):
    w1, b1, w2, b2, w3, b3 = params
    x = jax.nn.relu(x @ w1 + b1)
    x = jax.nn.relu(x @ w2 + b2)
    return x @ w3 + b3


def draw_task(key):
    amplitude_key, phase_key, x_key = jax.random.split(key, 3)
    amplitude = jax.random.uniform(amplitude_key, minval=0.1, maxval=5.0)
    phase = jax.random.uniform(phase_key, maxval=jnp.pi)
    x = jax.random.uniform(x_key, (2 * SHOTS, 1), minval=-5.0, maxval=5.0)
    y = amplitude * jnp.sin(x - phase)
    return (x[:SHOTS], y[:SHOTS]), (x[SHOTS:], y[SHOTS:])


def loss(params, batch):
    x, y = batch
    return jnp.mean((network(params, x) - y) ** 2)


def adapt(params, support):
    grads = jax.grad(loss)(params, support)
    return jax.tree.map(lambda p, g: p - ALPHA * g, params, grads)


def meta_loss(params, tasks):
    losses = jax.vmap(lambda support, query: loss(adapt(params, support), query))(*tasks)
    return jnp.mean(losses)


def meta_step(state, key):
    params, mean, square, step = state
    tasks = jax.vmap(draw_task)(jax.random.split(key, TASKS))
    value, grads = jax.value_and_grad(meta_loss)(params, tasks)
    mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, grads)  # Adam, by hand
    square = jax.tree.map(lambda s, g: 0.999 * s + 0.001 * g**2, square, grads)
    rate = BETA * jnp.sqrt(1 - 0.999**step) / (1 - 0.9**step)
    update = jax.tree.map(lambda m, s: rate * m / (jnp.sqrt(s) + 1e-8), mean, square)
    params = jax.tree.map(jnp.subtract, params, update)
    return (params, mean, square, step + 1), value


# %% [markdown]
# `lax.scan` runs all meta-steps in one compiled loop, the drawing of the tasks included.

# %%
start = initial(jax.random.key(0))
zeros = [jnp.zeros_like(p) for p in start]
keys = jax.random.split(jax.random.key(1), META_STEPS)
(theta, *_), history = jax.lax.scan(meta_step, (start, zeros, zeros, 1.0), keys)
print(f"loss after one inner step: {history[:100].mean():.2f} in the first 100 meta-steps,")
print(f"{history[-100:].mean():.2f} in the last 100 of {META_STEPS:,}")

# %% [markdown]
# A new wave, of which five points are given, shows what has been learned. From
# random parameters a step changes next to nothing. The meta-learned parameters fit no particular
# wave, but one step takes them close to many waves.

# %%
x = jnp.linspace(-5.0, 5.0, 200)[:, None]
points = jnp.linspace(-4.0, 4.0, 5)[:, None]


def wave(x):
    return 3.0 * jnp.sin(x - 1.0)


figure, (left, *fits) = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
smooth = history.reshape(-1, 50).mean(1)
left.plot(50 * jnp.arange(1, len(smooth) + 1), smooth)
left.set(title="meta-training", xlabel="meta-steps", ylabel="query loss after one step")
left.set_ylim(bottom=0)
left.locator_params(axis="x", nbins=4)
left.grid(alpha=0.3)
starts = {"random start": start, "meta-learned start": theta}
for axes, (name, params) in zip(fits, starts.items(), strict=True):
    axes.plot(x, wave(x), color="tab:red", label="truth")
    for steps in range(11):
        if steps in (0, 1, 10):
            style = {0: ":", 1: "--", 10: "-"}[steps]
            label = f"{steps} step{'s' * (steps != 1)}"
            axes.plot(x, network(params, x), style, color="tab:green", label=label)
        params = adapt(params, (points, wave(points)))
    axes.plot(points, wave(points), "^", color="tab:purple", label="support")
    axes.set(title=name, xlabel="x", ylim=(-4.6, 4.6))
figure.legend(*axes.get_legend_handles_labels(), loc="outside right center")
plt.show()

# %% [markdown]
# ## The same with `maml`
#
# The library needs one thing from a problem: `loss(params, batch, key) -> (scalar, metrics)` of one
# task. `maml.regression` makes it from any `apply(params, inputs)`, such as the plain function
# above. The inner and the outer optimiser are any of optax's.

# %%
import optax

import maml

algorithm = maml.maml(maml.regression(network), optax.sgd(ALPHA), inner_steps=1)
optimizer = optax.adam(BETA)
sample = maml.batch_tasks(lambda key: maml.Episode(*draw_task(key)), TASKS)


@jax.jit
def train(state, key):
    return maml.train(algorithm, optimizer, sample, state, key, META_STEPS)


state, metrics = train(maml.init(algorithm, optimizer, start), jax.random.key(2))
print(f"loss after one inner step: {metrics['loss'][-100:].mean():.2f} in the last 100 meta-steps")

# %% [markdown]
# Is it the same? On one meta-batch and at the same parameters the two meta-gradients must agree up
# to rounding. From here on everything is in float64, where rounding errors are near $10^{-16}$.

# %%
from functools import partial

from jax.flatten_util import ravel_pytree

jax.config.update("jax_enable_x64", True)
theta = [p.astype(jnp.float64) for p in theta]
tasks = jax.vmap(draw_task)(jax.random.split(jax.random.key(3), TASKS))
episodes = maml.Episode(*tasks)


def flat(tree):
    return ravel_pytree(tree)[0]


def meta_gradient(algorithm, params):
    grad = jax.jit(partial(maml.meta_gradient, algorithm.grad))
    return flat(grad(params, episodes, jax.random.key(0))[0])


by_hand = flat(jax.jit(jax.grad(meta_loss))(theta, tasks))
by_library = meta_gradient(algorithm, theta)
difference = jnp.linalg.norm(by_hand - by_library) / jnp.linalg.norm(by_hand)
print(f"relative difference of the two meta-gradients: {difference:.1e}")
assert difference < 1e-13

# %% [markdown]
# ## What `first_order` drops
#
# The chain rule for one task and one step, with $H$ the Hessian of the support loss at $\theta$:
#
# $$\nabla_\theta L^\text{query}(\phi) = (I - \alpha H)\, \nabla L^\text{query}(\phi).$$
#
# First-order MAML treats the inner gradient as a constant. What remains is
# $\nabla L^\text{query}(\phi)$: the term $-\alpha H$, which has all second derivatives, is
# dropped. In the library this is `maml.fomaml`, or `first_order=True` of `gradient_descent`; it is
# a `stop_gradient` around the inner gradient. So the two must differ by exactly $\alpha H$ times
# the first-order gradient, and a Hessian times a vector is a derivative of the gradient: one
# `jax.jvp`.

# %%
first_order = maml.fomaml(maml.regression(network), optax.sgd(ALPHA), inner_steps=1)


@jax.jit
def compare(theta, episode):
    full, _ = maml.task_gradient(algorithm.grad, theta, episode, jax.random.key(0))
    first, _ = maml.task_gradient(first_order.grad, theta, episode, jax.random.key(0))
    _, curved = jax.jvp(lambda p: jax.grad(loss)(p, episode.support), (theta,), (first,))
    return flat(full), flat(first), flat(curved)


full, first, curved = compare(theta, jax.tree.map(lambda leaf: leaf[0], episodes))
dropped, predicted = full - first, -ALPHA * curved
error = jnp.linalg.norm(dropped - predicted) / jnp.linalg.norm(dropped)
share = jnp.linalg.norm(dropped) / jnp.linalg.norm(full)
print(f"what first order drops, relative to MAML's gradient: {share:.0%}")
print(f"and how well -alpha H explains it, relative error:   {error:.1e}")
assert error < 1e-12

# %% [markdown]
# How far this turns the meta-gradient depends on $\alpha$, on the number of steps, each of which
# adds a factor $I - \alpha H$, and on the parameters. This is the cosine of the angle between the
# two meta-gradients:


# %%
@partial(jax.jit, static_argnames="steps")
def cosine(rate, params, steps):
    problem = maml.regression(network), optax.sgd(rate), steps
    algorithms = maml.maml(*problem), maml.fomaml(*problem)
    exact, approximate = (meta_gradient(algorithm, params) for algorithm in algorithms)
    return exact @ approximate / (jnp.linalg.norm(exact) * jnp.linalg.norm(approximate))


rates = jnp.geomspace(1e-4, 3e-2, 25)
figure, grid = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True, layout="constrained")
for axes, (name, params) in zip(grid, starts.items(), strict=True):
    params = [p.astype(jnp.float64) for p in params]
    for steps in (1, 2, 5):
        cosines = [cosine(rate, params, steps) for rate in rates]
        axes.semilogx(rates, cosines, label=f"{steps} step{'s' * (steps != 1)}")
    axes.axvline(ALPHA, color="gray", linestyle=":", label="meta-trained with")
    axes.set(title=name, xlabel=r"inner learning rate $\alpha$", ylim=(-0.55, 1.05))
    axes.grid(alpha=0.3)
grid[0].set_ylabel("cosine of MAML and FOMAML")
grid[0].legend(loc="lower left")
plt.show()

# %% [markdown]
# At random parameters the loss is nearly flat, and the two agree. Meta-training leads to parameters
# at which one step changes a lot, so that $\alpha H$ is not small, and there they differ.

# %% [markdown]
# ## Is it *the* gradient?
#
# Automatic differentiation cannot check itself. A difference quotient does not use it:
#
# $$\frac{F(\theta + \varepsilon d) - F(\theta - \varepsilon d)}{2 \varepsilon}
# \approx \langle \nabla F(\theta), d \rangle$$
#
# for the meta-loss $F$ and a random direction $d$. A wide interval contains kinks of the ReLUs, in
# a tiny one rounding errors dominate, and in between MAML's gradient agrees with the quotient.
# FOMAML's never does: it is a useful direction, but not the gradient of this objective.

# %%
center, unravel = ravel_pytree(theta)
direction = jax.random.normal(jax.random.key(4), center.shape)
direction /= jnp.linalg.norm(direction)


@jax.jit
def slope(width):
    right, left = (meta_loss(unravel(center + w * direction), tasks) for w in (width, -width))
    return (right - left) / (2 * width)


widths = jnp.geomspace(1e-1, 1e-11, 31)
slopes = jax.lax.map(slope, widths)
figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
at_middle = {}  # where the interval is 1e-6
for name, gradient in (("MAML", by_library), ("FOMAML", meta_gradient(first_order, theta))):
    errors = jnp.abs(1 - gradient @ direction / slopes)
    at_middle[name] = errors[len(widths) // 2]
    axes.loglog(widths, errors, "o-", markersize=3, label=name)
    print(f"{name}: off by {at_middle[name]:.1e} of the slope")
axes.set(xlabel=r"$\varepsilon$", ylabel="relative error of the slope")
axes.grid(alpha=0.3)
axes.legend()
plt.show()
assert at_middle["MAML"] < 1e-6 and at_middle["FOMAML"] > 1e-3

# %% [markdown]
# The tests check this for the exact meta-gradients of the library, with momentum, Adam and masks in
# the inner loop, and those of FOMAML, Reptile and iMAML against their definitions:
# `tests/test_meta_gradient.py`. Next: [the paper's sinusoids](02_sinusoid.ipynb), measured.
