"""Batch-norm modes against a loop over layers."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.flatten_util import ravel_pytree
from problems import HEAD, OPTIMIZERS, WAYS, problem, quick

import maml
from maml.sampling import Query
from tasks.batch_norm import STATISTICS, flax_apply, flax_loss, track_running_averages
from tasks.models import FullyConnected

# Each program runs once: compiling it well would take longer.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
KEY = jax.random.key(0)
WIDTHS, RATE, STEPS, MOMENTUM = (6, 5), 0.3, 2, 0.9
MODES = [("transductive", False), ("support", False), ("running", False), ("running", True)]
pytestmark = pytest.mark.usefixtures("x64")


def network(track):
    return FullyConnected(WAYS, WIDTHS, track)


@pytest.fixture
def episodes():
    return problem("support").episodes


@pytest.fixture
def episode(episodes):
    return jax.tree.map(lambda leaf: leaf[0], episodes)


def draw(episodes, track):
    """Variables drawn at random, the averages too; the same `params` with averages and without."""
    shapes = jax.eval_shape(network(track).init, KEY, episodes.support[0][0])
    rng = np.random.default_rng(0)

    def positive(leaf):
        return jnp.asarray(rng.uniform(0.5, 2.0, leaf.shape))

    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), shapes["params"])
    averages = {STATISTICS: jax.tree.map(positive, shapes[STATISTICS])} if track else {}
    return {"params": params} | averages


def written_out(params, x, given=None):
    """Logits and each layer's own statistics; those given normalise, or else its own."""
    x, seen = x.reshape(x.shape[0], -1), []
    for layer in range(len(WIDTHS)):
        x = x @ params[f"dense{layer}"]
        seen.append((x.mean(0), x.var(0)))
        mean, var = (given or seen)[layer]
        x = (x - mean) / jnp.sqrt(var + 1e-3) + params[f"norm{layer}"]["bias"]
        x = jnp.maximum(x, 0)
    return x @ params["head"]["kernel"] + params["head"]["bias"], seen


def averages(variables):
    return [variables[STATISTICS][f"norm{layer}"]["averages"] for layer in range(len(WIDTHS))]


def assert_equal(got, expected):
    np.testing.assert_allclose(
        ravel_pytree(got)[0], ravel_pytree(expected)[0], rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize(("mode", "evaluating"), MODES)
def test_each_layer_is_normalised_by_the_statistics_of_the_mode(
    episodes, episode, mode, evaluating
):
    variables = draw(episodes, mode == "running")
    apply = jit(flax_apply(network(mode == "running"), mode, evaluating=evaluating))
    params, query = variables["params"], episode.query[0]
    of_support, statistics = written_out(params, query.support)
    given = averages(variables) if evaluating else statistics if mode == "support" else None
    assert_equal(apply(variables, query), written_out(params, query.inputs, given)[0])
    assert_equal(apply(variables, query.support), of_support)


@pytest.mark.parametrize(("mode", "evaluating"), MODES)
def test_a_query_image_is_judged_alone_unless_the_query_normalises_itself(
    episodes, episode, mode, evaluating
):
    variables = draw(episodes, mode == "running")
    apply = jit(flax_apply(network(mode == "running"), mode, evaluating=evaluating))
    query = episode.query[0]
    others = query._replace(inputs=query.inputs.at[1:].multiply(-2.0))
    alone = (apply(variables, query)[0] == apply(variables, others)[0]).all()
    assert alone == (mode == "support" or evaluating)
    support = query._replace(support=-2.0 * query.support)
    unsupported = (apply(variables, query) == apply(variables, support)).all()
    assert unsupported == (mode != "support")


@pytest.mark.parametrize(("mode", "evaluating"), MODES)
def test_the_loss_is_the_cross_entropy_and_recording_adds_the_distance_to_the_observed(
    episodes, episode, mode, evaluating
):
    variables = draw(episodes, mode == "running")
    model = network(mode == "running")
    loss = jit(flax_loss(model, mode, evaluating=evaluating))
    query, labels = episode.query
    logits = jit(flax_apply(model, mode, evaluating=evaluating))(variables, query)
    expected = -jnp.mean(nn.log_softmax(logits)[jnp.arange(labels.size), labels])
    value, metrics = loss(variables, episode.query, KEY)
    assert_equal(metrics["cross_entropy"], expected)
    if mode == "running" and not evaluating:
        observed = written_out(variables["params"], query.inputs)[1]
        off = ravel_pytree(averages(variables))[0] - ravel_pytree(observed)[0]
        expected += 0.5 * off @ off
    assert_equal(value, expected)


def learned(episodes, mode, optimizer, inner_steps=3):
    """The meta-parameters before each meta-step of MAML and after the last."""
    loss = flax_loss(network(mode == "running"), mode)
    algorithm = maml.maml(loss, optax.sgd(RATE), STEPS)
    state = maml.init(algorithm, optimizer, draw(episodes, mode == "running"))
    step = jit(lambda state, key: maml.meta_step(algorithm, optimizer, state, episodes, key))
    states = [state]
    for key in jax.random.split(KEY, inner_steps):
        states.append(step(states[-1], key)[0])
    return [state.params for state in states]


def adapted(params, support):
    """SGD on the network written out."""

    def loss(params):
        logits, labels = written_out(params, support[0])[0], support[1]
        return -jnp.mean(nn.log_softmax(logits)[jnp.arange(labels.size), labels])

    for _ in range(STEPS):
        params = jax.tree.map(lambda p, g: p - RATE * g, params, jax.grad(loss)(params))
    return params


def test_recorded_averages_are_moving_averages_of_the_adapted_networks_statistics(episodes):
    @jit
    @partial(jax.vmap, in_axes=(None, 0))
    def observed(params, episode):
        phi = adapted(params, episode.support)
        return ravel_pytree(written_out(phi, episode.query[0].inputs)[1])[0]

    path = learned(episodes, "running", track_running_averages(optax.adam(0.01), MOMENTUM))
    expected = ravel_pytree(averages(path[0]))[0]
    for before, after in pairwise(path):
        expected = MOMENTUM * expected + (1 - MOMENTUM) * observed(before["params"], episodes).mean(
            0
        )
        assert_equal(averages(after), expected)


def test_recording_does_not_disturb_learning(episodes):
    """Not even where the optimiser looks at the norm of the whole gradient."""
    optimizer = optax.chain(optax.clip_by_global_norm(0.1), optax.adam(0.01))
    recording = learned(episodes, "running", track_running_averages(optimizer, MOMENTUM))[-1]
    assert_equal(recording["params"], learned(episodes, "transductive", optimizer)[-1]["params"])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_adaptation_leaves_the_averages_alone(episodes, episode, optimizer):
    variables = draw(episodes, track=True)
    loss = flax_loss(network(track=True), "running")
    inner = maml.gradient_descent(loss, OPTIMIZERS[optimizer](), variables)
    phi = jit(lambda support: maml.adapt(inner, support, KEY, STEPS)[0])(episode.support)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), phi, variables)
    assert not any(jax.tree.leaves(moved[STATISTICS]))
    assert moved["params"]["dense0"]


def padded(episode):
    """The episode with rows of weight 0 before, between and behind its own, that hold NaN."""

    def longer(images, labels):
        places = np.array([1, *range(3, len(labels) + 2)])
        size = len(labels) + 3
        weights = jnp.zeros(size).at[places].set(1.0)
        empty = jnp.full((size, *images.shape[1:]), jnp.nan)
        return empty.at[places].set(images), jnp.full(size, -1).at[places].set(labels), weights

    support = longer(*episode.support)
    query, labels = episode.query
    images, labels, weights = longer(query.inputs, labels)
    return maml.Episode(support, (Query(images, support[0], support[2]), labels, weights))


@pytest.mark.parametrize("name", ["maml", "protonet", "r2d2"])
@pytest.mark.parametrize("mode", ["transductive", "support", "running"])
def test_the_meta_gradient_of_a_padded_episode_is_that_of_the_episode(name, mode):
    whole = problem(mode)
    if name == "maml":
        algorithm = maml.maml(whole.loss, optax.sgd(RATE), 1)
    else:
        features = flax_apply(whole.model, mode, features=True)
        head = maml.mask_by_path(whole.params, f"/{HEAD}/")
        algorithm = getattr(maml, name)(whole.loss, features, head=head)
    episode = jax.tree.map(lambda leaf: leaf[0], whole.episodes)
    gradients = quick(
        lambda meta, *episodes: [maml.task_gradient(algorithm.grad, meta, e, KEY) for e in episodes]
    )
    (expected, metrics), got = gradients(algorithm.init(whole.params), episode, padded(episode))
    assert jnp.abs(ravel_pytree(expected)[0]).max() > 1e-3
    assert_equal(got, (expected, metrics))


@pytest.mark.parametrize("mode", ["support", "running"])
def test_evaluation_of_a_padded_episode_is_that_of_the_episode(mode):
    """With the averages, where there are some."""
    whole = problem(mode)
    loss = quick(flax_loss(whole.model, mode, evaluating=True))
    episode = jax.tree.map(lambda leaf: leaf[0], whole.episodes)
    expected = loss(whole.params, episode.query, KEY)
    assert_equal(loss(whole.params, padded(episode).query, KEY), expected)


def test_an_unknown_mode_names_those_there_are(unchecked):
    with pytest.raises(ValueError, match="transductive, support, running; got 'eval'"):
        flax_loss(network(track=False), "eval")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("build", [flax_apply, flax_loss])
@pytest.mark.parametrize(("mode", "track"), [("running", True), ("support", False)])
def test_a_model_tracks_averages_if_and_only_if_the_mode_uses_them(build, mode, track):
    with pytest.raises(ValueError, match=f"{mode!r} needs a model with track={track}"):
        build(network(not track), mode)
