"""The networks have the initialisations, sizes and outputs of the papers."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from scipy.stats import kstest, norm, truncnorm, uniform

import maml
from maml.sampling import Query
from tasks.batch_norm import flax_loss
from tasks.models import MLP, Conv4, FullyConnected

# Each program runs once: compiling it well would take longer.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
KEY = jax.random.key(0)
OMNIGLOT, MINI_IMAGENET = (3, 28, 28, 1), (3, 84, 84, 3)
CUT = truncnorm(-2, 2, scale=0.01)  # TensorFlow's truncated_normal(stddev=0.01), std 0.0088


def xavier(inputs, outputs):
    bound = (6 / (9 * (inputs + outputs))) ** 0.5
    return uniform(-bound, 2 * bound)


@pytest.mark.parametrize(
    ("model", "shape", "pattern", "distribution"),
    [
        (MLP((400, 400)), (1, 1), "Dense_0/kernel", CUT),
        (MLP((400, 400)), (1, 1), "Dense_1/kernel", CUT),
        (MLP((40, 40), outputs=400), (1, 1), "head/kernel", CUT),
        (FullyConnected(64), OMNIGLOT, "dense0", CUT),
        (FullyConnected(64), OMNIGLOT, "dense[1-3]", CUT),
        (FullyConnected(64), OMNIGLOT, "head/kernel", CUT),
        (Conv4(64), OMNIGLOT, "conv0", xavier(1, 64)),
        (Conv4(64), OMNIGLOT, "conv[1-3]", xavier(64, 64)),
        (Conv4(64), OMNIGLOT, "head/kernel", norm),
    ],
)
def test_weights_are_drawn_from_the_distribution_of_the_papers_code(
    model, shape, pattern, distribution
):
    """A deviation wrong by a tenth is seen by the test: it looks at 400 to 200,000 weights."""
    drawn = jax.tree.leaves_with_path(jit(model.init)(KEY, jnp.zeros(shape)))
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in drawn]
    weights = [
        leaf.ravel() for p, (_, leaf) in zip(paths, drawn, strict=True) if re.search(pattern, p)
    ]
    assert kstest(np.concatenate(weights), distribution.cdf).pvalue > 0.01


@pytest.mark.parametrize("pool", [False, True])
def test_a_zero_head_changes_the_head_alone(pool):
    paper, zero = (
        jit(Conv4(5, pool=pool, zero_head=zero_head).init)(KEY, jnp.zeros(OMNIGLOT))["params"]
        for zero_head in (False, True)
    )
    assert not zero["head"].pop("kernel").any() and paper["head"].pop("kernel").any()
    jax.tree.map(np.testing.assert_array_equal, zero, paper)


@pytest.mark.parametrize("model", [MLP(), Conv4(5), FullyConnected(5)])
def test_biases_start_at_zero(model):
    x = jnp.zeros((1, 1) if isinstance(model, MLP) else OMNIGLOT)
    params = jit(model.init)(KEY, x)
    biases, _ = maml.partition(params, maml.mask_by_path(params, "bias"))
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(biases))


@pytest.mark.parametrize(
    ("model", "shape", "count"),
    [
        (MLP(), (1, 1), 1_761),
        (MLP((100, 100), outputs=2), (1, 3), 10_702),
        # As published, less the scales and the biases that normalisation takes away.
        (FullyConnected(5), OMNIGLOT, 247_109 - 512),
        (Conv4(5), OMNIGLOT, 112_261 - 2 * 4 * 64),
        (Conv4(5, pool=True), OMNIGLOT, 112_261 - 2 * 4 * 64),
        (Conv4(5, features=32, pool=True), MINI_IMAGENET, 32_901 - 2 * 4 * 32),
    ],
)
def test_the_number_of_parameters_is_the_published_one(model, shape, count):
    shapes = jax.eval_shape(model.init, KEY, jnp.zeros(shape))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


def dense(p, x):
    return x @ p["kernel"] + p["bias"]


def convolved(kernel, x, stride):
    layout = ("NHWC", "HWIO", "NHWC")
    x = lax.conv_general_dilated(x, kernel, (stride,) * 2, "SAME", dimension_numbers=layout)
    return np.asarray(x)


def normed(p, x):
    axes = tuple(range(x.ndim - 1))
    return np.maximum((x - x.mean(axes)) / np.sqrt(x.var(axes) + 1e-3) + p["bias"], 0)


def mlp(p, x):
    for layer in range(2):
        x = np.maximum(dense(p[f"Dense_{layer}"], x), 0)
    return dense(p["head"], x)


def strided(p, x):
    for block in range(4):
        x = normed(p[f"norm{block}"], convolved(p[f"conv{block}"], x, 2))
    return dense(p["head"], x.mean((1, 2)))


def pooled(p, x):
    for block in range(4):
        x = normed(p[f"norm{block}"], convolved(p[f"conv{block}"], x, 1))
        rows, columns = (side // 2 * 2 for side in x.shape[1:3])
        corners = [x[:, i:rows:2, j:columns:2] for i in (0, 1) for j in (0, 1)]
        x = np.max(corners, axis=0)
    return dense(p["head"], x.reshape(len(x), -1))


def fully_connected(p, x):
    x = x.reshape(len(x), -1)
    for layer in range(4):
        x = normed(p[f"norm{layer}"], x @ p[f"dense{layer}"])
    return dense(p["head"], x)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("model", "shape", "forward"),
    [
        (MLP(), (7, 1), mlp),
        (Conv4(5, features=8), OMNIGLOT, strided),
        (Conv4(5, features=8, pool=True), OMNIGLOT, pooled),
        (Conv4(5, features=4, pool=True), (2, 40, 37, 3), pooled),
        (FullyConnected(5), OMNIGLOT, fully_connected),
    ],
)
def test_the_output_is_that_of_the_network_written_out(model, shape, forward):
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape)
    shapes = jax.eval_shape(model.init, KEY, jnp.asarray(x))
    variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), shapes)
    expected = forward(variables["params"], x)
    got = jit(model.apply)(jax.tree.map(jnp.asarray, variables), jnp.asarray(x))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize(
    "model", [Conv4(2, features=4), Conv4(2, features=4, pool=True), FullyConnected(2)]
)
def test_blank_and_binary_images_have_a_finite_meta_gradient(model):
    """Also in a program that XLA has not optimised, where what is computed twice may differ."""
    labels = jnp.arange(2)
    algorithm = maml.maml(flax_loss(model, "transductive"), optax.sgd(0.4), 1)
    grad = jit(partial(maml.task_gradient, algorithm.grad))
    blank = jnp.zeros((2, 28, 28, 1))
    params = jit(model.init)(KEY, blank)
    for images in (blank, 1 - blank, jax.random.bernoulli(KEY, 0.1, blank.shape).astype(float)):
        episode = maml.Episode((images, labels), (Query(images, images), labels))
        grads, _ = grad(params, episode, KEY)
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize("model", [MLP(), Conv4(5), FullyConnected(5)])
def test_in_bfloat16_the_layers_compute_and_the_parameters_are_float32(model):
    x = jax.random.normal(KEY, (8, 1) if isinstance(model, MLP) else (8, *OMNIGLOT[1:]))
    rounded = model.clone(dtype=jnp.bfloat16)
    params = jit(rounded.init)(KEY, x)
    exact, got = jit(model.apply)(params, x), jit(rounded.apply)(params, x)
    grads = jit(jax.grad(lambda params: jnp.asarray(rounded.apply(params, x)).sum()))(params)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, grads, got))} == {jnp.dtype("float32")}
    error = jnp.linalg.norm(got - exact) / jnp.linalg.norm(exact)
    assert 1e-4 < error < 3e-2  # 8 bits of a mantissa round by 2^-9, in four layers


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("wrong", [0, -1, True, None, "5", 1.5, np.array([5]), jnp.array(5)])
@pytest.mark.parametrize(
    ("model", "option"),
    [
        (Conv4, "ways"),
        (partial(Conv4, 5), "features"),
        (FullyConnected, "ways"),
        (lambda width: FullyConnected(5, (8, width)), "width"),
        (lambda width: MLP((8, width)), "width"),
        (MLP, "outputs"),
    ],
)
def test_sizes_that_are_no_positive_integers_are_refused(model, option, wrong):
    with pytest.raises(ValueError, match="must be an integer >= 1; got"):
        model(**{option: wrong})


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("model", "option", "wrong", "message"),
    [
        (MLP, "widths", 5, "widths must be a sequence of integers; got 5"),
        (MLP, "context", -1, "context parameters must be an integer >= 0; got -1"),
        (MLP, "deviation", -0.1, "deviation must be a finite number >= 0.0; got -0.1"),
        (MLP, "deviation", float("nan"), "deviation must be a finite number .*; got nan"),
        (partial(FullyConnected, 5), "widths", None, "must be a sequence of integers; got None"),
        (partial(FullyConnected, 5), "track", "no", "track must be True or False; got 'no'"),
        (partial(Conv4, 5), "track", 1, "track must be True or False; got 1"),
        (partial(Conv4, 5), "pool", None, "pool must be True or False; got None"),
    ],
)
def test_options_that_mean_nothing_are_refused(model, option, wrong, message):
    with pytest.raises(ValueError, match=message):
        model(**{option: wrong})


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("model", "shape", "options", "message"),
    [
        (MLP(), (1,), {}, r"inputs must be \[n, inputs\]; got \[1\].* maml.batch_tasks"),
        (MLP(), (2, 3, 1), {}, r"got \[2, 3, 1\]"),
        (Conv4(5), (28, 28, 1), {}, r"\[n, height, width, channels\], of 1x1 .* got \[28, 28, 1\]"),
        (Conv4(5), (3, 0, 0, 1), {}, r"got \[3, 0, 0, 1\]"),
        (Conv4(5), (3, 28, 28, 0), {}, r"got \[3, 28, 28, 0\]"),
        (Conv4(5, pool=True), (3, 0, 0, 1), {}, r"of 16x16 pixels or more; got \[3, 0, 0, 1\]"),
        (Conv4(5, pool=True), (3, 15, 28, 1), {}, r"of 16x16 .* got \[3, 15, 28, 1\]"),
        (Conv4(5), (0, 28, 28, 1), {}, "number of rows must be an integer >= 1; got 0"),
        (Conv4(5), OMNIGLOT, {"reference": 100}, "100 reference rows need as many .* got 3"),
        (Conv4(5), OMNIGLOT, {"reference": -1}, "reference rows must be .* >= 1; got -1"),
        (Conv4(5), OMNIGLOT, {"reference": True}, "reference rows must be .* got True"),
        (FullyConnected(5), OMNIGLOT, {"reference": 4}, "4 reference rows need .* got 3"),
        (FullyConnected(5), (3,), {}, r"images must be \[n, ...\], with pixels; got \[3\]"),
        (FullyConnected(5), (3, 0, 0), {}, r"with pixels; got \[3, 0, 0\]"),
        (FullyConnected(5), (0, 9), {}, "number of rows must be an integer >= 1; got 0"),
    ],
)
def test_inputs_that_a_network_cannot_read_are_refused(model, shape, options, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(partial(model.init, **options), KEY, jnp.zeros(shape))


def test_the_smallest_images_that_pooling_leaves_a_pixel_of_are_read():
    shapes = jax.eval_shape(Conv4(5, pool=True).init, KEY, jnp.zeros((3, 16, 16, 1)))
    assert shapes["params"]["head"]["kernel"].shape == (64, 5)
