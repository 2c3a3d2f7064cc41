"""The types that the functions of the library take and return."""

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Array, Int, Key, PyTree, Scalar

Params = PyTree  # parameters of a model: any tree with floating-point arrays
MetaParams = PyTree  # values learned across tasks, such as model parameters and learning rates
Batch = PyTree  # argument of a loss: (inputs, targets), or the parameters of an environment
Metrics = PyTree  # scalars by name
RandomKey = Key[Array, ""]
RandomKeys = Key[Array, " n"]

LossFn = Callable[[Params, Batch, RandomKey], tuple[Scalar, Metrics]]
"""`loss(params, batch, key) -> (scalar, metrics)` of ONE task, the one function of a problem."""


CarryLoss = Callable[
    [Params, tuple[Batch, PyTree], RandomKey], tuple[Scalar, tuple[PyTree, Metrics]]
]
"""`loss(params, (chunk, carry), key) -> (scalar, (carry, metrics))`: a `LossFn` of one chunk.

The carry is what a model keeps of the chunks that it has read, such as the keys and values of its
last tokens. Its structure, shapes and types do not change; () is none.
"""


class Episode(NamedTuple):
    """One task: data to adapt to, and data on which the adapted parameters are evaluated.

    Attributes:
        support: Batch of the inner loss.
        query: Batch of the outer loss; None for an estimator that reads none, as `reading`.
    """

    support: Batch
    query: Batch


class BatchPerStep(NamedTuple):
    """A support set with a batch of its own for each inner step.

    Attributes:
        batches: The batches, `[inner_steps, ...]`.
    """

    batches: Batch


class Inner(NamedTuple):
    """The inner problem of one task.

    Attributes:
        state: State before the first inner step, unless `begin` makes another one.
        step: One inner step, `step(state, batch, key) -> (state, metrics)`.
        params: Parameters of the model in a state, `params(state) -> params`.
        remat: Whether only about 2 sqrt(K) of the K states are stored for the meta-gradient and
            the steps between them are recomputed.
        begin: Function `begin(state, batch, key) -> state` that makes the state before the first
            inner step from `state`, the support set (a `BatchPerStep` as it is) and a random key;
            the shapes remain the same. None: `state` is the state before the first inner step.
        scored_step: One inner step that also returns the loss before it, `scored_step(state,
            (chunk, carry), key) -> (state, (loss, (carry, metrics)))`, for `reading`; None if the
            learner has none.
    """

    state: PyTree
    step: Callable[[PyTree, Batch, RandomKey], tuple[PyTree, Metrics]]
    params: Callable[[PyTree], Params]
    remat: bool = False
    begin: Callable[[PyTree, Batch, RandomKey], PyTree] | None = None
    scored_step: Callable[[PyTree, Batch, RandomKey], tuple[PyTree, PyTree]] | None = None


Learner = Callable[[MetaParams], Inner]
"""`learner(meta_params) -> Inner`: the inner problem of one task, given the meta-parameters."""

Step = Int[Array, ""] | int  # the number of meta-steps taken before
Objective = Callable[[MetaParams, Episode, RandomKey, Step], tuple[Scalar, Metrics]]
"""`objective(meta_params, episode, key, step) -> (scalar, metrics)` of ONE task."""
Gradient = Callable[[MetaParams, Episode, RandomKey], tuple[MetaParams, Metrics]]
"""`gradient(meta_params, episode, key) -> (meta_grads, metrics)` of ONE task.

`meta_grads` is a tree like `meta_params`, with None where a leaf has no gradient.
"""


class MetaGradient(NamedTuple):
    """The meta-gradient of ONE task: the derivative of an objective, or a function of its own.

    Attributes:
        objective: Objective whose derivative by the meta-parameters is the meta-gradient.
        gradient: Function that computes the meta-gradient where that is not the derivative of an
            objective. Exactly one of `objective` and `gradient` is given.
        early: Meta-gradient that replaces this one in the first meta-steps, with metrics of the
            same structure; None if there is none.
        early_steps: Number of meta-steps in which `early` is used.
    """

    objective: Objective | None = None
    gradient: Gradient | None = None
    early: "MetaGradient | None" = None
    early_steps: int = 0


Sampler = Callable[[RandomKey], Episode]
"""`sample(key) -> Episode`, a pure function; a `jax.tree_util.Partial` holds arrays it reads."""


class Algorithm(NamedTuple):
    """A learner with an estimator of its meta-gradient.

    Attributes:
        init: Meta-parameters from the parameters of the model, `init(params) -> meta_params`.
        learner: Inner problem as a function of the meta-parameters; `maml.evaluate` uses no other
            field.
        grad: Meta-gradient of one task.
    """

    init: Callable[[Params], MetaParams]
    learner: Learner
    grad: MetaGradient


class MetaState(NamedTuple):
    """The complete state between two meta-steps.

    Attributes:
        params: Meta-parameters.
        opt_state: State of the outer optimiser.
        step: Number of meta-steps taken, which is folded into the random key of each meta-step.
    """

    params: MetaParams
    opt_state: PyTree
    step: Int[Array, ""]
