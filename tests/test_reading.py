"""Adaptation while reading: meta-gradients against plain loops in float64, and identities."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from problems import KEY, OPTIMIZERS, central_differences, quick
from test_memory import ALL, ROUNDING
from test_meta_gradient import TOLERANCE, VISIBLE

import maml
from tasks.language_models import LSTM, WindowTransformer, next_chunk

CHUNKS, LENGTH, VOCABULARY = 3, 3, 5
MODELS = {
    # The window is longer than a chunk, and shorter than the text.
    "transformer": WindowTransformer(VOCABULARY, width=4, layers=1, heads=1, hidden=3, window=4),
    "lstm": LSTM(VOCABULARY, width=3, layers=1),
}
pytestmark = pytest.mark.usefixtures("x64")


def draw(*shape):
    return np.random.default_rng(len(shape)).normal(size=shape)


def error(got, expected):
    """The relative error, as a part of the program that computes both."""
    got, expected = ravel_pytree(got)[0], ravel_pytree(expected)[0]
    return jnp.linalg.norm(got - expected) / jnp.linalg.norm(expected)


def recurrent(params, batch, key):
    """A cell whose state, carried from chunk to chunk, is a vector and the number of chunks."""
    x, (h, count) = batch
    h = jnp.tanh(params["w"] @ h + params["u"] * x)
    loss = jnp.sum(jnp.cosh(h - x)) * (1 + 0.1 * count)
    return loss, ((h, count + 1), {"norm": jnp.sum(h**2)})


def recurrent_start(params):
    return jnp.sin(params["start"]), jnp.zeros((), int)


TOY = {"w": draw(3, 3) / 2, "u": draw(3), "start": draw(3) / 2}
TEXT = draw(4, 3) / 2
EPISODE = maml.Episode(TEXT, None)


def text(seed=0):
    """The chunks of a text, each with the first token of the next one."""
    tokens = np.random.default_rng(seed).integers(0, VOCABULARY, CHUNKS * LENGTH + 1)
    return np.stack([tokens[i * LENGTH :][: LENGTH + 1] for i in range(CHUNKS)])


def language(name):
    """The loss, the start and the parameters of a model of language, of any size."""
    model = MODELS[name]
    shapes = jax.eval_shape(model.init, KEY, text()[0], model.start())
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: 0.7 * rng.normal(size=leaf.shape), shapes)
    return jax.jit(next_chunk(model)), lambda params: model.start(), params


def loop(loss, optimizer, start, params, chunks, *, mask=None, rates=None, moves=None):
    """The mean score and the updates of a text, by a Python loop; given updates are constants."""
    carry, state, values, updated = start(params), optimizer.init(params), [], []
    for number, chunk in enumerate(chunks):
        (value, (carry, _)), grads = jax.value_and_grad(loss, has_aux=True)(
            params, (chunk, carry), KEY
        )
        values.append(value)
        if mask is not None:
            grads = jax.tree.map(lambda adapts, g: g * adapts, mask, grads)
        updates, state = optimizer.update(grads, state, params)
        if rates is not None:
            updates = jax.tree.map(jnp.multiply, rates, updates)
        updated.append(updates if moves is None else moves[number])
        params = jax.tree.map(jnp.add, params, updated[-1])
    return sum(values) / len(values), updated, params


def differences(objective, at):
    flat, unravel = ravel_pytree(at)
    return unravel(central_differences(lambda theta: objective(unravel(theta)), flat))


def reads(algorithm, start, params, chunks, reading=maml.reading):
    """The meta-gradient of one text."""
    episode = maml.Episode(chunks, None)
    return maml.task_gradient(reading(algorithm.learner, start), params, episode, KEY)[0]


@pytest.mark.parametrize("optimizer", ["clipped", "adam"])
def test_meta_gradient_of_every_mode_is_the_finite_difference_of_a_loop(optimizer):
    """Also by the initial carry, which the meta-parameters give; the carry is a part of it."""
    update = OPTIMIZERS[optimizer]()

    def cut(params, batch, key):
        value, (carry, metrics) = recurrent(params, batch, key)
        return value, (jax.lax.stop_gradient(carry), metrics)

    @quick
    def errors(params):
        def gradient(mode, loss=recurrent):
            return reads(maml.maml(loss, update, 0, **ALL[mode]), recurrent_start, params, TEXT)

        rule = partial(loop, recurrent, update, recurrent_start)
        expected = differences(lambda theta: rule(theta, TEXT)[0], params)
        of_modes = {mode: error(gradient(mode), expected) for mode in ALL}
        return of_modes, error(gradient("forward", cut), expected)

    of_modes, without_carry = errors(TOY)
    assert max(of_modes.values()) <= TOLERANCE, of_modes
    assert without_carry > VISIBLE


@pytest.mark.parametrize(
    ("name", "optimizer", "mode"),
    [
        ("transformer", "clipped", "forward-remat"),
        ("lstm", "adam", "reverse"),
        ("transformer", "adam", "first-order"),
        ("lstm", "clipped", "first-order"),
    ],
)
def test_meta_gradient_goes_through_attention_and_through_a_carried_state(name, optimizer, mode):
    """By finite differences; a carry that is cut, and the other order, would be visible."""
    loss, start, params = language(name)
    update = OPTIMIZERS[optimizer]()
    mask = maml.mask_by_path(params, "second|head" if name == "transformer" else "cell")

    def cut(params, batch, key):
        value, (carry, metrics) = loss(params, batch, key)
        return value, (jax.lax.stop_gradient(carry), metrics)

    def algorithm(first_order, loss: Any = loss):
        if first_order:
            return maml.fomaml(loss, update, 0, mask=mask)
        return maml.maml(loss, update, 0, mask=mask, **ALL.get(mode, {}))

    @quick
    def errors(params):
        rule = partial(loop, loss, update, start, mask=mask)
        first_order = mode == "first-order"
        moves = rule(params, text())[1] if first_order else None
        expected = differences(lambda theta: rule(theta, text(), moves=moves)[0], params)
        chosen = algorithm(first_order), algorithm(first_order, cut), algorithm(not first_order)
        return [error(reads(one, start, params, text()), expected) for one in chosen]

    correct, without_carry, of_other_order = errors(params)
    assert correct <= TOLERANCE
    assert without_carry > VISIBLE and of_other_order > VISIBLE


def test_first_order_takes_the_updates_as_constants_and_displacement_is_their_sum():
    update = OPTIMIZERS["momentum"]()

    @quick
    def all_of(params):
        rule = partial(loop, recurrent, update, recurrent_start)
        _, moves, last = rule(params, TEXT)
        frozen = differences(lambda theta: rule(theta, TEXT, moves=moves)[0], params)
        algorithms = [maml.fomaml(recurrent, update, 0, remat=remat) for remat in (False, True)]
        got = [reads(algorithm, recurrent_start, params, TEXT) for algorithm in algorithms]
        reptile = maml.reptile(recurrent, update, 1)
        got.append(reads(reptile, recurrent_start, params, TEXT, maml.reading_displacement))
        expected = [frozen, frozen, jax.tree.map(jnp.subtract, params, last)]
        return [*map(error, got, expected)]

    assert max(all_of(TOY)) <= TOLERANCE


def test_learned_rates_have_the_finite_difference_too():
    algorithm = maml.meta_sgd(recurrent, optax.sgd(1.0), 0, rate=0.2, hvp="forward")

    @quick
    def relative_error(meta):
        def objective(meta):
            start = recurrent_start
            return loop(recurrent, optax.sgd(1.0), start, meta.params, TEXT, rates=meta.rates)[0]

        return error(reads(algorithm, recurrent_start, meta, TEXT), differences(objective, meta))

    assert relative_error(algorithm.init(TOY)) <= TOLERANCE


@pytest.mark.parametrize("name", MODELS)
def test_scores_at_rate_zero_without_adaptation_and_of_one_long_chunk_are_the_same(name):
    """And the first chunk has the same score at every rate, unlike the last one."""
    loss, start, params = language(name)
    episodes = maml.Episode(text()[None], None)

    @quick
    def all_of(params):
        def scores(rate, adapts=True):
            learner = maml.maml(loss, optax.sgd(rate), 0).learner
            read = partial(maml.evaluate_reading, learner, start, adapts=adapts)
            return read(params, episodes, KEY)[0][0]

        whole = jnp.append(text()[:, :-1].ravel(), text()[-1, -1])
        nats = loss(params, (whole, start(params)), KEY)[1][1]["nats"]
        rates = jax.vmap(scores)(jnp.array([0.0, 0.1, 1.0]))
        return nats.reshape(CHUNKS, LENGTH).mean(axis=1), scores(1.0, False), rates

    whole, static, rates = all_of(params)
    np.testing.assert_allclose(static, whole, rtol=ROUNDING)
    np.testing.assert_allclose(rates[0], whole, rtol=ROUNDING)
    np.testing.assert_allclose(rates[:, 0], [whole[0]] * 3, rtol=ROUNDING)
    assert jnp.abs(jnp.diff(rates[:, 1:], axis=0)).min() > VISIBLE


def test_the_static_objective_has_the_derivative_of_the_mean_loss():
    algorithm = maml.maml(recurrent, optax.sgd(0.3), 0)
    static = partial(maml.reading, adapts=False)

    @quick
    def relative_error(params):
        got = reads(algorithm, recurrent_start, params, maml.BatchPerStep(TEXT), static)
        rule = partial(loop, recurrent, optax.sgd(0.0), recurrent_start)
        return error(got, differences(lambda theta: rule(theta, TEXT)[0], params))

    assert relative_error(TOY) <= TOLERANCE


def test_a_text_on_which_the_inner_steps_diverge_is_left_out_and_its_chunk_is_seen():
    """The descent multiplies its distance from a text by -9, and another by -1e200."""

    def quadratic(w, batch, key):
        scale, _ = batch
        return 0.5 * scale * w**2, ((), {})

    algorithm = maml.maml(quadratic, optax.sgd(1.0), 0)
    scales = jnp.array([[1.0] * 4, [1e200] * 4, [10.0] * 4])
    episodes = maml.Episode(scales, None)
    grad = maml.reading(algorithm.learner, lambda params: ())
    got, metrics = quick(partial(maml.meta_gradient, grad))(1.0, episodes, KEY)
    each = [reads(algorithm, lambda params: (), 1.0, scales[i]) for i in (0, 2)]
    assert metrics["left_out"] == pytest.approx(1 / 3)
    np.testing.assert_allclose(got, np.mean(each))
    assert jnp.isfinite(metrics["losses"]).all()
    read = partial(maml.evaluate_reading, algorithm.learner, lambda params: ())
    losses, _ = quick(read)(1.0, episodes, KEY)
    assert jnp.isfinite(losses).tolist() == [[True] * 4, [True, False, False, False], [True] * 4]


def test_arguments_that_cannot_be_read_are_refused(unchecked):
    learner = maml.maml(recurrent, optax.sgd(0.1), 0).learner

    def gradient(episode=EPISODE, learner=learner, start=recurrent_start, **options):
        grad = maml.reading(learner, start, **options)
        return maml.task_gradient(grad, TOY, episode, KEY)

    def without_carry(params, batch, key):
        return recurrent(params, batch, key)[0], {}

    def grows(params, batch, key):
        value, ((h, count), metrics) = recurrent(params, (batch[0], batch[1]), key)
        return value, ((jnp.append(h, h), count), metrics)

    def rounds(params, batch, key):
        value, ((h, count), metrics) = recurrent(params, batch, key)
        return value, ((h.astype(jnp.bfloat16), count), metrics)

    def on(loss):
        return maml.maml(loss, optax.sgd(0.1), 0).learner

    cases = {
        "one chunk or more.*(0,)": {"episode": maml.Episode(TEXT[:0], None)},
        r"one chunk or more, .*\[\(3,\), \(4,\)\]": {"episode": maml.Episode((TEXT, TEXT[:3]), ())},
        "one chunk or more, .*got leading sizes": {"episode": maml.Episode(1.0, None)},
        "start must be a function": {"start": None},
        "adapts must be True or False": {"adapts": 1},
        r"must return \(scalar, \(carry, metrics\)\); got \(scalar, dict\)": {
            "learner": on(without_carry)
        },
        r"the carry has the shape \(6,\) at '0'": {"learner": on(grows)},
        "the carry has bfloat16 at '0'; the state before it has float64": {"learner": on(rounds)},
        "no chunk is seen before it is scored": {
            "learner": lambda theta: learner(theta)._replace(begin=lambda state, batch, key: state)
        },
        "without a scored_step": {
            "learner": lambda theta: learner(theta)._replace(scored_step=None)
        },
        "scored step of an Inner must be a": {
            "learner": lambda t: learner(t)._replace(scored_step=1)
        },
    }
    for message, arguments in cases.items():
        with pytest.raises(ValueError, match=message):
            gradient(**arguments)
    sgd = maml.meta_sgd(recurrent, optax.sgd(1.0), 0, rate=0.1)
    with pytest.raises(ValueError, match="meta-parameters have"):
        reads(sgd, recurrent_start, sgd.init(TOY), TEXT, maml.reading_displacement)
    query = maml.unrolled(learner, recurrent, 1)
    with pytest.raises(ValueError, match="episodes need a query set; got None"):
        maml.task_gradient(query, TOY, maml.Episode((TEXT[0], recurrent_start(TOY)), None), KEY)
