"""The JAX sides of `benchmarks.peers`: this library, and MAML as it is usually written in JAX.

The latter, `naive_side`, is one `grad` of one `vmap` over tasks of plain functions, and uses
neither `maml` nor `tasks`.
"""

import gc
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from timeit import timeit
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import lax
from jaxtyping import PyTree

import maml
from benchmarks import sinusoid
from benchmarks.few_shot import FewShot
from benchmarks.few_shot_experiment import build
from benchmarks.harness import hardware
from maml.tree import leaves_by_path
from maml.types import Episode, RandomKey

Workload = FewShot | sinusoid.Sinusoid
Arrays = dict[str, Any]  # arrays by path, such as `head/kernel`
Batch = tuple[Any, Any]  # inputs, targets


class Problem(NamedTuple):
    """The problem that every side solves.

    Attributes:
        params: Initial meta-parameters by path; all but `norm...` adapt.
        tasks: Support and query batches, `[task, ...]`.
        rate: Learning rate of an inner step.
        steps: Number of inner steps.
        model: Name of the network: mlp, conv4 or conv4-pool.
    """

    params: Arrays
    tasks: tuple[Batch, Batch]
    rate: float
    steps: int
    model: str


class Side(NamedTuple):
    """One side of the comparison.

    Attributes:
        check: Function that returns the first loss and meta-gradient, ours in float64.
        seconds: Function from a number of calls to the seconds that they take.
        meta_steps: Number of meta-steps of a call.
    """

    check: Callable[[], tuple[float, Arrays]]
    seconds: Callable[[int], float]
    meta_steps: int = 1


def clock(call: Callable[[], object]) -> Callable[[int], float]:
    """The function from a number of calls to the seconds that they take."""
    return lambda times: timeit(call, setup=gc.enable, number=times)  # timeit disables it


def leaves_by_name(params: PyTree) -> Arrays:
    """The leaves of a tree by path, without the prefix `params/`."""
    leaves = leaves_by_path(params).items()
    return {name.removeprefix("params/"): np.asarray(leaf) for name, leaf in leaves}


def as_float64(tree: PyTree) -> PyTree:
    """Casts a tree to float64; the rounding of float32 flips ReLUs, so that programs differ."""
    return jax.tree.map(
        lambda a: a.astype(np.float64) if getattr(a, "dtype", None) == np.float32 else a, tree
    )


def roll_tasks(episodes: Episode, key: RandomKey) -> Episode:
    """Rolls the order of tasks, so that XLA cannot move work on them out of a scan."""
    places = jax.random.randint(key, (), 0, 1024)
    return jax.tree.map(lambda leaf: jnp.roll(leaf, places, axis=0), episodes)


def our_side(workload: Workload) -> tuple[Side, Problem]:
    """The side of this library, several meta-steps in a scan, and the problem of the peers."""
    if few_shot := isinstance(workload, FewShot):
        _, init, _, algorithm = build(workload, workload.ways)
        sample = noise_sampler(workload)
    else:
        experiment = sinusoid.experiment(workload)
        init, algorithm, sample = (
            experiment.init,
            experiment.algorithm,
            experiment.samplers["train"],
        )
    adam, key, meta_steps = optax.adam(1e-3), jax.random.key(0), 5 if few_shot else 200
    episodes = jax.jit(maml.batch_tasks(sample, workload.meta_batch))(key)
    initial = jax.jit(init)(key)
    state = maml.init(algorithm, adam, initial)
    options = hardware.layout(
        workload.meta_batch, heavy=few_shot, devices=workload.devices, chunk=workload.chunk
    )._asdict()

    def gradient(params: PyTree, episodes: Episode, key: RandomKey) -> Any:
        return maml.meta_gradient(algorithm.grad, params, episodes, key, **options)

    def train(state: maml.MetaState, episodes: Episode, key: RandomKey) -> Any:
        sample = jax.tree_util.Partial(roll_tasks, episodes)
        prefetch = min(workload.prefetch, meta_steps)
        step = partial(maml.meta_step, algorithm, adam, **options)
        return maml.iterate(step, sample, state, key, meta_steps, prefetch=prefetch)

    def check() -> tuple[float, Arrays]:
        with jax.enable_x64(True):
            grads, metrics = jax.jit(gradient)(*as_float64((state.params, episodes)), key)
            return float(metrics["loss"]), leaves_by_name(grads)

    jitted = jax.jit(train)
    seconds = clock(lambda: jax.block_until_ready(jitted(state, episodes, key)))
    side = Side(check, seconds, meta_steps)
    support, (query, targets) = jax.tree.map(np.asarray, episodes)
    tasks = support, (query.inputs if few_shot else query, targets)
    params, model = leaves_by_name(initial), workload.model if few_shot else "mlp"
    return side, Problem(params, tasks, workload.inner_rate, workload.inner_steps, model)


def noise_sampler(workload: FewShot) -> maml.Sampler:
    """A sampler of episodes of uniform noise, which cost what pictures of their size cost."""
    each = workload.shots + workload.queries
    shape = 4 * workload.ways, each, *workload.image
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return maml.few_shot(images, workload.ways, workload.shots, workload.queries)


def conv4_loss(
    weights: Arrays, x: jax.Array, labels: jax.Array, *, pool: bool = False
) -> jax.Array:
    """The cross-entropy of `tasks.models.Conv4`."""
    layout, stride = ("NHWC", "HWIO", "NHWC"), 1 if pool else 2
    for block in range(4):
        kernel = weights[f"conv{block}"]
        x = lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=layout)
        x = (x - x.mean((0, 1, 2))) * lax.rsqrt(x.var((0, 1, 2)) + 1e-3)
        x = jax.nn.relu(x + weights[f"norm{block}/bias"])
        x = nn.max_pool(x, (2, 2), strides=(2, 2)) if pool else x
    x = x.reshape(x.shape[0], -1) if pool else x.mean((1, 2))
    logits = x @ weights["head/kernel"] + weights["head/bias"]
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def mlp_loss(weights: Arrays, x: jax.Array, y: jax.Array) -> jax.Array:
    """The mean squared error of `tasks.models.MLP`."""
    for layer in range(2):
        x = jax.nn.relu(x @ weights[f"Dense_{layer}/kernel"] + weights[f"Dense_{layer}/bias"])
    x = x @ weights["head/kernel"] + weights["head/bias"]
    return jnp.square(x - y).mean()


LOSSES = {"mlp": mlp_loss, "conv4": conv4_loss, "conv4-pool": partial(conv4_loss, pool=True)}


def naive_side(problem: Problem) -> Side:
    """The side of MAML as it is usually written in JAX: every meta-step is one jitted call."""
    loss, adam = LOSSES[problem.model], optax.adam(1e-3)

    def query_loss(weights: Arrays, support: Batch, query: Batch) -> jax.Array:
        for _ in range(problem.steps):
            grads = jax.grad(loss)(weights, *support)
            weights = {
                name: leaf if name.startswith("norm") else leaf - problem.rate * grads[name]
                for name, leaf in weights.items()
            }
        return loss(weights, *query)

    def total(weights: Arrays, support: Batch, query: Batch) -> jax.Array:
        return jax.vmap(query_loss, (None, 0, 0))(weights, support, query).mean()

    def step(weights: Arrays, opt_state: PyTree, tasks: tuple[Batch, Batch]) -> Any:
        value, grads = jax.value_and_grad(total)(weights, *tasks)
        updates, opt_state = adam.update(grads, opt_state)
        return value, grads, optax.apply_updates(weights, updates), opt_state

    weights, tasks = jax.tree.map(jnp.asarray, (problem.params, problem.tasks))
    start = weights, adam.init(weights), tasks
    compiled = jax.jit(step).lower(*start).compile()

    def check() -> tuple[float, Arrays]:
        value, grads, *_ = compiled(*start)
        return float(value), leaves_by_name(grads)

    return Side(check, clock(lambda: jax.block_until_ready(compiled(*start))))


def spawn_side(problem: Problem) -> Side:
    """`naive_side` in a separate process, where JAX has its defaults: one device, all threads."""
    pool = ProcessPoolExecutor(1, get_context("spawn"))
    pool.submit(_start, problem).result()

    def call(name: str, *arguments: int) -> Any:
        return pool.submit(_call, name, *arguments).result()

    return Side(partial(call, "check"), partial(call, "seconds"))


_here: list[Side] = []  # the side in that process


def _start(problem: Problem) -> None:
    os.environ.pop("PJRT_NPROC", None)
    double = any(leaf.dtype == np.float64 for leaf in problem.params.values())
    jax.config.update("jax_enable_x64", double)
    _here.append(naive_side(problem))


def _call(name: str, *arguments: int) -> Any:
    return getattr(_here[0], name)(*arguments)
