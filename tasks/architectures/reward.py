"""The reward of an architecture: its accuracy on new classes, after adaptation.

    reward(tokens, key) = mean over held-out tasks of the query accuracy of phi_K,

with phi_K from K inner steps on the support set, from parameters that were meta-trained for this
architecture alone, or for all of the space together, as in ENAS. Either is a pure function that can
be jitted, mapped over children, and given to a strategy. The held-out tasks are always the same, so
that two rewards of one architecture differ only by the randomness of training.

Zoph, Le: Neural architecture search with reinforcement learning (ICLR 2017);
Pham, Guan, Zoph, Le, Dean: Efficient neural architecture search via parameter sharing (ICML 2018).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Float

import maml
from maml._checks import check_callable, check_count, check_key, check_number
from maml.search import Reward, Space, uniform
from maml.search.space import Tokens, check_space
from maml.types import Params, RandomKey
from tasks.architectures.masked import glorot
from tasks.batch_norm import few_shot_apply, few_shot_loss

Learner = Literal["protonet", "maml", "fomaml"]
BatchNorm = Literal["transductive", "support"]  # child networks have no running averages
Child = Callable[[Tokens], nn.Module]
"""`child(tokens) -> model`; `partial(MacroNet, macro, ways=20)` is one."""


@dataclass(frozen=True)
class Budget:
    """The amount of meta-training and of evaluation behind a reward.

    Attributes:
        meta_steps: Number of meta-steps of the child network, or of the shared weights, >= 0.
        meta_batch: Number of tasks of a meta-step.
        learner: Name of the algorithm: "protonet", whose one step is the closed form of the head;
            or "maml" or "fomaml", which learn much less in a short training.
        inner_rate: Learning rate of the inner gradient descent. Batch-norm biases do not adapt.
        inner_steps: Number of inner steps, in meta-training and in evaluation, >= 0.
        outer_rate: Initial learning rate of the outer Adam, which falls to zero along a cosine.
        batch_norm: Statistics that normalise a query set, see `maml.batch_norm`.
        eval_tasks: Number of held-out tasks.
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
                wanted = " or ".join(get_args(options))
                raise ValueError(f"{name} must be {wanted}; got {getattr(self, name)!r}")
        if self.meta_batch % self.chunk:
            raise ValueError(
                f"a chunk of {self.chunk} tasks does not divide a meta_batch of {self.meta_batch}"
            )


def algorithm(model: nn.Module, params: Params, budget: Budget) -> maml.Algorithm:
    """The budget's algorithm for a child network; `params` have the structure of its parameters."""
    loss = few_shot_loss(model, budget.batch_norm)
    if budget.learner == "protonet":
        features = few_shot_apply(model, budget.batch_norm, features=True)
        return maml.protonet(loss, features, head=maml.mask_by_path(params, "/head/"))
    adapts = maml.complement(maml.mask_by_path(params, "/norm"))
    learn = {"maml": maml.maml, "fomaml": maml.fomaml}[budget.learner]
    return learn(loss, optax.sgd(budget.inner_rate), budget.inner_steps, mask=adapts)


def optimizer(params: Params, budget: Budget) -> optax.GradientTransformation:
    """Adam, with a learning rate that falls to zero along a cosine; it leaves the head at zero.

    Classes are numbered at random in each task, so the head has nothing to learn across tasks, and
    a short training would only add noise to it. (Kao, Chiu, Chen: MAML is a noisy contrastive
    learner in classification, ICLR 2022.)
    """
    adam = optax.adam(optax.cosine_decay_schedule(budget.outer_rate, max(budget.meta_steps, 1)))
    head = maml.mask_by_path(params, "/head/")
    return optax.chain(adam, optax.masked(optax.set_to_zero(), head))


def accuracy(
    child: Child,
    budget: Budget,
    held_out: maml.Sampler,
    params: Params,
    tokens: Tokens,
    key: RandomKey,
) -> Float[Array, ""]:
    """The query accuracy of a child network after adaptation, as a mean over the held-out tasks.

    It is NaN where a loss is not finite, since NaN logits would count as the first class.
    """
    model = child(tokens)
    learner = algorithm(model, params, budget).learner
    metric = few_shot_loss(model, budget.batch_norm)
    episodes = maml.batched(held_out, budget.eval_tasks)(jax.random.key(2018))
    steps, chunk = budget.inner_steps, budget.chunk
    losses, found = maml.evaluate(learner, metric, params, episodes, key, steps, chunk=chunk)
    whole = jnp.isfinite(losses[:, -1]).all()
    return jnp.where(whole, found["accuracy"][:, -1].mean(), jnp.nan)


def from_scratch(
    child: Child, train: maml.Sampler, held_out: maml.Sampler, budget: Budget
) -> Reward:
    """The reward after meta-training each child network from its own initial parameters.

    Args:
        child: `child(tokens) -> model`.
        train: Sampler of one task of the classes to learn from.
        held_out: Sampler of one task of other classes.
        budget: Budget of one child network.

    Returns:
        `reward(tokens, key)`, a tree with the data sets as its leaves, so that a jitted function
        can take it as an argument. The reward is NaN where a loss in training or evaluation is not
        finite.

    Raises:
        ValueError: an argument is of another kind.
    """
    _check(child, budget, train=train, held_out=held_out)
    return jax.tree_util.Partial(Bound(_scratch, child, budget), train, held_out)


def _check(child: Any, budget: Any, **samplers: Any) -> None:
    check_callable(child, "child", "tokens")
    if not isinstance(budget, Budget):
        raise ValueError(f"a Budget is wanted; got {budget!r}")
    for name, sample in samplers.items():
        check_callable(sample, name, "key")


@dataclass(frozen=True)
class Bound:
    """A function bound to a child and a budget, compared by value so that jit compiles once.

    (Two equal `functools.partial` differ.)

    Attributes:
        function: `function(child, budget, *others)`.
        child: `child(tokens) -> model`.
        budget: Budget of one child network.
    """

    function: Callable[..., Any]
    child: Child
    budget: Budget

    def __call__(self, *others: Any) -> Any:
        """The function's value for the bound and the other arguments."""
        return self.function(self.child, self.budget, *others)


def _scratch(
    child: Child,
    budget: Budget,
    train: maml.Sampler,
    held_out: maml.Sampler,
    tokens: Tokens,
    key: RandomKey,
) -> Float[Array, ""]:
    params = trained(child, budget, train, tokens, key)
    return accuracy(child, budget, held_out, params, tokens, key)


def trained(
    child: Child, budget: Budget, train: maml.Sampler, tokens: Tokens, key: RandomKey
) -> Params:
    """The meta-trained parameters of one child network.

    They are NaN where any loss in training was not finite, even of a task that a meta-step left
    out.
    """
    init_key, train_key = jax.random.split(key)
    model = child(tokens)
    params = initial(model, train, init_key)
    learned, adam = algorithm(model, params, budget), optimizer(params, budget)
    state = maml.init(learned, adam, params)
    sample = maml.batched(train, budget.meta_batch)
    steps, chunk = budget.meta_steps, budget.chunk
    state, metrics = maml.train(learned, adam, sample, state, train_key, steps, chunk=chunk)
    sound = jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(metrics)]).all()
    sound &= (metrics["left_out"] == 0).all()
    return jax.tree.map(lambda leaf: jnp.where(sound, leaf, jnp.nan), state.params)


def initial(model: nn.Module, sample: maml.Sampler, key: RandomKey) -> Params:
    """The initial parameters of a model, for images of the sampler's shape."""
    images, _ = jax.eval_shape(sample, key).support
    return model.init(key, jnp.zeros(images.shape, images.dtype))


def shared_weights(
    child: Child, space: Space, train: maml.Sampler, budget: Budget, key: RandomKey
) -> Params:
    """Weights of the largest network of a space, trained on a random architecture per meta-step.

    Args:
        child: `child(tokens) -> model`.
        space: Search space, from which architectures are drawn uniformly token by token.
        train: Sampler of one task of the classes to learn from.
        budget: Budget of all architectures together.
        key: Random key, split for the initial weights, the architectures and the tasks.

    Returns:
        The meta-trained parameters, which every architecture of the space shares.

    Raises:
        ValueError: an argument is of another kind.
    """
    _check(child, budget, train=train)
    check_space(space)
    check_key(key)
    init_key, key = jax.random.split(key)
    largest = jnp.asarray(space.choices) - 1
    params = whole(initial(child(largest), train, init_key), jax.random.fold_in(init_key, 1))
    adam = optimizer(params, budget)
    sample = maml.batched(train, budget.meta_batch)

    def draw(key: RandomKey) -> tuple[Tokens, maml.Episode]:
        tokens_key, key = jax.random.split(key)
        return uniform(space, tokens_key), sample(key)

    def step(
        state: maml.MetaState, drawn: tuple[Tokens, maml.Episode], key: RandomKey
    ) -> tuple[maml.MetaState, Any]:
        tokens, episodes = drawn
        learned = algorithm(child(tokens), params, budget)
        return maml.meta_step(learned, adam, state, episodes, key, chunk=budget.chunk)

    state = maml.MetaState(params, adam.init(params), jnp.zeros((), int))
    return maml.iterate(step, draw, state, key, budget.meta_steps)[0].params


def whole(params: Params, key: RandomKey) -> Params:
    """Parameters in which the zeros of each kernel, unused by one architecture, are initialised.

    No single architecture uses every weight: the last options are a pool instead of a filter, or
    every earlier layer instead of the image. Weights that start at zero before a normalisation may
    stay there.
    """
    leaves, structure = jax.tree.flatten(params)

    def filled(leaf: Array, key: RandomKey) -> Array:
        if leaf.ndim < 4:
            return leaf
        if leaf.ndim > 4:
            return jax.vmap(filled)(leaf, jax.random.split(key, len(leaf)))
        return jnp.where(leaf == 0, glorot(key, jnp.ones(leaf.shape, bool)), leaf)

    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(structure, map(filled, leaves, keys))


def from_shared(child: Child, params: Params, held_out: maml.Sampler, budget: Budget) -> Reward:
    """The reward of a child network that adapts from shared weights, without training of its own.

    Args:
        child: `child(tokens) -> model`.
        params: Shared weights, as `shared_weights` returns them.
        held_out: Sampler of one task of classes that were not used to train them.
        budget: Budget, whose inner steps and held-out tasks are used.

    Returns:
        `reward(tokens, key)`, a tree with the weights and the data set as its leaves. The reward is
        NaN where a loss is not finite.

    Raises:
        ValueError: an argument is of another kind.
    """
    _check(child, budget, held_out=held_out)
    return jax.tree_util.Partial(Bound(accuracy, child, budget), held_out, params)
