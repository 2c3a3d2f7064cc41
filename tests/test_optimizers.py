"""Optax's optimisers one by one: the table of docs/optimizers.md, and their derivatives."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from jax.flatten_util import ravel_pytree
from problems import central_differences

import maml

KEY, RATE, STEPS = jax.random.key(0), 0.05, 3
MADE: dict[str, Any] = {
    "adaptive_grad_clip": lambda: optax.chain(optax.adaptive_grad_clip(0.1), optax.sgd(RATE)),
    "clip": lambda: optax.chain(optax.clip(0.1), optax.sgd(RATE)),
    "clip_by_global_norm": lambda: optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(RATE)),
    "maml.clip_by_global_norm": lambda: optax.chain(maml.clip_by_global_norm(0.1), optax.sgd(RATE)),
    "lbfgs": optax.lbfgs,
    "MultiSteps(...).gradient_transformation()": lambda: optax.MultiSteps(
        optax.sgd(RATE), 2
    ).gradient_transformation(),
    "noisy_sgd": lambda: optax.noisy_sgd(RATE, key=0),
    "scale_by_backtracking_linesearch": lambda: optax.chain(
        optax.sgd(1.0), optax.scale_by_backtracking_linesearch(10)
    ),
    "sgd with momentum": lambda: optax.sgd(RATE, momentum=0.9, nesterov=True),
    "contrib.reduce_on_plateau": lambda: optax.chain(
        optax.sgd(RATE), optax.contrib.reduce_on_plateau()
    ),
    "contrib.sam": lambda: optax.contrib.sam(
        optax.sgd(RATE), optax.chain(optax.contrib.normalize(), optax.sgd(0.01))
    ),
    **{
        f"contrib.{name}": lambda name=name: getattr(optax.contrib, name)()
        for name in ("cocob", "dadapt_adamw", "dowg", "prodigy")
    },
}


def make(name):
    base, _, root = name.partition(", eps_root=")
    if base in MADE:
        return MADE[base]()
    module = optax.contrib if base.startswith("contrib.") else optax
    options = {"eps_root": float(root)} if root else {}
    return getattr(module, base.removeprefix("contrib."))(RATE, **options)


def table():
    """Name -> (inside MAML, inside the others, outside), as the page has them."""
    page = Path(__file__).parents[1].joinpath("docs", "optimizers.md").read_text()
    rows = re.findall(r"^\| `(.*)` \| (yes|no) \| (yes|no) \| (yes|no) \|", page, re.MULTILINE)
    return {name: tuple(word == "yes" for word in words) for name, *words in rows}


TABLE = table()


def loss(params, batch, key):
    x, y = batch
    return jnp.mean(jnp.square(jnp.tanh(x @ params["w"] + params["b"]) - y)), {}


def sample_task(key):
    x_key, y_key = jax.random.split(key)
    x, y = jax.random.normal(x_key, (2, 4, 3)), 0.5 * jax.random.normal(y_key, (2, 4, 2))
    return maml.Episode(*zip(x, y, strict=True))


def start():
    w = 0.5 * jax.random.normal(KEY, (3, 2), jnp.float64)
    return {"w": w, "b": jnp.full(2, 0.1, jnp.float64)}


@pytest.mark.parametrize("name", TABLE)
def test_an_inner_optimiser_is_accepted_or_refused_as_documented(name):
    if TABLE[name][0]:
        maml.maml(loss, make(name), STEPS)
        return
    with pytest.raises(ValueError, match=r"where a gradient is zero|has a line search"):
        maml.maml(loss, make(name), STEPS)


def test_the_documentation_lists_every_optimiser_of_optax():
    """An optimiser is what takes a learning rate first; one of them is deprecated."""
    named = {name.split(",")[0].split(" ")[0] for name in TABLE} | {"nnls", "optimistic_adam"}
    missing = []
    for name in dir(optax):
        function = getattr(optax, name)
        if not name.startswith(("_", "scale_by")) and callable(function) and name not in named:
            code = getattr(function, "__code__", None)
            missing += [name] * (code is not None and code.co_varnames[:1] == ("learning_rate",))
    assert not missing


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, (inside, *_) in TABLE.items() if inside])
def test_the_meta_gradient_through_an_inner_optimiser_is_the_central_difference(name, x64):
    algorithm, params = maml.maml(loss, make(name), STEPS), start()
    episode, (flat, unravel) = sample_task(KEY), ravel_pytree(params)
    of_task: Any = algorithm.grad.objective
    grads = jax.jit(partial(maml.task_gradient, algorithm.grad))(params, episode, KEY)[0]

    def objective(flat):
        return of_task(unravel(flat), episode, KEY, 0)[0]

    expected = jax.jit(partial(central_differences, objective))(flat)
    # One of them counts in float32.
    tolerance = 1e-4 if "MultiSteps" in name else 1e-8
    np.testing.assert_allclose(ravel_pytree(grads)[0], expected, rtol=tolerance, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, (_, others, _) in TABLE.items() if others])
@pytest.mark.parametrize("build", [maml.fomaml, maml.reptile])
def test_the_first_order_meta_gradient_of_an_inner_optimiser_is_finite(name, build, x64):
    if build is maml.fomaml and name == "lbfgs":
        with pytest.raises(ValueError, match="has a line search"):
            build(loss, make(name), STEPS)
        return
    algorithm = build(loss, make(name), STEPS)
    grads, _ = jax.jit(partial(maml.task_gradient, algorithm.grad))(start(), sample_task(KEY), KEY)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, (*_, outside) in TABLE.items() if outside])
def test_an_outer_optimiser_changes_the_meta_parameters_and_keeps_them_finite(name, x64):
    algorithm, optimizer = maml.maml(loss, optax.sgd(0.1), 1), make(name)
    state = maml.init(algorithm, optimizer, start())
    sample = maml.batch_tasks(sample_task, 2)
    train = jax.jit(partial(maml.train, algorithm, optimizer, sample, meta_steps=5))
    after, _ = train(state, KEY)
    flat = ravel_pytree(after.params)[0]
    assert jnp.isfinite(flat).all() and (flat != ravel_pytree(state.params)[0]).any()
