"""The memory modes give the same meta-gradient; rematerialisation stores fewer states."""

from functools import partial

import jax
import jax.numpy as jnp
import optax
import pytest
from problems import BATCH_NORMS, OPTIMIZERS, algorithm, one_task, problem, quick
from test_meta_gradient import SECOND_ORDER, relative_error

import maml
from maml.hvp import check_hvp
from maml.inner import MAX_UNROLLED_STEPS

KEY = jax.random.key(0)
MODES = {
    "remat": {"remat": True},
    "forward": {"hvp": "forward"},
    "forward-remat": {"hvp": "forward", "remat": True},
}
ALL = {"reverse": {}} | MODES
ROUNDING = 1e-12
pytestmark = pytest.mark.usefixtures("x64")


def with_memory(name, optimizer, inner_steps, task, memory):
    """The algorithm as `problems.algorithm` makes it, with another mode of memory."""
    original = getattr(maml, name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maml, name, partial(original, **ALL[memory]))
        return algorithm(name, optimizer, inner_steps, task.loss, task.params)


def test_every_mode_reads_counters_among_the_parameters():
    def loss(params, batch, key):
        return jnp.sum((params["w"] * params["count"].sum() - batch) ** 2), {}

    params = {"w": jnp.arange(2.0), "count": jnp.arange(3)}
    episode = maml.Episode(jnp.ones(2), jnp.zeros(2))
    for steps in (1, MAX_UNROLLED_STEPS + 2):
        expected, *others = (
            jax.jit(partial(maml.task_gradient, grad))(params, episode, KEY)[0]["w"]
            for grad in (maml.maml(loss, optax.sgd(0.01), steps, **m).grad for m in ALL.values())
        )
        for got in others:
            assert relative_error(got, expected) <= ROUNDING


def cases():
    """Every algorithm; those that are not slow hold every optimiser and batch norm."""
    pairs = [*zip(("momentum", "clipped", "adam"), BATCH_NORMS, strict=True)]
    for place, name in enumerate(SECOND_ORDER):
        for number, pair in enumerate(pairs):
            marks = () if number == place % len(pairs) else pytest.mark.slow
            yield pytest.param(name, *pair, marks=marks)


@pytest.mark.parametrize(("name", "optimizer", "batch_norm"), [*cases()])
def test_every_mode_gives_the_same_meta_gradient(name, optimizer, batch_norm):
    task = problem(batch_norm)

    @quick
    def gradients(params):
        out = {}
        for memory in ALL:
            chosen = with_memory(name, OPTIMIZERS[optimizer](), 2, task, memory)
            meta = chosen.init(params)
            out[memory] = maml.meta_gradient(chosen.grad, meta, task.episodes, KEY)
        return out

    result = gradients(task.params)
    for memory in MODES:
        assert relative_error(result[memory], result["reverse"]) <= ROUNDING, memory


@pytest.mark.parametrize("memory", MODES)
@pytest.mark.parametrize("inner_steps", [0, MAX_UNROLLED_STEPS, MAX_UNROLLED_STEPS + 1])
def test_a_loop_and_its_steps_one_by_one_give_the_same(memory, inner_steps):
    task = problem("support")
    grads = [
        one_task(maml.maml(task.loss, optax.sgd(0.3), inner_steps, **ALL[mode]))(
            task.params, jax.tree.map(lambda leaf: leaf[0], task.episodes), KEY
        )
        for mode in ("reverse", memory)
    ]
    assert relative_error(*grads) <= ROUNDING


@pytest.mark.parametrize("memory", MODES)
def test_parameters_that_the_inner_loss_closes_over_have_a_meta_gradient(memory):
    """A learned temperature inside the loss, and labels: its mixed second derivatives count."""

    def learner(mode):
        def of(meta):
            def loss(w, batch, key):
                inputs, labels = batch
                noise = jax.random.normal(key, inputs.shape)
                logits = meta["temperature"] * (inputs + meta["noise"] * noise) @ w
                labelled = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
                return -labelled.mean(), {"right": (logits.argmax(1) == labels).sum()}

            return maml.gradient_descent(loss, optax.adam(0.1), meta["w"], **ALL[mode])

        return of

    def outer(w, batch, key):
        return jnp.sum(jnp.sin(w) * batch), {}

    draw = partial(jax.random.normal, dtype=float)
    keys = jax.random.split(KEY, 3)
    meta = {"w": draw(keys[0], (4, 3)), "temperature": jnp.array(1.5), "noise": jnp.array(0.2)}
    support = (draw(keys[1], (5, 4)), jnp.array([0, 1, 2, 1, 0]))
    episode = maml.Episode(support, draw(keys[2], (4, 3)))
    got, expected = (
        quick(partial(maml.task_gradient, maml.unrolled(learner(mode), outer, 3)))(
            meta, episode, KEY
        )
        for mode in (memory, "reverse")
    )
    assert min(float(jnp.abs(expected[0][name])) for name in ("temperature", "noise")) > 1e-3
    assert relative_error(got, expected) <= ROUNDING


def test_recomputing_keeps_less_for_many_steps():
    """By the compiler's account: reverse grows with the steps, remat hardly."""

    def loss(w, batch, key):
        return jnp.mean(jnp.square(jnp.tanh(jnp.tanh(batch @ w) @ w.T) - batch)), {}

    w, batch = jnp.ones((8, 8)), jnp.ones((500, 8))

    def kept(memory):
        grad = maml.maml(loss, optax.sgd(0.1), 50, **ALL[memory]).grad
        compiled = (
            jax.jit(partial(maml.task_gradient, grad))
            .lower(w, maml.Episode(batch, batch), KEY)
            .compile()
        )
        analysis = compiled.memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    used = {memory: kept(memory) for memory in ALL}
    assert used["remat"] < used["reverse"] / 8
    assert used["forward-remat"] < used["reverse"] / 8
    assert used["forward"] <= used["reverse"]


def test_unknown_modes_and_modes_of_first_order_steps_are_refused(unchecked):
    with pytest.raises(ValueError, match=r"hvp must be one of reverse, forward; got 'remat'"):
        check_hvp("remat", False)
    with pytest.raises(ValueError, match="remat must be True or False; got 'yes'"):
        check_hvp("forward", "yes")  # pyright: ignore[reportArgumentType]
    loss = problem("support").loss
    with pytest.raises(ValueError, match=r"no second derivatives: .* got hvp='forward'"):
        maml.gradient_descent(loss, optax.sgd(0.1), {}, first_order=True, hvp="forward")


@pytest.mark.parametrize("memory", ALL)
@pytest.mark.parametrize("inner_steps", [2, MAX_UNROLLED_STEPS + 1])
def test_every_step_may_have_a_batch_of_its_own(memory, inner_steps):
    """Written out, without a loop: the same parameters, and the same derivative."""

    def loss(w, target, key):
        return jnp.sum(jnp.cosh(w - target)), {}

    targets = jax.random.normal(KEY, (inner_steps, 3))
    learner = maml.maml(loss, optax.sgd(0.1), inner_steps, **ALL[memory]).learner

    def adapted(w):
        return maml.adapt(learner(w), maml.BatchPerStep(targets), KEY, inner_steps)[0]

    def by_hand(w):
        for target in targets:
            w = w - 0.1 * jnp.sinh(w - target)
        return w

    start = jnp.ones(3)
    assert relative_error(adapted(start), by_hand(start)) <= ROUNDING
    derivatives = [quick(jax.jacrev(function))(start) for function in (adapted, by_hand)]
    assert relative_error(*derivatives) <= ROUNDING


def test_a_number_of_batches_other_than_of_steps_is_refused():
    inner = maml.gradient_descent(lambda w, x, key: (w, {}), optax.sgd(0.1), 1.0)
    with pytest.raises(
        ValueError, match=r"2 inner steps need as many batches; got leading sizes \[\(3,\)\]"
    ):
        maml.adapt(inner, maml.BatchPerStep(jnp.ones(3)), KEY, 2)
