"""2D point navigation, in which each task is a goal to walk to.

    position <- position + clip(action, -1, 1) / 10,   reward = -|position - goal|

Positions, goals and distances have the unit of the square from which goals are drawn.

Finn, Abbeel, Levine: Model-agnostic meta-learning (ICML 2017), section 5.3,
https://arxiv.org/abs/1703.03400. Its text has the squared distance, and the code of its figure has
the distance. The corners are those of Rothfuss, Lee, Clavera, Asfour, Abbeel: ProMP (ICLR 2019),
section 7.3.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from maml._checks import check_count
from maml.rl.environment import Environment
from maml.types import RandomKey

Point = Float[Array, "2"]
STRIDE = 0.1  # length of the step of an action of 1, as in MAML's code
NEAR = 0.01  # distance from the goal in each coordinate below which an episode ends
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

    def observe(position: Point, goal: Point) -> Array:
        return jnp.concatenate([position, goal]) if oracle else position

    def reset(key: RandomKey, goal: Point) -> tuple[Point, Array]:
        return jnp.zeros(2), observe(jnp.zeros(2), goal)

    def step(
        key: RandomKey, position: Point, action: Point, goal: Point
    ) -> tuple[Point, Array, Array, Array]:
        position = position + STRIDE * jnp.clip(action, -1, 1)
        away = position - goal
        distance = jnp.square(away).sum() if squared else jnp.linalg.norm(away)
        done = jnp.all(jnp.abs(away) < NEAR)
        return position, observe(position, goal), -distance, done

    return Environment(reset, step, (2,))


def draw_goal(key: RandomKey) -> Point:
    """A random goal of MAML's distribution, U[-1/2, 1/2]^2."""
    return jax.random.uniform(key, (2,), minval=-0.5, maxval=0.5)


def held_out_goals(count: int = 40) -> Float[Array, "goal 2"]:
    """The goals of MAML's evaluation, drawn by numpy's generator with seed 1.

    Raises:
        ValueError: `count` is below 1.

    >>> stays = -100 * jnp.linalg.norm(held_out_goals(), axis=1).mean()
    >>> f"{stays:.2f}"
    '-40.08'
    """
    check_count(count, least=1, of="goals")
    return jnp.asarray(np.random.RandomState(1).uniform(-0.5, 0.5, (count, 2)), jnp.float32)


def corners() -> Environment:
    """The environment of episodes that start near the origin, with a goal in one of four corners.

        reward = decrease of the distance to the goal, where no corner is nearer than the goal and
                 |x| + |y| >= 1/2; else 0

    A goal is rewarded only in its own quarter, so a policy has to explore all quarters before it
    can adapt. The observation is the position, `[2]`; an episode never ends early.
    """
    stride, blind = 0.2, 0.5

    def reset(key: RandomKey, goal: Point) -> tuple[Point, Array]:
        start = jax.random.uniform(key, (2,), minval=-0.2, maxval=0.2)
        return start, start

    def step(
        key: RandomKey, position: Point, action: Point, goal: Point
    ) -> tuple[Point, Array, Array, Array]:
        after = position + stride * jnp.clip(action, -1, 1)
        before_goal, after_goal = jnp.linalg.norm(jnp.stack([position, after]) - goal, axis=1)
        nearest = jnp.linalg.norm(after - CORNERS, axis=1).min()
        felt = (after_goal <= nearest) & (jnp.abs(after).sum() >= blind)
        return after, after, jnp.where(felt, before_goal - after_goal, 0), jnp.asarray(False)

    return Environment(reset, step, (2,))


def draw_corner(key: RandomKey) -> Point:
    """A random one of the four corners."""
    return jax.random.choice(key, jnp.asarray(CORNERS))
