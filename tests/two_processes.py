"""One of two processes that train together: `python two_processes.py ADDRESS NUMBER`."""

import json
import sys
from functools import partial

import jax
import jax.numpy as jnp
import optax

import maml

STEPS, TASKS = 20, 8


def loss(w, center, key):
    """A loss with curvature, whose value depends on the key."""
    noise = 0.1 * jax.random.normal(key, w.shape)
    return jnp.sum(jnp.cosh(w - center - noise)), {}


def sample_task(key):
    return maml.Episode(*jax.random.normal(key, (2, 4)))


def experiment():
    """An inner optimiser with a state, a meta-batch, the outer Adam, the start and a key."""
    algorithm = maml.maml(loss, optax.sgd(0.05, momentum=0.9), 3)
    outer, sample = optax.adam(0.1), maml.batch_tasks(sample_task, TASKS)
    return algorithm, outer, sample, maml.init(algorithm, outer, jnp.ones(4)), jax.random.key(0)


def parameters(mesh):
    """What is learned in 20 meta-steps."""
    algorithm, outer, sample, state, key = experiment()
    train = jax.jit(partial(maml.train, algorithm, outer, sample, meta_steps=STEPS, mesh=mesh))
    return train(state, key)[0].params


def main(address: str, number: str) -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", True)
    jax.distributed.initialize(address, num_processes=2, process_id=int(number))
    print(json.dumps(parameters(maml.task_mesh()).tolist()))


if __name__ == "__main__":
    main(*sys.argv[1:])
