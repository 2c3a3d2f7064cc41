"""Policies over architectures: distributions whose tokens are drawn one after the other.

    pi(tokens) = prod_t pi(token_t | token_1 .. token_{t-1})

A policy consists of an initial carry and a step from the previous token to the logits of the next
one. Options that the space does not allow have probability zero.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from maml._checks import check_callable, check_count, check_key, check_number
from maml._contracts import check_shapes
from maml._leaves import is_real
from maml._returns import check_pair
from maml.search.architectures import choose_tokens
from maml.search.log_probs import LogProbs
from maml.search.space import Options, Position, Space, Tokens, check_space
from maml.types import Params, RandomKey


class ArchitecturePolicy(NamedTuple):
    """A distribution over the architectures of a space.

    Attributes:
        init: Function `init(key) -> params`.
        sample: Function `sample(params, key) -> tokens`.
        log_probs: Function `log_probs(params, tokens) -> [token, option]`, the log-probability of
            every option of each token given the tokens before it; minus infinity for an option that
            is not allowed.
        space: Search space of the architectures.
    """

    init: Callable[[RandomKey], Params]
    sample: Callable[[Params, RandomKey], Tokens]
    log_probs: Callable[[Params, Tokens], LogProbs]
    space: Space


def check_policy(policy: Any) -> None:
    """Refuses a value that is not an `ArchitecturePolicy`.

    Raises:
        ValueError: `policy` is not an `ArchitecturePolicy`.
    """
    if not isinstance(policy, ArchitecturePolicy):
        raise ValueError(
            "the policy must be an ArchitecturePolicy, such as factorised_policy(space); got"
            f" {policy!r}"
        )


def sequential_policy(
    space: Space,
    init: Callable[[RandomKey], Params],
    start: Callable[[Params], PyTree],
    step: Callable[[Params, Any, Array, Position], tuple[Any, Array]],
) -> ArchitecturePolicy:
    """A policy made from its initial carry and its step.

    Args:
        space: Search space of the architectures.
        init: Function `init(key) -> params`.
        start: Function `start(params) -> carry`.
        step: Function `step(params, carry, previous, position) -> (carry, logits[option])`, where
            `previous` is the token before `position`, 0 at the first position.

    Returns:
        The policy.

    Raises:
        ValueError: `space` is not a `Space`, or another argument is not such a function.
    """
    check_space(space)
    check_callable(init, "init", "key")
    check_callable(start, "start", "params")
    check_callable(step, "step", "params, carry, previous, position")

    def checked_step(params: Params, carry: PyTree, previous: Array, position: Position) -> tuple:
        out = step(params, carry, previous, position)
        carry, logits = check_pair(out, "step", "carry, logits")
        if not is_real(logits) or jnp.shape(logits) != (space.max_options,):
            got = list(jnp.shape(logits)) if is_real(logits) else repr(logits)
            raise ValueError(
                f"step must return logits [{space.max_options}], real numbers; got {got}"
            )
        return carry, logits

    def check_params(params: Params) -> None:
        shapes = jax.eval_shape(init, jax.random.key(0))
        check_shapes(params, shapes, "tree of parameters", "result of init has")

    def checked_init(key: RandomKey) -> Params:
        check_key(key)
        return init(key)

    def previous_tokens(tokens: Tokens) -> Tokens:
        # The token -1, drawn if no option is allowed, would index the last option.
        return jnp.maximum(jnp.roll(tokens, 1).at[0].set(0), 0)

    def sample(params: Params, key: RandomKey) -> Tokens:
        check_params(params)

        def choose(
            carry: PyTree, tokens: Tokens, options: Options, position: Position, key: RandomKey
        ) -> tuple[PyTree, Array]:
            carry, logits = checked_step(params, carry, previous_tokens(tokens)[position], position)
            return carry, jax.random.categorical(key, jnp.where(options, logits, -jnp.inf))

        return choose_tokens(space, choose, start(params), key)

    def log_probs(params: Params, tokens: Tokens) -> LogProbs:
        check_params(params)
        tokens = jnp.asarray(tokens)

        def step_at(carry: PyTree, at: tuple[Array, Position]) -> tuple[PyTree, Array]:
            return checked_step(params, carry, *at)

        options = space.option_masks(tokens)
        inputs = previous_tokens(tokens), jnp.arange(space.length)
        _, logits = jax.lax.scan(step_at, start(params), inputs)
        # If no option is allowed, all logits are used, since the derivative of -inf - -inf is NaN.
        usable = options | ~options.any(axis=1, keepdims=True)
        normalised = jax.nn.log_softmax(jnp.where(usable, logits, -jnp.inf))
        return jnp.where(options, normalised, -jnp.inf)

    return ArchitecturePolicy(checked_init, sample, log_probs, space)


def factorised_policy(space: Space) -> ArchitecturePolicy:
    """The policy of independent tokens, with a table of logits that are initially zero.

    Ying, Klein, Christiansen, Real, Murphy, Hutter: NAS-Bench-101 (ICML 2019), whose REINFORCE uses
    this policy, as does that of NAS-Bench-201.
    """
    check_space(space)

    def init(key: RandomKey) -> Params:
        return jnp.zeros((space.length, space.max_options))

    def step(params: Array, carry: tuple, previous: Array, position: Position) -> tuple:
        return carry, params[position]

    return sequential_policy(space, init, lambda params: (), step)


def lstm_policy(space: Space, size: int = 100, *, scale: float = 0.1) -> ArchitecturePolicy:
    """The policy of a recurrent controller, whose input is the previous token.

        i, f, g, o = W [embedding(token_{t-1}); h] + b
        c <- sigmoid(f) c + sigmoid(i) tanh(g),   h <- sigmoid(o) tanh(c),   logits = V_t h + v_t

    Every position has its own embedding and its own output layer.

    Args:
        space: Search space of the architectures.
        size: Number of units, and width of the embeddings, >= 1.
        scale: Bound of the initial parameters, which are uniform in [-scale, scale], > 0.

    Returns:
        The policy.

    Raises:
        ValueError: `size` is below 1, or `scale` is not positive.

    Zoph, Le: Neural architecture search with reinforcement learning (ICLR 2017). The single layer
    and the default size are those of Zoph, Vasudevan, Shlens, Le: Learning transferable
    architectures (CVPR 2018).
    """
    check_space(space)
    check_count(size, least=1, of="units")
    check_number(scale, "scale", above=0.0)
    shapes = {
        "embedding": (space.length, space.max_options, size),
        "kernel": (2 * size, 4 * size),
        "bias": (4 * size,),
        "head": (space.length, size, space.max_options),
        "offset": (space.length, space.max_options),
    }

    def init(key: RandomKey) -> Params:
        keys = jax.random.split(key, len(shapes))
        return {
            name: jax.random.uniform(leaf_key, shape, minval=-scale, maxval=scale)
            for leaf_key, (name, shape) in zip(keys, shapes.items(), strict=True)
        }

    def start(params: Params) -> tuple[Array, Array]:
        zeros = jnp.zeros_like(params["bias"], shape=(size,))
        return zeros, zeros

    def step(params: Params, carry: tuple, previous: Array, position: Position) -> tuple:
        hidden, cell = carry
        inputs = jnp.concatenate([params["embedding"][position, previous], hidden])
        gates = inputs @ params["kernel"] + params["bias"]
        input_gate, forget_gate, candidate, output_gate = jnp.split(gates, 4)
        cell = jax.nn.sigmoid(forget_gate) * cell + jax.nn.sigmoid(input_gate) * jnp.tanh(candidate)
        hidden = jax.nn.sigmoid(output_gate) * jnp.tanh(cell)
        return (hidden, cell), hidden @ params["head"][position] + params["offset"][position]

    return sequential_policy(space, init, start, step)
