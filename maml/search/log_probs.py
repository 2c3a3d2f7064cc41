"""The probability of an architecture, and the entropy of its tokens."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from maml._leaves import is_real
from maml.search.space import Tokens, check_row

LogProbs = Float[Array, "token option"]


def log_prob(log_probs: LogProbs, tokens: Tokens) -> Float[Array, " token"]:
    """The log-probability of each token of an architecture given the tokens before it.

    It is minus infinity for a token that is not an option. If no option is allowed, only -1 can be
    drawn, and its log-probability is 0. The sum is the log-probability of the architecture.

    Args:
        log_probs: Log-probabilities of all options, `[token, option]`, as those of an
            `ArchitecturePolicy`.
        tokens: Tokens of the architecture, `[token]`.

    Returns:
        The log-probabilities of the tokens, `[token]`.
    """
    _check_log_probs(log_probs)
    check_row(tokens, log_probs.shape[0])
    tokens = jnp.asarray(tokens)
    exist = (tokens >= 0) & (tokens < log_probs.shape[1])
    token_log_probs = jnp.take_along_axis(log_probs, jnp.where(exist, tokens, 0)[:, None], axis=1)[
        :, 0
    ]
    certain = (tokens == -1) & (log_probs == -jnp.inf).all(axis=1)
    return jnp.where(exist, token_log_probs, jnp.where(certain, 0.0, -jnp.inf))


def entropy(log_probs: LogProbs) -> Scalar:
    """The sum over tokens of the entropy of each token given the tokens before it.

        H = - sum_t sum_o pi(o | token_1 .. token_{t-1}) log pi(o | token_1 .. token_{t-1})

    Its mean over the architectures that a policy draws is the entropy of the policy.
    """
    _check_log_probs(log_probs)
    # 0 log 0 is 0, with a derivative of 0; NaN stays NaN.
    allowed = log_probs != -jnp.inf
    finite = jnp.where(allowed, log_probs, 0.0)
    return -jnp.where(allowed, jnp.exp(finite) * finite, 0.0).sum()


def _check_log_probs(log_probs: Any) -> None:
    if not is_real(log_probs) or jnp.ndim(log_probs) != 2:
        got = list(jnp.shape(log_probs)) if is_real(log_probs) else repr(log_probs)
        raise ValueError(f"log_probs must be real numbers [token, option]; got {got}")
