"""Every meta-gradient against central finite differences of an independent loop, in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.flatten_util import ravel_pytree
from problems import ALGORITHMS, BATCH_NORMS, OPTIMIZERS, TASKS, algorithm, problem, reference

import maml

TOLERANCE = 1e-6
# Programs that run once: compiling them well takes longer than running them badly.
QUICK = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
pytestmark = pytest.mark.usefixtures("x64")


def relative_error(got, wanted) -> float:
    got, wanted = ravel_pytree(got)[0], ravel_pytree(wanted)[0]
    return float(jnp.linalg.norm(got - wanted) / jnp.linalg.norm(wanted))


@pytest.mark.parametrize("batch_norm", BATCH_NORMS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_meta_gradient_is_the_finite_difference(name, optimizer, batch_norm):
    task = problem(batch_norm)
    update = OPTIMIZERS[optimizer]()

    @partial(jax.jit, compiler_options=QUICK)
    def both(params):
        out = {}
        for num_steps in (1, 3):
            chosen = algorithm(name, update, num_steps, task.loss, params)
            meta = chosen.init(params)
            wanted = reference(name, update, num_steps, task, meta)
            for chunk in (None, 1):
                grads, _ = maml.meta_gradient(
                    chosen.grad, meta, task.episodes, jax.random.key(0), chunk=chunk
                )
                out[num_steps, chunk or TASKS] = (grads, wanted)
        return out

    errors = {case: relative_error(*pair) for case, pair in both(task.params).items()}
    assert max(errors.values()) <= TOLERANCE, errors
