"""Sinusoid regression, in which each task is a wave given by a few of its points.

    y = A sin(f x - phase),   A ~ U[0.1, 5],   phase ~ U[0, pi],   x ~ U[-5, 5]

with f = 1, or for the tasks of Meta-SGD  f ~ U[0.8, 1.2].

The network of the paper is `models.MLP()`. Two baselines of the paper are special cases: a network
pre-trained on all tasks is MAML without an inner step, and the oracle is this network with
`oracle=True`.

Finn, Abbeel, Levine: Model-agnostic meta-learning (ICML 2017), section 5.1,
https://arxiv.org/abs/1703.03400
Li, Zhou, Chen, Li: Meta-SGD, learning to learn quickly for few-shot learning (2017), section 4.1,
https://arxiv.org/abs/1707.09835
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from maml import Episode, Sampler
from maml._checks import check_counts, check_flags, check_key
from maml.types import RandomKey
from tasks._checks import check_is

AMPLITUDE = (0.1, 5.0)
PHASE = (0.0, jnp.pi)
FREQUENCY = (0.8, 1.2)
INPUT = (-5.0, 5.0)


class Wave(NamedTuple):
    """One task:  y = amplitude sin(frequency x - phase).

    Attributes:
        amplitude: Amplitude, in the unit of y.
        phase: Phase, in radians.
        frequency: Frequency, in radians per unit of x.
    """

    amplitude: Float[Array, ""]
    phase: Float[Array, ""]
    frequency: Float[Array, ""] | float = 1.0

    def __call__(self, x: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """The value of the wave at x.

        >>> float(Wave(jnp.array(2.0), jnp.array(0.0))(jnp.array(jnp.pi / 2)))
        2.0
        """
        return self.amplitude * jnp.sin(self.frequency * x - self.phase)


def draw_wave(key: RandomKey, *, frequencies: bool = False) -> Wave:
    """A random wave of MAML's distribution or, with `frequencies`, of that of Meta-SGD.

    Args:
        key: Random key.
        frequencies: Whether the frequency is random.

    Returns:
        The wave.

    Raises:
        ValueError: the key is not one key, or `frequencies` is not True or False.
    """
    check_key(key)
    check_flags(frequencies=frequencies)
    amplitude_key, phase_key = jax.random.split(key)
    wave = Wave(_uniform(amplitude_key, AMPLITUDE), _uniform(phase_key, PHASE))
    if not frequencies:
        return wave
    return wave._replace(frequency=_uniform(jax.random.fold_in(key, 2), FREQUENCY))


def few_points(
    shots: int, queries: int, *, oracle: bool = False, frequencies: bool = False
) -> Sampler:
    """A sampler of tasks, whose support and query sets are random points of one wave.

    Args:
        shots: Number of points of the support set, K.
        queries: Number of points of the query set.
        oracle: Whether the inputs identify the wave: (x, amplitude, phase) instead of (x).
        frequencies: Whether the frequency is random, as in the tasks of Meta-SGD.

    Returns:
        The sampler `sample(key) -> Episode(support=(inputs, targets), query=(inputs, targets))`,
        with inputs `[points, 1 or 3]` and targets `[points, 1]`.

    Raises:
        ValueError: a count is not an integer >= 1, an option is not True or False, `oracle` and
            `frequencies` are both True, or (when sampling) the key is not one key.

    >>> inputs, targets = few_points(shots=5, queries=10)(jax.random.key(0)).query
    >>> inputs.shape, targets.shape
    ((10, 1), (10, 1))
    """
    options = {"oracle": oracle, "frequencies": frequencies}
    check_counts(shots=shots, queries=queries)
    check_flags(**options)
    if oracle and frequencies:
        raise ValueError(
            "the inputs of the oracle are x, amplitude and phase, not the frequency; oracle=True"
            " would work with frequencies=False"
        )
    return jax.tree_util.Partial(partial(_draw, shots=shots, queries=queries, **options))


def points(wave: Wave, x: Float[Array, " n"], *, oracle: bool = False) -> tuple[Array, Array]:
    """Inputs and targets of a wave at x, in the form of `few_points`."""
    check_is(wave, "the wave", Wave)
    check_flags(oracle=oracle)
    if jnp.ndim(x) != 1:
        raise ValueError(f"x must be an array [n]; got the shape {list(jnp.shape(x))}")
    columns = [x, *(jnp.full_like(x, number) for number in wave[:2])] if oracle else [x]
    return jnp.stack(columns, axis=-1), wave(x)[:, None]


def _draw(key: RandomKey, *, shots: int, queries: int, oracle: bool, frequencies: bool) -> Episode:
    check_key(key)
    wave_key, input_key = jax.random.split(key)
    x = _uniform(input_key, INPUT, (shots + queries,))
    wave = draw_wave(wave_key, frequencies=frequencies)
    return Episode(*(points(wave, part, oracle=oracle) for part in (x[:shots], x[shots:])))


def _uniform(key: RandomKey, bounds: tuple[float, float], shape: tuple[int, ...] = ()) -> Array:
    return jax.random.uniform(key, shape, minval=bounds[0], maxval=bounds[1])
