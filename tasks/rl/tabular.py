"""Bernoulli bandits and tabular Markov decision processes, and the exact value of a policy.

Duan, Schulman, Chen, Bartlett, Sutskever, Abbeel: RL^2 (2016). The same tasks are used by Mishra,
Rohaninejad, Chen, Abbeel: A simple neural attentive meta-learner (ICLR 2018).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from maml._checks import check_count, check_key, check_number
from maml.rl.environment import Environment
from maml.types import RandomKey
from tasks._checks import check_is, check_shape


class TabularMDP(NamedTuple):
    """One task, a decision process with finitely many states and actions that starts in state 0.

    Attributes:
        transitions: Probability of the next state, `[state, action, next]`.
        rewards: Mean of the reward, `[state, action]`.
    """

    transitions: Float[Array, "state action state"]
    rewards: Float[Array, "state action"]


def bandit(arms: int) -> Environment:
    """A Bernoulli bandit, whose task is the probability of a reward of 1 for each arm, `[arm]`.

    The observation is always 1, `[1]`. An action that is not an arm, or a task outside [0, 1], is
    refused or, if it is traced, gives the reward NaN.

    Args:
        arms: Number of arms, >= 1.

    Returns:
        The environment; its episodes never end early.

    Raises:
        ValueError: `arms` is below 1, or the task has another number of arms.

    >>> environment, task = bandit(2), jnp.array([0.0, 1.0])
    >>> float(environment.step(jax.random.key(0), None, jnp.array(1), task)[2])
    1.0
    """
    check_count(arms, least=1, of="arms")

    def reset(key: RandomKey, task: Float[Array, " arm"]) -> tuple[None, Array]:
        check_shape("task", task, (arms,))
        return None, jnp.ones(1)

    def step(
        key: RandomKey, state: None, action: Array, task: Float[Array, " arm"]
    ) -> tuple[None, Array, Array, Array]:
        check_shape("task", task, (arms,))
        _check_probabilities("task", task)
        probability = _at(task, action, arms)
        reward = jax.random.bernoulli(key, probability).astype(probability.dtype)
        reward = jnp.where((probability >= 0) & (probability <= 1), reward, jnp.nan)
        return None, jnp.ones(1), reward, jnp.asarray(False)

    return Environment(reset, step, arms)


def draw_bandit(key: RandomKey, arms: int) -> Float[Array, " arm"]:
    """A random task of `bandit`, with the probability of each arm from U[0, 1]."""
    check_key(key)
    check_count(arms, least=1, of="arms")
    return jax.random.uniform(key, (arms,))


def tabular_mdp(states: int, actions: int, *, noise: float = 1.0) -> Environment:
    """A tabular decision process; the task is a `TabularMDP`, the observation the one-hot state.

    Args:
        states: Number of states, >= 1.
        actions: Number of actions, >= 1.
        noise: Standard deviation of the rewards around their means, >= 0.

    Returns:
        The environment; its episodes never end early.

    Raises:
        ValueError: a count is below 1, the noise is negative, or the task has other shapes or, if
            it is not traced, probabilities outside [0, 1].
    """
    check_count(states, least=1, of="states")
    check_count(actions, least=1, of="actions")
    check_number(noise, "noise", least=0)

    def reset(key: RandomKey, task: TabularMDP) -> tuple[Array, Array]:
        check_is(task, "the task", TabularMDP)
        check_shape("transitions", task.transitions, (states, actions, states))
        check_shape("rewards", task.rewards, (states, actions))
        _check_probabilities("transitions", task.transitions, sums=True)
        return jnp.zeros((), jnp.int32), jax.nn.one_hot(0, states)

    def step(
        key: RandomKey, state: Array, action: Array, task: TabularMDP
    ) -> tuple[Array, Array, Array, Array]:
        move_key, noise_key = jax.random.split(key)
        next_state = jax.random.categorical(move_key, jnp.log(task.transitions[state, action]))
        reward = _at(task.rewards[state], action, actions) + noise * jax.random.normal(noise_key)
        return (
            next_state.astype(jnp.int32),
            jax.nn.one_hot(next_state, states),
            reward,
            jnp.asarray(False),
        )

    return Environment(reset, step, actions)


def draw_mdp(key: RandomKey, states: int = 10, actions: int = 5) -> TabularMDP:
    """A random task of RL^2, with transitions from a flat Dirichlet and mean rewards from N(1, 1).

    Args:
        key: Random key.
        states: Number of states, >= 1.
        actions: Number of actions, >= 1.

    Returns:
        The decision process.
    """
    check_count(states, least=1, of="states")
    check_count(actions, least=1, of="actions")
    check_key(key)
    transition_key, reward_key = jax.random.split(key)
    transitions = jax.random.dirichlet(transition_key, jnp.ones(states), (states, actions))
    return TabularMDP(transitions, 1 + jax.random.normal(reward_key, (states, actions)))


def policy_values(
    mdp: TabularMDP, policy: Float[Array, "state action"], horizon: int, *, discount: float = 1.0
) -> Float[Array, " state"]:
    """The exact expected discounted return of a policy from each state.

        V_T = 0,   V_t(s) = sum_a pi(a | s) (r(s, a) + discount sum_s' P(s' | s, a) V_{t+1}(s'))

    Args:
        mdp: Decision process.
        policy: Probability of each action in each state, `[state, action]`.
        horizon: Number of steps T, >= 0.
        discount: Discount of rewards in each step, in [0, 1].

    Returns:
        The value V_0 of each state, `[state]`.

    Raises:
        ValueError: horizon or discount is out of range, or the policy has another shape than the
            rewards.
    """
    check_is(mdp, "mdp", TabularMDP)
    check_shape("policy", policy, mdp.rewards.shape)
    _check_probabilities("policy", policy, sums=True)
    return _backward_induction(mdp, lambda gain: jnp.sum(policy * gain, axis=1), horizon, discount)


def optimal_values(mdp: TabularMDP, horizon: int) -> Float[Array, " state"]:
    """The largest expected return of any policy over `horizon` steps, from each state."""
    return _backward_induction(mdp, lambda gain: jnp.max(gain, axis=1), horizon, 1.0)


def _backward_induction(
    mdp: TabularMDP, choose: Callable[[Array], Array], horizon: int, discount: float
) -> Float[Array, " state"]:
    """The values V_0, where `choose` turns the values of actions into those of states."""
    check_is(mdp, "mdp", TabularMDP)
    check_count(horizon, least=0)
    check_number(discount, "discount", least=0, most=1)

    def step(later: Array, _: None) -> tuple[Array, None]:
        return choose(mdp.rewards + discount * mdp.transitions @ later), None

    start = jnp.zeros(mdp.rewards.shape[0], mdp.rewards.dtype)
    return jax.lax.scan(step, start, length=horizon)[0]


def _at(numbers: Float[Array, " action"], action: Array, actions: int) -> Float[Array, ""]:
    """The number of an action, NaN if there is no such action."""
    check_number(action, "the action", least=0, most=actions - 1)
    if not jnp.issubdtype(jnp.result_type(action), jnp.integer):
        raise ValueError(f"the action must be an integer; got {action!r}")
    return numbers.at[action].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def _check_probabilities(name: str, probabilities: Array, *, sums: bool = False) -> None:
    if isinstance(probabilities, Tracer):
        return
    values = np.asarray(probabilities)
    if not np.all((values >= 0) & (values <= 1 + 1e-5)):
        raise ValueError(f"{name} must be probabilities, in [0, 1]; got {probabilities}")
    if sums and np.abs(values.sum(axis=-1) - 1).max() > 1e-3:
        raise ValueError(f"{name} must have the sum 1 over the last axis; got {probabilities}")
