"""The wider networks: sizes, features, batch normalisation and meta-gradients, at small widths."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from problems import quick

import maml
from maml.sampling import Query
from tasks.batch_norm import flax_apply, flax_loss
from tasks.models import MODELS, Conv4, R2D2Net, ResNet12

KEY = jax.random.key(0)
IMAGES = jax.random.uniform(KEY, (6, 16, 16, 1))
SMALL = [R2D2Net(2, features=3), ResNet12(2, features=2)]
small = pytest.mark.parametrize("model", SMALL, ids=["r2d2", "resnet12"])


@pytest.mark.parametrize(
    ("model", "features", "kernels"),
    [
        (R2D2Net(5), 3 * 3 * (384 + 512), 9 * (3 * 96 + 96 * 192 + 192 * 384 + 384 * 512)),
        (R2D2Net(5, features=64, equal=True), 3 * 3 * 2 * 64, 9 * (3 * 64 + 3 * 64 * 64)),
        (
            ResNet12(5),
            512,
            sum(9 * (a * b + 2 * b * b) + a * b for a, b in [(3, 64), (64, 128), (128, 256)])
            + 9 * (256 * 512 + 2 * 512 * 512)
            + 256 * 512,
        ),
    ],
    ids=["r2d2", "r2d2-equal", "resnet12"],
)
def test_the_sizes_for_photographs_are_those_of_the_papers(model, features, kernels):
    x = jnp.zeros((7, 32, 32, 3))
    params = jax.eval_shape(model.init, KEY, x)
    chosen, _ = maml.partition(params, maml.mask_by_path(params, "/conv"))
    assert sum(leaf.size for leaf in jax.tree.leaves(chosen)) == kernels
    assert jax.eval_shape(model.apply, params, x).shape == (7, 5)
    inputs = jax.eval_shape(partial(model.apply, features=True), params, x)
    assert inputs.shape == (7, features)


def test_each_is_built_by_name_as_the_others_are():
    built = [MODELS[name](ways=2, features=3, track=True) for name in ("r2d2", "resnet12")]
    assert [type(model) for model in built] == [R2D2Net, ResNet12]
    assert isinstance(MODELS["conv4-pool"](ways=2), Conv4)


@small
def test_with_the_statistics_of_the_support_set_a_query_is_answered_on_its_own(model):
    params = quick(model.init)(KEY, IMAGES)
    apply = quick(flax_apply(model, "support"))
    support, query = IMAGES[:4], IMAGES[4:]
    both = apply(params, Query(query, support))
    alone = apply(params, Query(query[:1], support))
    np.testing.assert_allclose(alone, both[:1], rtol=1e-4, atol=1e-5)


@small
def test_the_head_reads_the_features_and_may_start_at_zero(model):
    params = quick(model.clone(zero_head=True).init)(KEY, IMAGES)
    assert not params["params"]["head"]["kernel"].any()
    params = quick(model.init)(KEY, IMAGES)
    head = params["params"]["head"]
    inputs, outputs = (
        quick(partial(model.apply, features=features))(params, IMAGES) for features in (True, False)
    )
    expected = inputs @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("model", [SMALL[0], pytest.param(SMALL[1], marks=pytest.mark.slow)])
def test_the_meta_gradient_is_the_central_difference(model):
    """Along a random direction, on which every leaf has a part."""
    x = jax.random.uniform(KEY, (4, 16, 16, 1), jnp.float64)
    labels = jnp.array([0, 1])
    episode = maml.Episode((x[:2], labels), (Query(x[2:], x[:2]), labels))
    algorithm = maml.maml(flax_loss(model, "support"), optax.sgd(0.1), 1, hvp="forward")
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), quick(model.init)(KEY, x))
    flat, unravel = ravel_pytree(params)
    direction = jax.random.normal(KEY, flat.shape, flat.dtype)
    of_task = algorithm.grad.objective
    assert of_task is not None

    def value(flat):
        return of_task(unravel(flat), episode, KEY, 0)[0]

    value, h = quick(value), 1e-6
    grads, _ = quick(partial(maml.task_gradient, algorithm.grad))(params, episode, KEY)
    expected = (value(flat + h * direction) - value(flat - h * direction)) / (2 * h)
    got = ravel_pytree(grads)[0] @ direction
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.usefixtures("unchecked")
@small
def test_what_a_network_cannot_read_is_refused(model):
    for shape, options, message in (
        ((3, 15, 16, 1), {}, r"of 16x16 pixels or more; got \[3, 15, 16, 1\]"),
        ((16, 16, 1), {}, r"got \[16, 16, 1\]"),
        ((3, 16, 16, 1), {"reference": 4}, "4 reference rows need .* got 3"),
    ):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(partial(model.init, **options), KEY, jnp.zeros(shape))
    for option in ({"ways": 0}, {"features": 0}, {"track": 1}, {"zero_head": None}):
        with pytest.raises(ValueError, match="must be"):
            model.clone(**option)
