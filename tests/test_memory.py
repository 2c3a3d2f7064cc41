"""The modes of memory give the same meta-gradient, and keep less."""

from functools import partial

import jax
import jax.numpy as jnp
import optax
import pytest
from problems import BATCH_NORMS, OPTIMIZERS, algorithm, problem, quick
from test_meta_gradient import SECOND_ORDER, relative_error

import maml
from maml.inner import UNROLLED
from maml.memory import check_memory

KEY = jax.random.key(0)
MODES = ("recompute", "forward", "forward-recompute")
ROUNDING = 1e-12
pytestmark = pytest.mark.usefixtures("x64")


def with_memory(name, optimizer, num_steps, task, memory):
    """The algorithm as `problems.algorithm` makes it, with another mode of memory."""
    original = getattr(maml, name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maml, name, partial(original, memory=memory))
        return algorithm(name, optimizer, num_steps, task.loss, task.params)


@pytest.mark.parametrize(
    ("optimizer", "batch_norm"),
    [*zip(("momentum", "clipped", "adam"), BATCH_NORMS, strict=True)],
)
@pytest.mark.parametrize("name", SECOND_ORDER)
def test_every_mode_gives_the_meta_gradient_of_store(name, optimizer, batch_norm):
    task = problem(batch_norm)

    @quick
    def gradients(params):
        out = {}
        for memory in ("store", *MODES):
            chosen = with_memory(name, OPTIMIZERS[optimizer](), 2, task, memory)
            grad, meta = jax.jit(chosen.grad), chosen.init(params)
            out[memory] = maml.meta_gradient(grad, meta, task.episodes, KEY)
        return out

    found = gradients(task.params)
    for memory in MODES:
        assert relative_error(found[memory], found["store"]) <= ROUNDING, memory


@pytest.mark.parametrize("memory", MODES)
@pytest.mark.parametrize("num_steps", [0, UNROLLED, UNROLLED + 1])
def test_a_loop_and_its_steps_one_by_one_give_the_same(memory, num_steps):
    task = problem("support")
    grads = [
        quick(maml.maml(task.loss, optax.sgd(0.3), num_steps, memory=mode).grad)(
            task.params, jax.tree.map(lambda leaf: leaf[0], task.episodes), KEY
        )
        for mode in ("store", memory)
    ]
    assert relative_error(*grads) <= ROUNDING


@pytest.mark.parametrize("memory", MODES)
def test_what_the_inner_loss_closes_over_is_learned_too(memory):
    """A learned temperature inside the loss, and labels: its mixed second derivatives count."""

    def learner(mode):
        def of(meta):
            def loss(w, batch, key):
                inputs, labels = batch
                noise = jax.random.normal(key, inputs.shape)
                logits = meta["temperature"] * (inputs + meta["noise"] * noise) @ w
                labelled = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
                return -labelled.mean(), {"right": (logits.argmax(1) == labels).sum()}

            return maml.gradient_descent(loss, optax.adam(0.1), meta["w"], memory=mode)

        return of

    def outer(w, batch, key):
        return jnp.sum(jnp.sin(w) * batch), {}

    draw = partial(jax.random.normal, dtype=float)
    keys = jax.random.split(KEY, 3)
    meta = {"w": draw(keys[0], (4, 3)), "temperature": jnp.array(1.5), "noise": jnp.array(0.2)}
    support = (draw(keys[1], (5, 4)), jnp.array([0, 1, 2, 1, 0]))
    episode = maml.Episode(support, draw(keys[2], (4, 3)))
    got, wanted = (
        quick(maml.unrolled(learner(mode), outer, 3))(meta, episode, KEY)
        for mode in (memory, "store")
    )
    assert min(float(jnp.abs(wanted[0][name])) for name in ("temperature", "noise")) > 1e-3
    assert relative_error(got, wanted) <= ROUNDING


def test_recomputing_keeps_less_for_many_steps():
    """By the compiler's account: store grows with the steps, recompute hardly."""

    def loss(w, batch, key):
        return jnp.mean(jnp.square(jnp.tanh(jnp.tanh(batch @ w) @ w.T) - batch)), {}

    w, batch = jnp.ones((8, 8)), jnp.ones((500, 8))

    def kept(memory):
        grad = maml.maml(loss, optax.sgd(0.1), 50, memory=memory).grad
        compiled = jax.jit(grad).lower(w, maml.Episode(batch, batch), KEY).compile()
        analysis = compiled.memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    used = {memory: kept(memory) for memory in ("store", *MODES)}
    assert used["recompute"] < used["store"] / 8
    assert used["forward-recompute"] < used["store"] / 8
    assert used["forward"] <= used["store"]


def test_there_are_no_other_modes_and_first_order_steps_have_none():
    with pytest.raises(ValueError, match=r"memory is one of store, recompute, .*; got 'remat'"):
        check_memory("remat")
    loss = problem("support").loss
    with pytest.raises(ValueError, match="memory must be 'store'; got 'forward'"):
        maml.gradient_descent(loss, optax.sgd(0.1), {}, first_order=True, memory="forward")


@pytest.mark.parametrize("memory", ["store", *MODES])
@pytest.mark.parametrize("num_steps", [2, UNROLLED + 1])
def test_every_step_may_have_a_batch_of_its_own(memory, num_steps):
    """Written out, without a loop: the same parameters, and the same derivative."""

    def loss(w, target, key):
        return jnp.sum(jnp.cosh(w - target)), {}

    targets = jax.random.normal(KEY, (num_steps, 3))
    learner = maml.maml(loss, optax.sgd(0.1), num_steps, memory=memory).learner

    def adapted(w):
        return maml.adapt(learner(w), maml.PerStep(targets), KEY, num_steps)[0]

    def by_hand(w):
        for target in targets:
            w = w - 0.1 * jnp.sinh(w - target)
        return w

    start = jnp.ones(3)
    assert relative_error(adapted(start), by_hand(start)) <= ROUNDING
    derivatives = jax.jacrev(adapted)(start), jax.jacrev(by_hand)(start)
    assert relative_error(*derivatives) <= ROUNDING


def test_there_are_as_many_batches_as_steps():
    inner = maml.gradient_descent(lambda w, x, key: (w, {}), optax.sgd(0.1), 1.0)
    with pytest.raises(ValueError, match=r"2 steps need as many batches; got \[\(3,\)\]"):
        maml.adapt(inner, maml.PerStep(jnp.ones(3)), KEY, 2)
