"""Every meta-gradient against central finite differences of an independent loop, in float64."""

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.flatten_util import ravel_pytree
from problems import (
    ALGORITHMS,
    BATCH_NORMS,
    OPTIMIZERS,
    TASKS,
    algorithm,
    problem,
    quick,
    reference,
)

import maml

TOLERANCE = 1e-6
VISIBLE = 1e-3  # what a defect that was put in must at least come to
pytestmark = pytest.mark.usefixtures("x64")


def relative_error(got, wanted) -> float:
    got, wanted = ravel_pytree(got)[0], ravel_pytree(wanted)[0]
    return float(jnp.linalg.norm(got - wanted) / jnp.linalg.norm(wanted))


def errors(name, optimizer, batch_norm, *, build=algorithm, steps=(1, 3)):
    """The error of each meta-gradient that `build` makes, by steps and chunk."""
    task, update = problem(batch_norm), OPTIMIZERS[optimizer]()

    @quick
    def both(params):
        out = {}
        for num_steps in steps:
            built = build(name, update, num_steps, task.loss, params)
            grad, meta = jax.jit(built.grad), built.init(params)  # jit: traced once, not thrice
            wanted = reference(name, update, num_steps, task, meta)
            for chunk in (TASKS, 1):
                key = jax.random.key(0)
                got, _ = maml.meta_gradient(grad, meta, task.episodes, key, chunk=chunk)
                out[num_steps, chunk] = (got, wanted)
        return out

    return {case: relative_error(*pair) for case, pair in both(task.params).items()}


@pytest.mark.parametrize("batch_norm", BATCH_NORMS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_meta_gradient_is_the_finite_difference(name, optimizer, batch_norm):
    found = errors(name, optimizer, batch_norm)
    assert max(found.values()) <= TOLERANCE, found


def without_curvature(name, optimizer, num_steps, loss, params):
    """The loss keeps its value and its gradient, and loses its second derivatives."""

    def flat(params, batch, key):
        at = jax.lax.stop_gradient(params)
        (value, metrics), slope = jax.value_and_grad(loss, has_aux=True)(at, batch, key)
        slope, _ = ravel_pytree(jax.lax.stop_gradient(slope))
        return value + slope @ (ravel_pytree(params)[0] - ravel_pytree(at)[0]), metrics

    return algorithm(name, optimizer, num_steps, flat, params)


def without_one_bias(name, optimizer, num_steps, loss, params):
    """The loss does not pass its gradient on to the bias of the head."""
    bias = maml.mask_by_path(params, "/head/bias")

    def cut(params, batch, key):
        stop = jax.lax.stop_gradient
        params = jax.tree.map(lambda b, leaf: stop(leaf) if b else leaf, bias, params)
        return loss(params, batch, key)

    return algorithm(name, optimizer, num_steps, cut, params)


def without_history(name, optimizer, num_steps, loss, params):
    """The inner optimiser's state is taken for a constant."""

    def update(updates, state, params=None):
        return optimizer.update(updates, jax.lax.stop_gradient(state), params)

    broken = optax.GradientTransformation(optimizer.init, update)
    return algorithm(name, broken, num_steps, loss, params)


def without_its_stop_gradient(name, optimizer, num_steps, loss, params):
    """First-order MAML that is not."""
    return algorithm("maml", optimizer, num_steps, loss, params)


SECOND_ORDER = ("maml", "anil", "boil", "meta_sgd", "cavia")
DEFECTS = [
    *((without_one_bias, name) for name in ALGORITHMS),
    *((without_curvature, name) for name in (*SECOND_ORDER, "imaml")),
    *((without_history, name) for name in SECOND_ORDER),
    (without_its_stop_gradient, "fomaml"),
]


@pytest.mark.parametrize(("defect", "name"), DEFECTS)
def test_a_defect_that_is_put_in_fails_the_same_check(defect, name):
    found = errors(name, "momentum", "support", build=defect, steps=(3,))
    assert min(found.values()) > VISIBLE, found


def test_implicit_gradient_is_the_unrolled_one_after_many_steps():
    task, strength = problem("support"), 5.0
    episode = jax.tree.map(lambda leaf: leaf[0], task.episodes)
    chosen = maml.imaml(task.loss, optax.sgd(0.15), 400, strength=strength, cg_steps=60)
    through = maml.unrolled(chosen.learner, task.loss, 400)
    around, _ = quick(chosen.grad)(task.params, episode, jax.random.key(0))
    unrolled, _ = quick(through)(task.params, episode, jax.random.key(0))
    assert relative_error(around, unrolled) <= TOLERANCE


def test_implicit_gradient_of_a_quadratic_solves_the_linear_system():
    strength, size = 3.0, 5
    root, theta, center = jnp.split(jax.random.normal(jax.random.key(0), (size + 2, size)), [5, 6])
    hessian, theta, center = root @ root.T, theta[0], center[0]

    def loss(w, center, key):
        return 0.5 * (w - center) @ hessian @ (w - center), {}

    chosen = maml.imaml(loss, optax.sgd(0.05), 1000, strength=strength, cg_steps=size)
    got, _ = quick(chosen.grad)(theta, maml.Episode(center, -center), jax.random.key(0))

    system = jnp.eye(size) + hessian / strength
    adapted = jnp.linalg.solve(system, theta + hessian @ center / strength)
    wanted = jnp.linalg.solve(system, hessian @ (adapted + center))
    assert relative_error(got, wanted) <= TOLERANCE
