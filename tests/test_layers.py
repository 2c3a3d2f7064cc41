"""The layers equal those of lax and flax, in value, gradient and second derivative."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from tasks.layers import BatchNorm, Conv, conv2d, max_pool

EPSILON = 1e-3
# Each program runs once: compiling it well would take longer.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
pytestmark = pytest.mark.usefixtures("x64")


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def assert_equal(got, wanted):
    """Equal to rounding, relative to the largest number of each array."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * float(jnp.abs(b).max()))


def derivatives(function, *inputs):
    """Value, gradient by every input, and the Hessian times a random direction."""

    def wave(*inputs):
        out = function(*inputs)
        return jnp.sum(draw(*out.shape, seed=1) * jnp.sin(out))

    direction = tuple(draw(*x.shape, seed=2) for x in inputs)
    gradient = jax.grad(wave, tuple(range(len(inputs))))
    return function(*inputs), jax.jvp(gradient, inputs, direction)


def assert_same(function, wanted, *inputs):
    both = jit(lambda *inputs: [derivatives(f, *inputs) for f in (function, wanted)])
    assert_equal(*both(*inputs))


def lax_conv(x, kernel, *, stride=1):
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=layout)


@pytest.mark.parametrize("sides", [(28, 7), (14, 3), (4, 5)])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_conv2d_is_the_convolution_of_lax_to_the_second_derivative(sides, size, stride):
    x, kernel = draw(2, *sides, 2), draw(size, size, 2, 3, seed=3)
    assert_same(partial(conv2d, stride=stride), partial(lax_conv, stride=stride), x, kernel)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_kernel_for_each_task_is_a_loop_over_the_tasks(stride):
    x, kernels = draw(2, 2, 7, 7, 2), draw(2, 3, 3, 2, 3, seed=3)

    def loop(x, kernels):
        return jnp.stack([lax_conv(*task, stride=stride) for task in zip(x, kernels, strict=True)])

    assert_same(jax.vmap(partial(conv2d, stride=stride)), loop, x, kernels)


@pytest.mark.parametrize("side", [28, 7, 3, 2])
def test_max_pool_is_that_of_flax_and_drops_an_odd_last_row_or_column(side):
    assert_same(
        max_pool,
        partial(nn.max_pool, window_shape=(2, 2), strides=(2, 2)),
        draw(2, side, side + 1, 3),
    )


def test_layers_compose_inside_a_flax_model():
    x = draw(3, 7, 7, 2)
    model = nn.Sequential([Conv(4, size=5, stride=2), BatchNorm(), nn.relu, max_pool])
    zeros = jit(model.init)(jax.random.key(0), x)["params"]
    conv, norm = {"kernel": draw(5, 5, 2, 4), "bias": draw(4)}, {"bias": draw(4, seed=1)}
    assert jax.tree.map(jnp.shape, zeros) == {
        "layers_0": jax.tree.map(jnp.shape, conv),
        "layers_1": jax.tree.map(jnp.shape, norm),
    }
    hidden = lax_conv(x, conv["kernel"], stride=2) + conv["bias"]
    hidden = (hidden - hidden.mean((0, 1, 2))) / jnp.sqrt(hidden.var((0, 1, 2)) + EPSILON)
    wanted = nn.max_pool(nn.relu(hidden + norm["bias"]), (2, 2), (2, 2))
    assert_equal(jit(model.apply)({"params": {"layers_0": conv, "layers_1": norm}}, x), wanted)


def normalised(x, bias, **options):
    return jnp.asarray(BatchNorm().apply({"params": {"bias": bias}}, x, **options))


@pytest.mark.parametrize("shape", [(6, 3), (4, 5, 5, 3)])
def test_batch_norm_is_that_of_flax_without_a_scale(shape):
    def flax(x, bias):
        model = nn.BatchNorm(False, use_scale=False, epsilon=EPSILON, use_fast_variance=False)
        return model.apply({"params": {"bias": bias}}, x, mutable="batch_stats")[0]

    assert_same(normalised, flax, draw(*shape), draw(3, seed=1))


@pytest.mark.parametrize("shape", [(6, 3), (6, 5, 5, 3)])
def test_reference_rows_alone_give_the_statistics(shape):
    def formula(x, bias):
        axes = tuple(range(x.ndim - 1))
        return (x - x[:4].mean(axes)) / jnp.sqrt(x[:4].var(axes) + EPSILON) + bias

    x, bias = draw(*shape), draw(3, seed=1)
    assert_same(partial(normalised, reference=4), formula, x, bias)
    outlier = normalised(x.at[4].add(100.0), bias, reference=4)
    unmoved = jnp.arange(6) != 4
    assert (outlier[unmoved] == normalised(x, bias, reference=4)[unmoved]).all()


def test_running_averages_normalise_when_asked_for_and_only_then():
    x, bias, mean, var = draw(6, 3), draw(3, seed=1), draw(3, seed=2), draw(3, seed=3) ** 2
    variables = {"params": {"bias": bias}, "batch_stats": {"averages": (mean, var)}}
    running = BatchNorm(track=True).apply(variables, x, running=True)
    assert_equal(running, (x - mean) / jnp.sqrt(var + EPSILON) + bias)
    assert_equal(BatchNorm(track=True).apply(variables, x), normalised(x, bias))


def test_a_tracking_batch_norm_puts_out_what_it_observed_and_starts_from_the_standard_normal():
    x, model = draw(6, 3), BatchNorm(track=True)
    variables = model.init(jax.random.key(0), x)
    _, observed = model.apply(variables, x, mutable="batch_stats")
    assert_equal(observed["batch_stats"]["averages"], (x.mean(0), x.var(0)))
    assert_equal(variables["batch_stats"]["averages"], (jnp.zeros(3), jnp.ones(3)))
