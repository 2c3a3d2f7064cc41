"""Meta-reinforcement learning: environments, policies, policy-gradient losses and outer steps."""

from maml.rl.baselines import advantages
from maml.rl.distributions import Family, Gaussian, categorical, gaussian
from maml.rl.environment import Environment, Trajectories, rollout, undiscounted
from maml.rl.gymnax import from_gymnax
from maml.rl.losses import Collect, Experience, collector, policy_gradient, surrogate_loss
from maml.rl.outer_steps import (
    collect_episode,
    outer_step,
    recording,
    repeatedly,
    trust_region,
)
from maml.rl.policies import (
    Policy,
    categorical_policy,
    gaussian_policy,
    memoryless,
    table_policy,
)
from maml.rl.rl2 import by_episode, finished_return, trials
from maml.rl.terms import anchored, exploring

__all__ = [
    "Collect",
    "Environment",
    "Experience",
    "Family",
    "Gaussian",
    "Policy",
    "Trajectories",
    "advantages",
    "anchored",
    "by_episode",
    "categorical",
    "categorical_policy",
    "collect_episode",
    "collector",
    "exploring",
    "finished_return",
    "from_gymnax",
    "gaussian",
    "gaussian_policy",
    "memoryless",
    "outer_step",
    "policy_gradient",
    "recording",
    "repeatedly",
    "rollout",
    "surrogate_loss",
    "table_policy",
    "trials",
    "trust_region",
    "undiscounted",
]
