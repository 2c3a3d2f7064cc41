"""Advantages of actions: discounted sums, the linear baseline, and GAE.

Steps after the end of a trajectory affect no value and no derivative. Sums are taken in float32 at
least.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Num, PyTree

from maml._checks import check_flags, check_number
from maml.linear import solve
from maml.rl._trajectories import Trajectories, check_trajectories
from maml.rl.environment import fill_after_end
from maml.rows import upcast

StepValues = Float[Array, "trajectory time"]
RIDGE = 1e-5  # regularisation, in units of the variance of a feature
LARGE = 1e9  # larger rewards are computed in units of the largest reward


def discounted_sums(x: Num[Array, "*n time"], discount: float) -> Float[Array, "*n time"]:
    """The discounted sums  sum_{s >= t} discount^(s - t) x_s  for every t.

    Args:
        x: Terms of the sums, `[..., time]`.
        discount: Discount of each step, in [0, 1].

    Returns:
        The sums, `[..., time]`.

    Raises:
        ValueError: the discount is outside [0, 1].

    >>> discounted_sums(jnp.array([1.0, 0.0, 4.0]), 0.5).tolist()
    [2.0, 2.0, 4.0]
    """
    check_number(discount, "discount", least=0, most=1)
    steps = jnp.moveaxis(upcast(x), -1, 0)
    gamma = jnp.asarray(discount, steps.dtype)

    def add_step(total_after: Array, term: Array) -> tuple[Array, Array]:
        total = term + gamma * total_after
        return total, total

    sums = jax.lax.scan(add_step, jnp.zeros_like(steps[0]), steps, reverse=True)[1]
    return jnp.moveaxis(sums, 0, -1)


def linear_baseline(
    observation: PyTree, returns: StepValues, alive: Bool[Array, "..."]
) -> StepValues:
    """The fit of the returns by ridge regression on  [o, o^2, t, t^2, t^3]  and a constant.

    Here o is the observation as a vector. The regression is fitted to the steps before the end of
    the same trajectories at which it is evaluated, and is 0 at other steps. Features are
    standardised, since observations that vary little would lose all digits in float32.

    Args:
        observation: Observations, a tree of arrays `[trajectory, time, ...]`.
        returns: Returns to fit, `[trajectory, time]`.
        alive: Mask of the steps before the end, `[trajectory, time]`.

    Returns:
        The fitted returns, `[trajectory, time]`.

    Duan, Chen, Houthooft, Schulman, Abbeel: Benchmarking deep reinforcement learning for continuous
    control (ICML 2016).
    """
    counts, size = alive[..., None], returns.shape
    returns = jnp.where(alive, upcast(returns), 0)
    leaves = [upcast(leaf).reshape(*size, -1) for leaf in jax.tree.leaves(observation)]
    o = jnp.where(counts, jnp.clip(jnp.concatenate(leaves, axis=-1), -10, 10), 0)
    time = jnp.arange(size[1], dtype=o.dtype)[:, None] / 100
    time = jnp.broadcast_to(time, (*size, 1))
    features = jnp.concatenate([o, o**2, time, time**2, time**3], axis=-1)
    center, spread = _moments(features, counts)
    # A constant observation stays as small as its rounding error instead of being scaled up.
    features = (features - center) / (spread + 1e-3 * jnp.abs(center) + 1e-8)
    mean, _ = _moments(returns[..., None], counts)
    rows = jnp.where(counts, features, 0).reshape(-1, features.shape[-1])
    targets = jnp.where(alive, returns - mean, 0).ravel()
    number = jnp.maximum(alive.sum(), 1)
    with jax.default_matmul_precision("highest"):  # lower precision would round the ridge away
        if rows.shape[0] < rows.shape[1]:  # images: the same weights from the smaller system
            gram = rows @ rows.T / number + RIDGE * jnp.eye(rows.shape[0], dtype=rows.dtype)
            weights = rows.T @ solve(gram, targets / number)
        else:
            gram = rows.T @ rows / number + RIDGE * jnp.eye(rows.shape[1], dtype=rows.dtype)
            weights = solve(gram, rows.T @ targets / number)
        return jnp.where(alive, features @ weights + mean, 0)


def advantages(
    trajectories: Trajectories,
    *,
    discount: float = 0.99,
    gae_lambda: float = 1.0,
    normalise: bool = True,
) -> StepValues:
    """Generalised advantage estimates over a linear baseline b.

        A_t = sum_{s >= t} (discount gae_lambda)^(s-t) (r_s + discount b_{s+1} - b_s)

    The baseline is a ridge regression of the returns on observation and time, fitted to the same
    trajectories (`linear_baseline`), and 0 after the last step. With gae_lambda 1 this is the
    discounted return minus b_t. Rewards may be as large as their type allows.

    Args:
        trajectories: Trajectories of one task.
        discount: Discount of rewards in each step, in [0, 1].
        gae_lambda: Parameter lambda of GAE, in [0, 1]; a smaller value relies more on the baseline.
        normalise: Whether advantages are shifted and scaled to mean 0 and deviation 1 over the
            steps before the end. Advantages that vary by no more than the rounding errors of the
            returns become 0.

    Returns:
        The advantages, `[trajectory, time]`: 0 for steps after the end, and NaN for all steps if a
        reward before the end is not finite.

    Raises:
        ValueError: discount or gae_lambda is outside [0, 1].

    Schulman, Moritz, Levine, Jordan, Abbeel: High-dimensional continuous control using generalized
    advantage estimation (ICLR 2016).
    """
    check_number(gae_lambda, "gae_lambda", least=0, most=1)
    check_flags(normalise=normalise)
    check_trajectories(trajectories)
    trajectories, alive = fill_after_end(trajectories), trajectories.alive
    # Squares of larger rewards would overflow; rewards that are not finite do not change.
    largest = jnp.abs(trajectories.reward).max(initial=0)
    unit = jnp.where(largest > LARGE, largest, 1)
    trajectories = trajectories._replace(reward=trajectories.reward / jax.lax.stop_gradient(unit))
    returns = discounted_sums(trajectories.reward, discount)
    baseline = linear_baseline(trajectories.observation, returns, alive)
    next_baseline = jnp.pad(baseline[:, 1:], ((0, 0), (0, 1)))
    residual = trajectories.reward + discount * next_baseline - baseline
    advantage = discounted_sums(jnp.where(alive, residual, 0), discount * gae_lambda)
    if normalise:
        mean, deviation = _moments(advantage[..., None], alive[..., None])
        rounding = 100 * jnp.finfo(returns.dtype).eps * jnp.abs(returns).max()
        normal = (advantage - mean) / (deviation + 1e-8)
        advantage = jnp.where(deviation <= rounding, 0, normal)
    else:
        advantage = advantage * unit
    return jnp.where(alive, advantage, 0)


def _moments(
    x: Float[Array, "trajectory time size"], counts: Bool[Array, "trajectory time 1"]
) -> tuple[Float[Array, " size"], Float[Array, " size"]]:
    """Mean and standard deviation over the steps that count, both 0 if no step counts."""
    number = jnp.maximum(counts.sum(), 1)
    mean = jnp.sum(x, (0, 1), where=counts) / number
    variance = jnp.sum(jnp.square(x - mean), (0, 1), where=counts) / number
    positive = variance > 0
    # The square root has no derivative at 0, the variance of a constant.
    return mean, jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, 1)), variance)
