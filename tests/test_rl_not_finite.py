"""Steps that do not count have no derivative, and invalid arguments of maml.rl raise ValueError."""

# pyright: reportArgumentType=false

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import central_differences, quick

import maml
from maml import surrogates
from maml.rl import outer_steps, terms
from maml.rl.baselines import advantages
from maml.rl.distributions import categorical
from maml.rl.environment import Environment, rollout, undiscounted_returns
from maml.rl.losses import Experience, collector, surrogate_loss
from maml.rl.policies import gaussian_policy, memoryless_policy, table_policy
from maml.rl.rl2 import episode_returns, trial_environment
from tasks.rl import navigation, tabular
from tasks.rl.networks import CategoricalGRU, GaussianMLP, recurrent_policy

KEY = jax.random.key(0)
LOGITS = jnp.array([0.3, -jnp.inf, 1.0])


def test_the_divergence_from_itself_is_zero_with_a_forbidden_action(x64):
    logits = LOGITS.astype(float)
    assert categorical.kl(logits, logits) == 0
    for slope in jax.grad(categorical.kl, (0, 1))(logits, logits):
        np.testing.assert_allclose(slope, 0, atol=1e-15)


def test_the_divergence_with_a_forbidden_action_has_the_derivative_of_the_others(x64):
    free, other = jnp.array([0.3, 1.0]), jnp.array([-0.2, 0.4])
    logits = LOGITS.astype(float).at[0].set(0.3)
    whole = jax.grad(lambda q: categorical.kl(logits, q.at[1].set(-jnp.inf)))
    got = whole(jnp.array([-0.2, 0.0, 0.4]))[jnp.array([0, 2])]
    expected = central_differences(partial(categorical.kl, free), other)
    np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_the_log_probability_of_an_action_outside_the_space_is_nan():
    assert jnp.isnan(categorical.log_prob(jnp.zeros(2), jnp.array(5)))
    assert jnp.isnan(categorical.log_prob(jnp.zeros(2), jnp.array(-1)))
    assert categorical.log_prob(LOGITS, jnp.array(1)) == -jnp.inf
    assert jnp.isnan(jax.grad(categorical.log_prob)(jnp.zeros(2), jnp.array(5))).all()


def forbidding(weights):
    """A policy that never takes its last action."""
    return memoryless_policy(
        lambda key, x: weights,
        lambda params, x: jnp.where(jnp.arange(3) < 2, x @ params, -jnp.inf),
        categorical,
    )


def one_step(key, state, action, task):
    """A walk of three steps, whose observations afterwards are NaN."""
    after = state + 1
    seen = jnp.where(after < 3, jnp.array([1.0, 0.5]) * after, jnp.nan)
    return after, seen, (action * 1.0 + task), after >= 3


WALK = Environment(lambda key, task: (jnp.zeros((), jnp.int32), jnp.ones(2)), one_step, 3)


def test_steps_after_the_end_and_forbidden_actions_reach_no_value_and_no_derivative():
    weights = 0.1 * jax.random.normal(KEY, (2, 3))
    policy = forbidding(weights)
    collect = {n: collector(WALK, policy, horizon=n, trajectories=4) for n in (3, 6)}
    short, long = (quick(collect[n])(weights, 0.5, KEY) for n in (3, 6))
    assert (
        not jnp.isfinite(long.trajectories.observation).all()
        and long.trajectories.alive.sum() == 12
    )
    assert jnp.isfinite(long.advantage).all() and (long.advantage[:, 3:] == 0).all()
    loss = surrogate_loss(policy, surrogates.likelihood_ratio)
    moved, slope = weights + 0.1, quick(jax.value_and_grad(loss, has_aux=True))
    (value, metrics), grads = slope(moved, long, KEY)
    cut = jax.tree.map(lambda leaf: leaf[:, :3], long)
    (expected, _), whole = slope(moved, cut, KEY)
    assert jnp.isfinite(grads).all() and metrics["kl"] > 0
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(grads, whole, rtol=1e-4, atol=1e-6)
    assert short.trajectories.alive.all()


def test_emaml_refuses_fewer_than_two_trajectories():
    policy = table_policy(2)
    explorer = terms.add_exploration_term(chosen(), policy, 0.1)
    collect = collector(tabular.bandit(2), policy, horizon=3, trajectories=1)
    theta, odds = jnp.zeros((1, 2)), jnp.array([0.2, 0.8])
    one = quick(collect)(theta, odds, KEY)
    several = maml.BatchPerStep(jax.tree.map(lambda leaf: leaf[None], one))
    with pytest.raises(ValueError, match=r"trajector.*2|2.*trajector|two"):
        quick(partial(maml.task_gradient, explorer.grad))(theta, maml.Episode(several, one), KEY)


@pytest.mark.parametrize(
    "observe",
    [
        lambda x: {"place": x, "picture": jnp.ones((2, 3)) * x[0]},
        lambda x: x[0],
        lambda x: jnp.ones((2, 2, 1)) * x[0],
    ],
    ids=["tree", "number", "image"],
)
def test_the_baseline_accepts_observations_of_any_structure(observe):
    def step(key, state, action, task):
        after, trajectories, reward, done = one_step(key, state, action, task)
        return after, observe(jnp.nan_to_num(trajectories)), reward, done

    walk = Environment(lambda key, task: (WALK.reset(key, task)[0], observe(jnp.ones(2))), step, 3)
    policy = memoryless_policy(lambda *_: None, lambda *_: jnp.zeros(3), categorical)
    collect = partial(rollout, walk, policy, None, horizon=4, trajectories=3)
    assert jnp.isfinite(quick(lambda key: advantages(collect(0.5, key)))(KEY)).all()


def test_a_half_precision_policy_is_learned_from_in_float32():
    weights = jnp.zeros((2, 3), jnp.float16)
    policy = forbidding(weights)
    batch = quick(collector(WALK, policy, horizon=6, trajectories=4))(weights, 6e4, KEY)
    value, metrics = quick(surrogate_loss(policy))(weights, batch, KEY)
    assert value.dtype == jnp.float32 and metrics["return"] > 1.7e5


def problems():
    cell = recurrent_policy(CategoricalGRU(2, size=3))
    walker = gaussian_policy(GaussianMLP(2, widths=(4,)))
    odds, mdp = jnp.array([0.2, 0.8]), tabular.draw_mdp(KEY, states=3, actions=2)
    return {
        "bandit": (tabular.bandit(2), table_policy(2), odds),
        "process": (tabular.tabular_mdp(3, 2), table_policy(2), mdp),
        "navigation": (navigation.navigation(), walker, jnp.array([0.3, -0.2])),
        "trials": (trial_environment(tabular.bandit(2), 2, 3), cell, odds),
    }


@pytest.mark.parametrize("name", ["bandit", "process", "navigation", "trials"])
def test_everything_runs_in_float64(name, x64):
    environment, policy, task = problems()[name]
    _, observation = environment.reset(KEY, task)
    params = policy.init(KEY, jnp.zeros_like(observation))
    collect = collector(environment, policy, horizon=4, trajectories=2)
    batch = quick(collect)(params, task, KEY)
    assert isinstance(batch, Experience) and batch.advantage.dtype == jnp.float64
    grads, _ = quick(jax.grad(surrogate_loss(policy), has_aux=True))(params, batch, KEY)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


STEPS = jnp.zeros(5)
SURROGATES = {
    "score_function": surrogates.score_function,
    "likelihood_ratio": surrogates.likelihood_ratio,
    "clipped": surrogates.clipped,
    "taypo2": surrogates.taypo2,
    "dice": surrogates.dice,
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", SURROGATES)
@pytest.mark.parametrize(
    "advantage", [jnp.zeros((2, 5)), jnp.zeros(3), jnp.zeros(()), [0.0] * 5], ids=str
)
def test_a_surrogate_refuses_what_is_not_one_trajectory(name, advantage):
    log_ratio = jnp.zeros((2, 5)) if np.ndim(advantage) == 2 else STEPS
    with pytest.raises(ValueError, match=r"trajectory|equally many steps|array"):
        SURROGATES[name](log_ratio, advantage)


@pytest.mark.parametrize("name", SURROGATES)
@pytest.mark.parametrize(
    ("log_ratio", "advantage", "counts"),
    [
        ([-jnp.inf, 100.0], [0.0, 0.0], []),
        ([0.2, 100.0, -jnp.inf], [1.5, 0.0, 0.0], [0]),
        ([0.2, -0.1, 100.0], [0.0, 1.5, 0.0], [0, 1]),
    ],
)
def test_a_step_without_an_advantage_counts_nothing_in_value_and_derivatives(
    name, log_ratio, advantage, counts
):
    whole, index = (jnp.array(log_ratio), jnp.array(advantage)), jnp.array(counts, int)
    few = tuple(leaf[index] for leaf in whole)
    surrogate = SURROGATES[name]
    np.testing.assert_allclose(surrogate(*whole), surrogate(*few), rtol=1e-6)
    for derivative in (jax.grad(surrogate), jax.hessian(surrogate)):
        full, part = derivative(*whole), derivative(*few)
        assert jnp.isfinite(full).all()
        np.testing.assert_allclose(full[jnp.ix_(*[index] * full.ndim)], part, rtol=1e-6)
        np.testing.assert_allclose(jnp.abs(full).sum(), jnp.abs(part).sum(), rtol=1e-6)


@pytest.mark.parametrize("gae_lambda", [1.0, 0.5])
@pytest.mark.parametrize("size", [1e12, 1e25, 1e35])
def test_advantages_of_large_rewards_are_those_of_small_ones(size, gae_lambda):
    weights = jnp.zeros((2, 3))
    trajectories = rollout(WALK, forbidding(weights), weights, 0.5, KEY, horizon=3, trajectories=4)
    trajectories = trajectories._replace(reward=jax.random.normal(KEY, trajectories.reward.shape))
    large = trajectories._replace(reward=trajectories.reward * size)
    of = partial(advantages, gae_lambda=gae_lambda)
    assert jnp.abs(of(trajectories)).max() > 0.5
    np.testing.assert_allclose(of(large), of(trajectories), rtol=1e-3, atol=1e-3)
    plain = partial(of, normalise=False)
    np.testing.assert_allclose(plain(large) / size, plain(trajectories), rtol=1e-3, atol=1e-3)


def chosen():
    return maml.maml(surrogate_loss(table_policy(2)), optax.sgd(0.1), 1)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "call",
    [
        lambda: surrogates.clipped(STEPS, STEPS, clip=-1.0),
        lambda: surrogates.clipped(STEPS, STEPS, clip=float("nan")),
        lambda: surrogates.dice(STEPS, STEPS, decay=-1.0),
        lambda: tabular.draw_mdp(KEY, states=0),
        lambda: navigation.held_out_goals(0),
        lambda: GaussianMLP(2, std=-1.0),
        lambda: GaussianMLP(2, widths=(0,)),
        lambda: GaussianMLP(2, activation="gelu"),
        lambda: collector(WALK, table_policy(3), horizon=True, trajectories=1),
        lambda: collector(WALK, table_policy(3), horizon=2, trajectories=jnp.array(2)),
        lambda: collector(WALK, table_policy(3), horizon=2, trajectories=1, discount=2.0),
        lambda: collector(WALK, table_policy(3), horizon=2, trajectories=1, inner_reward=None),
        lambda: rollout(WALK, table_policy(3), None, 0.0, 0, horizon=2, trajectories=1),
        lambda: rollout(
            WALK, table_policy(3), None, 0.0, jax.random.PRNGKey(0), horizon=2, trajectories=1
        ),
        lambda: rollout(WALK, "policy", None, 0.0, KEY, horizon=2, trajectories=1),
        lambda: surrogate_loss("policy"),
        lambda: outer_steps.multi_epoch(chosen(), optax.sgd(0.1), 0),
        lambda: outer_steps.multi_epoch(None, optax.sgd(0.1)),
        lambda: outer_steps.multi_epoch(chosen(), None),
        lambda: outer_steps.outer_step(None, None),
        lambda: outer_steps.outer_step(lambda theta, task, key: task, None),
        lambda: outer_steps.trpo(chosen(), table_policy(2), 1, radius=-1),
        lambda: outer_steps.trpo(chosen(), table_policy(2), 1, raduis=0.1),
        lambda: collector(WALK, table_policy(3), horizon=2, trajectories=1, normalise="no"),
        lambda: advantages((1, 2)),
        lambda: terms.add_kl_penalty(chosen(), table_policy(2), float("nan")),
    ],
)
def test_invalid_arguments_are_refused_with_a_message(call):
    with pytest.raises(ValueError, match=r"must be|needs|got"):
        call()


@cache
def pulls():
    collect = collector(tabular.bandit(3), table_policy(3), horizon=2, trajectories=2)
    return quick(collect)(jnp.zeros((1, 3)), jnp.zeros(3), KEY)


def experience(**changes):
    return pulls()._replace(**changes)


def drawn(**changes):
    return experience().trajectories._replace(**changes)


def inner(reward):
    options = {"horizon": 2, "trajectories": 2, "inner_reward": reward}
    return collector(tabular.bandit(3), table_policy(3), **options)(
        jnp.zeros((1, 3)), jnp.zeros(3), KEY
    )


def judged(surrogate=surrogates.dice, **changes):
    return surrogate_loss(table_policy(3), surrogate)(jnp.zeros((1, 3)), experience(**changes), KEY)


MDP = tabular.TabularMDP(jnp.full((2, 1, 2), 0.5), jnp.zeros((2, 1)))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: advantages(drawn(), normalise="no"), "normalise must be True or False"),
        (lambda: advantages(drawn(reward=jnp.ones(2))), r"rewards must be real numbers \[2, 2\]"),
        (lambda: advantages(drawn(reward=None)), "rewards must be real numbers .* got None"),
        (lambda: advantages(drawn(alive=jnp.ones((2, 2)))), "alive must be bools"),
        (lambda: advantages(drawn(observation=())), "observations must be arrays of numbers"),
        (
            lambda: judged(trajectories=drawn(observation=jax.random.split(KEY, (2, 2)))),
            "of numbers .*key",
        ),
        (lambda: undiscounted_returns(None), "must be Trajectories"),
        (lambda: episode_returns(None, 1), "must be Trajectories"),
        (lambda: inner(lambda reward: "a"), "inner_reward must return real numbers; got 'a'"),
        (lambda: inner(lambda reward: 1j * reward), "inner_reward must return real numbers"),
        (lambda: judged(advantage=jnp.ones((2, 1))), r"advantages must be real numbers \[2, 2\]"),
        (lambda: judged(advantage=None), "advantages must be real numbers .* got None"),
        (lambda: judged(lambda ratio, _: ratio), "a surrogate must return one real number"),
        (
            lambda: outer_steps.record_trajectories(lambda *_: 0, None, lambda *_: 0),
            "must be a Policy",
        ),
        (
            lambda: memoryless_policy(None, None, None),
            r"init must be a function of \(key, observation\)",
        ),
        (
            lambda: memoryless_policy(lambda key, x: x, lambda p, x: x, None),
            "must be a Family; got None",
        ),
        (lambda: navigation.navigation(squared=1), "squared must be True or False; got 1"),
        (lambda: navigation.navigation().reset(KEY, jnp.zeros(3)), r"goal .* \(2,\); got \(3,\)"),
        (lambda: navigation.corners().reset(KEY, "a"), "goal must be an array of numbers"),
        (lambda: navigation.draw_goal(0), "must be a key"),
        (lambda: navigation.draw_corner("a"), "must be a key"),
        (lambda: tabular.draw_bandit(0, 2), "must be a key"),
        (lambda: tabular.draw_mdp(0), "must be a key"),
        (lambda: tabular.bandit(2).step(KEY, None, 0.5, jnp.zeros(2)), "action must be an integer"),
        (lambda: tabular.tabular_mdp(2, 1).reset(KEY, tuple(MDP)), "the task must be a TabularMDP"),
        (
            lambda: tabular.tabular_mdp(2, 1).reset(KEY, MDP._replace(transitions=0 * MDP[0])),
            "sum 1",
        ),
        (lambda: tabular.policy_values(MDP, jnp.zeros((2, 1)), 1), "policy must have the sum 1"),
        (lambda: tabular.optimal_values(None, 1), "mdp must be a TabularMDP"),
    ],
)
def test_invalid_trajectories_tasks_and_policies_are_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()
