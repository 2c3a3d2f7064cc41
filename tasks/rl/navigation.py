"""Navigation of a point in the plane, in which each task is a goal position.

    position <- position + clip(action, -1, 1) / 10,   reward = -|position - goal|

Goals are drawn from a square of side 1, the unit of positions, goals and distances.

Finn, Abbeel, Levine: Model-agnostic meta-learning (ICML 2017), section 5.3,
https://arxiv.org/abs/1703.03400. The text of the paper has the squared distance as the reward, the
code of its figure the distance. The task of the corners is from Rothfuss, Lee, Clavera, Asfour,
Abbeel: ProMP (ICLR 2019), section 7.3.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from maml._checks import check_count, check_flags, check_key
from maml.rl.environment import Environment
from maml.types import RandomKey
from tasks._checks import check_shape

Point = Float[Array, "2"]
STRIDE = 0.1  # length of the step for an action of 1, as in MAML's code
NEAR = 0.01  # distance from the goal, in each coordinate, below which an episode ends
CORNERS = np.array([[-2.0, -2.0], [-2.0, 2.0], [2.0, -2.0], [2.0, 2.0]], np.float32)


def navigation(*, squared: bool = False, oracle: bool = False) -> Environment:
    """The environment of episodes that start at the origin and end at a goal.

    The observation is the position, `[2]`, or with `oracle` position and goal, `[4]`.

    Args:
        squared: Whether the reward is minus the squared distance, as in the paper's text.
        oracle: Whether the policy observes the goal as well.

    Returns:
        The environment, whose task is the goal, `[2]`.

    >>> walk, goal, key = navigation(), jnp.array([0.3, 0.4]), jax.random.key(0)
    >>> state, _ = walk.reset(key, goal)
    >>> _, _, reward, done = walk.step(key, state, jnp.array([3.0, 0.0]), goal)
    >>> round(float(reward), 3), bool(done)
    (-0.447, False)
    """
    check_flags(squared=squared, oracle=oracle)

    def observe(position: Point, goal: Point) -> Array:
        check_shape("the goal", goal, (2,))
        return jnp.concatenate([position, goal]) if oracle else position

    def reset(key: RandomKey, goal: Point) -> tuple[Point, Array]:
        return jnp.zeros(2), observe(jnp.zeros(2), goal)

    def step(
        key: RandomKey, position: Point, action: Point, goal: Point
    ) -> tuple[Point, Array, Array, Array]:
        position = position + STRIDE * jnp.clip(action, -1, 1)
        offset = position - goal
        distance = jnp.square(offset).sum() if squared else jnp.linalg.norm(offset)
        done = jnp.all(jnp.abs(offset) < NEAR)
        return position, observe(position, goal), -distance, done

    return Environment(reset, step, (2,))


def draw_goal(key: RandomKey) -> Point:
    """A random goal of MAML's distribution, U[-1/2, 1/2]^2."""
    check_key(key)
    return jax.random.uniform(key, (2,), minval=-0.5, maxval=0.5)


def held_out_goals(count: int = 40) -> Float[Array, "goal 2"]:
    """The goals of MAML's evaluation, drawn by the generator of numpy with seed 1.

    Args:
        count: Number of goals, >= 1.

    Returns:
        The goals, `[goal, 2]`.

    Raises:
        ValueError: `count` is below 1.

    >>> return_at_origin = -100 * jnp.linalg.norm(held_out_goals(), axis=1).mean()
    >>> f"{return_at_origin:.2f}"
    '-40.08'
    """
    check_count(count, least=1, of="goals")
    return jnp.asarray(np.random.RandomState(1).uniform(-0.5, 0.5, (count, 2)), jnp.float32)


def corners() -> Environment:
    """The environment of episodes that start near the origin, with a goal in one of four corners.

        reward = decrease of the distance to the goal, if no corner is nearer than the goal and
                 |x| + |y| >= 1/2; else 0

    Rewards are not zero only in the quadrant of the goal, so a policy has to explore all quadrants
    before it can adapt. The observation is the position, `[2]`; an episode never ends early.
    """
    stride, dead_zone = 0.2, 0.5

    def reset(key: RandomKey, goal: Point) -> tuple[Point, Array]:
        check_shape("the goal", goal, (2,))
        start = jax.random.uniform(key, (2,), minval=-0.2, maxval=0.2)
        return start, start

    def step(
        key: RandomKey, position: Point, action: Point, goal: Point
    ) -> tuple[Point, Array, Array, Array]:
        next_position = position + stride * jnp.clip(action, -1, 1)
        distance_before, distance_after = jnp.linalg.norm(
            jnp.stack([position, next_position]) - goal, axis=1
        )
        nearest = jnp.linalg.norm(next_position - CORNERS, axis=1).min()
        is_rewarded = (distance_after <= nearest) & (jnp.abs(next_position).sum() >= dead_zone)
        return (
            next_position,
            next_position,
            jnp.where(is_rewarded, distance_before - distance_after, 0),
            jnp.asarray(False),
        )

    return Environment(reset, step, (2,))


def draw_corner(key: RandomKey) -> Point:
    """A random one of the four corners."""
    check_key(key)
    return jax.random.choice(key, jnp.asarray(CORNERS))
