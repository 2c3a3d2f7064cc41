"""Optimisers that do not fit their use raise ValueError."""

# pyright: reportArgumentType=false

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import maml
from maml.search import Space, factorised_policy, policy_gradient_strategy, reinforce

pytestmark = pytest.mark.usefixtures("unchecked")
KEY, SGD = jax.random.key(0), optax.sgd(0.1)
PARAMS, ONES = {"w": jnp.ones(3), "b": jnp.ones(2)}, {"w": True, "b": False}
EPISODES = maml.Episode(jnp.zeros(2), jnp.zeros(2))


def loss(params, batch, key):
    return jnp.sum(jnp.square(params["w"] - batch)) + jnp.sum(params["b"]), {}


def masked(optimizer):
    return optax.masked(optimizer, ONES)


BUILD = {
    "maml": maml.maml,
    "anil": partial(maml.anil, head=ONES),
    "meta_sgd": partial(maml.meta_sgd, rate=0.1),
    "maml_plus_plus": partial(maml.maml_plus_plus, rate=0.1),
    "cavia": partial(maml.cavia, context=ONES),
    "fomaml": maml.fomaml,
    "reptile": maml.reptile,
    "imaml": partial(maml.imaml, regularisation=1.0, cg_steps=1),
}


@pytest.mark.parametrize("name", BUILD)
def test_an_inner_optimiser_of_a_named_tree_is_checked_with_the_parameters(name):
    algorithm = BUILD[name](loss, masked(optax.adam(0.1)), 1)
    if name in ("fomaml", "reptile", "imaml"):
        algorithm.init(PARAMS)
        with pytest.raises(ValueError, match="turns gradients of 1 into updates of nan"):
            BUILD[name](loss, masked(optax.sgd(float("nan"))), 1).init(PARAMS)
        return
    with pytest.raises(ValueError, match=r"is nan where a gradient is zero.*eps_root"):
        algorithm.init(PARAMS)
    BUILD[name](loss, masked(optax.adam(0.1, eps_root=1e-8)), 1).init(PARAMS)


BY_NAME = optax.partition(
    {"sgd": SGD, "adam": optax.adam(0.1)},
    lambda params: jax.tree.map_with_path(
        lambda path, _: "adam" if path and path[-1].key == "b" else "sgd", params
    ),
)
BY_SHAPE = optax.chain(
    optax.masked(optax.adam(0.1), lambda params: jax.tree.map(lambda leaf: leaf.ndim == 1, params)),
    SGD,
)


@pytest.mark.parametrize("optimizer", [BY_NAME, BY_SHAPE], ids=["partition", "masked"])
def test_a_rule_for_some_leaves_is_checked_with_the_parameters(optimizer):
    """A matrix gets the other rule, which has a derivative."""
    maml.fomaml(loss, optimizer, 1).init(PARAMS)
    algorithm = maml.maml(loss, optimizer, 1)
    algorithm.init({"w": jnp.ones((2, 3))})
    with pytest.raises(ValueError, match=r"is nan where a gradient is zero.*eps_root"):
        algorithm.init(PARAMS)


def test_an_outer_optimiser_of_a_named_tree_is_checked_with_the_parameters():
    with pytest.raises(ValueError, match="check its learning rate"):
        maml.init(maml.maml(loss, SGD, 1), masked(optax.sgd(float("inf"))), PARAMS)


@pytest.mark.parametrize(
    "wrap",
    [optax.chain, partial(optax.chain, SGD), lambda ahead: optax.apply_if_finite(ahead, 3)],
    ids=["chain", "second", "if finite"],
)
def test_lookahead_is_refused_wherever_it_is(wrap):
    with pytest.raises(ValueError, match=r"optax.lookahead keeps a second set"):
        maml.maml(loss, wrap(optax.lookahead(SGD, 2, 0.5)), 1)


KEPT = maml.reptile(loss, optax.adam(0.1), 1, keep_state=True)


@pytest.mark.parametrize(
    "outer",
    [SGD, optax.adam(0.1), optax.partition({"a": SGD}, lambda p: jax.tree.map(lambda _: "a", p))],
)
def test_reptile_that_keeps_a_state_refuses_an_outer_optimiser_that_would_learn_it(outer):
    with pytest.raises(ValueError, match=r"maml.keep_inner_state\(optimizer\) would work"):
        maml.init(KEPT, outer, PARAMS)
    safe = maml.skip_nonfinite(optax.chain(maml.keep_inner_state(optax.sgd(0.5))))
    state = maml.init(KEPT, safe, PARAMS)
    after, _ = maml.meta_step(KEPT, safe, state, EPISODES, KEY)
    np.testing.assert_allclose(after.params.params["w"], 0.95, rtol=1e-5)
    np.testing.assert_allclose(after.params.opt_state[0].count, 1)


@pytest.mark.parametrize(
    ("inner", "what"), [(optax.noisy_sgd(0.1, key=0), "a random key"), (optax.lbfgs(), "inf")]
)
def test_a_state_without_a_mean_cannot_be_kept(inner, what):
    algorithm = maml.reptile(loss, inner, 1, keep_state=True)
    with pytest.raises(ValueError, match=rf"{what}.*keep_state=False would work"):
        maml.init(algorithm, maml.keep_inner_state(SGD), PARAMS)


def test_the_state_of_another_optimiser_is_refused():
    algorithm = maml.maml(loss, SGD, 1)
    state = maml.init(algorithm, SGD, PARAMS)
    step = partial(maml.meta_step, algorithm, state=state, episodes=EPISODES, key=KEY)
    with pytest.raises(ValueError, match=r"of another optimiser or of other parameters"):
        step(optax.adam(0.1))
    with pytest.raises(ValueError, match="gradient_transformation"):
        step(optax.MultiSteps(SGD, 2))
    several = optax.MultiSteps(SGD, 2).gradient_transformation()
    state = maml.init(algorithm, several, PARAMS)
    for _ in range(2):
        state, _ = maml.meta_step(algorithm, several, state, EPISODES, KEY)
    np.testing.assert_allclose(state.params["b"], 0.9, rtol=1e-6)
    with pytest.raises(ValueError, match="must be an optax transformation"):
        maml.keep_inner_state(None)


POLICY = factorised_policy(Space((3, 2)))
TOKENS = jnp.array([[0, 1], [2, 0]])


def told(strategy, rewards):
    state = strategy.init(KEY)
    return state, strategy.tell(state, TOKENS, rewards)


def test_a_controller_gives_an_optimiser_the_loss_that_asks_for_it():
    """At the start the log-ratios are 0, and the loss is minus the bonus times the entropy."""
    rewards = jnp.array([1.0, 0.0])
    states = [
        told(reinforce(POLICY, optimizer, batch=2, entropy_coef=1.0), rewards)
        for optimizer in (optax.polyak_sgd(10.0, f_min=-2.0, eps=0.0), optax.sgd(1.0))
    ]
    moved, grads = (
        ravel_pytree(
            jax.tree.map(jnp.subtract, after.strategy_state.params, before.strategy_state.params)
        )[0]
        for before, after in states
    )
    rate = (2 - jnp.log(6.0)) / jnp.vdot(grads, grads)
    np.testing.assert_allclose(moved, rate * grads, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_gradient_that_is_not_finite_leaves_a_controller_as_it_is(epochs):
    def broken(log_ratio, advantage):
        return jnp.sqrt(log_ratio * 0).sum()

    options = {"batch": 2, "epochs": epochs, "baseline_decay": 0.9, "entropy_coef": 0.0}
    strategy = policy_gradient_strategy(POLICY, optax.adam(0.1), surrogate=broken, **options)
    before, after = told(strategy, jnp.array([1.0, 0.0]))
    for old, new in zip(
        *(
            jax.tree.leaves((s.strategy_state.params, s.strategy_state.opt_state))
            for s in (before, after)
        ),
        strict=True,
    ):
        assert (old == new).all()
    assert after.num_rewards == 2


UPDATES = {
    "another shape": lambda updates, state, params=None: (jax.tree.map(jnp.sum, updates), state),
    "no state": lambda updates, state, params=None: updates,
    "nothing": lambda updates, state, params=None: None,
}
MISFITS = {
    "mask of another tree": optax.masked(SGD, {"x": True}),
    "mask of a part": optax.masked(SGD, {"w": True}),
    "mask of a matrix": optax.masked(SGD, np.ones((2, 2), bool)),
    "labels without an optimiser": optax.multi_transform({"a": SGD}, {"w": "a", "b": "zz"}),
    "labels of another tree": optax.multi_transform({"a": SGD}, {"x": "a"}),
    "a label of None": optax.multi_transform({"a": SGD}, {"w": "a", "b": None}),
    "a rate that is a string": optax.sgd("0.1"),
} | {name: optax.GradientTransformation(lambda params: (), u) for name, u in UPDATES.items()}


@pytest.mark.parametrize("name", MISFITS)
def test_an_optimiser_that_does_not_fit_the_parameters_is_refused(name):
    """A mask or labels of another tree can be found only when the parameters are known."""
    says = "the optimiser must fit the parameters|update of (the|an) optimiser"
    optimizer, algorithm = MISFITS[name], maml.maml(loss, SGD, 1)
    for build in (maml.maml, maml.fomaml, maml.reptile):
        with pytest.raises(ValueError, match=says):
            maml.init(build(loss, optimizer, 1), SGD, PARAMS)
    for outer in (optimizer, maml.skip_nonfinite(optimizer)):
        with pytest.raises(ValueError, match=says):
            maml.init(algorithm, outer, PARAMS)
    learner = partial(maml.gradient_descent, loss, optimizer)
    with pytest.raises(ValueError, match=says):
        maml.evaluate(learner, loss, PARAMS, EPISODES, KEY, 1)
    with pytest.raises(ValueError, match=says):
        told(reinforce(POLICY, optimizer, batch=2), jnp.array([1.0, 0.0]))


def test_the_state_of_another_inner_optimiser_is_refused():
    for state in ("a", optax.adam(0.1).init(PARAMS)):
        with pytest.raises(ValueError, match="of another optimiser"):
            maml.gradient_descent(loss, SGD, PARAMS, opt_state=state)


def test_a_second_moment_that_decays_within_a_task_stays_positive():
    """200 steps of Adam divide it by 10^9, far below the rounding error of a difference."""

    def steep(params, batch, key):
        return jnp.mean(batch) * params["w"].sum(), {}

    algorithm = maml.reptile(steep, optax.adam(1e-3, b1=0.0, b2=0.9), 200, keep_state=True)
    outer = maml.keep_inner_state(optax.sgd(1.0))
    state = maml.init(algorithm, outer, {"w": jnp.zeros(3, jnp.float32)})
    for slope in (3.0, 0.0, 0.0):  # as of a unit that dies
        data = slope * jnp.linspace(0.7, 1.3, 25, dtype=jnp.float32)[:, None]
        state, _ = maml.meta_step(algorithm, outer, state, maml.Episode(data, data), KEY)
        moments = state.params.opt_state[0].nu["w"]
        assert (moments >= 0).all() and jnp.isfinite(state.params.params["w"]).all()
    assert (moments < 1e-6).all()
