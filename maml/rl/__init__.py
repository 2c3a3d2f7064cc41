"""Meta-reinforcement learning: environments, policies, policy-gradient losses and outer steps."""

from maml.rl.baselines import advantages
from maml.rl.distributions import Family, Gaussian, categorical, gaussian
from maml.rl.environment import Environment, Trajectories, rollout, undiscounted_returns
from maml.rl.gymnax import from_gymnax
from maml.rl.losses import Collect, Experience, collector, policy_gradient, surrogate_loss
from maml.rl.outer_steps import (
    collect_episode,
    multi_epoch,
    outer_step,
    record_trajectories,
    trpo,
)
from maml.rl.policies import (
    Policy,
    categorical_policy,
    gaussian_policy,
    memoryless_policy,
    table_policy,
)
from maml.rl.recipes import Recipe, maml_trpo, promp
from maml.rl.rl2 import episode_returns, finished_return, trial_environment
from maml.rl.terms import add_exploration_term, add_kl_penalty

__all__ = [
    "Collect",
    "Environment",
    "Experience",
    "Family",
    "Gaussian",
    "Policy",
    "Recipe",
    "Trajectories",
    "add_exploration_term",
    "add_kl_penalty",
    "advantages",
    "categorical",
    "categorical_policy",
    "collect_episode",
    "collector",
    "episode_returns",
    "finished_return",
    "from_gymnax",
    "gaussian",
    "gaussian_policy",
    "maml_trpo",
    "memoryless_policy",
    "multi_epoch",
    "outer_step",
    "policy_gradient",
    "promp",
    "record_trajectories",
    "rollout",
    "surrogate_loss",
    "table_policy",
    "trial_environment",
    "trpo",
    "undiscounted_returns",
]
