"""MAML++: six remedies for what ails the training of MAML, each of them a switch of its own.

| remedy | here |
|---|---|
| multi-step loss: all steps are judged at first, and the last alone in the end | `multi_step=` |
| derivative-order annealing: first-order meta-gradients at first | `first_order=` |
| per-layer per-step learning rates, learned | `learn_rates=` |
| per-step batch-normalisation statistics | `per_step=` of running averages |
| per-step batch-normalisation weights and biases | `per_step=` of them |
| cosine annealing of the outer rate | `optax.cosine_decay_schedule` |

Antoniou, Edwards, Storkey: How to train your MAML (ICLR 2019).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from maml import tree
from maml._checks import check_count, check_number
from maml._contracts import check_floating, check_mask, check_params
from maml._optimizers import check_differentiable, check_optimizer
from maml.estimators import unrolled
from maml.inner import gradient_descent
from maml.memory import Memory, check_memory
from maml.types import Algorithm, Derivative, Either, Inner, Learner, LossFn, Params, Scheduled


class PlusPlus(NamedTuple):
    """The meta-parameters of `maml_plus_plus`.

    Attributes:
        params: of the model; leaves that are other ones at each step are `[K + 1, ...]`.
        rates: `[K]` for each leaf that adapts, or nothing.
    """

    params: Params
    rates: PyTree


def multi_step_weights(
    step: Int[Array, ""], num_steps: int, until: int
) -> Float[Array, " num_steps"]:
    """Weights of the losses after 1 .. K inner steps: equal at first, the last one's alone at last.

    They move in a straight line over the first `until` meta-steps.

    >>> multi_step_weights(jnp.array(5), 2, 10).tolist()
    [0.25, 0.75]
    """
    last = jnp.zeros(num_steps).at[-1].set(1.0)
    done = jnp.minimum(step / until, 1.0)
    return done * last + (1 - done) / num_steps


def _at_rates(rates: PyTree) -> optax.GradientTransformation:
    """Scales each leaf's k-th update by its k-th rate, and later ones by the last."""

    def init(params: Any) -> Any:
        return jnp.zeros((), jnp.int32)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        def scaled(rate: Array, update: Array) -> Array:
            return rate[jnp.minimum(state, rate.shape[0] - 1)] * update

        return jax.tree.map(scaled, rates, updates), state + 1

    return optax.GradientTransformation(init, update)


def maml_plus_plus(
    loss: LossFn,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    *,
    rate: float,
    learn_rates: bool = True,
    multi_step: int = 0,
    first_order: int = 0,
    mask: PyTree[bool] | None = None,
    per_step: PyTree[bool] | None = None,
    memory: Memory = "store",
) -> Algorithm:
    """MAML++:  phi_{k+1} = phi_k + rates_k * u(grad L_support(phi_k)),  learning theta and rates.

    With all switches off it is MAML with the inner optimiser `chain(optimizer, scale(rate))`.

    Args:
        loss, mask, memory: as MAML's.
        optimizer: the inner one; with `optax.sgd(1.0)` the rates are learning rates.
        num_steps: K >= 1.
        rate: where every rate starts, > 0.
        learn_rates: learn a rate for each leaf and step; otherwise all stay as they are.
        multi_step: in how many meta-steps the multi-step loss fades, see `multi_step_weights`; 0:
            only the last step is judged.
        first_order: in how many meta-steps the meta-gradient is of first order, which is cheaper,
            before it is of second.
        per_step: True at the leaves that are other ones at each step; none of them may adapt.

    Raises:
        ValueError: a count is below its least, or the rate is not positive; otherwise as MAML.

    Antoniou, Edwards, Storkey: How to train your MAML (ICLR 2019).
    """
    check_memory(memory)
    check_optimizer(optimizer)
    check_differentiable(optimizer)
    check_number(rate, "rate", above=0)
    check_count(num_steps, least=1)
    check_count(multi_step, least=0, of="meta-steps of the multi-step loss")
    check_count(first_order, least=0, of="meta-steps of first order")

    def init(params: Params) -> PlusPlus:
        check_params(params)
        adapts = tree.floating(params) if mask is None else mask
        check_mask(adapts, params)
        check_floating(params, adapts)
        adapted, _ = tree.partition(params, adapts)
        rates = jax.tree.map(lambda leaf: jnp.full(num_steps, rate, leaf.dtype), adapted)
        if per_step is not None:
            chosen, others = tree.partition(params, per_step)
            copies = jax.tree.map(lambda leaf: jnp.stack([leaf] * (num_steps + 1)), chosen)
            params = tree.combine(copies, others)
        return PlusPlus(params, rates if learn_rates else ())

    def learner_of(first_order: bool) -> Learner:
        options: dict[str, Any] = {"mask": mask, "per_step": per_step}
        options |= {"first_order": True} if first_order else {"memory": memory}

        def learner(meta: PlusPlus) -> Inner:
            scale = _at_rates(meta.rates) if learn_rates else optax.scale(rate)
            return gradient_descent(loss, optax.chain(optimizer, scale), meta.params, **options)

        return learner

    learner = learner_of(False)

    def at(step: Int[Array, ""]) -> Derivative | Either:
        weights = multi_step_weights(step, num_steps, multi_step) if multi_step else None
        grad = unrolled(learner, loss, num_steps, weights=weights)
        if not first_order:
            return grad
        cheap = unrolled(learner_of(True), loss, num_steps, weights=weights)
        return Either(step < first_order, (cheap, grad))

    grad = Scheduled(at) if multi_step or first_order else unrolled(learner, loss, num_steps)
    return Algorithm(init, learner, grad)
