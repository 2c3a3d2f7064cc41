"""Samplers of meta-batches, and the query set of an episode of images."""

from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float, Shaped

from maml._checks import check_callable, check_count, check_key
from maml._returns import check_arrays
from maml.types import Episode, RandomKey, Sampler

_CURE = (
    "the inputs of a query set are a maml.Query, and a model of images alone must be wrapped:"
    " maml.few_shot_apply(model), or in a checkout tasks.batch_norm.flax_apply(model, mode)"
)


class Query(NamedTuple):
    """The inputs of a query set, with the support inputs for batch normalisation.

    Attributes:
        inputs: Query inputs, `[ways * queries, *example]`.
        support: Support inputs, `[ways * shots, *example]`.
        support_weights: Weights of the support rows, `[ways * shots]`; None is 1 for every row.
    """

    inputs: Float[Array, "n *example"]
    support: Float[Array, "m *example"]
    support_weights: Shaped[Array, " m"] | None = None

    def __jax_array__(self) -> Array:
        """Refuses to be used as an array, by a model that does not know query sets.

        Raises:
            TypeError: always, with the cure.
        """
        raise TypeError(_CURE)

    __array__ = __jax_array__

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"a maml.Query has no attribute {name!r}: {_CURE}")


def batch_tasks(sample: Sampler, num_tasks: int) -> Sampler:
    """A sampler of meta-batches, `Episode[task, ...]`, from a sampler of one task.

    Args:
        sample: Sampler of one task. If it is a `Partial`, its arrays remain arguments of jit.
        num_tasks: Number of tasks of a meta-batch, >= 1.

    Returns:
        The sampler, a `Partial`. Samplers made from one sampler with one size are the same
        function to jit.

    Raises:
        ValueError: `num_tasks` is below 1, or the sampler is not a function of a key or already
            returns meta-batches.

    >>> from maml import Episode
    >>> sample = batch_tasks(lambda key: Episode(*jax.random.normal(key, (2, 5))), 3)
    >>> sample(jax.random.key(0)).support.shape
    (3, 5)
    """
    check_count(num_tasks, least=1, of="tasks")
    check_callable(sample, "sample", "key")
    if is_batched(sample):
        raise ValueError("this sampler returns meta-batches already: pass the sampler of one task")
    partial_type = jax.tree_util.Partial
    sample = sample if isinstance(sample, partial_type) else partial_type(sample)
    return partial_type(_BatchSampler(num_tasks), sample)


class _BatchSampler(NamedTuple):
    """A batched sampler, compared by value so that jit compiles equal ones once.

    Two equal `functools.partial` would differ.
    """

    num_tasks: int

    def __call__(self, sample: Sampler, key: RandomKey) -> Episode:
        check_key(key)

        def checked_sample(key: RandomKey) -> Episode:
            episode = sample(key)
            check_arrays(episode, "a sampler")
            if not jax.tree.leaves(episode):
                raise ValueError(f"a sampler returns arrays; got {episode!r}")
            return episode

        return jax.vmap(checked_sample)(jax.random.split(key, self.num_tasks))


def is_batched(sample: Any) -> bool:
    """Whether a sampler is one that `batch_tasks` has made."""
    return isinstance(getattr(sample, "func", None), _BatchSampler)
