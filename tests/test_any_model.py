"""Models of flax, equinox and plain functions adapt and learn alike."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import linen, nnx
from jax.flatten_util import ravel_pytree
from problems import quick

import maml

KEY = jax.random.key(0)
WIDTH = 5
pytestmark = pytest.mark.usefixtures("x64")


class Model(NamedTuple):
    """A model of some library, and where in its parameters the plain function's are."""

    apply: Callable
    params: Any
    plain: Callable[[Any], dict]
    head: str


def plain_apply(params, x):
    """A layer, normalised where there is a `norm`, and a head."""
    x = x @ params["body"]["w"] + params["body"]["b"]
    if "norm" in params:
        x = (x - x.mean(0)) / jnp.sqrt(x.var(0) + 1e-5)
        x = x * params["norm"]["scale"] + params["norm"]["bias"]
    return jnp.tanh(x) @ params["head"]["w"] + params["head"]["b"]


def of_flax(layer) -> dict:
    return {"w": layer["kernel"], "b": layer["bias"]}


def of_linen() -> Model:
    class Network(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.Dense(WIDTH, name="body", param_dtype=jnp.float64)(x)
            norm = linen.BatchNorm(use_running_average=False, name="norm", param_dtype=jnp.float64)
            return linen.Dense(1, name="head", param_dtype=jnp.float64)(jnp.tanh(norm(x)))

    network = Network()
    variables = network.init(KEY, jnp.ones((2, 2)))

    def apply(params, x):
        return network.apply({**variables, "params": params}, x, mutable="batch_stats")[0]

    def plain(params):
        return {
            "body": of_flax(params["body"]),
            "norm": dict(params["norm"]),
            "head": of_flax(params["head"]),
        }

    return Model(apply, variables["params"], plain, "^head")


def of_nnx() -> Model:
    class Network(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.body = nnx.Linear(2, WIDTH, rngs=rngs, param_dtype=jnp.float64)
            self.norm = nnx.BatchNorm(WIDTH, rngs=rngs, param_dtype=jnp.float64)
            self.head = nnx.Linear(WIDTH, 1, rngs=rngs, param_dtype=jnp.float64)

        def __call__(self, x):
            return self.head(jnp.tanh(self.norm(self.body(x))))

    graph, params, others = nnx.split(Network(nnx.Rngs(0)), nnx.Param, ...)

    def apply(params, x):
        return nnx.merge(graph, params, others)(x)

    def plain(params):
        return {
            "body": of_flax(params["body"]),
            "norm": dict(params["norm"]),
            "head": of_flax(params["head"]),
        }

    as_pure = getattr(nnx, "as_pure", nnx.pure)  # its name before flax 0.12.7
    others = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), as_pure(others))
    return Model(apply, as_pure(params), plain, "^head")


def of_equinox() -> Model:
    network = eqx.nn.MLP(2, 1, WIDTH, depth=1, activation=jnp.tanh, key=KEY, dtype=jnp.float64)
    params, static = eqx.partition(network, eqx.is_inexact_array)

    def apply(params, x):
        return jax.vmap(eqx.combine(params, static))(x)

    def plain(params):
        body, head = ({"w": layer.weight.T, "b": layer.bias} for layer in params.layers)
        return {"body": body, "head": head}

    return Model(apply, params, plain, "layers/1")


def of_functions() -> Model:
    """Parameters in a list of tuples, where the plain function has dictionaries."""
    weights = jax.random.normal(KEY, (3, WIDTH))
    params = [(weights[:2], weights[2]), (weights[:1].T, jnp.zeros(1))]

    def apply(params, x):
        (w, b), (head_w, head_b) = params
        return jnp.tanh(x @ w + b) @ head_w + head_b

    def plain(params):
        body, head = ({"w": w, "b": b} for w, b in params)
        return {"body": body, "head": head}

    return Model(apply, params, plain, "^1/")


@pytest.fixture(params=[of_linen, of_nnx, of_equinox, of_functions])
def model(request, x64) -> Model:
    return request.param()


@pytest.mark.parametrize("name", ["maml", "anil"])
def test_a_meta_step_on_a_model_is_one_on_the_plain_function(model, name):
    inputs = jax.random.normal(KEY, (3, 2, 6, 2))  # task, support and query, point, coordinate
    targets = jnp.sin(inputs.sum(-1, keepdims=True))
    episodes = maml.Episode(*((inputs[:, part], targets[:, part]) for part in (0, 1)))
    optimizer = optax.sgd(1.0, momentum=0.9)  # the first update is the meta-gradient

    @quick
    def step(params):
        return outcome(model.apply, params, model.head)

    @quick
    def plain_step(params):
        return outcome(plain_apply, params, "^head")

    def outcome(apply, params, head):
        options = {"head": maml.mask_by_path(params, head)} if name == "anil" else {}
        loss = maml.regression(apply)
        algorithm = getattr(maml, name)(loss, optax.sgd(0.1, momentum=0.9), 2, **options)
        state = maml.init(algorithm, optimizer, params)
        after, _ = maml.meta_step(algorithm, optimizer, state, episodes, KEY, chunk=1)
        return jax.tree.map(jnp.subtract, state.params, after.params), after.params

    wanted = plain_step(model.plain(model.params))
    for got, expected in zip(step(model.params), wanted, strict=True):
        got, expected = ravel_pytree(model.plain(got))[0], ravel_pytree(expected)[0]
        assert jnp.linalg.norm(got - expected) <= 1e-12 * jnp.linalg.norm(expected)
