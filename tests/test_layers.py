"""The layers equal those of lax and flax, in value, gradient and second derivative."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from maml.layers import max_pool, patches
from tasks.layers import BatchNorm

EPSILON = 1e-3
# Each program runs once: compiling it well would take longer.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
pytestmark = pytest.mark.usefixtures("x64")


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def assert_equal(got, expected, tolerance=1e-12):
    """Equal to rounding, relative to the largest number of each array."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * float(jnp.abs(b).max()))


def derivatives(function, *inputs):
    """Value, gradient by every input, and the Hessian times a random direction."""

    def wave(*inputs):
        out = function(*inputs)
        return jnp.sum(draw(*out.shape, seed=1) * jnp.sin(out))

    direction = tuple(draw(*x.shape, seed=2) for x in inputs)
    gradient = jax.grad(wave, tuple(range(len(inputs))))
    return function(*inputs), jax.jvp(gradient, inputs, direction)


def assert_same(function, expected, *inputs):
    both = jit(lambda *inputs: [derivatives(f, *inputs) for f in (function, expected)])
    assert_equal(*both(*inputs))


def lax_conv(x, kernel, *, stride=1):
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=layout)


def conv2d(x, kernel, *, stride):
    size, _, _, features = kernel.shape
    return patches(x, size, stride) @ kernel.reshape(-1, features)


@pytest.mark.parametrize("sides", [(28, 7), (14, 3), (4, 5)])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_patches_times_a_matrix_are_the_convolution_of_lax_to_the_second_derivative(
    sides, size, stride
):
    x, kernel = draw(2, *sides, 2), draw(size, size, 2, 3, seed=3)
    assert_same(partial(conv2d, stride=stride), partial(lax_conv, stride=stride), x, kernel)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_kernel_for_each_task_equals_a_loop_over_the_tasks(stride):
    x, kernels = draw(2, 2, 7, 7, 2), draw(2, 3, 3, 2, 3, seed=3)

    def loop(x, kernels):
        return jnp.stack([lax_conv(*task, stride=stride) for task in zip(x, kernels, strict=True)])

    assert_same(jax.vmap(partial(conv2d, stride=stride)), loop, x, kernels)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [28, 7, 3, 2])
def test_max_pool_is_that_of_flax_and_stride_2_drops_an_odd_last_row_or_column(side, stride):
    assert_same(
        partial(max_pool, stride=stride),
        partial(nn.max_pool, window_shape=(2, 2), strides=(stride, stride)),
        draw(2, side, side + 1, 3),
    )


def normalised(x, kernel, bias, **options):
    return jnp.asarray(BatchNorm().apply({"params": {"bias": bias}}, x, kernel, **options))


# As wide as x W, wider, and narrower, where the statistics come from those of x.
INPUTS = pytest.mark.parametrize("inputs", [3, 5, 2])


@INPUTS
@pytest.mark.parametrize("rows", [(6,), (4, 5, 5)])
def test_batch_norm_is_that_of_flax_without_a_scale(rows, inputs):
    def flax(x, kernel, bias):
        model = nn.BatchNorm(False, use_scale=False, epsilon=EPSILON, use_fast_variance=False)
        return model.apply({"params": {"bias": bias}}, x @ kernel, mutable="batch_stats")[0]

    assert_same(normalised, flax, draw(*rows, inputs), draw(inputs, 3, seed=4), draw(3, seed=1))


@INPUTS
@pytest.mark.parametrize("rows", [(6,), (6, 5, 5)])
def test_reference_rows_alone_give_the_statistics(rows, inputs):
    def formula(x, kernel, bias):
        x = x @ kernel
        axes = tuple(range(x.ndim - 1))
        return (x - x[:4].mean(axes)) / jnp.sqrt(x[:4].var(axes) + EPSILON) + bias

    x, kernel, bias = draw(*rows, inputs), draw(inputs, 3, seed=4), draw(3, seed=1)
    assert_same(partial(normalised, reference=4), formula, x, kernel, bias)
    outlier = normalised(x.at[4].add(100.0), kernel, bias, reference=4)
    unmoved = jnp.arange(6) != 4
    assert (outlier[unmoved] == normalised(x, kernel, bias, reference=4)[unmoved]).all()


@INPUTS
def test_a_weight_is_a_number_of_rows_in_the_statistics(inputs):
    """And a row of weight zero is in none, however large it is."""
    weights = np.array([2, 0, 1, 3])
    counts = np.repeat(np.arange(4), weights)
    x, kernel, bias = draw(4, 2, 3, inputs), draw(inputs, 3, seed=4), draw(3, seed=1)

    def weighted(x, kernel, bias):
        return normalised(x, kernel, bias, reference=jnp.asarray(0.5 * weights))

    def repeated(x, kernel, bias):
        both = jnp.concatenate([x[counts], x])
        return normalised(both, kernel, bias, reference=len(counts))[len(counts) :]

    assert_same(weighted, repeated, x, kernel, bias)
    far = weighted(x.at[1].set(jnp.inf), kernel, bias)
    assert (far[2:] == weighted(x, kernel, bias)[2:]).all()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_statistics_of_low_precision_are_those_of_float32(dtype):
    x = (draw(4096, 2) + 30.0).astype(dtype)
    for weights in (None, jnp.ones(4096, dtype)):
        model = BatchNorm(track=True, dtype=dtype)
        variables = model.init(jax.random.key(0), x)
        out, observed = model.apply(variables, x, reference=weights, mutable="batch_stats")
        mean, var = observed["batch_stats"]["averages"]
        wide = x.astype(float)
        assert_equal(mean, wide.mean(0), 1e-6)
        assert_equal(var, wide.var(0), 1e-4)
        assert jnp.asarray(out).dtype == dtype


@pytest.mark.parametrize(
    ("reference", "error"),
    [
        (100, "100 reference rows need as many rows; got 6"),
        (0, "must be an integer >= 1; got 0"),
        (-2, "must be an integer >= 1; got -2"),
        (True, "got True"),
        (np.ones(4), r"weights must be \[6\], one a row; got \[4\]"),
    ],
)
def test_invalid_reference_rows_are_refused(reference, error, unchecked):
    with pytest.raises(ValueError, match=error):
        normalised(draw(6, 3), draw(3, 3), draw(3), reference=reference)


@INPUTS
def test_running_averages_normalise_when_asked_for_and_only_then(inputs):
    x, kernel, bias = draw(6, inputs), draw(inputs, 3, seed=4), draw(3, seed=1)
    mean, var = draw(3, seed=2), draw(3, seed=3) ** 2
    variables = {"params": {"bias": bias}, "batch_stats": {"averages": (mean, var)}}
    running = BatchNorm(track=True).apply(variables, x, kernel, running=True)
    assert_equal(running, (x @ kernel - mean) / jnp.sqrt(var + EPSILON) + bias)
    assert_equal(BatchNorm(track=True).apply(variables, x, kernel), normalised(x, kernel, bias))


@INPUTS
def test_a_tracking_batch_norm_puts_out_what_it_observed_and_starts_from_the_standard_normal(
    inputs,
):
    x, kernel, model = draw(6, inputs), draw(inputs, 3, seed=4), BatchNorm(track=True)
    variables = model.init(jax.random.key(0), x, kernel)
    _, observed = model.apply(variables, x, kernel, mutable="batch_stats")
    expected = ((x @ kernel).mean(0), (x @ kernel).var(0))
    assert_equal(observed["batch_stats"]["averages"], expected)
    assert_equal(variables["batch_stats"]["averages"], (jnp.zeros(3), jnp.ones(3)))


def test_the_gradient_of_a_maximum_goes_to_one_of_the_two():
    """Also where they are equal, and whatever XLA makes of what they come from."""
    x = draw(2, 4, 4, 3)
    for values in (x, jnp.round(x), jnp.zeros_like(x)):
        grads = jax.grad(lambda v: max_pool(v).sum())(values)
        assert set(np.unique(grads)) == {0.0, 1.0}
        assert grads.sum() == x.size / 4


@pytest.mark.parametrize("place", range(4))
def test_a_maximum_keeps_nan_wherever_it_is(place):
    x = jnp.arange(4.0).at[place].set(jnp.nan).reshape(1, 2, 2, 1)
    assert jnp.isnan(max_pool(x)).all()
