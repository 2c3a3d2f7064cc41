"""Architecture search: a search space of tokens, policies over it, strategies, and their loop."""

from maml.search.controllers import Controller, policy_gradient, ppo, reinforce
from maml.search.driver import Child, drive
from maml.search.executors import Executor, in_process, over_devices
from maml.search.loop import History, Reward, ask_key, child_keys, search
from maml.search.policies import Policy, entropy, factorised, log_prob, lstm, sequential
from maml.search.replicas import in_shards, replicate
from maml.search.space import Space, mutate, uniform, walk
from maml.search.strategies import Population, State, Strategy, evolution, random
from maml.search.workers import cluster, on_ray

__all__ = [
    "Child",
    "Controller",
    "Executor",
    "History",
    "Policy",
    "Population",
    "Reward",
    "Space",
    "State",
    "Strategy",
    "ask_key",
    "child_keys",
    "cluster",
    "drive",
    "entropy",
    "evolution",
    "factorised",
    "in_process",
    "in_shards",
    "log_prob",
    "lstm",
    "mutate",
    "on_ray",
    "over_devices",
    "policy_gradient",
    "ppo",
    "random",
    "reinforce",
    "replicate",
    "search",
    "sequential",
    "uniform",
    "walk",
]
