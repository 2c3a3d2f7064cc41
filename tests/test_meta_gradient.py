"""Every meta-gradient against central finite differences of an independent loop, in float64."""

from functools import partial

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
    one_task,
    problem,
    quick,
    reference,
)

import maml

TOLERANCE = 1e-6
VISIBLE = 1e-3  # what a defect that was put in must at least come to
pytestmark = pytest.mark.usefixtures("x64")


def relative_error(got, expected) -> float:
    got, expected = ravel_pytree(got)[0], ravel_pytree(expected)[0]
    return float(jnp.linalg.norm(got - expected) / jnp.linalg.norm(expected))


EVERY = {1: (TASKS, 1), 3: (TASKS, 1)}  # the chunks by the number of inner steps


def errors(name, optimizer, batch_norm, *, build=algorithm, chunks=EVERY):
    """The error of each meta-gradient that `build` makes, by steps and chunk."""
    task, update = problem(batch_norm), OPTIMIZERS[optimizer]()

    @quick
    def both(params):
        out = {}
        for inner_steps in chunks:
            built = build(name, update, inner_steps, task.loss, params)
            meta = built.init(params)
            # By jit: traced once, not for each chunk and once more.
            parts = {n: f and jax.jit(f) for n, f in built.grad._asdict().items() if callable(f)}
            grad = built.grad._replace(**parts)
            expected = reference(name, update, inner_steps, task, meta)
            for chunk in chunks[inner_steps]:
                key = jax.random.key(0)
                got, _ = maml.meta_gradient(grad, meta, task.episodes, key, chunk=chunk)
                out[inner_steps, chunk] = (got, expected)
        return out

    return {case: relative_error(*pair) for case, pair in both(task.params).items()}


def cases():
    """Every combination; those that are not slow hold every pair of the three.

    Of these, gradient descent has every number of steps and chunk, the others the hardest one.
    """
    for a, name in enumerate(ALGORITHMS):
        for o, optimizer in enumerate(OPTIMIZERS):
            for b, batch_norm in enumerate(BATCH_NORMS):
                slow = b != (a + o) % len(BATCH_NORMS)
                chunks = EVERY if slow or optimizer == "sgd" else {3: (TASKS,)}
                marks = pytest.mark.slow if slow else ()
                case = f"{name}-{optimizer}-{batch_norm}"
                yield pytest.param(name, optimizer, batch_norm, chunks, marks=marks, id=case)


@pytest.mark.parametrize(("name", "optimizer", "batch_norm", "chunks"), [*cases()])
def test_meta_gradient_is_the_finite_difference(name, optimizer, batch_norm, chunks):
    result = errors(name, optimizer, batch_norm, chunks=chunks)
    assert max(result.values()) <= TOLERANCE, result


def without_curvature(name, optimizer, inner_steps, loss, params):
    """The loss keeps its value and its gradient, and loses its second derivatives."""

    def flat(params, batch, key):
        at = jax.lax.stop_gradient(params)
        (value, metrics), slope = jax.value_and_grad(loss, has_aux=True)(at, batch, key)
        slope, _ = ravel_pytree(jax.lax.stop_gradient(slope))
        return value + slope @ (ravel_pytree(params)[0] - ravel_pytree(at)[0]), metrics

    return algorithm(name, optimizer, inner_steps, flat, params)


def without_one_bias(name, optimizer, inner_steps, loss, params):
    """The loss does not pass its gradient on to the bias of the head."""
    bias = maml.mask_by_path(params, "/head/bias")

    def cut(params, batch, key):
        stop = jax.lax.stop_gradient
        params = jax.tree.map(lambda b, leaf: stop(leaf) if b else leaf, bias, params)
        return loss(params, batch, key)

    return algorithm(name, optimizer, inner_steps, cut, params)


def without_history(name, optimizer, inner_steps, loss, params):
    """The inner optimiser's state is taken for a constant."""

    def update(updates, state, params=None):
        return optimizer.update(updates, jax.lax.stop_gradient(state), params)

    broken = optax.GradientTransformation(optimizer.init, update)
    return algorithm(name, broken, inner_steps, loss, params)


def without_its_stop_gradient(name, optimizer, inner_steps, loss, params):
    """First-order MAML that is not."""
    return algorithm("maml", optimizer, inner_steps, loss, params)


SECOND_ORDER = ("maml", "anil", "boil", "meta_sgd", "cavia")
DEFECTS = [
    *((without_one_bias, name) for name in ALGORITHMS),
    *((without_curvature, name) for name in (*SECOND_ORDER, "imaml")),
    *((without_history, name) for name in SECOND_ORDER),
    (without_its_stop_gradient, "fomaml"),
]


@pytest.mark.parametrize(("defect", "name"), DEFECTS)
def test_the_finite_difference_check_finds_each_injected_defect(defect, name):
    result = errors(name, "momentum", "support", build=defect, chunks={3: (TASKS,)})
    assert min(result.values()) > VISIBLE, result


def test_implicit_gradient_is_the_unrolled_one_after_many_steps():
    task, regularisation = problem("support"), 5.0
    episode = jax.tree.map(lambda leaf: leaf[0], task.episodes)
    chosen = maml.imaml(task.loss, optax.sgd(0.15), 400, regularisation=regularisation, cg_steps=60)
    through = maml.unrolled(chosen.learner, task.loss, 400)
    around, _ = one_task(chosen)(task.params, episode, jax.random.key(0))
    unrolled, _ = quick(partial(maml.task_gradient, through))(
        task.params, episode, jax.random.key(0)
    )
    assert relative_error(around, unrolled) <= TOLERANCE


def test_implicit_gradient_of_a_quadratic_solves_the_linear_system():
    regularisation, size = 3.0, 5
    root, theta, center = jnp.split(jax.random.normal(jax.random.key(0), (size + 2, size)), [5, 6])
    hessian, theta, center = root @ root.T, theta[0], center[0]

    def loss(w, center, key):
        return 0.5 * (w - center) @ hessian @ (w - center), {}

    chosen = maml.imaml(loss, optax.sgd(0.05), 1000, regularisation=regularisation, cg_steps=size)
    got, _ = one_task(chosen)(theta, maml.Episode(center, -center), jax.random.key(0))

    system = jnp.eye(size) + hessian / regularisation
    adapted = jnp.linalg.solve(system, theta + hessian @ center / regularisation)
    expected = jnp.linalg.solve(system, hessian @ (adapted + center))
    assert relative_error(got, expected) <= TOLERANCE
