"""Regression of sine waves from ten points each, with the library alone: half a minute on one core.

    python examples/sinusoid.py

Finn, Abbeel, Levine: Model-agnostic meta-learning (ICML 2017), https://arxiv.org/abs/1703.03400
"""

import jax
import jax.numpy as jnp
import optax

import maml


def sample(key):
    """One task: a sine wave, with 10 points to adapt to and 10 to be tested on."""
    keys = jax.random.split(key, 3)
    amplitude = jax.random.uniform(keys[0], minval=0.1, maxval=5.0)
    phase = jax.random.uniform(keys[1], maxval=jnp.pi)
    x = jax.random.uniform(keys[2], (20, 1), minval=-5.0, maxval=5.0)
    y = amplitude * jnp.sin(x - phase)
    return maml.Episode(support=(x[:10], y[:10]), query=(x[10:], y[10:]))


def network(params, x):
    """Two hidden layers of 40 units."""
    *hidden, last = params
    for weight, bias in hidden:
        x = jax.nn.relu(x @ weight + bias)
    return x @ last[0] + last[1]


def initial(key):
    """Initial parameters of the network."""
    draw = jax.nn.initializers.lecun_normal()
    sizes = zip(jax.random.split(key, 3), (1, 40, 40), (40, 40, 1), strict=True)
    return [(draw(key, (inputs, outputs)), jnp.zeros(outputs)) for key, inputs, outputs in sizes]


def main(meta_steps=10_000):
    """Meta-trains, and prints the mean squared error after 0, 1 and 2 inner steps."""
    loss = maml.regression(network)
    algorithm = maml.maml(loss, optax.sgd(0.01), inner_steps=1)
    optimizer, tasks = optax.adam(1e-3), maml.batch_tasks(sample, num_tasks=25)

    @jax.jit
    def train(state):
        return maml.train(algorithm, optimizer, tasks, state, jax.random.key(1), meta_steps)

    state, _ = train(maml.init(algorithm, optimizer, initial(jax.random.key(0))))
    test = maml.batch_tasks(sample, num_tasks=1000)(jax.random.key(2))
    errors, _ = maml.evaluate(algorithm.learner, loss, state.params, test, jax.random.key(3), 2)
    mean, ci95 = maml.mean_ci95(errors)
    for steps in range(3):
        print(f"inner steps: {steps}, mean squared error: {mean[steps]:.2f} ± {ci95[steps]:.2f}")
    return mean


if __name__ == "__main__":
    main()
