"""Which derivatives of the value each surrogate has, proved on small decision processes.

On the smallest, all trajectories are enumerated and weighted by probability: no sampling error.
"""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import quick

from maml import surrogates
from maml.rl.distributions import categorical
from maml.rl.environment import rollout
from maml.rl.policies import memoryless_policy
from tasks.rl import tabular

pytestmark = pytest.mark.usefixtures("x64")
KEY = jax.random.key(0)
ALL = {
    "score function": surrogates.score_function,
    "likelihood ratio": surrogates.likelihood_ratio,
    "clipped": surrogates.clipped,
    "taypo2": surrogates.taypo2,
    "dice": surrogates.dice,
    "dice, decaying": partial(surrogates.dice, decay=0.9),
}
EXACT = {name: ALL[name] for name in ("taypo2", "dice")}
DISCOUNT, RATE = 0.9, 2.0
TABLE = memoryless_policy(lambda key, x: x, lambda theta, state: state @ theta, categorical)


def values(mdp, theta, horizon):
    return tabular.policy_values(mdp, jax.nn.softmax(theta), horizon, discount=DISCOUNT)


def value(mdp, theta, horizon):
    return values(mdp, theta, horizon)[0]


def expectations(mdp, theta, horizon):
    """By time: probability of the states, and the advantage of the actions in them."""
    policy, here = jax.nn.softmax(theta), jnp.eye(len(theta))[0]
    for time in range(horizon):
        gain = mdp.rewards + DISCOUNT * mdp.transitions @ values(mdp, theta, horizon - time - 1)
        yield time, here, gain - jnp.sum(policy * gain, axis=1, keepdims=True)
        here = jnp.einsum("s,sa,san->n", here, policy, mdp.transitions)


def limit(name, mdp, start, horizon):
    """What a surrogate at `start` is the estimate of, as a function of theta."""
    known = list(expectations(mdp, start, horizon))
    acted = jax.nn.softmax(start)

    def likelihood_ratio(theta):
        policy = jax.nn.softmax(theta)
        return sum(
            DISCOUNT**time * jnp.einsum("s,sa,sa->", states, policy, advantage)
            for time, states, advantage in known
        )

    def score_function(theta):
        log_policy = jax.nn.log_softmax(theta)
        return sum(
            DISCOUNT**time * jnp.einsum("s,sa,sa,sa->", states, acted, log_policy, advantage)
            for time, states, advantage in known
        )

    limits = {"likelihood ratio": likelihood_ratio, "score function": score_function}
    return limits.get(name, lambda theta: value(mdp, theta, horizon))


def hessian_times(function, theta, v):
    return jax.jvp(jax.grad(function), (theta,), (v,))[1]


def problem(states, actions, seed=0):
    mdp_key, policy_key = jax.random.split(jax.random.key(seed))
    theta = jax.random.normal(policy_key, (states, actions))
    return tabular.draw_mdp(mdp_key, states, actions), theta


def advantage_of(rewards, values):
    """Monte Carlo, each discounted from the start."""
    weights = DISCOUNT ** jnp.arange(rewards.shape[1])
    discounted = weights * rewards
    return jnp.cumsum(discounted[:, ::-1], axis=1)[:, ::-1] - weights * values


def distance(a, b):
    return float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))


def every_trajectory(mdp, start, horizon):
    """The mean of a surrogate over all trajectories, as a function of the surrogate and theta."""
    states, actions = start.shape
    walks = np.array(
        [
            ((0, *rest), acts)
            for rest in product(range(states), repeat=horizon - 1)
            for acts in product(range(actions), repeat=horizon)
        ]
    )
    at, did = walks[:, 0], walks[:, 1]
    log_policy = jax.nn.log_softmax(start)
    moves = mdp.transitions[at[:, :-1], did[:, :-1], at[:, 1:]].prod(axis=1)
    probability = moves * jnp.exp(log_policy[at, did].sum(axis=1))
    assert probability.sum() == pytest.approx(1)
    to_go = jnp.stack([values(mdp, start, horizon - time) for time in range(horizon)])
    advantage = advantage_of(mdp.rewards[at, did], to_go[jnp.arange(horizon), at])

    def mean(surrogate, theta):
        log_ratio = (jax.nn.log_softmax(theta) - log_policy)[at, did]
        return probability @ jax.vmap(surrogate)(log_ratio, advantage)

    return mean


@pytest.mark.parametrize("name", ALL)
@given(st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_where_the_policy_has_acted_a_surrogate_is_zero_and_its_gradient_the_policy_gradient(
    name, seed
):
    advantage = jax.random.normal(jax.random.key(seed), (7,))
    got, gradient = jax.value_and_grad(ALL[name])(jnp.zeros(7), advantage)
    assert got == 0
    np.testing.assert_allclose(gradient, advantage, rtol=1e-14)


@pytest.mark.parametrize("name", ALL)
@given(st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_steps_after_the_end_change_nothing(name, seed):
    log_ratio, advantage = 0.1 * jax.random.normal(jax.random.key(seed), (2, 4))
    padded = jnp.pad(jnp.stack([log_ratio, advantage]), ((0, 0), (0, 3)))
    np.testing.assert_allclose(ALL[name](*padded), ALL[name](log_ratio, advantage), rtol=1e-12)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", EXACT | {"likelihood ratio": 0, "score function": 0})
def test_over_all_trajectories_the_derivatives_are_those_of_the_limit(name, seed):
    mdp, start = problem(2, 2, seed)
    horizon = 3
    mean = partial(every_trajectory(mdp, start, horizon), ALL[name])
    expected = limit(name, mdp, start, horizon)
    exact = partial(value, mdp, horizon=horizon)
    gradients, hessians = (
        quick(lambda theta, derive=derive: [derive(f)(theta) for f in (mean, expected, exact)])(
            start
        )
        for derive in (jax.grad, jax.hessian)
    )
    assert distance(gradients[0], gradients[2]) < 1e-12
    error = hessians[0] - hessians[1]
    assert jnp.linalg.norm(error) < 1e-12 * jnp.linalg.norm(hessians[2])


@pytest.mark.parametrize("seed", range(3))
def test_dice_is_the_value_of_any_other_policy_as_well(seed):
    mdp, start = problem(2, 2, seed)
    mean = every_trajectory(mdp, start, 3)
    other = start + jax.random.normal(KEY, start.shape)
    gain = value(mdp, other, 3) - value(mdp, start, 3)
    assert float(mean(surrogates.dice, other)) == pytest.approx(float(gain), rel=1e-11)


@pytest.mark.parametrize(("name", "lacks"), [("likelihood ratio", 0.02), ("score function", 1.0)])
def test_the_other_surrogates_have_a_wrong_second_derivative(name, lacks):
    """Of a table of logits the score function has no second derivative at all."""
    mdp, start = problem(2, 2)
    functions = limit(name, mdp, start, 3), partial(value, mdp, horizon=3)
    lacking, exact = quick(lambda theta: [jax.hessian(f)(theta) for f in functions])(start)
    assert distance(lacking, exact) > lacks - 1e-12


def test_dice_with_zero_decay_is_the_likelihood_ratio():
    log_ratio, advantage = jax.random.normal(KEY, (2, 6))
    forgetful = surrogates.dice(log_ratio, advantage, decay=0.0)
    expected = surrogates.likelihood_ratio(log_ratio, advantage)
    assert float(forgetful) == pytest.approx(float(expected), rel=1e-12)


def test_clipping_bounds_the_gain_and_not_the_loss_of_a_ratio():
    ratio, clip = jnp.log(jnp.array([1.5, 0.5, 1.5, 0.5])), 0.2
    advantage = jnp.array([1.0, -1.0, -1.0, 1.0])
    gradient = jax.grad(partial(surrogates.clipped, clip=clip))(ratio, advantage)
    np.testing.assert_allclose(gradient, [0, 0, -1.5, 0.5], rtol=1e-14)


@pytest.mark.parametrize(
    "name",
    [
        *("likelihood ratio", "taypo2"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("score function", "dice")),
    ],
)
def test_the_sampled_meta_gradient_converges_to_that_of_the_limit(name):
    """d V(theta + rate grad V(theta)) / d theta, whose second derivatives are the surrogate's."""
    mdp, theta = problem(4, 3)
    horizon, environment = 5, tabular.tabular_mdp(4, 3, noise=0.0)
    slope = quick(jax.grad(partial(value, mdp, horizon=horizon)))
    outer = slope(theta + RATE * slope(theta))
    to_go = jnp.stack([values(mdp, theta, horizon - time) for time in range(horizon)])

    @partial(jax.jit, static_argnums=1)
    def sampled(key, count):
        trajectories = rollout(
            environment, TABLE, theta, mdp, key, horizon=horizon, trajectories=count
        )
        at = trajectories.observation.argmax(axis=-1)
        advantage = advantage_of(trajectories.reward, to_go[jnp.arange(horizon), at])

        def mean(theta):
            logits = trajectories.observation @ theta
            chosen = jnp.take_along_axis(
                jax.nn.log_softmax(logits), trajectories.action[..., None], axis=-1
            )[..., 0]
            return jax.vmap(ALL[name])(chosen - trajectories.log_prob, advantage).mean()

        return outer + RATE * hessian_times(mean, theta, outer)

    def expected(function):
        return outer + RATE * quick(partial(hessian_times, function))(theta, outer)

    own, exact = (
        expected(limit(name, mdp, theta, horizon)),
        expected(partial(value, mdp, horizon=horizon)),
    )
    few, many = (
        np.sqrt(np.mean([distance(sampled(key, n), own) ** 2 for key in jax.random.split(KEY, 4)]))
        for n in (2**9, 2**15)
    )
    assert few / 16 < many < few / 4  # 64 times the trajectories, an eighth of the error
    assert many < 0.02
    assert (name in EXACT) == (distance(own, exact) < 1e-12)
