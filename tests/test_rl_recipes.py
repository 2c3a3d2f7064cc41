"""MAML by TRPO and ProMP in one call each, on observations of any kind."""

import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import quick

import maml
from maml import rl, surrogates
from maml.rl.policies import flatten_observation

KEY = jax.random.key(0)
INNER, OUTER = optax.sgd(0.5), optax.adam(0.01)
BATCH: dict[str, Any] = {"horizon": 3, "trajectories": 3}
GOALS = jax.random.normal(jax.random.key(1), (2, 2))
pytestmark = pytest.mark.usefixtures("x64")


def numbers(place):
    return jnp.append(place, place.sum())


def picture(place):
    """The numbers as the brightness of pixels, from 0 to 255."""
    return (255 * jax.nn.sigmoid(numbers(place))).astype(jnp.uint8).reshape(3, 1, 1)


# What the policy observes, by its kind, and the vector of the same numbers.
OBSERVATIONS = {
    "image": (picture, lambda place: picture(place).ravel().astype(float)),
    "dict": (lambda place: {"a": place, "b": place.sum()}, numbers),
    "scalar": (jnp.sum, lambda place: place.sum()[None]),
}


def environment(observe):
    """A walk towards a goal from near the origin."""

    def reset(key, goal):
        place = jax.random.normal(key, (2,))
        return place, observe(place)

    def step(key, place, action, goal):
        place = place + 0.1 * action
        return place, observe(place), -jnp.square(place - goal).sum(), jnp.asarray(False)

    return rl.Environment(reset, step, actions=(2,))


class Linear:
    """A policy whose mean is linear in the numbers of the observation."""

    def init(self, key, observation):
        return 0.1 * jax.random.normal(key, (flatten_observation(observation).size, 2))

    def apply(self, params, observation):
        mean = flatten_observation(observation) @ params
        return rl.Gaussian(mean, jnp.full(2, -0.5, mean.dtype))


POLICY = rl.gaussian_policy(Linear())


def by_hand(improve_of, collect_inner, outer_loss):
    """The outer step from its parts, as the guide on environments explains them."""
    collect = rl.collector(environment(numbers), POLICY, **BATCH)
    ratio = rl.surrogate_loss(POLICY)
    recorder = maml.maml(rl.record_trajectories(collect_inner, POLICY, ratio), INNER, 1)
    episode = rl.collect_episode(recorder.learner, collect, 1)
    recorded = maml.maml(ratio, INNER, 1)
    recorded = recorded._replace(grad=maml.unrolled(recorded.learner, outer_loss, 1))
    return rl.outer_step(episode, improve_of(recorded))


def assert_same_program(step, expected, state):
    """The two outer steps are one program; comparing them takes no compilation."""
    programs = [str(jax.make_jaxpr(step)(state, GOALS, KEY)) for step in (step, expected)]
    got, wanted = (re.sub("0x[0-9a-f]+", "", program) for program in programs)
    assert got == wanted


def test_maml_trpo_is_the_outer_step_of_its_parts():
    walk = environment(numbers)
    recipe = rl.maml_trpo(walk, POLICY, INNER, 1, **BATCH, radius=0.02, fvp_trajectories=2)

    def improve_of(recorded):
        return rl.trpo(recorded, POLICY, 1, fvp_trajectories=2, radius=0.02)

    step = by_hand(improve_of, rl.collector(walk, POLICY, **BATCH), rl.surrogate_loss(POLICY))
    assert_same_program(recipe.step, step, recipe.init(KEY, GOALS[0]))


def test_promp_is_the_outer_step_of_its_parts():
    """With other advantages in the inner steps, and the terms of ProMP and E-MAML."""
    walk = environment(numbers)
    adapting = {"normalise": False, "inner_reward": lambda reward: reward - 1}
    recipe = rl.promp(
        *(walk, POLICY, INNER, OUTER, 1),
        **BATCH,
        **{"epochs": 2, "clip": 0.1, "kl_coef": 0.5, "exploration_coef": 0.2},
        adapting=adapting,
    )

    def improve_of(recorded):
        recorded = rl.add_exploration_term(recorded, POLICY, 0.2)
        return rl.multi_epoch(rl.add_kl_penalty(recorded, POLICY, 0.5), OUTER, 2)

    collect_inner = rl.collector(walk, POLICY, **BATCH, **adapting)
    outer_loss = rl.surrogate_loss(POLICY, partial(surrogates.clipped, clip=0.1))
    step = by_hand(improve_of, collect_inner, outer_loss)
    assert_same_program(recipe.step, step, recipe.init(KEY, GOALS[0]))


def test_without_terms_and_clip_a_meta_step_is_one_policy_gradient():
    recipe = rl.promp(
        *(environment(numbers), POLICY, INNER, OUTER, 1),
        **{"epochs": 1, "clip": None, "kl_coef": 0.0, **BATCH},
    )
    collect = rl.collector(environment(numbers), POLICY, **BATCH)
    step = by_hand(
        lambda recorded: rl.multi_epoch(recorded, OUTER), collect, rl.surrogate_loss(POLICY)
    )
    assert_same_program(recipe.step, step, recipe.init(KEY, GOALS[0]))


@pytest.mark.parametrize("kind", OBSERVATIONS)
def test_an_observation_of_any_kind_gives_the_numbers_of_its_vector(kind):
    """Also of pixels, which are integers; the policy decides how it reads them."""

    @quick
    def gradients():
        results = []
        for observe in OBSERVATIONS[kind]:
            recipe = rl.maml_trpo(environment(observe), POLICY, INNER, 1, **BATCH)
            theta = recipe.init(KEY, GOALS[0]).params
            results.append(jax.value_and_grad(recipe.loss, has_aux=True)(theta, GOALS[0], KEY))
        return results

    got, expected = gradients()
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12), got, expected)
    assert jnp.linalg.norm(got[1]) > 1e-3


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip": 0.0}, "clip must be a finite number > 0; got 0"),
        ({"kl_coef": -1.0}, "kl_coef must be a finite number >= 0; got -1"),
        ({"exploration_coef": -1.0}, "exploration_coef must be a finite number >= 0; got -1"),
        ({"epochs": 0}, "number of epochs must be an integer >= 1; got 0"),
        ({"horizon": 0}, "number of steps of a trajectory must be an integer >= 1; got 0"),
        ({"algorithm": maml.protonet}, "algorithm must be a function of"),
        ({"algorithm": lambda *_: None}, "the algorithm must be an Algorithm"),
        ({"algorithm": maml.reptile}, "needs a meta-gradient with an objective"),
        ({"adapting": None}, "adapting must be a dictionary of options of collector; got None"),
    ],
)
def test_bad_options_are_refused_before_any_work(options, message):
    with pytest.raises(ValueError, match=message):
        rl.promp(environment(numbers), POLICY, INNER, OUTER, 1, **BATCH | options)


@pytest.mark.usefixtures("unchecked")
def test_outer_steps_refuse_other_options_and_states():
    loss = rl.surrogate_loss(POLICY)
    algorithm, params = maml.maml(loss, INNER, 1), jnp.zeros((3, 2))
    with pytest.raises(TypeError, match="unexpected keyword argument 'clip'"):
        rl.multi_epoch(algorithm, OUTER, 2, clip=0.2)  # pyright: ignore[reportCallIssue]
    with pytest.raises(ValueError, match="the state must be a MetaState"):
        rl.trpo(algorithm, POLICY, 1)(params, None, KEY)  # pyright: ignore[reportArgumentType]
