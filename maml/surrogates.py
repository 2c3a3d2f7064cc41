"""Policy-gradient surrogates, whose derivatives estimate those of the expected return.

All have the signature `surrogate(log_ratio, advantage)`, for ONE trajectory:

    l_t = log pi_theta(a_t | s_t) - log mu(a_t | s_t),   A_t = advantage of a_t under mu,

with mu the policy that acted. Each approximates V(theta) - V(mu) near mu, which is to be maximised.
At theta = mu all are zero and have the policy gradient as their first derivative. They differ in
the second derivative, which meta-learning needs, and away from mu:

| surrogate | formula | second derivative at mu |
|---|---|---|
| `score_function` | sum_t l_t A_t | omits the effect of theta on actions and states |
| `likelihood_ratio` | sum_t (r_t - 1) A_t | omits the effect of theta on states |
| `clipped` | sum_t min((r_t - 1) A_t, clip(r_t - 1) A_t) | that of `likelihood_ratio` |
| `taypo2` | sum_t (r_t - 1) (1 + sum_{s<t} (r_s - 1)) A_t | exact |
| `dice` | sum_t (r_t - 1) prod_{s<t} r_s A_t | exact |

with the ratio r_t = exp(l_t). A discount gamma of the rewards is a factor of the advantages, A_t
gamma^t. Steps after the end of a trajectory have l_t = A_t = 0. An action whose probability under
theta is zero has l_t = -infinity and the ratio 0. A step with A_t = 0 contributes 0 to the value
and to all derivatives by theta, whatever its ratio. Sums are taken in float32 at least.

The log-probabilities under mu are constants, recorded when mu acted.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Scalar

from maml._checks import check_number
from maml._leaves import is_real
from maml.rows import upcast

Steps = Float[Array, " time"]
Surrogate = Callable[[Steps, Steps], Scalar]
"""`surrogate(log_ratio, advantage) -> scalar` of ONE trajectory, to be maximised.

The surrogates of this module raise a `ValueError` for arguments other than two arrays `[time]`.
"""


def _check_steps(log_ratio: Any, advantage: Any) -> tuple[Array, Array]:
    for name, steps in {"log_ratio": log_ratio, "advantage": advantage}.items():
        description = type(steps).__name__
        if isinstance(steps, jax.Array | np.ndarray):
            description = f"an array of shape {steps.shape}"
            if not is_real(steps):
                raise ValueError(f"{name} must be real numbers; got an array of {steps.dtype}")
            if steps.ndim == 1:
                continue
        raise ValueError(
            f"{name} must be an array [time] of ONE trajectory; got {description}: jax.vmap would"
            " work for several trajectories"
        )
    if log_ratio.shape != advantage.shape:
        raise ValueError(
            f"log_ratio and advantage must have equally many steps; got {log_ratio.shape[0]} and"
            f" {advantage.shape[0]}"
        )
    return upcast(log_ratio), upcast(advantage)


def _mask_ratios(log_ratio: Any, advantage: Any) -> tuple[Array, Array]:
    """The steps, with a ratio of 1 where the advantage is 0.

    To mask the product of ratio and advantage would not remove NaN from the derivative.
    """
    log_ratio, advantage = _check_steps(log_ratio, advantage)
    return jnp.where(advantage == 0, 0, log_ratio), advantage


def _mask_last_ratios(log_ratio: Steps, advantage: Array) -> Array:
    """The log-ratios, with 0 where no later step has an advantage."""
    counts = (advantage != 0).astype(jnp.int32)
    later = jnp.cumsum(counts[::-1])[::-1] - counts
    return jnp.where(later > 0, upcast(log_ratio), 0)


def score_function(log_ratio: Steps, advantage: Steps) -> Scalar:
    """The surrogate of REINFORCE:  sum_t l_t A_t.

    Its second derivative is E[sum_t A_t hessian log pi], which omits the effect of theta on the
    distribution of samples. MAML's code differentiates this surrogate twice.

    Williams: Simple statistical gradient-following algorithms (1992).

    >>> log_ratio = jnp.array([0.5, -0.5])
    >>> float(score_function(log_ratio, jnp.array([1.0, 3.0])))
    -1.0
    """
    return jnp.vdot(*_mask_ratios(log_ratio, advantage))


def likelihood_ratio(log_ratio: Steps, advantage: Steps) -> Scalar:
    """The low-variance surrogate (LVC) of ProMP:  sum_t (r_t - 1) A_t.

    Its derivatives include the effect of theta on actions, and treat the states as constants.

    Rothfuss, Lee, Clavera, Asfour, Abbeel: ProMP (ICLR 2019).
    """
    log_ratio, advantage = _mask_ratios(log_ratio, advantage)
    return jnp.vdot(jnp.expm1(log_ratio), advantage)


def clipped(log_ratio: Steps, advantage: Steps, *, clip: float = 0.2) -> Scalar:
    """The pessimistic surrogate of PPO:  sum_t min((r_t - 1) A_t, clip(r_t - 1, -c, c) A_t).

    Args:
        log_ratio: Log-ratios l_t, `[time]`.
        advantage: Advantages A_t, `[time]`.
        clip: Distance c of a ratio from 1 beyond which the surrogate does not increase, > 0.

    Returns:
        The surrogate, a scalar to be maximised.

    Raises:
        ValueError: `clip` is not a finite number > 0, or the other arguments are not two arrays
            `[time]`.

    Schulman, Wolski, Dhariwal, Radford, Klimov: Proximal policy optimization (2017).

    >>> float(clipped(jnp.log(jnp.array([1.5])), jnp.array([2.0]), clip=0.25))
    0.5
    """
    check_number(clip, "clip", above=0)
    log_ratio, advantage = _mask_ratios(log_ratio, advantage)
    limit, change = jnp.where(advantage < 0, -clip, clip), jnp.expm1(log_ratio)
    is_clipped = jnp.where(advantage < 0, change < limit, change > limit)
    # A change beyond the limit may be infinite, and would make the derivative 0 x infinity.
    change = jnp.expm1(jnp.where(is_clipped, 0, log_ratio))
    return jnp.vdot(jnp.where(is_clipped, limit, change), advantage)


def taypo2(log_ratio: Steps, advantage: Steps) -> Scalar:
    """The second-order Taylor expansion of V:  sum_t (r_t - 1) (1 + sum_{s<t} (r_s - 1)) A_t.

    Its first two derivatives at mu are exact. Away from mu it has less variance than `dice`.

    Tang, Kozuno, Rowland, Munos, Valko: Unifying gradient estimators for meta-reinforcement
    learning via off-policy evaluation (NeurIPS 2021).
    """
    current, advantage = _mask_ratios(log_ratio, advantage)
    change = jnp.expm1(_mask_last_ratios(log_ratio, advantage))
    earlier = jnp.cumsum(jnp.pad(change, (1, 0))[:-1])
    earlier = jnp.where(advantage == 0, 0, earlier)
    return jnp.vdot(jnp.expm1(current) * (1 + earlier), advantage)


def dice(log_ratio: Steps, advantage: Steps, *, decay: float = 1.0) -> Scalar:
    """The surrogate of Loaded DiCE:  sum_t (r_t - 1) exp(sum_{s<t} decay^(t-s) l_s) A_t.

    With decay 1 it is the importance-sampled V(theta) - V(mu), and every derivative is exact. A
    smaller decay has more bias and less variance; with decay 0 it is `likelihood_ratio`.

    Args:
        log_ratio: Log-ratios l_t, `[time]`.
        advantage: Advantages A_t, `[time]`.
        decay: Factor by which the effect of an action on later steps shrinks in each step, in
            [0, 1].

    Returns:
        The surrogate, a scalar to be maximised.

    Raises:
        ValueError: `decay` is outside [0, 1], or the other arguments are not two arrays `[time]`.

    Farquhar, Whiteson, Foerster: Loaded DiCE (NeurIPS 2019).
    """
    check_number(decay, "decay", least=0, most=1)
    current, advantage = _mask_ratios(log_ratio, advantage)
    log_ratio = _mask_last_ratios(log_ratio, advantage)
    time = jnp.arange(current.shape[0])
    weights = jnp.tril(decay ** jnp.abs(time[:, None] - time), -1)
    # A matrix product would be NaN: a ratio of 0 has the logarithm -infinity, and 0 x -infinity is
    # NaN.
    earlier = jnp.sum(weights * jnp.where(weights > 0, log_ratio, 0), axis=1)
    earlier = jnp.where(advantage == 0, 0, earlier)
    return jnp.vdot(jnp.exp(earlier) * jnp.expm1(current), advantage)
