"""How much better an action turned out than expected: discounted sums, baselines, GAE."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from maml.linear import solve
from tasks.rl.environment import Trajectories

PerStep = Float[Array, "trajectory time"]
RIDGE = 1e-5  # in units of the variance of a feature


def discounted_sums(x: Float[Array, "*n time"], discount: float) -> Float[Array, "*n time"]:
    """sum_{s >= t} discount^(s - t) x_s  for every t.

    >>> discounted_sums(jnp.array([1.0, 0.0, 4.0]), 0.5).tolist()
    [2.0, 2.0, 4.0]
    """

    def back(later: Array, now: Array) -> tuple[Array, Array]:
        total = now + discount * later
        return total, total

    steps = jnp.moveaxis(x, -1, 0)
    sums = jax.lax.scan(back, jnp.zeros_like(steps[0]), steps, reverse=True)[1]
    return jnp.moveaxis(sums, 0, -1)


def linear_baseline(
    observation: Float[Array, "trajectory time size"], returns: PerStep, alive: Bool[Array, "..."]
) -> PerStep:
    """The returns as ridge regression on  [o, o^2, t, t^2, t^3],  standardised, and a constant.

    Fitted to the steps that count of the very trajectories it is evaluated on. Standardised, since
    goals or places that never change would leave float32 no digits.

    Duan, Chen, Houthooft, Schulman, Abbeel: Benchmarking deep reinforcement learning for continuous
    control (ICML 2016).
    """
    observation = jnp.clip(observation, -10, 10)
    time = jnp.broadcast_to(jnp.arange(returns.shape[1])[:, None] / 100, (*returns.shape, 1))
    features = jnp.concatenate([observation, observation**2, time, time**2, time**3], axis=-1)
    counts = alive[..., None]
    center, spread = (f((0, 1), where=counts) for f in (features.mean, features.std))
    # What never changes is left as small as its rounding error, and not blown up to a feature.
    features = (features - center) / (spread + 1e-3 * jnp.abs(center) + 1e-8)
    mean = returns.mean(where=alive)
    rows = jnp.where(counts, features, 0).reshape(-1, features.shape[-1])
    targets = jnp.where(alive, returns - mean, 0).ravel()
    gram = rows.T @ rows / alive.sum() + RIDGE * jnp.eye(rows.shape[1])
    return features @ solve(gram, rows.T @ targets / alive.sum()) + mean


def advantages(
    seen: Trajectories, *, discount: float = 0.99, smoothing: float = 1.0, normalise: bool = True
) -> PerStep:
    """Generalised advantage estimates over the linear baseline b.

        A_t = sum_{s >= t} (discount smoothing)^(s-t) (r_s + discount b_{s+1} - b_s)

    with b = 0 after the last step. With smoothing 1 that is the discounted return minus b_t.

    Args:
        seen: trajectories of one task.
        discount: of a reward, each step.
        smoothing: lambda; less trusts the baseline more.
        normalise: shift and scale to mean 0 and deviation 1 over the steps that count.

    Returns:
        0 for steps after the end.

    Schulman, Moritz, Levine, Jordan, Abbeel: High-dimensional continuous control using generalized
    advantage estimation (ICLR 2016).
    """
    alive = seen.alive
    returns = discounted_sums(seen.reward, discount)
    baseline = linear_baseline(seen.observation, returns, alive) * alive
    after = jnp.pad(baseline[:, 1:], ((0, 0), (0, 1)))
    surprise = seen.reward + discount * after - baseline
    advantage = discounted_sums(surprise, discount * smoothing)
    if normalise:
        mean = advantage.mean(where=alive)
        advantage = (advantage - mean) / (advantage.std(where=alive) + 1e-8)
    return advantage * alive
