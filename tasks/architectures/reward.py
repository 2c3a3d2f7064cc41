"""The reward of an architecture, which is its accuracy on new classes after adaptation.

    reward(tokens, key) = mean over held-out tasks of the query accuracy of phi_K

Here phi_K are the parameters after K inner steps on the support set. They start from parameters
that were meta-trained for this architecture alone or, in `tasks.architectures.shared`, for all.
Both rewards are pure functions that can be jitted, mapped over children, and passed to a strategy.
The held-out tasks are fixed, so that two rewards of one architecture differ only by the training.

Zoph, Le: Neural architecture search with reinforcement learning (ICLR 2017).
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Float

import maml
from maml._checks import check_callable, check_count, check_key, check_number
from maml.finite import is_finite
from maml.search import Reward
from maml.search.space import Tokens
from maml.types import Params, RandomKey
from tasks._checks import check_is
from tasks.batch_norm import flax_apply, flax_loss

Learner = Literal["protonet", "maml", "fomaml"]
BatchNorm = Literal["transductive", "support"]  # child networks have no running averages
ChildFactory = Callable[[Tokens], nn.Module]
"""`child(tokens) -> model`, such as `partial(MacroNet, macro, ways=20)`."""


@dataclass(frozen=True)
class Budget:
    """The amount of meta-training and evaluation for a reward.

    Attributes:
        meta_steps: Number of meta-steps of the child network, or of the shared weights, >= 0.
        meta_batch: Number of tasks of a meta-step, >= 1.
        learner: Name of the algorithm: "protonet", whose single step is the closed form of the
            head; or "maml" or "fomaml", which learn much less in a short meta-training.
        inner_rate: Learning rate of the inner gradient descent. Batch-norm biases do not adapt.
        inner_steps: Number of inner steps, in meta-training and in evaluation, >= 0.
        outer_rate: Initial learning rate of the outer Adam, which decays to zero along a cosine.
        batch_norm: Mode of batch normalisation, "transductive" or "support", see `maml.batch_norm`.
        eval_tasks: Number of held-out tasks, >= 1.
        chunk: Number of tasks that are mapped at once, a divisor of `meta_batch`.

    Raises:
        ValueError: a count is too small, a learning rate is negative or not finite, `chunk` does
            not divide `meta_batch`, or `learner` or `batch_norm` has another value.
    """

    meta_steps: int = 60
    meta_batch: int = 1
    learner: Learner = "protonet"
    inner_rate: float = 10.0
    inner_steps: int = 1
    outer_rate: float = 3e-2
    batch_norm: BatchNorm = "transductive"
    eval_tasks: int = 50
    chunk: int = 1

    def __post_init__(self) -> None:
        counts = {"meta_steps": 0, "inner_steps": 0, "meta_batch": 1, "eval_tasks": 1, "chunk": 1}
        for name, least in counts.items():
            check_count(getattr(self, name), least=least, of=name)
        for name in ("inner_rate", "outer_rate"):
            check_number(getattr(self, name), name, least=0.0)
        for name, options in (("learner", Learner), ("batch_norm", BatchNorm)):
            if getattr(self, name) not in get_args(options):
                expected = " or ".join(get_args(options))
                raise ValueError(f"{name} must be {expected}; got {getattr(self, name)!r}")
        if self.meta_batch % self.chunk:
            raise ValueError(
                f"a chunk of {self.chunk} tasks does not divide a meta_batch of {self.meta_batch}"
            )


def algorithm(model: nn.Module, params: Params, budget: Budget) -> maml.Algorithm:
    """The algorithm of a budget for a child network.

    Args:
        model: Child network.
        params: Parameters of the child network, or any tree of the same structure.
        budget: Budget, whose learner, batch normalisation, and inner steps are used.

    Returns:
        The algorithm.
    """
    loss = flax_loss(model, budget.batch_norm)
    if budget.learner == "protonet":
        features = flax_apply(model, budget.batch_norm, features=True)
        return maml.protonet(loss, features, head=maml.mask_by_path(params, "/head/"))
    adapts = maml.complement(maml.mask_by_path(params, "/norm"))
    build = {"maml": maml.maml, "fomaml": maml.fomaml}[budget.learner]
    return build(loss, optax.sgd(budget.inner_rate), budget.inner_steps, mask=adapts)


def optimizer(params: Params, budget: Budget) -> optax.GradientTransformation:
    """Adam with cosine decay of the learning rate to zero, which leaves the head at zero.

    Since classes are numbered at random in each task, the head cannot learn anything across tasks,
    and a short training would only add noise to it. (Kao, Chiu, Chen: MAML is a noisy contrastive
    learner in classification, ICLR 2022.)
    """
    adam = optax.adam(optax.cosine_decay_schedule(budget.outer_rate, max(budget.meta_steps, 1)))
    head = maml.mask_by_path(params, "/head/")
    return optax.chain(adam, optax.masked(optax.set_to_zero(), head))


def accuracy(
    child: ChildFactory,
    budget: Budget,
    held_out: maml.Sampler,
    params: Params,
    tokens: Tokens,
    key: RandomKey,
) -> Float[Array, ""]:
    """The mean query accuracy of a child network over held-out tasks, after adaptation.

    It is NaN if a loss is not finite, since logits of NaN would count as the first class.

    Args:
        child: Function `child(tokens) -> model`.
        budget: Budget of the reward.
        held_out: Sampler of one held-out task.
        params: Parameters of the child network before adaptation.
        tokens: Tokens of its architecture, `[token]`.
        key: Random key of the adaptation.

    Returns:
        The accuracy, a fraction of 1.
    """
    check_key(key)
    model = child(tokens)
    check_is(model, "a child", nn.Module)
    learner = algorithm(model, params, budget).learner
    metric = flax_loss(model, budget.batch_norm)
    episodes = maml.batch_tasks(held_out, budget.eval_tasks)(jax.random.key(2018))
    steps, chunk = budget.inner_steps, budget.chunk
    losses, metrics = maml.evaluate(learner, metric, params, episodes, key, steps, chunk=chunk)
    finite = jnp.isfinite(losses[:, -1]).all()
    return jnp.where(finite, metrics["accuracy"][:, -1].mean(), jnp.nan)


def reward_from_scratch(
    child: ChildFactory, train: maml.Sampler, held_out: maml.Sampler, budget: Budget
) -> Reward:
    """The reward of child networks that are meta-trained from their own initial parameters.

    Args:
        child: Function `child(tokens) -> model`.
        train: Sampler of one task of the training classes.
        held_out: Sampler of one task of other classes.
        budget: Budget of one child network.

    Returns:
        The function `reward(tokens, key)`, a tree with the data sets as its leaves, so that a
        jitted function can take it as an argument. The reward is NaN if a loss in training or
        evaluation is not finite.

    Raises:
        ValueError: an argument has the wrong type.
    """
    check_arguments(child, budget, train=train, held_out=held_out)
    return jax.tree_util.Partial(BoundFunction(_train_and_evaluate, child, budget), train, held_out)


def check_arguments(child: Any, budget: Any, **samplers: Any) -> None:
    """Refuses a child, a budget or a sampler of the wrong type by a `ValueError`."""
    check_callable(child, "child", "tokens")
    if not isinstance(budget, Budget):
        raise ValueError(f"the budget must be a Budget; got {budget!r}")
    for name, sample in samplers.items():
        check_callable(sample, name, "key")


@dataclass(frozen=True)
class BoundFunction:
    """A function bound to a child and a budget, compared by value so that jit compiles once.

    Attributes:
        function: Function `function(child, budget, *others)`.
        child: Function `child(tokens) -> model`.
        budget: Budget of one child network, a hashable value.
    """

    function: Callable[..., Any]
    child: ChildFactory
    budget: Hashable

    def __call__(self, *others: Any) -> Any:
        """The value of the function for the bound and the other arguments."""
        return self.function(self.child, self.budget, *others)


def _train_and_evaluate(
    child: ChildFactory,
    budget: Budget,
    train: maml.Sampler,
    held_out: maml.Sampler,
    tokens: Tokens,
    key: RandomKey,
) -> Float[Array, ""]:
    """The accuracy of a child network after meta-training from its own initial parameters."""
    params = train_child(child, budget, train, tokens, key)
    return accuracy(child, budget, held_out, params, tokens, key)


def train_child(
    child: ChildFactory, budget: Budget, train: maml.Sampler, tokens: Tokens, key: RandomKey
) -> Params:
    """The meta-trained parameters of one child network.

    They are NaN if a loss in training was not finite, even that of a task that was left out.

    Args:
        child: Function `child(tokens) -> model`.
        budget: Budget of the child network.
        train: Sampler of one task of the training classes.
        tokens: Tokens of its architecture, `[token]`.
        key: Random key, split for initial parameters and training.

    Returns:
        The parameters.
    """
    check_key(key)
    init_key, train_key = jax.random.split(key)
    model = child(tokens)
    params = initial_params(model, train, init_key)
    learner, adam = algorithm(model, params, budget), optimizer(params, budget)
    state = maml.init(learner, adam, params)
    sample = maml.batch_tasks(train, budget.meta_batch)
    steps, chunk = budget.meta_steps, budget.chunk
    state, metrics = maml.train(learner, adam, sample, state, train_key, steps, chunk=chunk)
    finite = is_finite(metrics) & (metrics["left_out"] == 0).all()
    return jax.tree.map(lambda leaf: jnp.where(finite, leaf, jnp.nan), state.params)


def initial_params(model: nn.Module, sample: maml.Sampler, key: RandomKey) -> Params:
    """The initial parameters of a model, for images of the sampler's shape."""
    check_is(model, "a child", nn.Module)
    images, _ = jax.eval_shape(sample, key).support
    return model.init(key, jnp.zeros(images.shape, images.dtype))
