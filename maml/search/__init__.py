"""Search for architectures: a space of tokens, policies over it, strategies, and their loop."""

from maml.search.loop import History, Reward, ask_key, child_keys, search
from maml.search.policies import Policy, entropy, factorised, log_prob, lstm, sequential
from maml.search.policy_gradient import Controller, policy_gradient, ppo, reinforce
from maml.search.space import Space, mutate, uniform, walk
from maml.search.strategies import Population, State, Strategy, evolution, random

__all__ = [
    "Controller",
    "History",
    "Policy",
    "Population",
    "Reward",
    "Space",
    "State",
    "Strategy",
    "ask_key",
    "child_keys",
    "entropy",
    "evolution",
    "factorised",
    "log_prob",
    "lstm",
    "mutate",
    "policy_gradient",
    "ppo",
    "random",
    "reinforce",
    "search",
    "sequential",
    "uniform",
    "walk",
]
