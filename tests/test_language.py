"""The language model is causal, its loss is the cross-entropy, and its tasks can be learned."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.flatten_util import ravel_pytree
from problems import KEY, quick

import maml
from tasks.language import Transformer, markov_chains, next_token
from tasks.passages import text_passages

TINY = Transformer(vocabulary=11, width=8, layers=2, heads=2, length=6)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 11, (3, 7)))
TEXT = bytes(range(256))


@pytest.fixture(scope="module")
def params():
    """Of any size, so that no part of the model is lost in rounding."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(TINY.init, KEY, TOKENS[:, :6])
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), "float32"), shapes)


def dense(p, x):
    return x @ p["kernel"] + p["bias"]


def normed(p, x):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * p["scale"] + p["bias"]


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def attended(p, x):
    """One passage, one head and one position at a time."""
    out = np.zeros((len(x), 2, 4))
    queries, keys, values = np.split(dense(p, x).reshape(len(x), 2, 12), 3, axis=-1)
    for head in range(2):
        for t in range(len(x)):
            weights = np.exp(keys[: t + 1, head] @ queries[t, head] / 2)
            out[t, head] = weights / weights.sum() @ values[: t + 1, head]
    return out.reshape(x.shape)


def written_out(p, tokens):
    x = p["tokens"]["embedding"][tokens] + p["positions"][: len(tokens)]
    for layer in range(2):
        h = attended(p[f"attention{layer}"], normed(p[f"norm{layer}a"], x))
        x = x + dense(p[f"mixed{layer}"], h)
        h = gelu(dense(p[f"hidden{layer}"], normed(p[f"norm{layer}b"], x)))
        x = x + dense(p[f"added{layer}"], h)
    return dense(p["head"], normed(p["norm"], x))


def test_logits_and_loss_are_those_written_out_in_numpy(params):
    exact = jax.tree.map(lambda leaf: np.asarray(leaf, float), params["params"])
    expected = np.stack([written_out(exact, row[:-1]) for row in np.asarray(TOKENS)])
    logits = quick(TINY.apply)(params, TOKENS[:, :-1])
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())

    chosen = np.take_along_axis(expected, np.asarray(TOKENS)[:, 1:, None], -1)[..., 0]
    nats = np.mean(np.log(np.exp(expected).sum(-1)) - chosen)
    value, metrics = quick(next_token(TINY))(params, TOKENS, KEY)
    np.testing.assert_allclose([value, metrics["cross_entropy"]], nats, rtol=1e-4)
    np.testing.assert_allclose(metrics["bits_per_token"], nats / np.log(2), rtol=1e-4)


def test_a_logit_depends_on_every_earlier_token_and_on_no_later_one(params):
    apply = quick(TINY.apply)
    before = apply(params, TOKENS[:, :6])
    for place in range(6):
        changed = TOKENS[:, :6].at[:, place].add(1) % 11
        moved = (apply(params, changed) != before).any(-1)
        assert not moved[:, :place].any() and moved[:, place:].all()


@pytest.mark.parametrize("dtype", ["int32", "int8", "uint32"])
def test_a_token_outside_the_vocabulary_gives_nan_or_where_it_is_seen_an_error(params, dtype):
    """A negative one must not count from the end."""
    loss = quick(next_token(TINY))
    tokens = TOKENS.astype(dtype)
    assert loss(params, tokens, KEY)[0] == loss(params, TOKENS, KEY)[0]
    for place in (0, 6):
        for token in (11, -1, -11):
            wrong = tokens.at[0, place].set(jnp.asarray(token).astype(dtype))
            assert jnp.isnan(loss(params, wrong, KEY)[0])
            with pytest.raises(ValueError, match=r"tokens must be at least 0.*; got tokens from"):
                next_token(TINY)(params, wrong, KEY)
            with pytest.raises(ValueError, match="tokens must be at least 0 and below 11; got"):
                TINY.init(KEY, jnp.roll(wrong, 1, axis=1)[:, :6] if place else wrong[:, :6])


def test_a_target_outside_the_vocabulary_gives_no_derivative_either(params):
    """Otherwise an inner step would learn from the passage as if nothing were wrong."""
    derivative = quick(jax.grad(lambda params, tokens: next_token(TINY)(params, tokens, KEY)[0]))
    wrong = derivative(params, TOKENS.at[0, -1].set(11))
    assert jnp.isnan(ravel_pytree(wrong)[0]).any()
    assert jnp.isfinite(ravel_pytree(derivative(params, TOKENS))[0]).all()


def test_the_loss_of_a_half_precision_model_is_taken_in_float32():
    table = jax.random.normal(KEY, (11, 11), "bfloat16")
    value, _ = next_token(nn.Embed(11, 11))({"params": {"embedding": table}}, TOKENS, KEY)
    log_probs = jax.nn.log_softmax(table.astype("float32"))
    assert value.dtype == "float32"
    np.testing.assert_allclose(value, -log_probs[TOKENS[:, :-1], TOKENS[:, 1:]].mean(), rtol=1e-6)


@pytest.mark.parametrize("sample", [markov_chains(2, 3, 8), text_passages(TEXT, 2, 3, 8)])
def test_a_task_is_two_sets_of_passages_and_a_function_of_its_key(sample):
    one, again, other = (jax.jit(sample)(key) for key in (KEY, KEY, jax.random.key(1)))
    assert one.support.shape == (2, 9) and one.query.shape == (3, 9)
    assert one.support.dtype == one.query.dtype == jnp.int32
    flat, same, different = (ravel_pytree(episode)[0] for episode in (one, again, other))
    assert (flat == same).all() and (flat != different).any()


def test_a_chain_is_one_table_for_support_and_query_and_another_in_another_task():
    sample = markov_chains(10, 10, 60, vocabulary=20, branches=3)

    def successors(tokens):
        seen = {}
        for row in np.asarray(tokens):
            for a, b in pairwise(row):
                seen.setdefault(a, set()).add(b)
        return seen

    episodes = jax.jit(maml.batch_tasks(sample, 2))(KEY)
    for task in range(2):
        both = np.concatenate([episodes.support[task], episodes.query[task]])
        assert max(map(len, successors(both).values())) == 3
        assert len(np.unique(both, axis=0)) == 20
        assert both.min() >= 0 and both.max() < 20
    assert max(map(len, successors(np.concatenate(episodes.support)).values())) > 3


def test_passages_stand_side_by_side_and_every_place_is_drawn():
    episodes = jax.jit(maml.batch_tasks(text_passages(TEXT[:20], 1, 2, 4), 200))(KEY)
    rows = np.concatenate([episodes.support, episodes.query], axis=1).reshape(200, 15)
    assert (rows == rows[:, :1] + np.arange(15)).all()
    assert set(rows[:, 0]) == set(range(6))


def test_a_string_is_its_bytes_and_the_text_is_no_constant():
    episode = text_passages("é" * 4, 1, 1, 3)(KEY)
    assert bytes(np.asarray(episode.query, np.uint8)[0]) == "éé".encode()

    def program(size):
        sample = text_passages(bytes(size), 1, 1, 3)
        return jax.jit(lambda sample, key: sample(key)).lower(sample, KEY).as_text()

    assert len(program(90_000)) == len(program(50_000))


def test_adapting_to_passages_of_a_chain_helps_with_others_of_it():
    """Untrained, it starts at log(16) = 2.8 nats; the chain itself has at most log(2) = 0.7."""
    model = Transformer(vocabulary=16, width=32, layers=1, heads=2, length=32)
    loss, sample = next_token(model), markov_chains(8, 8, 32, vocabulary=16, branches=2)
    params = jax.jit(model.init)(KEY, jnp.zeros((1, 1), int))
    learner = maml.maml(loss, optax.sgd(0.5), 1).learner

    def curve(params, key):
        episodes = maml.batch_tasks(sample, 3)(key)
        return maml.evaluate(learner, loss, params, episodes, key, 20)[0]

    losses = quick(curve)(params, KEY)
    assert (losses[:, 0] > 2.7).all() and (losses[:, -1] < 1.5).all()


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (partial(text_passages, TEXT[:29], 1, 2, 9), r"1 \+ 2 passages of 9 \+ 1 .* 30 .*; got 29"),
        (partial(text_passages, "", 1, 1, 1), "need 4 bytes of text; got 0"),
        (partial(text_passages, TEXT, 0, 1, 1), "number of shots .* >= 1; got 0"),
        (partial(markov_chains, 1, -1, 1), "number of queries .* >= 1; got -1"),
        (partial(markov_chains, 1, 1, 0), "number of tokens to read .* >= 1; got 0"),
        (partial(markov_chains, 1, 1, 1, branches=0), "number of branches .* >= 1; got 0"),
        (partial(TINY.init, KEY, TOKENS), "at most 6 tokens; got 7"),
        (partial(TINY.copy, heads=3), "3 heads do not divide .* 8"),
        (partial(next_token(TINY), {}, TOKENS[:, :1], KEY), "two tokens or more; got 1"),
        (partial(next_token(TINY), {}, TOKENS[0], KEY), r"\[n, time\]; got int32 \[7\]"),
        (partial(next_token(TINY), {}, TOKENS / 2, KEY), r"\[n, time\]; got float32 \[3, 7\]"),
        (
            partial(TINY.init, KEY, TOKENS[0]),
            r"tokens must be integers \[n, time\]; got int32 \[7\]",
        ),
        (partial(Transformer, layers=-1), "layers must be an integer >= 0; got -1"),
        (partial(Transformer, layers=True), "layers must be an integer >= 0; got True"),
        (partial(Transformer, heads=0), "heads must be an integer >= 1; got 0"),
        (partial(Transformer, width=0), "residual stream must be an integer >= 1; got 0"),
        (partial(Transformer, vocabulary=1), "vocabulary must be an integer >= 2; got 1"),
        (partial(Transformer, length=0), "tokens to read must be an integer >= 1; got 0"),
    ],
)
def test_invalid_sizes_and_tokens_are_refused_with_the_numbers(refused, message, unchecked):
    with pytest.raises(ValueError, match=message):
        refused()


@pytest.mark.parametrize("model", [None, Transformer, TINY.apply])
def test_next_token_refuses_what_is_not_a_flax_module(model, unchecked):
    with pytest.raises(ValueError, match="next_token needs a flax module; got"):
        next_token(model)
