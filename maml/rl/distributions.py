"""Gaussian and categorical distributions of an action.

An action with a logit of -infinity is forbidden. Probabilities and divergences are computed in
float32 at least.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, Scalar

from maml.rows import upcast
from maml.types import RandomKey


class Family(NamedTuple):
    """A family of distributions of one action.

    Attributes:
        sample: Function `sample(distribution, key) -> action`.
        log_prob: Function `log_prob(distribution, action)`, in nats: -infinity for a forbidden
            action, NaN for an action that does not exist, as is the derivative.
        kl: Function `kl(p, q)`, the Kullback-Leibler divergence of q from p, in nats. Where p is 0,
            its terms and their derivatives are 0; where only q is 0, it is infinite.
        actions: Function from a distribution to the number of actions, or to the shape of an
            action; it refuses the distribution of another family with a `ValueError`.
    """

    sample: Callable[[PyTree, RandomKey], Array]
    log_prob: Callable[[PyTree, Array], Scalar]
    kl: Callable[[PyTree, PyTree], Scalar]
    actions: Callable[[PyTree], int | tuple[int, ...]]


class Gaussian(NamedTuple):
    """Independent normal distributions.

    Attributes:
        mean: Means, `[size]`.
        log_std: Logarithms of the standard deviations, `[size]`.
    """

    mean: Float[Array, " size"]
    log_std: Float[Array, " size"]


def _gaussian_actions(p: Any) -> tuple[int, ...]:
    if not isinstance(p, Gaussian):
        raise ValueError(f"a Gaussian policy must return a Gaussian(mean, log_std); got {p}")
    return p.mean.shape


def _clamp_deviations(p: Gaussian) -> Gaussian:
    """The distribution, with deviations clamped so that the square of their inverse is finite."""
    log_std = upcast(p.log_std)
    smallest = jnp.log(jnp.finfo(log_std.dtype).tiny) / 2
    return Gaussian(upcast(p.mean), jnp.maximum(log_std, smallest))


def _gaussian_log_prob(p: Gaussian, action: Array) -> Scalar:
    p = _clamp_deviations(p)
    z = (action - p.mean) * jnp.exp(-p.log_std)
    return -jnp.sum(0.5 * jnp.square(z) + p.log_std + 0.5 * jnp.log(2 * jnp.pi))


def _gaussian_kl(p: Gaussian, q: Gaussian) -> Scalar:
    p, q = _clamp_deviations(p), _clamp_deviations(q)
    ratio = jnp.exp(2 * (p.log_std - q.log_std))
    distance = jnp.square(p.mean - q.mean) * jnp.exp(-2 * q.log_std)
    return jnp.sum(q.log_std - p.log_std + 0.5 * (ratio + distance - 1))


def _categorical_actions(logits: Any) -> int:
    if isinstance(logits, tuple) or logits.ndim != 1:
        raise ValueError(f"a categorical policy must return logits, [actions]; got {logits}")
    return logits.shape[0]


def _categorical_log_prob(logits: Array, action: Array) -> Scalar:
    log_probs = jax.nn.log_softmax(upcast(logits))
    exists = (action >= 0) & (action < log_probs.shape[0])
    # A factor of NaN makes the derivative NaN as well.
    return log_probs[jnp.where(exists, action, 0)] * jnp.where(exists, 1, jnp.float32(jnp.nan))


def _categorical_kl(p: Array, q: Array) -> Scalar:
    p, q = jax.nn.log_softmax(upcast(p)), jax.nn.log_softmax(upcast(q))
    possible = jnp.exp(p) != 0
    p, q = (jnp.where(possible, log_probs, 0) for log_probs in (p, q))
    return jnp.sum(jnp.exp(p) * (p - q))


gaussian = Family(
    sample=lambda p, key: p.mean + jnp.exp(p.log_std) * jax.random.normal(key, p.mean.shape),
    log_prob=_gaussian_log_prob,
    kl=_gaussian_kl,
    actions=_gaussian_actions,
)

categorical = Family(
    sample=lambda logits, key: jax.random.categorical(key, upcast(logits)),
    log_prob=_categorical_log_prob,
    kl=_categorical_kl,
    actions=_categorical_actions,
)
