"""Solution of small symmetric linear systems inside jit, on every device at once."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Num

from maml.rows import upcast


def solve(a: Num[Array, "n n"], b: Num[Array, "n *m"]) -> Num[Array, "n *m"]:
    """The product  a^-1 b  for a positive definite matrix a, by Gauss-Jordan elimination.

    Computation and result are in float32 at least; derivatives solve a system with a again. LAPACK
    is not used, since its batched calls wait, inside the thread pool of a CPU, for other threads of
    the pool, and deadlock if as many devices wait as the pool has threads (jaxlib 0.10.2).

    >>> solve(jnp.array([[2.0, 0.0], [0.0, 4.0]]), jnp.array([2.0, 2.0])).tolist()
    [1.0, 0.5]
    """
    dtype = jnp.result_type(upcast(a), upcast(b))
    a, b = a.astype(dtype), b.astype(dtype)

    def eliminate(k: Array, rows: Array) -> Array:
        pivot = rows[k] / rows[k, k]
        return (rows - jnp.outer(rows[:, k], pivot)).at[k].set(pivot)

    def solve_by_elimination(_: object, b: Array) -> Array:
        rows = jnp.concatenate([a, b.reshape(a.shape[0], -1)], axis=1)
        rows = jax.lax.fori_loop(0, a.shape[0], eliminate, rows)
        return rows[:, a.shape[0] :].reshape(b.shape)

    return jax.lax.custom_linear_solve(lambda x: a @ x, b, solve_by_elimination, symmetric=True)
