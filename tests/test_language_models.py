"""Models that read in chunks: attention written out, its second derivative, and what they carry."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from problems import KEY, quick

import maml
from tasks.attention import Past, rotate, window_attention
from tasks.language_models import LSTM, WindowTransformer, next_chunk

VOCABULARY, WINDOW, TIME, HEADS, SIZE = 7, 3, 5, 2, 4
TOKENS = np.random.default_rng(0).integers(0, VOCABULARY, 13)
TRANSFORMER = partial(WindowTransformer, VOCABULARY, width=8, heads=2, hidden=6)


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def attention_case(seen):
    parts = (drawn(TIME, HEADS, SIZE, seed=seed) for seed in range(3))
    keys, values = (jnp.asarray(drawn(WINDOW, HEADS, SIZE, seed=seed)) for seed in (3, 4))
    return *parts, Past(keys, values, seen)


def turned(x, place):
    """The rotation of one vector, pair by pair of its features."""
    out = np.zeros(SIZE)
    for j in range(SIZE // 2):
        angle = place * 10_000 ** (-2 * j / SIZE)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        out[[j, j + SIZE // 2]] = turn @ x[[j, j + SIZE // 2]]
    return out


@pytest.mark.parametrize("seen", [0, 2, WINDOW])
@pytest.mark.usefixtures("x64")
def test_attention_is_that_written_out_token_by_token(seen):
    queries, keys, values, past = attention_case(jnp.asarray(seen))
    got, after = quick(window_attention)(queries, keys, values, past)
    all_keys, all_values = (np.concatenate(p) for p in ((past.keys, keys), (past.values, values)))
    for head in range(HEADS):
        for t in range(TIME):
            near = [s for s in range(t - WINDOW, t + 1) if s >= -seen]
            query = turned(queries[t, head], t + 100)  # only distances count
            scores = [query @ turned(all_keys[s + WINDOW, head], s + 100) for s in near]
            weights = np.exp(np.array(scores) / np.sqrt(SIZE))
            expected = weights / weights.sum() @ all_values[np.array(near) + WINDOW, head]
            np.testing.assert_allclose(got[t, head], expected, rtol=1e-9)
    assert after.seen == WINDOW
    np.testing.assert_array_equal(after.keys, all_keys[-WINDOW:])
    np.testing.assert_array_equal(after.values, all_values[-WINDOW:])


@pytest.mark.usefixtures("x64")
def test_attention_has_a_first_and_a_second_derivative_in_both_modes():
    """Against finite differences, by queries, keys, values and the carried ones."""

    def attended(queries, keys, values, old_keys, old_values):
        past = Past(old_keys, old_values, jnp.asarray(2))
        return window_attention(queries, keys, values, past)[0]

    *parts, past = attention_case(jnp.asarray(2))
    arguments = [*parts, past.keys, past.values]
    check_grads(jax.jit(attended), arguments, order=2, modes=("fwd", "rev"), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    "model",
    [TRANSFORMER(layers=5, window=3), TRANSFORMER(layers=1, window=50), LSTM(VOCABULARY, 6, 2)],
    ids=["window of 3", "window longer than the text", "lstm"],
)
def test_reading_in_chunks_of_any_length_is_reading_at_once_and_forward_alone(model):
    params = jax.jit(model.init)(KEY, TOKENS, model.start())
    apply = jax.jit(model.apply)
    whole, last = apply(params, TOKENS, model.start())
    carry, logits = model.start(), []
    for chunk in np.split(TOKENS, [4, 5, 9]):
        out, carry = apply(params, chunk, carry)
        logits.append(out)
    np.testing.assert_allclose(np.concatenate(logits), whole, atol=2e-6)
    jax.tree.map(partial(np.testing.assert_allclose, atol=2e-6), carry, last)
    changed = np.append(TOKENS[:8], (TOKENS[8:] + 1) % VOCABULARY)
    moved = np.abs(apply(params, changed, model.start())[0] - whole).max(axis=1) > 0
    assert not moved[:8].any() and moved[8:].all()


def test_a_token_attends_to_the_window_before_it_and_no_further():
    model = TRANSFORMER(layers=1, window=WINDOW)
    params = jax.jit(model.init)(KEY, TOKENS, model.start())
    apply = jax.jit(lambda tokens: model.apply(params, tokens, model.start())[0])
    changed = np.append((TOKENS[0] + 1) % VOCABULARY, TOKENS[1:])
    moved = np.abs(apply(changed) - apply(TOKENS)).max(axis=1) > 0
    assert moved.tolist() == [place <= WINDOW for place in range(len(TOKENS))]


@pytest.mark.parametrize(("layers", "second"), [(1, 1), (4, 1), (8, 2)])
def test_the_last_quarter_of_the_layers_has_a_second_network_that_can_adapt(layers, second):
    model = TRANSFORMER(layers=layers)
    params = jax.eval_shape(model.init, KEY, TOKENS, model.start())
    names = {f"second{layer}" for layer in range(layers - second, layers)}
    assert {name for name in params["params"] if name.startswith("second")} == names
    mask = maml.mask_by_path(params, "/second")["params"]
    assert {name for name in mask if any(jax.tree.leaves(mask[name]))} == names


def test_the_loss_is_the_cross_entropy_and_a_token_outside_is_nan_or_an_error():
    model = LSTM(VOCABULARY, 6, 1)
    params, start = jax.jit(model.init)(KEY, TOKENS, model.start()), model.start()
    logits, carry = jax.jit(model.apply)(params, TOKENS[:-1], start)
    value, (after, metrics) = jax.jit(next_chunk(model))(params, (TOKENS, start), KEY)
    expected = -np.asarray(jax.nn.log_softmax(logits))[np.arange(12), TOKENS[1:]]
    np.testing.assert_allclose(metrics["nats"], expected, rtol=1e-5)
    np.testing.assert_allclose(value, expected.mean(), rtol=1e-5)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), after, carry)
    for place in (0, 12):
        for token in (VOCABULARY, -1):
            wrong = jnp.asarray(TOKENS).at[place].set(token)
            assert np.isnan(jax.jit(next_chunk(model))(params, (wrong, start), KEY)[0])
            with pytest.raises(ValueError, match="tokens must be at least 0"):
                next_chunk(model)(params, (wrong, start), KEY)


def test_rotation_keeps_lengths_and_depends_on_distances_alone():
    x, y = drawn(1, 1, SIZE), drawn(1, 1, SIZE, seed=1)

    def product(a, b):
        return jax.jit(lambda x, y, a, b: jnp.vdot(rotate(x, a), rotate(y, b)))(
            x, y, np.array([a]), np.array([b])
        )

    np.testing.assert_allclose(product(3, 5), product(10, 12), rtol=1e-5)
    assert abs(product(3, 5) - product(3, 6)) > 0.1


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: WindowTransformer(1), "tokens in the vocabulary must be an integer >= 2; got 1"),
        (lambda: LSTM(1), "tokens in the vocabulary must be an integer >= 2; got 1"),
        (lambda: WindowTransformer(width=12), "got a width of 12; one of 8 would work"),
        (lambda: WindowTransformer(layers=0), "layers must be an integer >= 1; got 0"),
        (lambda: WindowTransformer(window=0), "tokens in the window must be an integer >= 1"),
        (lambda: LSTM(width=0), "width must be an integer >= 1; got 0"),
        (lambda: next_chunk(len), "next_chunk needs a flax module"),  # pyright: ignore
    ],
)
def test_models_that_cannot_be_built_are_refused(unchecked, build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_chunk_without_a_token_to_predict_is_refused():
    model = LSTM(VOCABULARY, 6, 1)
    with pytest.raises(ValueError, match="tokens in a chunk must be an integer >= 2; got 1"):
        next_chunk(model)({}, (jnp.asarray(TOKENS[:1]), model.start()), KEY)
