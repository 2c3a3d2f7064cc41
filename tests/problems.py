"""A small, smooth few-shot problem in float64, and an independent reference of every algorithm.

The reference is written without `maml`: Python loops over the steps, whole trees with the frozen
leaves put back instead of partitions, and values instead of derivatives.
"""

from functools import cache, partial
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.flatten_util import ravel_pytree

import maml
from maml.sampling import Query
from tasks.batch_norm import STATISTICS, Mode, flax_loss
from tasks.layers import BatchNorm

TASKS, WAYS, SHOTS, QUERIES, INPUTS = 2, 2, 2, 3, 3
HEAD, CONTEXT = "head", "context"

OPTIMIZERS = {
    "sgd": lambda rate=0.3: optax.sgd(rate),
    "momentum": lambda rate=0.3: optax.sgd(rate, momentum=0.9),
    "adam": lambda rate=0.1: optax.adam(rate, eps_root=1e-3),
    "rmsprop": lambda rate=0.1: optax.rmsprop(rate, eps=1e-3),
    "clipped": lambda rate=0.3: optax.chain(maml.clip_by_global_norm(0.1), optax.sgd(rate)),
}
BATCH_NORMS: tuple[Mode, ...] = get_args(Mode)
STRENGTH, RATE = 2.0, 0.7
KEY = jax.random.key(0)
# Programs that run once: compiling them well takes longer than running them badly.
QUICK: dict[str, Any] = {"xla_backend_optimization_level": 0}
if jax.__version_info__ < (0, 11):  # the option is gone from newer XLA
    QUICK["xla_cpu_use_fusion_emitters"] = False
quick = partial(jax.jit, compiler_options=QUICK)


class Tiny(nn.Module):
    """Context inputs, a dense layer, batch normalisation, a smooth non-linearity, a head."""

    track: bool = False

    @nn.compact
    def __call__(self, x, *, reference=None, running=False, features=False):
        context = self.param(CONTEXT, nn.initializers.normal(0.5), (2,))
        x = x.reshape(x.shape[0], -1)
        x = jnp.concatenate([x, jnp.broadcast_to(context, (x.shape[0], 2)) * x[:, :1]], axis=1)
        kernel = self.param("body", nn.initializers.lecun_normal(), (x.shape[1], 3), jnp.float64)
        x = nn.tanh(BatchNorm(self.track)(x, kernel, reference=reference, running=running))
        return x if features else nn.Dense(WAYS, name=HEAD, param_dtype=jnp.float64)(x)


class Problem(NamedTuple):
    """Losses, parameters and a meta-batch; `metric` is the loss without the averages' objective."""

    loss: Any
    params: Any
    episodes: maml.Episode
    model: Tiny


@cache
def one_task(algorithm: maml.Algorithm) -> Any:
    """The compiled meta-gradient of one task."""
    return quick(partial(maml.task_gradient, algorithm.grad))


def problem(batch_norm: Mode) -> Problem:
    """A meta-batch of tasks with a batch-norm mode, to be asked for in float64.

    The loss is jitted, and the problem made once, so that the model is traced once, not a hundred
    times: what the algorithms differentiate is the same program.
    """
    model = Tiny(track=batch_norm == "running")
    rng = np.random.default_rng(0)

    def images(per_class: int) -> jax.Array:
        means = np.repeat(rng.normal(size=(TASKS, WAYS, 1, INPUTS)), per_class, axis=2)
        drawn = means + 0.8 * rng.normal(size=means.shape)
        return jnp.asarray(drawn.reshape(TASKS, WAYS * per_class, INPUTS, 1, 1))

    def labels(per_class: int) -> jax.Array:
        return jnp.tile(jnp.repeat(jnp.arange(WAYS), per_class), (TASKS, 1))

    support, query = images(SHOTS), images(QUERIES)
    episodes = maml.Episode((support, labels(SHOTS)), (Query(query, support), labels(QUERIES)))
    params = model.init(jax.random.key(1), support[0])
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
    if batch_norm == "running":
        params[STATISTICS] = jax.tree.map(lambda leaf: leaf + 0.1, params[STATISTICS])
    return Problem(jax.jit(flax_loss(model, batch_norm)), params, episodes, model)


def algorithm(name: str, optimizer, inner_steps: int, loss, params) -> maml.Algorithm:
    """Each algorithm of the library, with the parts of `Tiny` that it names."""
    head = maml.mask_by_path(params, f"/{HEAD}/")
    context = maml.mask_by_path(params, CONTEXT)
    options = {
        "anil": {"head": head},
        "boil": {"head": head},
        "meta_sgd": {"rate": RATE},
        "maml_plus_plus": {"rate": RATE},
        "imaml": {"regularisation": STRENGTH, "cg_steps": 60},
        "cavia": {"context": context},
    }
    return getattr(maml, name)(loss, optimizer, inner_steps, **options.get(name, {}))


ALGORITHMS = (
    *("maml", "fomaml", "anil", "boil", "meta_sgd", "maml_plus_plus", "reptile", "imaml", "cavia"),
)
RATED = ("meta_sgd", "maml_plus_plus")


def descend(name: str, optimizer, inner_steps: int, loss, meta, support):
    """phi_K of one task, by a Python loop over whole trees with the frozen leaves put back."""
    params, rates = (meta.params, meta.rates) if name in RATED else (meta, None)

    def adapts(path) -> bool:
        path = jax.tree_util.keystr(path)
        return {
            "anil": HEAD in path,
            "boil": HEAD not in path,
            "cavia": CONTEXT in path,
        }.get(name, True)

    if name == "cavia":
        params = jax.tree.map_with_path(
            lambda path, leaf: jnp.zeros_like(leaf) if adapts(path) else leaf, params
        )
    start, opt_state = params, optimizer.init(params)
    for step in range(inner_steps):
        grads = jax.grad(lambda p: loss(p, support, KEY)[0])(params)
        if name == "imaml":
            grads = jax.tree.map(lambda g, p, s: g + STRENGTH * (p - s), grads, params, start)
        grads = jax.tree.map_with_path(
            lambda path, g: g if adapts(path) else jnp.zeros_like(g), grads
        )
        updates, opt_state = optimizer.update(grads, opt_state, params)
        if rates is not None:
            here = jax.tree.map(lambda r, k=step: r[k] if name != "meta_sgd" else r, rates)
            updates = jax.tree.map(jnp.multiply, here, updates)
        params = jax.tree.map(jnp.add, params, updates)
    return params


def outer_objective(problem: Problem, at, episode):
    """The outer loss of one task, with what the running averages chase frozen at `at`."""

    def observed(params):
        out = problem.model.apply(params, episode.query[0].inputs, mutable=STATISTICS)
        return ravel_pytree(out[1])[0]

    seen = observed(at)

    def objective(params):
        value = problem.loss(params, episode.query, KEY)[1]["cross_entropy"]
        averages = ravel_pytree({STATISTICS: params.get(STATISTICS, {})})[0]
        return value + 0.5 * jnp.sum(jnp.square(averages - seen))

    return objective


def reference(name: str, optimizer, inner_steps: int, problem: Problem, meta):
    """The meta-gradient of one meta-batch, by definition and by central differences."""
    flat, unravel = ravel_pytree(meta)

    def of_task(episode):
        def adapted(meta):
            return descend(name, optimizer, inner_steps, problem.loss, meta, episode.support)

        phi = adapted(meta)
        objective = outer_objective(problem, phi, episode)
        if name == "reptile":
            return flat - ravel_pytree(phi)[0]
        if name == "fomaml":  # the way from theta to phi is a constant
            moved = ravel_pytree(phi)[0] - flat
            return central_differences(lambda theta: objective(unravel(theta + moved)), flat)
        if name == "imaml":
            phi = ravel_pytree(phi)[0]
            gradient = central_differences(lambda phi: objective(unravel(phi)), phi)
            hessian = jax.hessian(lambda p: problem.loss(unravel(p), episode.support, KEY)[0])(phi)
            return jnp.linalg.solve(jnp.eye(phi.size) + hessian / STRENGTH, gradient)
        return central_differences(lambda theta: objective(adapted(unravel(theta))), flat)

    return jax.vmap(of_task)(problem.episodes).mean(axis=0)


def central_differences(function, flat, width: float = 1e-4):
    """Gradient by central differences of fourth order, every coordinate at once."""
    offsets = jnp.array([-2.0, -1.0, 1.0, 2.0])[:, None, None] * width * jnp.eye(flat.size)
    at = jax.vmap(jax.vmap(lambda offset: function(flat + offset)))(offsets)
    return jnp.array([1.0, -8.0, 8.0, -1.0]) @ at / (12 * width)
