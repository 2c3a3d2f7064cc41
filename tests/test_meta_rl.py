"""Trajectories collected once give the meta-gradient of those collected in the inner loop."""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import one_task, quick

import maml
from maml import surrogates
from maml.rl import outer_steps, terms
from maml.rl.distributions import categorical
from maml.rl.environment import Trajectories
from maml.rl.losses import Experience, collector, policy_gradient, surrogate_loss
from maml.rl.policies import gaussian_policy, memoryless_policy
from tasks.rl import navigation
from tasks.rl.networks import GaussianMLP

pytestmark = pytest.mark.usefixtures("x64")
KEY = jax.random.key(0)
POLICY = gaussian_policy(GaussianMLP(2, widths=(8,)))
COLLECT = collector(navigation.navigation(), POLICY, horizon=7, trajectories=5)
GOALS = navigation.held_out_goals(4).astype(float)
THETA = POLICY.init(KEY, jnp.zeros(2))
HEAD = maml.mask_by_path(THETA, "Dense_1")
ALGORITHMS = {
    "maml": partial(maml.maml, optimizer=optax.sgd(0.5)),
    "anil": partial(maml.anil, optimizer=optax.sgd(0.5), head=HEAD),
    "cavia": partial(maml.cavia, optimizer=optax.sgd(0.5), context=HEAD),
    "fomaml": partial(maml.fomaml, optimizer=optax.sgd(0.5)),
    "meta_sgd": partial(maml.meta_sgd, optimizer=optax.sgd(1.0), rate=0.5),
}


def doubled(tree):
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float64), tree)


def collected(build, loss, inner_steps):
    recorder = build(
        outer_steps.record_trajectories(COLLECT, POLICY, loss), inner_steps=inner_steps
    ).learner
    return outer_steps.collect_episode(recorder, COLLECT, inner_steps)


@pytest.mark.parametrize(
    ("name", "surrogate", "inner_steps"),
    [
        *((name, "likelihood_ratio", 2) for name in ALGORITHMS),
        *(("maml", "score_function", inner_steps) for inner_steps in (0, 1, 3)),
    ],
)
def test_collected_trajectories_give_the_gradient_of_those_drawn_on_the_way(
    name, surrogate, inner_steps
):
    surrogate = getattr(surrogates, surrogate)
    build, loss = ALGORITHMS[name], surrogate_loss(POLICY, surrogate)
    theta = doubled(THETA)
    drawn = build(policy_gradient(COLLECT, POLICY, surrogate), inner_steps=inner_steps)
    fixed = build(loss, inner_steps=inner_steps)
    meta_params = fixed.init(theta)
    goal = GOALS[0]
    expected, metrics = one_task(drawn)(meta_params, maml.Episode(goal, goal), KEY)
    episode = quick(collected(build, loss, inner_steps))(meta_params, goal, KEY)
    got, again = one_task(fixed)(meta_params, episode, KEY)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12), got, expected)
    assert float(again["query"]["kl"]) == pytest.approx(0, abs=1e-12)
    assert float(again["query"]["return"]) == pytest.approx(float(metrics["query"]["return"]))


def test_the_extra_term_of_e_maml_is_the_gradient_by_the_sampling_of_what_is_adapted_to():
    """One pull of each of two trajectories of a bandit: all four outcomes, weighed exactly.

    U(theta) = E[R(phi(theta, pulls))], with phi from the pulls by the inner step, which is kept
    constant here, so that all of dU / dtheta comes from how likely the pulls are.
    """
    pays, scale = jnp.array([0.2, 1.0]), 0.7
    policy = memoryless_policy(lambda key, x: x, lambda theta, x: theta, categorical)

    def value_after(pulls):
        """Of the adapted policy: any function of the pulls will do."""
        return jnp.sin(1.0 + pulls[0] + 3.0 * pulls[1])

    def expected(theta):
        chance = jax.nn.softmax(theta)
        outcomes = [(a, b) for a in range(2) for b in range(2)]
        return sum(chance[a] * chance[b] * value_after(jnp.array([a, b])) for a, b in outcomes)

    def seen(pulls, reward):
        ones = jnp.ones((len(pulls), 1))
        logits = jnp.broadcast_to(theta, (len(pulls), 1, 2))
        log_prob = jax.nn.log_softmax(theta)[pulls][:, None]
        observation = jnp.zeros((len(pulls), 1, 1))
        alive = ones.astype(bool)
        trajectories = Trajectories(
            observation, pulls[:, None], logits, log_prob, reward[:, None], alive
        )
        return Experience(trajectories, ones)

    def nothing(meta_params, episode, key, step):
        return jnp.zeros(()), {}

    theta = jnp.array([0.3, -0.4])
    algorithm = maml.maml(surrogate_loss(policy), optax.sgd(0.1), 1)
    algorithm = algorithm._replace(grad=maml.MetaGradient(nothing))
    explorer = terms.add_exploration_term(algorithm, policy, 2 * scale)  # two steps are counted
    term = partial(maml.task_gradient, explorer.grad)
    total = jnp.zeros(2)
    for a in range(2):
        for b in range(2):
            pulls = jnp.array([a, b])
            support = jax.tree.map(lambda leaf: leaf[None], seen(pulls, pays[pulls]))
            query = seen(pulls, jnp.full(2, value_after(pulls)))
            chance = jax.nn.softmax(theta)[a] * jax.nn.softmax(theta)[b]
            total += chance * term(theta, maml.Episode(maml.BatchPerStep(support), query), KEY)[0]
    np.testing.assert_allclose(total, -scale * jax.grad(expected)(theta), atol=1e-12)


def episodes_and(improve, inner_steps=2):
    """An outer step on episodes of all goals, and the algorithm it is of."""
    algorithm = maml.maml(surrogate_loss(POLICY), optax.sgd(0.5), inner_steps)
    episode = collected(ALGORITHMS["maml"], surrogate_loss(POLICY), inner_steps)
    step = quick(outer_steps.outer_step(episode, improve(algorithm)))
    return step, maml.init(algorithm, optax.adam(1e-2), doubled(THETA))


def test_the_metric_of_all_trajectories_is_that_of_all():
    def region(algorithm, curvature):
        return outer_steps.trpo(algorithm, POLICY, 1, fvp_trajectories=curvature, cg_steps=60)

    after = []
    for curvature in (None, 5, 1):
        step, state = episodes_and(partial(region, curvature=curvature), inner_steps=1)
        after.append(step(state, GOALS, KEY)[0].params)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-8), *after[:2])
    assert any(map(np.any, jax.tree.leaves(jax.tree.map(np.not_equal, after[0], after[2]))))


@cache
def collect_and_judge():
    """Compiled once: the episodes of all goals, and the meta-objective on episodes."""
    loss = surrogate_loss(POLICY)
    objective: Any = maml.maml(loss, optax.sgd(0.5), 2).grad.objective
    return (
        quick(jax.vmap(collected(ALGORITHMS["maml"], loss, 2), (None, 0, 0))),
        quick(jax.vmap(lambda *task: objective(*task, 0), (None, 0, None))),
    )


@pytest.mark.parametrize("outer", ["trpo", "few", "promp", "adam"])
def test_an_outer_step_gains_on_the_episodes_it_was_made_on(outer):
    improve = {
        # Far from quadratic, so that few conjugate-gradient steps are the best.
        "trpo": lambda a: outer_steps.trpo(a, POLICY, 2, cg_steps=2),
        "few": lambda a: outer_steps.trpo(a, POLICY, 2, cg_steps=2, fvp_trajectories=1),
        "promp": lambda a: outer_steps.multi_epoch(
            terms.add_kl_penalty(a, POLICY, 0.1), optax.adam(1e-2), 5
        ),
        "adam": lambda a: outer_steps.multi_epoch(a, optax.adam(1e-2)),
    }[outer]
    step, state = episodes_and(improve)
    after, _ = step(state, GOALS, KEY)
    assert int(after.step) == 1
    collect, judge = collect_and_judge()
    keys = jax.random.split(jax.random.split(KEY)[0], 4)
    episodes = collect(state.params, GOALS, keys)

    def value(params):
        values, metrics = judge(params, episodes, KEY)
        return float(values.mean()), float(metrics["query"]["kl"].mean())

    (before, same), (now, far) = value(state.params), value(after.params)
    assert now < before and same == pytest.approx(0, abs=1e-12) and far > 0
    if outer in ("trpo", "few"):
        assert 0.003 < far <= 0.01
