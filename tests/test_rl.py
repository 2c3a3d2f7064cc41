"""Environments, trajectories, advantages and policies against the same computed step by step."""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import quick
from scipy import stats

from maml.rl import policies
from maml.rl.baselines import advantages, discounted_sums, linear_baseline
from maml.rl.distributions import Gaussian, categorical, gaussian
from maml.rl.environment import Trajectories, rollout
from maml.rl.policies import gaussian_policy
from tasks.rl import navigation, tabular
from tasks.rl.networks import GaussianMLP

KEY = jax.random.key(0)
WALK = navigation.navigation()
POLICY = gaussian_policy(GaussianMLP(2, widths=(8,)))
PARAMS = POLICY.init(KEY, jnp.zeros(2))


def walk(environment, task, *, policy=POLICY, params=PARAMS, horizon=20, trajectories=4):
    counts = {"horizon": horizon, "trajectories": trajectories}
    walked = jax.jit(lambda key: rollout(environment, policy, params, task, key, **counts))(KEY)
    return jax.tree.map(np.asarray, walked)


@pytest.mark.parametrize("squared", [False, True])
def test_navigation_is_that_of_the_papers_code_step_by_step(squared):
    goal = jnp.array([0.02, -0.03])  # so near that some walks end there
    trajectories = walk(navigation.navigation(squared=squared), goal, horizon=100, trajectories=50)
    assert 0 < jnp.sum(~trajectories.alive[:, -1]) < 50
    for n in range(50):
        position, done = np.zeros(2), False
        for t in range(100):
            assert bool(trajectories.alive[n, t]) == (not done)
            if done:
                assert trajectories.reward[n, t] == 0
                continue
            np.testing.assert_allclose(trajectories.observation[n, t], position, atol=1e-5)
            position = position + 0.1 * np.clip(trajectories.action[n, t], -1, 1)
            away = position - np.asarray(goal)
            distance = np.sum(away**2) if squared else np.sqrt(np.sum(away**2))
            assert trajectories.reward[n, t] == pytest.approx(-distance, rel=1e-5, abs=1e-5)
            done = bool(np.all(np.abs(away) < 0.01))


def test_an_oracle_sees_the_goal():
    goal = jnp.array([0.3, 0.4])
    model = gaussian_policy(GaussianMLP(2, widths=(8,)))
    params = model.init(KEY, jnp.zeros(4))
    trajectories = walk(navigation.navigation(oracle=True), goal, policy=model, params=params)
    assert (trajectories.observation[..., 2:] == goal).all()


@pytest.mark.parametrize(("activation", "odd"), [("tanh", True), ("relu", False)])
def test_a_tanh_policy_is_an_odd_function_and_a_relu_policy_is_not(activation, odd):
    model, x = GaussianMLP(2, activation=activation), jnp.array([0.3, -0.2])
    params = model.init(KEY, x)
    # The means are the first leaf of the distribution.
    means = [jax.tree.leaves(model.apply(params, observation))[0] for observation in (x, -x)]
    assert np.allclose(means[0], -means[1], atol=1e-6) == odd


def test_corners_rewards_only_within_the_quadrant_of_the_goal():
    for goal in jnp.asarray(navigation.CORNERS):
        trajectories = walk(navigation.corners(), goal, horizon=40, trajectories=30)
        before, after = trajectories.observation[:, :-1], trajectories.observation[:, 1:]
        nearer = jnp.linalg.norm(before - goal, axis=-1) - jnp.linalg.norm(after - goal, axis=-1)
        mine = jnp.all(after * goal >= 0, axis=-1) & (jnp.abs(after).sum(-1) >= 0.5)
        np.testing.assert_allclose(
            trajectories.reward[:, :-1], jnp.where(mine, nearer, 0), atol=1e-6
        )
        assert trajectories.alive.all() and (jnp.abs(trajectories.observation[:, 0]) <= 0.2).all()


def test_held_out_goals_are_those_of_the_paper():
    goals = np.random.RandomState(1).uniform(-0.5, 0.5, (40, 2))
    np.testing.assert_allclose(navigation.held_out_goals(), goals, rtol=1e-6)


def test_arms_pay_with_the_probabilities_of_the_task():
    odds = jnp.array([0.1, 0.5, 0.9])
    uniform = policies.memoryless_policy(
        lambda key, x: x, lambda params, x: jnp.zeros(3), categorical
    )
    trajectories = walk(tabular.bandit(3), odds, policy=uniform, params=None, horizon=2000)
    for arm, chance in enumerate(odds):
        paid = np.asarray(trajectories.reward[trajectories.action == arm])
        assert stats.binomtest(int(paid.sum()), paid.size, float(chance)).pvalue > 1e-3


def test_states_follow_with_the_probabilities_of_the_task():
    mdp = tabular.draw_mdp(KEY, 3, 2)
    uniform = policies.memoryless_policy(
        lambda key, x: x, lambda params, x: jnp.zeros(2), categorical
    )
    trajectories = walk(tabular.tabular_mdp(3, 2), mdp, policy=uniform, params=None, horizon=4000)
    state = np.asarray(trajectories.observation.argmax(-1))
    action, reward = np.asarray(trajectories.action), np.asarray(trajectories.reward)
    for s, a in product(range(3), range(2)):
        here = (state[:, :-1] == s) & (action[:, :-1] == a)
        counts = np.bincount(state[:, 1:][here], minlength=3)
        expected = counts.sum() * np.asarray(mdp.transitions[s, a], np.float64)
        expected *= counts.sum() / expected.sum()
        assert stats.chisquare(counts, expected).pvalue > 1e-3
        gained = reward[:, :-1][here]
        assert abs(np.mean(gained) - mdp.rewards[s, a]) < 4 / gained.size**0.5
        assert np.std(gained) == pytest.approx(1, abs=0.1)


def test_the_best_value_is_the_largest_of_all_policies():
    """Those that may depend on the time: one action for each time and state."""
    mdp, horizon = tabular.draw_mdp(KEY, 2, 2), 3

    def value_of(plan):
        later = np.zeros(2)
        for choice in reversed(plan):
            rows = np.arange(2), np.array(choice)
            later = np.asarray(mdp.rewards)[rows] + np.asarray(mdp.transitions)[rows] @ later
        return later

    plans = product(product(range(2), repeat=2), repeat=horizon)
    best = np.max([value_of(plan) for plan in plans], axis=0)
    np.testing.assert_allclose(tabular.optimal_values(mdp, horizon), best, rtol=1e-5)


def random_trajectories(ends=(5, 3, 7)):
    length = max(ends)
    observation_key, reward_key = jax.random.split(KEY)
    alive = jnp.arange(length) < jnp.array(ends)[:, None]
    reward = jax.random.normal(reward_key, alive.shape) * alive
    observation = jax.random.normal(observation_key, (*alive.shape, 2))
    return Trajectories(observation, reward, None, reward, reward, alive)


@pytest.mark.usefixtures("x64")
def test_discounted_sums_look_ahead():
    x = np.random.default_rng(0).normal(size=(3, 6))
    expected = [[sum(0.9 ** (s - t) * row[s] for s in range(t, 6)) for t in range(6)] for row in x]
    np.testing.assert_allclose(discounted_sums(jnp.asarray(x), 0.9), expected, rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_the_baseline_is_ridge_regression_on_the_steps_that_count():
    trajectories = random_trajectories()
    returns = discounted_sums(trajectories.reward, 0.9)
    o, t = (
        np.asarray(trajectories.observation),
        np.broadcast_to(np.arange(7) / 100, (3, 7))[..., None],
    )
    alive, goal = (
        np.asarray(trajectories.alive),
        np.ones((3, 7, 1)),
    )  # what never changes explains nothing
    features = np.concatenate([o, o**2, t, t**2, t**3], axis=-1)
    rows, targets = features[alive], np.asarray(returns)[alive]
    mean = rows.mean(0)
    deviation = rows.std(0) + 1e-3 * abs(mean) + 1e-8
    z = (rows - mean) / deviation
    gram = z.T @ z / len(z) + 1e-5 * np.eye(7)
    weights = np.linalg.solve(gram, z.T @ (targets - targets.mean()) / len(z))
    expected = (features - mean) / deviation @ weights + targets.mean()
    for observation in (
        trajectories.observation,
        jnp.concatenate([trajectories.observation, goal], axis=-1),
    ):
        got = quick(linear_baseline)(observation, returns, trajectories.alive)
        np.testing.assert_allclose(got, np.where(alive, expected, 0), rtol=1e-9)


def test_constant_observations_do_not_disturb_the_baseline_in_float32():
    """Its rounding errors, made a feature, once gave a Gram matrix with negative eigenvalues."""
    goals = navigation.held_out_goals(8)
    oracle = navigation.navigation(oracle=True)
    model = gaussian_policy(GaussianMLP(2, widths=(16,)))
    params = model.init(KEY, jnp.zeros(4))

    def both(goal):
        trajectories = rollout(oracle, model, params, goal, KEY, horizon=100, trajectories=4)
        returns = discounted_sums(trajectories.reward, 0.99)
        places = trajectories.observation, trajectories.observation[..., :2]
        return tuple(linear_baseline(o, returns, trajectories.alive) for o in places)

    for mapped in (jax.vmap(both), partial(jax.lax.map, both)):
        with_goal, without = jax.jit(mapped)(goals)
        np.testing.assert_allclose(with_goal, without, rtol=2e-2, atol=2e-2)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("gae_lambda", [1.0, 0.7, 0.0])
def test_advantages_are_discounted_sums_of_temporal_differences(gae_lambda):
    trajectories, discount = random_trajectories(), 0.9
    returns = discounted_sums(trajectories.reward, discount)
    baseline = quick(linear_baseline)(trajectories.observation, returns, trajectories.alive)
    baseline = np.asarray(baseline)
    options = {"discount": discount, "gae_lambda": gae_lambda, "normalise": False}
    got = quick(partial(advantages, **options))(trajectories)
    for n, end in enumerate((5, 3, 7)):
        expected = [*baseline[n, :end], 0.0]
        surprise = [
            float(trajectories.reward[n, t]) + discount * expected[t + 1] - expected[t]
            for t in range(end)
        ]
        for t in range(7):
            decayed = [(discount * gae_lambda) ** (s - t) * surprise[s] for s in range(t, end)]
            assert float(got[n, t]) == pytest.approx(sum(decayed), abs=1e-12)
    if gae_lambda == 1:
        np.testing.assert_allclose(got, (returns - baseline) * trajectories.alive, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_normal_advantages_have_mean_zero_and_deviation_one_over_the_steps_that_count():
    trajectories = random_trajectories()
    counted = quick(advantages)(trajectories)[trajectories.alive]
    assert float(counted.mean()) == pytest.approx(0, abs=1e-12)
    assert float(counted.std()) == pytest.approx(1, abs=1e-6)


@pytest.mark.usefixtures("x64")
def test_the_gaussian_is_that_of_scipy():
    p = Gaussian(jnp.array([0.3, -1.0]), jnp.array([0.2, -0.5]))
    q = Gaussian(jnp.array([0.0, -1.5]), jnp.array([-0.1, 0.4]))
    x = jnp.array([1.0, -0.7])
    expected = stats.norm.logpdf(x, p.mean, np.exp(p.log_std)).sum()
    assert float(gaussian.log_prob(p, x)) == pytest.approx(expected, rel=1e-12)
    drawn = jax.vmap(partial(gaussian.sample, p))(jax.random.split(KEY, 4000))
    for n in range(2):
        law = stats.norm(float(p.mean[n]), float(jnp.exp(p.log_std[n])))
        assert stats.kstest(np.asarray(drawn[:, n]), law.cdf).pvalue > 1e-3
    ratio = jax.vmap(lambda x: gaussian.log_prob(p, x) - gaussian.log_prob(q, x))(drawn)
    error = 4 * float(ratio.std()) / 4000**0.5
    assert float(gaussian.kl(p, q)) == pytest.approx(float(ratio.mean()), abs=error)
    assert float(gaussian.kl(p, p)) == pytest.approx(0, abs=1e-15)


@pytest.mark.usefixtures("x64")
def test_the_categorical_is_that_of_scipy():
    p, q = jnp.array([0.1, 2.0, -1.0]), jnp.array([1.0, 1.0, 0.0])
    chances = jax.nn.softmax(p)
    assert float(categorical.log_prob(p, jnp.array(1))) == pytest.approx(float(jnp.log(chances[1])))
    expected = stats.entropy(chances, jax.nn.softmax(q))
    assert float(categorical.kl(p, q)) == pytest.approx(float(expected), rel=1e-12)
    drawn = jax.vmap(partial(categorical.sample, p))(jax.random.split(KEY, 4000))
    counts = np.bincount(np.asarray(drawn), minlength=3)
    assert stats.chisquare(counts, 4000 * np.asarray(chances)).pvalue > 1e-3


def changing(**leaves):
    """Navigation whose step gives something else."""

    def step(key, state, action, task):
        names = ("state", "observation", "reward", "done")
        out = dict(zip(names, WALK.step(key, state, action, task), strict=True))
        return tuple((out | leaves).values())

    return WALK._replace(step=step)


@pytest.mark.parametrize(
    ("environment", "options", "message"),
    [
        (WALK, {"horizon": 0}, "steps of a trajectory must be an integer >= 1; got 0"),
        (WALK, {"trajectories": 0}, "number of trajectories must be an integer >= 1; got 0"),
        (WALK._replace(actions=(3,)), {}, r"got \(2,\) for the policy and \(3,\) for the"),
        (
            tabular.bandit(5)._replace(reset=WALK.reset),
            {},
            r"got \(2,\) for the policy and 5 for the",
        ),
        (changing(state=jnp.zeros(3)), {}, r"keep state as float32\[2\]; got float32\[3\]"),
        (
            changing(observation=jnp.zeros(2, int)),
            {},
            r"observation as float32\[2\]; got int32",
        ),
        (changing(reward=jnp.zeros(1)), {}, r"reward as float32\[\]; got float32\[1\]"),
        (changing(done=jnp.zeros(())), {}, r"done as bool\[\]; got float32\[\]"),
        (changing(state={"x": jnp.zeros(2)}), {}, "keep the structure of the state"),
        (changing(reward="a"), {}, "must return arrays; got 'a' for the reward"),
        (WALK._replace(reset=lambda key, task: "a" + task), {}, "cannot be reset in this task"),
    ],
)
def test_invalid_environments_and_options_of_a_rollout_are_refused(environment, options, message):
    with pytest.raises(ValueError, match=message):
        walk(environment, jnp.zeros(2), **options)
