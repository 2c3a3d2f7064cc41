"""The vocabulary: seven types, and every function in the library is written in them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key, PyTree, Scalar

Params = PyTree  # the parameters of a model: any tree of floating-point arrays
MetaParams = (
    PyTree  # what is learned across tasks: model parameters, and learned rates and the like
)
Batch = PyTree  # what a loss looks at: (inputs, targets), or the parameters of an environment
Metrics = PyTree  # scalars by name
RandomKey = Key[Array, ""]
RandomKeys = Key[Array, " n"]

LossFn = Callable[[Params, Batch, RandomKey], tuple[Scalar, Metrics]]
"""`loss(params, batch, key) -> (scalar, metrics)` of ONE task: all that a problem provides."""


class Episode(NamedTuple):
    """One task: what is adapted to, and what the adapted parameters are judged by.

    Attributes:
        support: the batch of the inner loss.
        query: the batch of the outer loss.
    """

    support: Batch
    query: Batch


class PerStep(NamedTuple):
    """A support set in which each inner step has a batch of its own.

    Attributes:
        batches: `[num_steps, ...]`.
    """

    batches: Batch


class Inner(NamedTuple):
    """The inner problem of one task: where adaptation starts, how it steps, what it yields.

    Attributes:
        state: the initial state.
        step: `step(state, batch, key) -> (state, metrics)`.
        params: `params(state) -> model parameters`.
        recompute: of the states before the steps, keep about 2 sqrt(K), and do the steps again.
    """

    state: PyTree
    step: Callable[[PyTree, Batch, RandomKey], tuple[PyTree, Metrics]]
    params: Callable[[PyTree], Params]
    recompute: bool = False


Learner = Callable[[MetaParams], Inner]
"""What adapts, and how: a function from meta-parameters to the inner problem of one task."""

MetaGrad = Callable[[MetaParams, Episode, RandomKey], tuple[MetaParams, Metrics]]
"""`grad(meta_params, episode, key) -> (meta_grads, metrics)` of ONE task; metrics are by name.

`meta_grads` is a tree like `meta_params`, with None where a leaf has no gradient.
"""


@dataclass(frozen=True)
class Derivative:
    """The `MetaGrad` of an objective that is a loss of the meta-parameters on an episode.

    Attributes:
        objective: `objective(meta_params, episode, key) -> (scalar, metrics)` of ONE task.
    """

    objective: LossFn

    def __call__(
        self, meta_params: MetaParams, episode: Episode, key: RandomKey
    ) -> tuple[MetaParams, Metrics]:
        """The derivative by the meta-parameters, and the metrics."""
        return jax.grad(self.objective, has_aux=True)(meta_params, episode, key)


@dataclass(frozen=True)
class Either:
    """One `MetaGrad` or another, of which only one is computed.

    Attributes:
        first: whether it is the first one; traced.
        grads: both, with metrics of one structure.
    """

    first: Bool[Array, ""]
    grads: tuple[MetaGrad, MetaGrad]

    def __call__(
        self, meta_params: MetaParams, episode: Episode, key: RandomKey
    ) -> tuple[MetaParams, Metrics]:
        """That of the one that is due."""
        return jax.lax.cond(self.first, *self.grads, meta_params, episode, key)


@dataclass(frozen=True)
class Scheduled:
    """A `MetaGrad` that changes with the number of meta-steps taken, as rates do in optax.

    Attributes:
        at: `at(step) -> MetaGrad`; the step is traced. In `meta_step` it is that of the state.
    """

    at: Callable[[Int[Array, ""]], MetaGrad]

    def __call__(
        self, meta_params: MetaParams, episode: Episode, key: RandomKey
    ) -> tuple[MetaParams, Metrics]:
        """That of the end, after all changes."""
        return self.at(jnp.array(jnp.iinfo(jnp.int32).max))(meta_params, episode, key)


Sampler = Callable[[RandomKey], Episode]
"""A pure function that draws episodes; its arrays ride in a `jax.tree_util.Partial`."""


class Algorithm(NamedTuple):
    """A learner times an estimator of its meta-gradient.

    Attributes:
        init: `init(params) -> meta_params`.
        learner: what adapts, and how; `evaluate` needs nothing else.
        grad: the meta-gradient of one task, also a `Scheduled` one.
    """

    init: Callable[[Params], MetaParams]
    learner: Learner
    grad: MetaGrad


class MetaState(NamedTuple):
    """All the state there is between two meta-steps.

    Attributes:
        params: the meta-parameters.
        opt_state: the state of the outer optimiser.
        step: the number of meta-steps taken, from which every random key is folded.
    """

    params: MetaParams
    opt_state: PyTree
    step: Int[Array, ""]
