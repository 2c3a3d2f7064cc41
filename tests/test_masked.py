"""Masked layers equal the small layers, and masked entries are exactly zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from problems import quick
from scipy.stats import kstest, uniform

from tasks.architectures.masked import (
    MaskedBatchNorm,
    apply_strides,
    central_mask,
    convolve,
    glorot,
    kernel_mask,
    leading_mask,
)

pytestmark = pytest.mark.usefixtures("x64")


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


@pytest.mark.parametrize("side", [7, 8])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_convolutions_are_centred_on_the_first_pixel_of_every_stride(size, stride, side):
    x, kernel = draw(2, side, side + 1, 2), draw(size, size, 2, 3, seed=1)
    layout, padding = ("NHWC", "HWIO", "NHWC"), [(size // 2, size // 2)] * 2
    expected = lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=layout
    )
    got = quick(convolve, static_argnums=2)(x, kernel, stride)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)


def test_a_masked_kernel_equals_the_smaller_kernel():
    x, kernel = draw(2, 6, 7, 3), draw(5, 5, 3, 4, seed=1)
    rows, columns = central_mask(jnp.array(3), 5), central_mask(jnp.array(1), 5)
    mask = kernel_mask(rows, columns, jnp.array([True, False, True]), leading_mask(jnp.array(2), 4))
    got = convolve(x, kernel * mask)
    small = kernel[1:4, 2:3, ::2, :2]
    layout, padding = ("NHWC", "HWIO", "NHWC"), [(1, 1), (0, 0)]
    expected = lax.conv_general_dilated(
        x[..., ::2], small, (1, 1), padding, dimension_numbers=layout
    )
    np.testing.assert_allclose(got[..., :2], expected, rtol=0, atol=1e-12)
    assert (got[..., 2:] == 0).all()


def test_strided_positions_move_to_the_corner():
    x = draw(2, 5, 6, 3)
    got = np.asarray(apply_strides(x, jnp.array([2, 1]), (1, 2)))
    assert (got[:, :3] == x[:, ::2]).all() and (got[:, 3:] == 0).all()
    got = np.asarray(apply_strides(x, jnp.array([1, 3]), (1, 3)))
    assert (got[:, :, :2] == x[:, :, ::3]).all() and (got[:, :, 2:] == 0).all()


@pytest.mark.parametrize("rows", [None, 3])
def test_masked_batch_norm_is_that_of_the_corner_in_value_and_gradient(rows):
    x, bias = draw(5, 6, 7, 4), draw(4, seed=1)
    live = leading_mask(jnp.array(4), 6)[:, None, None] & leading_mask(jnp.array(3), 7)[:, None]
    live = live & leading_mask(jnp.array(2), 4)
    weights = draw(5, 4, 3, 2, seed=2)

    def masked(x, bias):
        out = MaskedBatchNorm().apply({"params": {"bias": bias}}, x, live, reference=rows)
        return jnp.sum(jnp.asarray(out)[:, :4, :3, :2] * weights), out

    def corner(x, bias):
        x = x[:, :4, :3, :2]
        mean, var = x[:rows].mean((0, 1, 2)), x[:rows].var((0, 1, 2))
        out = (x - mean) / jnp.sqrt(var + 1e-3) + bias[:2]
        return jnp.sum(out * weights), jnp.pad(out, [(0, 0), (0, 2), (0, 4), (0, 2)])

    differentiated = (quick(jax.value_and_grad(f, (0, 1), has_aux=True)) for f in (masked, corner))
    got, expected = (program(x, bias) for program in differentiated)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
        assert (np.asarray(a)[np.asarray(b) == 0] == 0).all()


def test_masked_batch_norm_with_weights_is_that_of_repeated_rows():
    x, live = draw(4, 3, 3, 2), jnp.ones((3, 3, 2), bool).at[2].set(False)
    counts = np.repeat(np.arange(4), [2, 0, 1, 3])

    def normalised(x, reference=None):
        variables = {"params": {"bias": jnp.zeros(2)}}
        return jnp.asarray(MaskedBatchNorm().apply(variables, x, live, reference=reference))

    got = normalised(x.at[1].set(jnp.inf), jnp.array([2.0, 0, 1, 3]))
    expected = normalised(x[counts])[jnp.array([2, 3])]
    np.testing.assert_allclose(got[2:], expected, rtol=0, atol=1e-12)


def test_a_masked_kernel_starts_as_the_small_kernel_would():
    channels = leading_mask(jnp.array(30), 64)
    line = central_mask(jnp.array(3), 5)
    kernel = glorot(jax.random.key(0), kernel_mask(line, line, channels, channels))
    bound = (6 / (9 * 60)) ** 0.5
    small = kernel[1:4, 1:4, :30, :30]
    assert kstest(np.ravel(small), uniform(-bound, 2 * bound).cdf).pvalue > 0.01
    assert jnp.count_nonzero(kernel) == jnp.count_nonzero(small)
    nothing = glorot(jax.random.key(0), jnp.zeros((5, 5, 2, 2), bool))
    assert (nothing == 0).all()


def test_batch_norm_without_running_averages_refuses_them():
    x, live = draw(2, 3, 3, 1), jnp.ones((3, 3, 1), bool)
    with pytest.raises(ValueError, match="no running averages"):
        MaskedBatchNorm().init(jax.random.key(0), x, live, running=True)
    with pytest.raises(ValueError, match="reference rows must be an integer >= 1; got 0"):
        MaskedBatchNorm().init(jax.random.key(0), x, live, reference=0)
