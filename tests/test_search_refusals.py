"""Invalid arguments of maml.search raise ValueError, and broken rewards never win."""

# pyright: reportArgumentType=false

import logging
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from problems import quick

from maml import surrogates
from maml.search import (
    ArchitecturePolicy,
    Child,
    Space,
    ask_key,
    child_keys,
    device_executor,
    entropy,
    evolution,
    factorised_policy,
    log_prob,
    lstm_policy,
    mutate,
    policy_gradient_strategy,
    ppo,
    random_architecture,
    random_search,
    ray_cluster,
    ray_executor,
    reinforce,
    search,
    search_on_host,
    search_with_replicas,
    sequential_policy,
    shard_parameters,
)
from maml.search.architectures import choose_tokens
from maml.search.controllers import controller_gradient, tokens_log_probs
from maml.search.replicas import Server
from maml.search.rewards import MAX_REWARD

KEY = jax.random.key(0)
SPACE = Space((3, 2, 4))
# After a 1 nothing is allowed; after a 2 only a 0 is.
ENDS = Space(
    (3, 3), lambda tokens, at: (at == 0) | (tokens[0] == 0) | (tokens[0] - jnp.arange(3) == 2)
)
ADAM = optax.adam(0.1)
STRATEGIES = {
    "random": partial(random_search, batch=4),
    "evolution": partial(evolution, population=4, batch=4),
    "reinforce": lambda space: reinforce(
        factorised_policy(space), ADAM, batch=4, entropy_coef=0.01
    ),
    "ppo": lambda space: ppo(factorised_policy(space), ADAM, batch=4, epochs=2),
}
TOKENS = jnp.array([[0, 1, 3], [2, 0, 1], [1, 1, 0], [0, 0, 0]])
PLAIN = random_search(SPACE, batch=4)
STATE = PLAIN.init(KEY)


def reward(tokens, key):
    return (tokens.sum() + 1.0) / 8


def run(**changes):
    usual = {"strategy": PLAIN, "reward": reward, "state": STATE, "key": KEY, "children": 4}
    return search(**(usual | changes))


def on_host(**changes):
    usual = {"strategy": PLAIN, "reward": reward, "state": STATE, "key": KEY, "children": 4}
    return search_on_host(**(usual | changes))


def told(rewards, tokens=TOKENS, strategy=PLAIN):
    return strategy.tell(strategy.init(KEY), tokens, rewards)


def replicas(**changes):
    policy, optimizer = shard_parameters(factorised_policy(SPACE), ADAM, 2)
    state = reinforce(policy, optimizer).init(KEY)
    usual = {"reward": reward, "state": state, "key": KEY, "children": 4}
    return search_with_replicas(
        policy, optimizer, **(usual | {"replicas": 1, "batch": 2} | changes)
    )


def drawn(step):
    """A sample of a policy with this step."""
    return sequential_policy(SPACE, lambda key: jnp.zeros(4), lambda _: (), step).sample(
        jnp.zeros(4), KEY
    )


def judged(surrogate):
    options = {"batch": 4, "epochs": 1, "baseline_decay": 0.9, "entropy_coef": 0.0}
    strategy = policy_gradient_strategy(
        factorised_policy(SPACE), ADAM, surrogate=surrogate, **options
    )
    return told(jnp.ones(4), strategy=strategy)


def learner(**options):
    return reinforce(factorised_policy(SPACE), ADAM, **options)


@pytest.mark.usefixtures("unchecked")
class TestInvalidArguments:
    @pytest.mark.parametrize(
        ("call", "says"),
        [
            (lambda: Space(3), "must be a tuple .* got 3"),
            (lambda: Space(np.array([3, 2])), "must be a tuple"),
            (lambda: Space((3, 2.0)), "options must be an integer >= 1; got 2.0"),
            (lambda: Space((True, 2)), "got True"),
            (lambda: Space((jnp.ones(2), 2)), "options must be an integer >= 1"),
            (lambda: SPACE.options(TOKENS[0], 9), "the position must be .* <= 2; got 9"),
            (lambda: SPACE.contains(None), "3 integers"),
            (lambda: SPACE.contains(TOKENS), "3 integers"),
            (lambda: choose_tokens(SPACE, None, None, KEY), "choose must be a function"),
            (
                lambda: choose_tokens(SPACE, lambda *_: 1, None, KEY),
                r"must return \(carry, token\)",
            ),
            (lambda: drawn(lambda params, *_: ((), params[:2])), r"logits \[4\].*got \[2\]"),
            (lambda: drawn(lambda params, *_: ((), "a")), r"logits \[4\].*got 'a'"),
            (lambda: drawn(lambda params, *_: params), r"must return \(carry, logits\)"),
            (lambda: factorised_policy(SPACE).sample(jnp.zeros((1, 4)), KEY), "tree of parameters"),
            (lambda: entropy(None), "real numbers .token, option.; got None"),
            (lambda: log_prob(jnp.zeros(3), TOKENS[0]), r"got \[3\]"),
            (lambda: judged(lambda *_: "a"), "must return one real number; got 'a'"),
            (lambda: judged(lambda ratio, _: ratio), "must return one real number"),
            (lambda: judged(lambda ratio, _: 1j * ratio.sum()), "must return one real number"),
            (
                lambda: PLAIN.ask(STATE._replace(num_rewards=jnp.zeros(())), KEY),
                "num_rewards must be an integer",
            ),
            (
                lambda: run(state=STATE._replace(num_rewards=jnp.array(-3))),
                "num_rewards must be an integer >= 0",
            ),
            (lambda: run(children=2**40), r"must be an integer >= 0 and < 2\*\*31"),
            (lambda: told([[1], [1, 2]]), "a reward must be a real number"),
            (lambda: ask_key(KEY, -1), "num_rewards must be an integer >= 0"),
            (lambda: child_keys(KEY, jnp.ones(2)), r"integers \[child\]; got float32\[2\]"),
            (lambda: child_keys(KEY, 3), r"integers \[child\]"),
            (lambda: child_keys(KEY, jnp.array([-1])), "must be >= 0; got -1"),
            (lambda: device_executor(3), "a mesh must be made by"),
            (lambda: list(device_executor()(None, [(1.0,)])), "needs a function of an item"),
            (
                lambda: shard_parameters(factorised_policy(SPACE), ADAM, 2)[0].sample(
                    jnp.zeros(12), KEY
                ),
                "2 shards",
            ),
            (lambda: Space((3, 2), "all"), r"function of \(tokens, position\); got 'all'"),
            (
                lambda: Space((3, 2), lambda tokens: tokens > 0),
                r"\(tokens, position\); got a function of",
            ),
            (lambda: Space((3, 2), lambda tokens, at: at == 0), r"return bool\[3\]"),
            (lambda: Space((3, 2), lambda tokens, at: tokens), r"return bool\[3\]"),
            (lambda: Space((3, 2), lambda tokens, at: jnp.zeros(3, bool)), r"token 0 after \[\]"),
            (lambda: Space((2, 2), lambda tokens, at: jnp.repeat(at < 1, 2)), r"token 1 after"),
            (lambda: SPACE.option_masks(jnp.zeros(2, int)), r"3 integers; got int32\[2\]"),
            (lambda: random_architecture(SPACE, 0), "must be a key as jax.random.key.* got 0"),
            (lambda: random_architecture((3, 2), KEY), r"must be a Space.* got \(3, 2\)"),
            (lambda: mutate(SPACE, jnp.zeros(2, int), KEY), r"3 integers; got int32\[2\]"),
            (lambda: mutate(SPACE, jnp.zeros(3), KEY), r"3 integers; got float32\[3\]"),
            (
                lambda: mutate(SPACE, jnp.array([3, 0, 0]), KEY),
                r"limit in \(3, 2, 4\).*\[3, 0, 0\]",
            ),
            (lambda: mutate(SPACE, jnp.array([0, -1, 0]), KEY), r"below .*\[0, -1, 0\]"),
            (lambda: mutate(SPACE, TOKENS[0], jax.random.split(KEY)), "one key; got a batch"),
            (lambda: random_search(3), "must be a Space"),
            (lambda: factorised_policy([3, 2]), "must be a Space"),
            (
                lambda: lstm_policy(SPACE, scale=-1.0),
                "scale must be a finite number > 0.* got -1.0",
            ),
            (lambda: lstm_policy(SPACE, scale="0.1"), "scale must be a finite number.* got '0.1'"),
            (lambda: lstm_policy(SPACE, scale=None), "scale must be a finite number.* got None"),
            (lambda: lstm_policy(SPACE, 2).init(0), "must be a key"),
            (
                lambda: sequential_policy(SPACE, None, None, None),
                r"init must be a function of \(key\)",
            ),
            (lambda: log_prob(jnp.zeros((3, 4)), jnp.zeros(2, int)), "3 integers"),
            (lambda: reinforce(SPACE, ADAM), "must be an ArchitecturePolicy"),
            (
                lambda: learner(baseline_decay="0.9"),
                "baseline_decay must be a finite number.* got '0.9'",
            ),
            (lambda: learner(baseline_decay=-0.1), "baseline_decay must be a finite number >= 0"),
            (
                lambda: learner(entropy_coef=-1.0),
                "entropy_coef must be a finite number >= 0.* got -1.0",
            ),
            (lambda: learner(entropy_coef=jnp.nan), "entropy_coef must be a finite number"),
            (
                lambda: ppo(factorised_policy(SPACE), ADAM, clip=-0.2),
                "clip must be .* > 0.* got -0.2",
            ),
            (lambda: ppo(factorised_policy(SPACE), ADAM, clip=jnp.nan), "clip must be"),
            (
                lambda: policy_gradient_strategy(
                    factorised_policy(SPACE),
                    ADAM,
                    surrogate=None,
                    **{"batch": 1, "epochs": 1, "baseline_decay": 0.9, "entropy_coef": 0.0},
                ),
                "surrogate must be a function",
            ),
            (lambda: PLAIN.init(0), "must be a key"),
            (lambda: PLAIN.ask(STATE, jax.random.split(KEY)), "one key"),
            (lambda: PLAIN.ask(None, KEY), "must be a SearchState.* got None"),
            (lambda: PLAIN.ask(learner().init(KEY), KEY), "another strategy"),
            (lambda: told(jnp.ones(3)), r"of \(4,\), one for each child.* got an array of \(3,\)"),
            (lambda: told(jnp.ones(())), r"got an array of \(\)"),
            (lambda: told(jnp.ones(4) * 1j), "a reward must be a real number"),
            (lambda: told(jnp.ones(4) > 0), "a reward must be a real number"),
            (lambda: told(["a"] * 4), "a reward must be a real number"),
            (lambda: told(jnp.ones(0), TOKENS[:0]), "children with rewards .* got 0"),
            (lambda: told(jnp.ones(4), TOKENS[:, :2]), r"\[child, token\] of 3 integers"),
            (lambda: told(jnp.ones(4), TOKENS[0]), r"got int32\[3\]"),
            (lambda: told(jnp.ones(4), TOKENS + 1), "below its limit"),
            (lambda: told(jnp.ones(4), TOKENS.at[1, 2].set(-1)), r"token 2 after \[2, 0\]"),
            (lambda: run(strategy=None), "must be a Strategy"),
            (lambda: run(reward=None), r"reward must be a function of \(tokens, key\)"),
            (lambda: run(reward=lambda tokens: 1.0), r"of \(tokens, key\); got a function of"),
            (lambda: run(reward=lambda tokens, key: 1j * tokens.sum()), "must be a real number"),
            (lambda: run(reward=lambda tokens, key: tokens.sum() > 0), "must be a real number"),
            (lambda: run(reward=lambda tokens, key: "good"), "real number; got 'good'"),
            (lambda: run(reward=lambda tokens, key: None), "real number; got None"),
            (lambda: run(reward=lambda tokens, key: tokens), r"one number; got an array of \(3,\)"),
            (lambda: run(state=STATE.strategy_state), r"must be a SearchState.* got \(\)"),
            (lambda: run(state=evolution(SPACE).init(KEY)), "another strategy"),
            (lambda: run(key=0), "must be a key"),
            (lambda: run(key=jax.random.PRNGKey(0)), r"got an array of uint32\[2\]"),
            (lambda: ask_key(0, 3), "must be a key"),
            (lambda: child_keys(jax.random.split(KEY), jnp.arange(2)), "one key"),
            (lambda: on_host(strategy="random"), "must be a Strategy"),
            (lambda: on_host(reward=None), "reward must be a function"),
            (lambda: on_host(reward=lambda tokens, key: "x"), "real number; got 'x'"),
            (lambda: on_host(reward=lambda tokens, key: 1j), "real number; got 1j"),
            (lambda: on_host(state=learner().init(KEY)), "another strategy"),
            (lambda: on_host(key=3), "must be a key"),
            (lambda: on_host(executor=None), r"executor must be a function of \(function, items\)"),
            (lambda: on_host(on_child=3), "on_child must be a function"),
            (lambda: on_host(finished=None), "finished must be the children that were kept"),
            (lambda: on_host(finished=[(0, 1)]), "finished must be of `Child`"),
            (lambda: on_host(finished=[Child(-1, TOKENS[0], 0.5)]), "was kept must be .* got -1"),
            (lambda: on_host(finished=[Child(0, TOKENS[0], "x")]), "real number; got 'x'"),
            (
                lambda: on_host(finished=[Child(9, TOKENS[0], 0.5), Child(9, TOKENS[0], 0.6)]),
                "kept twice with different contents",
            ),
            (
                lambda: on_host(executor=device_executor(), reward=lambda tokens, key: "x"),
                "a function over devices returns arrays; got 'x'",
            ),
            (lambda: device_executor(jax.make_mesh((1,), ("data",))), "named 'task'"),
            (lambda: shard_parameters(SPACE, ADAM, 2), "must be an ArchitecturePolicy"),
            (lambda: replicas(reward=None), "reward must be a function"),
            (lambda: replicas(key=0), "must be a key"),
            (lambda: replicas(state=None), "must be a SearchState"),
            (lambda: replicas(entropy_coef=-1.0), "entropy_coef must be"),
            (lambda: replicas(on_child=1), "on_child must be a function"),
            (lambda: ray_executor(max_retries=3), "max_retries is set by `retries`"),
            (lambda: ray_cluster(3).__enter__(), "address must be .* got 3"),
        ],
    )
    def test_invalid_arguments_are_refused_with_a_message(self, call, says):
        with pytest.raises(ValueError, match=says):
            call()

    @pytest.mark.parametrize("found", [None, [1], [(0, 1.0, 2)], [([0], 1.0)]])
    def test_invalid_outcomes_are_refused(self, found):
        with pytest.raises(RuntimeError, match=r"must yield \(index, outcome\) pairs; got"):
            on_host(executor=lambda function, items: found)

    def test_an_executor_without_items_gives_no_outcomes(self):
        assert list(device_executor()(reward, [])) == []


@pytest.mark.parametrize("name", STRATEGIES)
def test_where_nothing_is_allowed_a_child_is_broken_and_teaches_nothing_that_is_not_finite(name):
    strategy = STRATEGIES[name](ENDS)
    state, history = quick(lambda key: search(strategy, reward, strategy.init(key), key, 24))(KEY)
    ended = np.asarray(history.tokens[:, 1] == -1)
    np.testing.assert_array_equal(ended, history.tokens[:, 0] == 1)
    np.testing.assert_array_equal(np.isnan(history.rewards), ended)
    assert 0 < ended.sum() == state.num_broken < 24
    if name not in ("random", "evolution"):
        leaves = jax.tree.leaves(state.strategy_state)
        assert all(np.isfinite(leaf).all() for leaf in leaves)
    with pytest.raises(ValueError, match=r"no option for token 1 after \[1\]"):
        search_on_host(strategy, reward, strategy.init(KEY), KEY, 24)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("surrogate", [surrogates.score_function, surrogates.clipped])
@pytest.mark.parametrize("policy", [factorised_policy(ENDS), lstm_policy(ENDS, 2, scale=1.0)])
def test_the_gradient_with_forbidden_options_is_that_of_finite_differences(policy, surrogate):
    """After a place without an option, with one option, and for a child that cannot be drawn."""
    children = jnp.array([[0, 2], [1, -1], [2, 0], [0, 0], [2, 1]])
    advantages = jnp.array([1.0, -2.0, 0.5, -0.3, 0.7])

    def moved(key):
        noise = partial(jax.random.normal, key)
        return jax.tree.map(lambda leaf: leaf + 0.2 * noise(leaf.shape), policy.init(KEY))

    old, params = map(moved, jax.random.split(KEY))
    acted = tokens_log_probs(policy, old, children)
    assert np.isneginf(acted).tolist() == [[False] * 2] * 4 + [[False, True]]

    options, drawable = np.asarray(jax.vmap(ENDS.option_masks)(children)), np.isfinite(acted)

    def loss(params):
        result, total = jax.vmap(policy.log_probs, (None, 0))(params, children), 0.0
        for n, child in enumerate(children.tolist()):
            places = [t for t, token in enumerate(child) if token >= 0 and drawable[n, t]]
            change = jnp.stack([result[n, t, child[t]] - acted[n, t] for t in places])
            total += surrogate(change, jnp.full(change.shape, advantages[n]))
            spread = result[n][options[n]]
            total -= 0.1 * jnp.exp(spread) @ spread
        return -total / len(children)

    value = quick(loss)
    got = quick(partial(controller_gradient, policy, surrogate, entropy_coef=0.1))(
        params, children, acted, advantages
    )
    flat, unravel = ravel_pytree(params)
    for way in jax.random.normal(KEY, (3, flat.size)):
        ahead, behind = (value(unravel(flat + step * way)) for step in (1e-5, -1e-5))
        slope = ravel_pytree(got)[0] @ way
        assert float(slope) == pytest.approx(float(ahead - behind) / 2e-5, rel=1e-7, abs=1e-9)


def test_probabilities_where_nothing_is_allowed_and_of_what_is_no_option():
    log_probs = jnp.log(jnp.array([[0.25, 0.75], [0.0, 0.0], [0.0, 1.0]]))
    for tokens, expected in (
        ([1, -1, 1], [0.75, 1, 1]),
        ([-1, 0, 0], [0, 0, 0]),
        ([2, 5, -2], [0, 0, 0]),
    ):
        result = jnp.exp(log_prob(log_probs, jnp.array(tokens)))
        np.testing.assert_allclose(result, expected, rtol=1e-6)
    assert jnp.isnan(entropy(log_probs.at[0, 0].set(jnp.nan)))


@pytest.mark.parametrize("name", ["reinforce", "ppo", "evolution"])
def test_what_is_too_large_to_be_averaged_is_as_broken_as_what_is_not_finite(name):
    strategy = STRATEGIES[name](SPACE)
    tell, start = quick(strategy.tell), strategy.init(KEY)
    for broken in (jnp.nan, jnp.inf, -jnp.inf, 1e38, -3e38):
        state = tell(start, TOKENS, jnp.array([0.5, broken, 0.25, 0.75]))
        assert state.num_broken == 1
        if name == "evolution":
            assert state.strategy_state.rewards[1] == -jnp.inf
        else:
            assert state.strategy_state.lowest == 0.25
            assert state.strategy_state.baseline == (0.5 + 0.25 + 0.25 + 0.75) / 4
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_rewards_that_are_just_small_enough_give_a_finite_step():
    rewards = MAX_REWARD * jnp.array([1.0, -1.0, 1.0, 1.0])
    strategy = STRATEGIES["reinforce"](SPACE)
    state = quick(strategy.tell)(strategy.init(KEY), TOKENS, rewards)
    assert state.num_broken == 0 and state.strategy_state.baseline == pytest.approx(MAX_REWARD / 2)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.strategy_state.params))


def test_a_baseline_of_half_precision_rewards_is_of_single_precision():
    strategy = STRATEGIES["reinforce"](SPACE)
    tell, start = quick(strategy.tell), strategy.init(KEY)
    rewards = jnp.array([60_000, 60_000, 50_000, 0.5], jnp.float16)
    state = tell(start, TOKENS, rewards)
    expected = tell(start, TOKENS, rewards.astype(jnp.float32))
    jax.tree.map(np.testing.assert_array_equal, state, expected)
    assert state.num_broken == 0 and state.strategy_state.baseline.dtype == jnp.float32
    assert float(state.strategy_state.baseline) == pytest.approx(170_000.5 / 4, rel=1e-3)


def test_evolution_has_no_parent_among_broken_members():
    space = Space((50,) * 4)
    strategy = evolution(space, population=2, sample=3, batch=32)
    members = jnp.zeros((2, 4), jnp.int32)
    bred = quick(strategy.ask)(strategy.tell(strategy.init(KEY), members, jnp.ones(2)), KEY)
    assert ((bred != 0).sum(axis=1) == 1).all()
    anew = quick(strategy.ask)(
        strategy.tell(strategy.init(KEY), members, jnp.full(2, jnp.nan)), KEY
    )
    assert (anew != 0).sum() > 110  # 128 tokens, each other than 0 with probability 0.98


def test_a_traced_child_of_another_space_is_broken_and_has_no_descendant_like_it():
    outside = jnp.array([[2, -1, 7]])
    bred = quick(jax.vmap(partial(mutate, SPACE), (None, 0)))(outside[0], jax.random.split(KEY, 50))
    assert jax.vmap(SPACE.contains)(bred).all()
    learning = reinforce(lstm_policy(SPACE, 2), ADAM)
    state = quick(learning.tell)(learning.init(KEY), outside, jnp.ones(1))
    assert state.num_broken == 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.strategy_state.params))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_search_runs_in_double_precision_with_rewards_of_single(name):
    strategy = STRATEGIES[name](SPACE)

    def single(tokens, key):
        return (tokens @ jnp.array([5, 3, 1])).astype(jnp.float32)

    run = quick(lambda key: search(strategy, single, strategy.init(key), key, 12))
    state, history = run(KEY)
    assert (
        history.rewards.dtype == jnp.float32 and state.num_rewards == 12 and state.num_broken == 0
    )
    np.testing.assert_array_equal(history.rewards, history.tokens @ np.array([5, 3, 1]))
    assert [jnp.result_type(leaf) for leaf in state[1:]] == [jnp.int32] * 2


def test_a_broken_reward_on_the_host_is_nan_logged_and_counted(caplog):
    kept = []

    def sometimes(tokens, key):
        return jnp.where(tokens[0] == 0, jnp.inf, 0.5)

    with caplog.at_level(logging.WARNING, "maml.search"):
        state, history = on_host(reward=sometimes, children=12, on_child=kept.append)
    lost = np.asarray(history.tokens[:, 0] == 0)
    np.testing.assert_array_equal(np.isnan(history.rewards), lost)
    assert state.num_broken == lost.sum() == caplog.text.count("its reward is inf") > 0
    _, within = run(reward=sometimes, children=12)
    np.testing.assert_array_equal(within.rewards, history.rewards)
    as_came = [c._replace(reward=np.inf) if np.isnan(c.reward) else c for c in kept]
    _, again = on_host(reward=sometimes, children=12, finished=as_came)
    np.testing.assert_array_equal(again.rewards, history.rewards)


def test_a_policy_of_shards_is_of_the_same_space():
    policy, _ = shard_parameters(factorised_policy(SPACE), ADAM, 2)
    assert isinstance(policy, ArchitecturePolicy) and policy.space is SPACE


def server():
    """A server of one shard, in this process; it restricts JAX to the CPU, as the tests do."""
    _, optimizer = shard_parameters(factorised_policy(SPACE), ADAM, 2)
    return Server(optimizer, jnp.zeros(6), ADAM.init(jnp.zeros(6)))


@pytest.mark.parametrize("grad", [np.ones(5), np.ones(1), 1.0, np.ones(6) * 1j, None, "a"])
def test_a_server_refuses_a_gradient_of_another_shape_and_applies_its_successor(grad):
    """The refused gradient is not counted, so that a restarted replica can send it anew."""
    holder = server()
    with pytest.raises(ValueError, match=r"gradient of a shard|a replica returns arrays"):
        holder.apply(0, grad)
    holder.apply(0, np.ones(6, np.float32))
    once = holder.read()
    np.testing.assert_allclose(once[0], -0.1, rtol=1e-5)
    holder.apply(0, np.ones(6, np.float32))
    jax.tree.map(np.testing.assert_array_equal, holder.read(), once)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_server_stays_as_it_is_where_a_gradient_is_not_finite(value):
    holder = server()
    before = holder.read()
    holder.apply(0, np.array([0, 0, value, 0, 0, 0], np.float32))
    jax.tree.map(np.testing.assert_array_equal, holder.read(), before)
