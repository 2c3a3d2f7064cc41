"""One device, several devices and several processes agree to rounding."""

import json
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import two_processes
from jax.sharding import AxisType
from problems import ALGORITHMS, OPTIMIZERS, TASKS, algorithm, problem, quick
from test_meta_gradient import relative_error

import maml

KEY = jax.random.key(0)
ROUNDING = 1e-12


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ALGORITHMS)
def test_two_devices_share_out_the_tasks_of_every_algorithm(name):
    task = problem("running")
    chosen = algorithm(name, OPTIMIZERS["adam"](), 2, task.loss, task.params)
    meta = chosen.init(task.params)

    def on(mesh):
        return quick(partial(maml.meta_gradient, chosen.grad, mesh=mesh))(meta, task.episodes, KEY)

    assert relative_error(on(maml.task_mesh(TASKS)), on(None)) <= ROUNDING


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("devices", "chunk"), [(1, 2), (2, None), (2, 4), (8, 1)])
def test_meshes_and_chunks_train_and_evaluate_alike(devices, chunk):
    algorithm, outer, sample, state, key = two_processes.experiment()

    def run(state, *, mesh=None, chunk=None):
        state, metrics = maml.train(
            algorithm, outer, sample, state, key, 20, chunk=chunk, mesh=mesh
        )
        episodes, loss = sample(key), two_processes.loss
        values, _ = maml.evaluate(
            algorithm.learner, loss, state.params, episodes, key, 2, chunk=chunk, mesh=mesh
        )
        return state, metrics, values

    got = quick(partial(run, mesh=maml.task_mesh(devices), chunk=chunk))(state)
    assert relative_error(got, quick(run)(state)) <= ROUNDING


def test_two_processes_reach_the_parameters_of_one():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, str(Path(two_processes.__file__)), address]
    processes = [
        subprocess.Popen([*command, str(n)], stdout=subprocess.PIPE, text=True) for n in range(2)
    ]
    try:
        lines = [process.communicate(timeout=240)[0].splitlines()[-1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    with jax.enable_x64(True):
        alone = two_processes.parameters(None)
    for line in lines:
        np.testing.assert_allclose(json.loads(line), alone, rtol=1e-12)


def test_a_mesh_that_cannot_serve_is_refused_with_one_that_can():
    algorithm, _, sample, state, key = two_processes.experiment()
    gradient = partial(maml.meta_gradient, algorithm.grad, state.params, sample(key), key)
    with pytest.raises(ValueError, match=r"mesh of 3 .* the 8 tasks; a mesh of 1, 2, 4 or 8 does"):
        gradient(mesh=maml.task_mesh(3))
    with pytest.raises(ValueError, match=r"chunk of 3 .* the 4 tasks of a device; .* 1, 2 or 4 "):
        gradient(mesh=maml.task_mesh(2), chunk=3)
    with pytest.raises(ValueError, match=r"one axis, named 'task', .* got \('data',\)"):
        gradient(mesh=jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,)))
    with pytest.raises(
        ValueError, match=r"mesh of 64 devices needs 64 .* there are 8 in 1 processes"
    ):
        maml.task_mesh(64)
    with pytest.raises(ValueError, match="devices in a mesh must be an integer >= 1; got 0"):
        maml.task_mesh(0)
    six = jax.tree.map(lambda leaf: leaf[:6], sample(key))
    evaluate = partial(maml.evaluate, algorithm.learner, two_processes.loss, state.params)
    with pytest.raises(ValueError, match="mesh of 8 devices does not divide the 6 tasks"):
        evaluate(six, key, 1, mesh=maml.task_mesh(8))


def test_another_mesh_of_the_program_is_refused_in_words():
    """Of explicit axes, as `jax.make_mesh` makes them: in its context, and of the tasks."""
    algorithm, _, sample, state, key = two_processes.experiment()
    episodes, data = sample(key), jax.make_mesh((2,), ("data",))
    gradient = partial(maml.meta_gradient, algorithm.grad, state.params)
    with (
        jax.set_mesh(data),
        pytest.raises(ValueError, match=r"jax.set_mesh has set .* \{'data': 2\}.*mesh=None would"),
    ):
        gradient(episodes, key, mesh=maml.task_mesh(2))
    divided = jax.device_put(episodes, jax.NamedSharding(data, jax.P("data")))
    for mesh, got in ((None, "no mesh"), (maml.task_mesh(2), "Mesh")):
        with pytest.raises(ValueError, match=rf"axes \['data'\]; got {got}.*AxisType.Auto, would"):
            gradient(divided, key, mesh=mesh)


def test_more_processes_than_devices_are_refused(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="devices in a mesh must be an integer >= 2; got 1"):
        maml.task_mesh(1)
    with pytest.raises(ValueError, match=r"as many from each process; there are 8 in 2 processes"):
        maml.task_mesh(3)


def test_the_tasks_of_a_mesh_lie_on_its_devices_until_they_are_summed():
    """No device computes another's tasks: the compiled program of one has its share of them."""
    algorithm, _, sample, state, key = two_processes.experiment()
    compiled = jax.jit(partial(maml.meta_gradient, algorithm.grad, mesh=maml.task_mesh(8)))
    text = compiled.lower(state.params, sample(key), key).compile().as_text()
    assert text is not None
    assert "all-reduce" in text
    assert jnp.shape(sample(key).support) == (8, 4)
    assert "[1,4]" in text


def test_the_state_after_a_step_is_on_every_device_of_the_mesh():
    algorithm, outer, sample, state, key = two_processes.experiment()
    mesh = maml.task_mesh(4)
    step = jax.jit(partial(maml.train, algorithm, outer, sample, meta_steps=1, mesh=mesh))
    state, _ = step(state, key)
    assert len(state.params.devices()) == 4
    assert state.params.is_fully_replicated
