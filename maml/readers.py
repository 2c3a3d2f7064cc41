"""Adaptation while reading: each chunk of a text is scored first, and then adapted to.

    L(theta) = 1/n sum_i loss(phi_{i-1}; chunk_i)
    phi_0 = theta,   phi_i = phi_{i-1} + u(grad loss(phi_{i-1}; chunk_i)),   i = 1 .. n

with u the update of the inner optimiser. One forward pass gives the score and the inner gradient,
so there is no query set. No chunk is scored by parameters that have seen it.

A model may carry a state from chunk to chunk, such as the keys and values of its last tokens or
the state of an LSTM. An inner gradient takes the carry as a constant, since earlier parameters
computed it; the meta-gradient goes through it. The loss is a `CarryLoss`,
`(params, (chunk, carry), key) -> (scalar, (carry, metrics))`, and the learner of any algorithm
that descends on it reads: `algorithm._replace(grad=maml.reading(algorithm.learner, start))`.

Tandon et al.: End-to-end test-time training for long context (TTT-E2E, 2025),
https://arxiv.org/abs/2512.23675
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree, Scalar

from maml._checks import check_callable, check_flags
from maml._contracts import check_episode, check_inner, check_learner, check_shapes
from maml._leaves import is_inexact
from maml._returns import check_same_structure
from maml.inner import adapt
from maml.mapping import map_tasks
from maml.types import (
    Batch,
    BatchPerStep,
    Episode,
    Inner,
    Learner,
    MetaGradient,
    MetaParams,
    Metrics,
    Params,
    RandomKey,
    Step,
)

Start = Callable[[Params], PyTree]
"""`start(params) -> carry`: the carry before the first chunk; () if nothing is carried."""
Scores = tuple[Float[Array, " chunk"], Metrics]
"""The loss of each chunk before the step on it, and the metrics of the loss, `[chunk, ...]`."""


def reading(learner: Learner, start: Start, *, adapts: bool = True) -> MetaGradient:
    """The objective  1/n sum_i loss(phi_{i-1}; chunk_i),  whose derivative goes through all steps.

    Args:
        learner: Function from meta-parameters to an inner problem of gradient descent on a
            `CarryLoss`, such as `maml.fomaml(loss, optimizer, 0).learner`.
        start: Function `start(params) -> carry` of the parameters before the first step.
        adapts: Whether the parameters adapt; otherwise phi_i = theta, the baseline that is static.

    Returns:
        The meta-gradient, with an objective. Its episodes have the chunks `[chunk, ...]` as support
        set, an array or a `BatchPerStep`, and None as query set. Its metrics are `loss`, the mean
        over the chunks, `losses`, `[chunk]`, and `support`, the metrics of the loss `[chunk, ...]`.

    Raises:
        ValueError: an argument has the wrong type, or (when traced) the inner problem does not
            score or has a `begin`, or the loss does not return `(scalar, (carry, metrics))` with a
            carry like the one before.

    >>> import maml, optax
    >>> loss = lambda w, batch, key: (0.5 * (w - batch[0]) ** 2, ((), {}))
    >>> algorithm = maml.maml(loss, optax.sgd(0.5), inner_steps=3)
    >>> grad = reading(algorithm.learner, lambda params: ())
    >>> episode = Episode(support=jnp.zeros(3), query=None)
    >>> grads, metrics = maml.task_gradient(grad, 4.0, episode, jax.random.key(0))
    >>> metrics["losses"].tolist(), float(grads)  # phi is 4, 2, 1;  1/3 (4 + 2 / 2 + 1 / 4)
    ([8.0, 2.0, 0.5], 1.75)
    """
    _check_arguments(learner, start, adapts=adapts)

    def objective(
        meta_params: MetaParams, episode: Episode, key: RandomKey, step: Step
    ) -> tuple[Scalar, Metrics]:
        inner = learner(meta_params)
        _, (losses, metrics) = read(inner, start, episode.support, key, adapts=adapts)
        value = losses.mean()
        return value, {"loss": value, "losses": losses, "support": metrics}

    return MetaGradient(objective)


def reading_displacement(learner: Learner, start: Start) -> MetaGradient:
    """The displacement of the parameters by reading:  theta - phi_n,  the meta-gradient of Reptile.

    Args:
        learner: Function from the model's parameters to an inner problem, as in `reading`.
        start: Function `start(params) -> carry`, as in `reading`.

    Returns:
        The meta-gradient, without an objective; episodes and metrics are as in `reading`.

    Raises:
        ValueError: as `reading`, or (when traced) the meta-parameters are not the model's
            parameters.

    Nichol, Achiam, Schulman: On first-order meta-learning algorithms (2018), algorithm 2,
    https://arxiv.org/abs/1803.02999
    """
    _check_arguments(learner, start)

    def gradient_of(
        meta_params: MetaParams, episode: Episode, key: RandomKey
    ) -> tuple[PyTree, Metrics]:
        phi, (losses, metrics) = read(learner(meta_params), start, episode.support, key)
        check_shapes(phi, meta_params, "tree of adapted parameters", "meta-parameters have")
        meta_grads = jax.tree.map(
            lambda theta, phi: theta - phi if is_inexact(theta) else None, meta_params, phi
        )
        return meta_grads, {"loss": losses.mean(), "losses": losses, "support": metrics}

    return MetaGradient(gradient=gradient_of)


def read(
    inner: Inner, start: Start, chunks: Batch, key: RandomKey, *, adapts: bool = True
) -> tuple[Params, Scores]:
    """Reads ONE text: scores each chunk, then takes one inner step on it.

    Args:
        inner: Inner problem of gradient descent on a `CarryLoss`.
        start: Function `start(params) -> carry` of the parameters before the first step.
        chunks: Chunks of the text in their order, `[chunk, ...]`, or a `BatchPerStep` of them.
        key: Random key, split into one for each chunk.
        adapts: Whether the parameters adapt to what was read.

    Returns:
        The parameters after the last chunk, and the scores: the losses `[chunk]` and the metrics
        `[chunk, ...]`. Only the losses have derivatives.

    Raises:
        ValueError: as `reading`, or there is no chunk.
    """
    check_inner(inner)
    _check_arguments(start=start, adapts=adapts)
    scored_step = inner.scored_step
    if scored_step is None:
        raise ValueError(
            "reading needs an inner problem that scores, such as that of maml.gradient_descent; got"
            " one without a scored_step"
        )
    if inner.begin is not None:
        raise ValueError(
            "no chunk is seen before it is scored: got an inner problem with begin, which makes the"
            " first state from all chunks"
        )
    batches = chunks if isinstance(chunks, BatchPerStep) else BatchPerStep(chunks)
    sizes = sorted({jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(batches)})
    if len(sizes) != 1 or sizes[0] in ((), (0,)):
        raise ValueError(f"a text is one chunk or more, [chunk, ...]; got leading sizes {sizes}")

    def step(state: PyTree, chunk: Batch, key: RandomKey) -> tuple[PyTree, PyTree]:
        before, carry = state
        after, (loss, (next_carry, metrics)) = scored_step(before, (chunk, carry), key)
        check_same_structure(next_carry, carry, "carry")
        return (after if adapts else before, next_carry), (loss, jax.lax.stop_gradient(metrics))

    carry = start(inner.params(inner.state))
    reader = Inner((inner.state, carry), step, lambda state: inner.params(state[0]), inner.remat)
    return adapt(reader, batches, key, sizes[0][0])


def evaluate_reading(
    learner: Learner,
    start: Start,
    meta_params: MetaParams,
    episodes: Episode,
    key: RandomKey,
    *,
    adapts: bool = True,
    chunk: int | None = None,
    mesh: Mesh | None = None,
) -> tuple[Float[Array, "task chunk"], Metrics]:
    """The scores of the chunks of each text, with the metrics of the loss.

    Args:
        learner: Learner of an algorithm, `algorithm.learner`, as in `reading`.
        start: Function `start(params) -> carry`, as in `reading`.
        meta_params: Meta-parameters of the algorithm.
        episodes: Texts, `Episode[task, ...]`, as in `reading`.
        key: Random key, split into one for each text.
        adapts: Whether the parameters adapt; False gives the scores of the initial parameters.
        chunk: Number of texts that a device maps at once; it need not divide their number. None:
            all at once.
        mesh: Devices that share the texts, see `task_mesh`. None: one device.

    Returns:
        The losses `[task, chunk]`, and the metrics of the loss `[task, chunk, ...]`. A text on
        which the inner steps diverge has losses that are not finite from some chunk on.

    Raises:
        ValueError: as `reading`; `chunk` is below 1; the mesh does not divide the texts.
    """
    _check_arguments(learner, start, adapts=adapts)
    check_episode(episodes)

    def scores(meta_params: MetaParams, episode: Episode, key: RandomKey) -> Scores:
        return read(learner(meta_params), start, episode.support, key, adapts=adapts)[1]

    return map_tasks(scores, meta_params, episodes, key, chunk=chunk, mesh=mesh)


def _check_arguments(
    learner: Learner | None = None, start: Start | None = None, *, adapts: bool = True
) -> None:
    if learner is not None:
        check_learner(learner)
    check_callable(start, "start", "params")
    check_flags(adapts=adapts)
