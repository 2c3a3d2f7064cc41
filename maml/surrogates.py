"""Policy-gradient surrogates: functions whose derivatives estimate those of the expected return.

All have one signature, `surrogate(log_ratio, advantage)`, of ONE trajectory:

    l_t = log pi_theta(a_t | s_t) - log mu(a_t | s_t),   A_t = advantage of a_t under mu,

with mu the policy that acted. Each estimates V(theta) - V(mu), to be maximised, is zero where theta
is mu, and has the same first derivative there, the policy gradient. They differ in the second
derivative, which meta-learning needs, and away from mu:

| surrogate | formula | second derivative at mu |
|---|---|---|
| `score_function` | sum_t l_t A_t | omits the effect of theta on actions and states |
| `likelihood_ratio` | sum_t (r_t - 1) A_t | omits the effect of theta on states |
| `clipped` | sum_t min((r_t - 1) A_t, clip(r_t - 1) A_t) | that of `likelihood_ratio` |
| `taypo2` | sum_t (r_t - 1) (1 + sum_{s<t} (r_s - 1)) A_t | exact |
| `dice` | sum_t (r_t - 1) prod_{s<t} r_s A_t | exact |

with the ratio r_t = exp(l_t). A discount gamma of the rewards is a factor of the advantages, A_t
gamma^t. Steps after the end of a trajectory have l_t = A_t = 0. An action to which the policy now
gives the probability zero has l_t = -infinity, and the ratio 0. A step with A_t = 0 adds 0, and
nothing to any derivative by theta, whatever its ratio. Sums are taken in float32 at least.

The log-probabilities of mu are constants, recorded when it acted.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Scalar

from maml._checks import check_number
from maml.rows import wide

Steps = Float[Array, " time"]
Surrogate = Callable[[Steps, Steps], Scalar]
"""`surrogate(log_ratio, advantage) -> scalar` of ONE trajectory, to be maximised.

Those of this module raise a `ValueError` for anything but two arrays `[time]`, traced or not.
"""


def _steps(log_ratio: Any, advantage: Any) -> tuple[Array, Array]:
    for name, steps in {"log_ratio": log_ratio, "advantage": advantage}.items():
        got = type(steps).__name__
        if isinstance(steps, jax.Array | np.ndarray):
            got = f"an array of shape {steps.shape}"
            if steps.ndim == 1:
                continue
        raise ValueError(
            f"{name} must be an array [time] of ONE trajectory, jax.vmap takes several; got {got}"
        )
    if log_ratio.shape != advantage.shape:
        raise ValueError(
            f"log_ratio and advantage must have equally many steps; got {log_ratio.shape[0]} and"
            f" {advantage.shape[0]}"
        )
    return wide(log_ratio), wide(advantage)


def _counting(log_ratio: Any, advantage: Any) -> tuple[Array, Array]:
    """The steps, with a ratio of 1 where the advantage is 0: masking their product is too late."""
    log_ratio, advantage = _steps(log_ratio, advantage)
    return jnp.where(advantage == 0, 0, log_ratio), advantage


def _before_what_counts(log_ratio: Steps, advantage: Array) -> Array:
    """The log-ratios, with 0 where no later step has an advantage."""
    counts = (advantage != 0).astype(jnp.int32)
    later = jnp.cumsum(counts[::-1])[::-1] - counts
    return jnp.where(later > 0, wide(log_ratio), 0)


def score_function(log_ratio: Steps, advantage: Steps) -> Scalar:
    """The surrogate of REINFORCE:  sum_t l_t A_t.

    Its second derivative is E[sum_t A_t hessian log pi], without the effect of theta on the
    distribution of samples. MAML's code differentiates this surrogate twice.

    Williams: Simple statistical gradient-following algorithms (1992).

    >>> log_ratio = jnp.array([0.5, -0.5])
    >>> float(score_function(log_ratio, jnp.array([1.0, 3.0])))
    -1.0
    """
    return jnp.vdot(*_counting(log_ratio, advantage))


def likelihood_ratio(log_ratio: Steps, advantage: Steps) -> Scalar:
    """The low-variance surrogate (LVC) of ProMP:  sum_t (r_t - 1) A_t.

    Its derivatives include the effect of theta on the actions, and treat the states as given.

    Rothfuss, Lee, Clavera, Asfour, Abbeel: ProMP (ICLR 2019).
    """
    log_ratio, advantage = _counting(log_ratio, advantage)
    return jnp.vdot(jnp.expm1(log_ratio), advantage)


def clipped(log_ratio: Steps, advantage: Steps, *, clip: float = 0.2) -> Scalar:
    """The pessimistic surrogate of PPO:  sum_t min((r_t - 1) A_t, clip(r_t - 1, -c, c) A_t).

    Args:
        log_ratio: Log-ratios l_t, `[time]`.
        advantage: Advantages A_t, `[time]`.
        clip: Largest distance c of a ratio from 1 that still increases the surrogate, > 0.

    Returns:
        The surrogate, a scalar to be maximised.

    Raises:
        ValueError: `clip` is not a finite number > 0, or the others are not two arrays `[time]`.

    Schulman, Wolski, Dhariwal, Radford, Klimov: Proximal policy optimization (2017).

    >>> float(clipped(jnp.log(jnp.array([1.5])), jnp.array([2.0]), clip=0.25))
    0.5
    """
    check_number(clip, "clip", above=0)
    log_ratio, advantage = _counting(log_ratio, advantage)
    limit, change = jnp.where(advantage < 0, -clip, clip), jnp.expm1(log_ratio)
    beyond = jnp.where(advantage < 0, change < limit, change > limit)
    # A change beyond the limit may be infinite, and would make the derivative 0 x infinity.
    change = jnp.expm1(jnp.where(beyond, 0, log_ratio))
    return jnp.vdot(jnp.where(beyond, limit, change), advantage)


def taypo2(log_ratio: Steps, advantage: Steps) -> Scalar:
    """Second-order Taylor expansion of V:  sum_t (r_t - 1) (1 + sum_{s<t} (r_s - 1)) A_t.

    It is exact up to the second derivative at mu, and has less variance than `dice` away from mu.

    Tang, Kozuno, Rowland, Munos, Valko: Unifying gradient estimators for meta-reinforcement
    learning via off-policy evaluation (NeurIPS 2021).
    """
    now, advantage = _counting(log_ratio, advantage)
    change = jnp.expm1(_before_what_counts(log_ratio, advantage))
    earlier = jnp.cumsum(jnp.pad(change, (1, 0))[:-1])
    earlier = jnp.where(advantage == 0, 0, earlier)
    return jnp.vdot(jnp.expm1(now) * (1 + earlier), advantage)


def dice(log_ratio: Steps, advantage: Steps, *, decay: float = 1.0) -> Scalar:
    """The surrogate of Loaded DiCE:  sum_t (r_t - 1) exp(sum_{s<t} decay^(t-s) l_s) A_t.

    With decay 1 it is the importance-sampled value, exact in every derivative. A smaller decay has
    more bias and less variance; with decay 0 it is `likelihood_ratio`.

    Args:
        log_ratio: Log-ratios l_t, `[time]`.
        advantage: Advantages A_t, `[time]`.
        decay: Factor lambda by which the effect of an action on later steps shrinks in each step,
            in [0, 1].

    Returns:
        The surrogate, a scalar to be maximised.

    Raises:
        ValueError: `decay` is outside [0, 1], or the others are not two arrays `[time]`.

    Farquhar, Whiteson, Foerster: Loaded DiCE (NeurIPS 2019).
    """
    check_number(decay, "decay", least=0, most=1)
    now, advantage = _counting(log_ratio, advantage)
    log_ratio = _before_what_counts(log_ratio, advantage)
    time = jnp.arange(now.shape[0])
    weights = jnp.tril(decay ** jnp.abs(time[:, None] - time), -1)
    # Not a matrix product: a ratio of 0 has the logarithm -infinity, and 0 x -infinity is NaN.
    earlier = jnp.sum(weights * jnp.where(weights > 0, log_ratio, 0), axis=1)
    earlier = jnp.where(advantage == 0, 0, earlier)
    return jnp.vdot(jnp.exp(earlier) * jnp.expm1(now), advantage)
