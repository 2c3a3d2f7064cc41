"""The registry of algorithms: what benchmarks offer, and which options are read."""

from dataclasses import fields
from typing import get_args

import jax
import jax.numpy as jnp
import optax
import pytest

import maml
from benchmarks import bandits, few_shot, navigation, sinusoid
from benchmarks.harness.algorithms import ALGORITHMS, build

OPTIONS = (few_shot.FewShot, sinusoid.Sinusoid, navigation.Navigation, bandits.Bandits)
FIELDS = [field for options in OPTIONS for field in fields(options)]


def loss(params, batch, key):
    return jnp.mean(jnp.square(params["w"] - batch)), {}


def test_benchmarks_offer_the_algorithms_of_the_registry():
    types = [field.type for field in FIELDS if field.name == "algorithm"]
    assert {name for choices in types for name in get_args(choices)} == ALGORITHMS.keys()


def test_every_option_that_an_algorithm_reads_is_an_option():
    options = {option for reads in ALGORITHMS.values() for option in reads}
    assert options <= {field.name for field in FIELDS}


def test_an_algorithm_gets_the_arguments_that_it_has_and_the_others_are_left_out():
    chosen = build("imaml", loss, 0.1, 3, regularisation=2.0, remat=True, scale=10.0)
    by_hand = maml.imaml(loss, optax.sgd(0.1), 3, regularisation=2.0, cg_steps=5)
    params, batch = {"w": jnp.ones(2)}, jnp.zeros(2)
    episode, key = maml.Episode(batch, batch), jax.random.key(0)
    gradients = [
        maml.task_gradient(a.grad, params, episode, key)[0]["w"] for a in (chosen, by_hand)
    ]
    assert jnp.array_equal(*gradients) and gradients[0].any()


def test_an_argument_that_no_algorithm_has_is_refused():
    with pytest.raises(TypeError, match="no algorithm has an argument 'hpv'"):
        build("maml", loss, 0.1, 1, hpv="forward")
