"""Asynchronous training of a controller: K replicas, and S servers with its parameters.

A replica reads the parameters, draws m child networks, obtains their rewards, and sends a gradient
to the servers. They apply it at once, even if other replicas have sent theirs in the meantime:

    theta <- theta - u(g(theta'; m children of theta')),   theta' an earlier theta

This is the scheme of the first paper, on Ray. Since a controller is small, one server and one
replica suffice (`search_on_host` with `ray_executor`, as in the search for NASNet).

Zoph, Le: Neural architecture search with reinforcement learning (ICLR 2017), with S = 20, K = 100
and m = 8. Dean et al.: Large scale distributed deep networks (NeurIPS 2012).
"""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from maml import surrogates
from maml._checks import check_count
from maml._returns import check_arrays, check_same_structure
from maml.finite import is_finite, select_tree
from maml.search.controllers import (
    ControllerState,
    compute_advantages,
    controller_gradient,
    tokens_log_probs,
)
from maml.search.driver import checked_outcomes
from maml.search.executors import Executor
from maml.search.loop import History, Reward, check_search, next_children
from maml.search.policies import ArchitecturePolicy
from maml.search.policy_gradients import reinforce
from maml.search.records import MAX_FAILURES, Child, outcome_recorder, reward_or_nan
from maml.search.rewards import is_broken
from maml.search.space import check_no_dead_end
from maml.search.strategies import Batch, Rewards, SearchState
from maml.search.workers import ray_executor, require_ray
from maml.types import Params, RandomKey


def _restrict_to_cpu() -> None:
    # An environment variable would be passed on by Ray to the children of a replica.
    jax.config.update("jax_platforms", "cpu")


class Server:
    """The actor that holds one shard and the state of its optimiser."""

    def __init__(self, optimizer: optax.GradientTransformation, part: Any, opt_state: Any) -> None:
        _restrict_to_cpu()
        self.state, self.applied = ((part,), (opt_state,)), set()

        def step(parts: Params, opt_states: PyTree, grad: Any) -> tuple[Params, PyTree]:
            check_same_structure((grad,), parts, "gradient of a shard")
            updates, new_states = optimizer.update((grad,), opt_states, parts)
            proposed = optax.apply_updates(parts, updates), new_states
            return select_tree(is_finite((grad, proposed[0])), proposed, (parts, opt_states))

        self.step = jax.jit(step)

    def read(self) -> tuple[Any, Any]:
        """The current shard, and the state of its optimiser."""
        (part,), (opt_state,) = jax.device_get(self.state)
        return part, opt_state

    def apply(self, batch: int, grad: Any) -> None:
        """Applies a gradient, unless a restarted replica has sent it before."""
        if batch not in self.applied:
            check_arrays(grad, "a replica")
            self.state = self.step(*self.state, grad)
            self.applied.add(batch)


class Replica:
    """The actor that draws children and computes gradients; it holds no parameters of its own."""

    def __init__(
        self, servers: list[Any], shared: list[Any], executor: Callable[[], Executor]
    ) -> None:
        _restrict_to_cpu()
        self.ray, self.servers, self.executor = require_ray(), servers, executor()
        ask, learn, self.reward = self.ray.get(shared)
        self.ask, self.learn = jax.jit(ask), jax.jit(learn)

    def batch(self, state: SearchState, key: RandomKey) -> tuple[Any, list[Any]]:
        """Draws m children, computes their rewards, and applies their gradient.

        Args:
            state: State of the search, without the parameters.
            key: Random key of the search.

        Returns:
            The tokens of the children, and their outcomes.
        """
        shards = self.ray.get([server.read.remote() for server in self.servers])
        params, opt_state = map(tuple, zip(*shards, strict=True))
        controller = state.strategy_state._replace(params=params, opt_state=opt_state)
        tokens, _, keys = self.ask(state._replace(strategy_state=controller), key)
        check_no_dead_end(tokens)
        items = list(zip(tokens, keys, strict=True))
        results = dict(checked_outcomes(self.executor, self.reward, items))
        rewards = [reward_or_nan(results[i]) for i in sorted(results)]
        grads = self.learn(controller, tokens, jnp.array(rewards))
        parts = zip(self.servers, jax.device_get(grads), strict=True)
        self.ray.get([server.apply.remote(int(state.num_rewards), grad) for server, grad in parts])
        return jax.device_get(tokens), [results[i] for i in sorted(results)]


def search_with_replicas(
    policy: ArchitecturePolicy,
    optimizer: optax.GradientTransformation,
    reward: Reward,
    state: SearchState,
    key: RandomKey,
    children: int,
    *,
    replicas: int,
    batch: int,
    baseline_decay: float = 0.9,
    entropy_coef: float = 0.0,
    retries: int = 3,
    on_child: Callable[[Child], None] | None = None,
    max_failures: int = MAX_FAILURES,
    **resources: Any,
) -> tuple[SearchState, History]:
    """Runs REINFORCE with K replicas that share their parameters; one replica is `reinforce`.

    All replicas share one baseline, of the rewards in their order of arrival. With several replicas
    a search is not reproducible, since this order depends on the machines. A replica that dies is
    restarted, and its gradient is applied once; if a server dies, the search ends.

    Args:
        policy: Policy from `shard_parameters`; there is one server for each shard.
        optimizer: Optimiser from `shard_parameters`.
        reward: Reward of one child network, `reward(tokens, key)`.
        state: State before the first of these children; initially
            `reinforce(policy, optimizer).init(key)`.
        key: Random key of the whole search, the same in every call.
        children: Number of children, a positive multiple of `batch`.
        replicas: Number of replicas K.
        batch: Number of children m that a replica draws at once.
        baseline_decay: Decay of the baseline, as in `reinforce`.
        entropy_coef: Coefficient of the entropy, as in `reinforce`.
        retries: Number of restarts of a child or a batch whose process dies.
        on_child: Function that is called with each `Child` after the gradient of its batch. None:
            no function.
        max_failures: Number of exceptions in a row that end the search, as in `search_on_host`.
        resources: Resources of one child, options of `ray.remote`: `num_gpus=0.5`, `num_cpus=2`.

    Returns:
        The state after the last child, from which `reinforce` can continue, and the children in the
        order of their numbers.

    Raises:
        ImportError: Ray is not installed.
        ValueError: a count is below 1, `children` is not a multiple of `batch`, the parameters are
            not in shards, or an argument has the wrong type.
        RuntimeError: no cluster is running, `max_failures` children in a row raised an exception,
            or a server died.
    """
    check_count(replicas, least=1, of="replicas")
    check_count(children, least=1, of="children")
    strategy = reinforce(
        policy, optimizer, batch=batch, baseline_decay=baseline_decay, entropy_coef=entropy_coef
    )
    params = getattr(getattr(state, "strategy_state", None), "params", None)
    if params is not None and not isinstance(params, tuple):
        raise ValueError(
            "the policy and its optimiser must be in shards, see `shard_parameters`; got a state of"
            f" {type(params).__name__}"
        )
    check_search(strategy, reward, state, key, children)
    num_rewards = int(state.num_rewards)
    numbers = iter(range(num_rewards, num_rewards + children, batch))
    record_outcome, ray = outcome_recorder(on_child, max_failures), require_ray()

    def learn(controller: ControllerState, tokens: Batch, rewards: Rewards) -> Params:
        params, surrogate = controller.params, surrogates.score_function
        advantages, _ = compute_advantages(controller, rewards, baseline_decay)
        old_log_probs = tokens_log_probs(policy, params, tokens)
        grads = controller_gradient(
            policy, surrogate, params, tokens, old_log_probs, advantages, entropy_coef
        )
        # If one shard of the gradient is not finite, no server takes the step.
        return select_tree(
            is_finite(grads), grads, jax.tree.map(lambda leaf: leaf * jnp.nan, grads)
        )

    server = partial(ray.remote(num_cpus=0)(Server).remote, optimizer)
    ask = partial(next_children, strategy)
    initial = jax.device_get((params, state.strategy_state.opt_state))
    servers = [server(*shard) for shard in zip(*initial, strict=True)]
    # In a list, so that a replica reads them after its JAX has been restricted to the CPU.
    shared = [ray.put(part) for part in (ask, learn, reward)]
    executor = partial(ray_executor, retries=retries, **resources)
    replica = partial(ray.remote(num_cpus=0)(Replica).remote, servers, shared, executor)
    state = state._replace(strategy_state=state.strategy_state._replace(params=(), opt_state=()))
    running_batches, deaths, histories = {}, Counter(), {}

    def start_batch(worker: Any, number: int | None) -> None:
        if number is not None:
            batch_state = jax.device_get(state._replace(num_rewards=np.int32(number)))
            running_batches[worker.batch.remote(batch_state, key)] = worker, number

    try:
        for _ in range(replicas):
            start_batch(replica(), next(numbers, None))
        while running_batches:
            (finished,), _ = ray.wait(list(running_batches), num_returns=1)
            worker, number = running_batches.pop(finished)
            try:
                tokens, results = ray.get(finished)
            except ray.exceptions.RayActorError as error:
                deaths[number] += 1
                # A RayTaskError means that a server died, and its parameters are lost.
                if isinstance(error, ray.exceptions.RayTaskError) or deaths[number] > retries:
                    raise
                start_batch(replica(), number)
                continue
            rewards = jnp.array(
                [record_outcome(number + i, tokens[i], results[i]) for i in range(batch)]
            )
            histories[number] = History(jnp.array(tokens), rewards, number + jnp.arange(batch))
            _, controller = compute_advantages(state.strategy_state, rewards, baseline_decay)
            broken = is_broken(rewards).sum(dtype=state.num_broken.dtype)
            state = SearchState(controller, state.num_rewards + batch, state.num_broken + broken)
            start_batch(worker, next(numbers, None))
        shards = ray.get([server.read.remote() for server in servers])
    finally:
        for actor in (*(worker for worker, _ in running_batches.values()), *servers):
            ray.kill(actor)
    params, opt_states = jax.tree.map(jnp.asarray, tuple(zip(*shards, strict=True)))
    state = state._replace(
        strategy_state=state.strategy_state._replace(params=params, opt_state=opt_states)
    )
    history = [histories[number] for number in sorted(histories)]
    return state, jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *history)
