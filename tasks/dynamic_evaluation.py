"""Dynamic evaluation: a trained language model adapts to the text that it is evaluated on.

    phi_i = phi_{i-1} - rate g_i / (sqrt(MS) + eps) + min(1, decay d) (theta - phi_{i-1})

g_i is the gradient of the loss of chunk i, which is scored before this step; MS are the mean
squares of the gradients of chunks of training texts, and d = sqrt(MS) / mean(sqrt(MS)). So entries
with large gradients move and return faster. Nothing here is meta-trained.

The authors' code squares the joint gradient of 100 passages; here gradients are those of one text,
which may be a batch of passages. Their mean of sqrt(MS) is over the means of the arrays, here it is
over all entries. Unless it is told otherwise (`--ms`), their code takes the root of the sum of the
squares instead of the mean, so that its learning rates are larger by the root of the number of
gradients.

Krause, Kahembwe, Murray, Renals: Dynamic evaluation of neural sequence models (ICML 2018),
https://arxiv.org/abs/1709.07432
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

import maml
from maml import CarryLoss, Episode, Learner
from maml._checks import check_number
from maml._contracts import check_shapes
from maml.readers import Start
from maml.types import Params, RandomKey


def mean_squares(
    loss: CarryLoss, start: Start, params: Params, episodes: Episode, key: RandomKey
) -> Params:
    """The mean squares of the gradients of all chunks of training texts, which do not adapt.

    Args:
        loss: Loss of a chunk.
        start: Function `start(params) -> carry` of the carry before the first chunk.
        params: Parameters of the model, theta.
        episodes: Texts, `Episode[text, ...]`, as `maml.reading` takes them, also as a
            `BatchPerStep`.
        key: Random key, split into one for each text and chunk.

    Returns:
        The mean squares, a tree like the parameters.
    """

    def of_text(chunks: PyTree, key: RandomKey) -> Params:
        def step(state: tuple, step: tuple) -> tuple[tuple, None]:
            carry, sums = state
            grads, (carry, _) = jax.grad(loss, has_aux=True)(params, (step[0], carry), step[1])
            return (carry, jax.tree.map(lambda s, g: s + jnp.square(g), sums, grads)), None

        state = start(params), jax.tree.map(jnp.zeros_like, params)
        keys = jax.random.split(key, len(jax.tree.leaves(chunks)[0]))
        (_, sums), _ = jax.lax.scan(step, state, (chunks, keys))
        return jax.tree.map(lambda leaf: leaf / len(keys), sums)

    texts = episodes.support
    texts = texts.batches if isinstance(texts, maml.BatchPerStep) else texts
    keys = jax.random.split(key, len(jax.tree.leaves(texts)[0]))
    squares = jax.lax.map(lambda text: of_text(*text), (texts, keys))
    return jax.tree.map(partial(jnp.mean, axis=0), squares)


def dynamic_evaluation(
    loss: CarryLoss, squares: Params, *, rate: Any, decay: float, eps: float = 2e-5
) -> Learner:
    """The learner of the rule above, for all parameters of a model.

    Args:
        loss: Loss of a chunk.
        squares: Mean squares MS of the gradients, as `mean_squares` returns them.
        rate: Learning rate, >= 0.
        decay: Speed of the return to theta, >= 0. The authors' code has 0.002 for chunks of 5 words
            of Penn Treebank; the rates and decays that it tries are proportional to the length.
        eps: What is added to the root of the mean squares, > 0.

    Returns:
        The learner, a function of the parameters theta of the model.

    Raises:
        ValueError: a number is out of its range, or (when called) the mean squares are not like
            the parameters.

    >>> def loss(w, batch, key):
    ...     return 0.5 * (w - batch[0]) ** 2, ((), {})
    >>> learner = dynamic_evaluation(loss, jnp.array(4.0), rate=1.0, decay=0.5, eps=1e-9)
    >>> read = maml.read(learner(2.0), lambda params: (), jnp.zeros(2), jax.random.key(0))
    >>> float(read[0])  # 2 - 2 / 2 = 1, then 1 - 1 / 2 + 0.5 (2 - 1) = 1
    1.0
    """
    check_number(rate, "rate", least=0)
    check_number(decay, "decay", least=0)
    check_number(eps, "eps", above=0)

    def learner(theta: Params) -> maml.Inner:
        check_shapes(squares, theta, "tree of mean squares")
        roots = jax.tree.map(jnp.sqrt, squares)
        leaves = jax.tree.leaves(roots)
        mean = sum(leaf.sum() for leaf in leaves) / sum(leaf.size for leaf in leaves)
        back = jax.tree.map(lambda root: jnp.minimum(1, decay * root / mean), roots)

        def updates(grads: Any, phi: Any) -> Any:
            return jax.tree.map(
                lambda g, root, b, start, now: -rate * g / (root + eps) + b * (start - now),
                *(grads, roots, back, theta, phi),
            )

        return maml.gradient_descent(loss, optax.stateless(updates), theta)

    return learner
