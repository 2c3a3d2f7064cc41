"""Architecture search: a search space of tokens, policies over it, strategies, and their loop."""

from maml.search.architectures import choose_tokens, mutate, random_architecture
from maml.search.controllers import ControllerState
from maml.search.driver import search_on_host
from maml.search.executors import Executor, device_executor, local_executor
from maml.search.log_probs import entropy, log_prob
from maml.search.loop import History, Reward, ask_key, child_keys, search
from maml.search.policies import (
    ArchitecturePolicy,
    factorised_policy,
    lstm_policy,
    sequential_policy,
)
from maml.search.policy_gradients import policy_gradient_strategy, ppo, reinforce
from maml.search.records import Child
from maml.search.replicas import search_with_replicas
from maml.search.results import best
from maml.search.shards import shard_parameters
from maml.search.space import Space
from maml.search.strategies import Population, SearchState, Strategy, evolution, random_search
from maml.search.workers import ray_cluster, ray_executor

__all__ = [
    "ArchitecturePolicy",
    "Child",
    "ControllerState",
    "Executor",
    "History",
    "Population",
    "Reward",
    "SearchState",
    "Space",
    "Strategy",
    "ask_key",
    "best",
    "child_keys",
    "choose_tokens",
    "device_executor",
    "entropy",
    "evolution",
    "factorised_policy",
    "local_executor",
    "log_prob",
    "lstm_policy",
    "mutate",
    "policy_gradient_strategy",
    "ppo",
    "random_architecture",
    "random_search",
    "ray_cluster",
    "ray_executor",
    "reinforce",
    "search",
    "search_on_host",
    "search_with_replicas",
    "sequential_policy",
    "shard_parameters",
]
