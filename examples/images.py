"""Few-shot classification of images with the library alone: a minute on one core.

    python examples/images.py                      # drawings of random strokes
    python examples/images.py --images FILE.npy    # your images: uint8 [class, image, side, side]

The network is the usual one of four convolutions. A class is learned from one image; its query
images are normalised with the batch-norm statistics of the support set.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import maml

WAYS, SHOTS, QUERIES, SIDE, FEATURES = 5, 1, 5, 28, 32


def drawings(classes=120, images=20, seed=0):
    """Classes of three random strokes each, whose end points move a little from image to image."""
    random = np.random.default_rng(seed)
    ends = random.uniform(4, SIDE - 4, (classes, 1, 3, 2, 2)) + random.normal(
        0, 0.7, (classes, images, 3, 2, 2)
    )
    along = np.linspace(0, 1, 12)[:, None]
    points = ends[..., 0, None, :] * (1 - along) + ends[..., 1, None, :] * along
    points = points.reshape(classes, images, -1, 2)
    grid, ink = np.arange(SIDE), np.zeros((classes, images, SIDE, SIDE))
    for place in np.moveaxis(points, 2, 0):
        rows, columns = np.exp(-np.square(grid - place[..., None]) / 2).transpose(2, 0, 1, 3)
        ink = np.maximum(ink, rows[..., :, None] * columns[..., None, :])
    return (255 * ink).astype(np.uint8)


def network(params, images, *, reference=None):
    """Logits `[n, ways]`; `reference` are the rows whose statistics normalise."""
    x = images
    for kernel, bias in params["blocks"]:
        x = maml.convolution(x, kernel, stride=2)
        x = jax.nn.relu(maml.batch_normalise(x, reference=reference) + bias)
    return x.mean((1, 2)) @ params["head"]


def initial(key):
    """Initial parameters of the network."""
    draw, keys = jax.nn.initializers.glorot_uniform(), jax.random.split(key, 5)
    sizes = [(1, FEATURES), *[(FEATURES, FEATURES)] * 3]
    blocks = [
        (draw(key, (3, 3, *size)), jnp.zeros(FEATURES))
        for key, size in zip(keys[1:], sizes, strict=True)
    ]
    return {"blocks": blocks, "head": draw(keys[0], (FEATURES, WAYS))}


def main(images, meta_steps=1000):
    """Meta-trains on four fifths of the classes, and prints the accuracy on the others."""
    held_out = len(images) // 5
    train_tasks, test_tasks = (
        maml.batch_tasks(maml.few_shot(part, WAYS, SHOTS, QUERIES), number)
        for part, number in ((images[held_out:], 8), (images[:held_out], 200))
    )
    loss = maml.classification(maml.few_shot_apply(network, "support"))
    algorithm = maml.maml(loss, optax.sgd(0.4), inner_steps=1, hvp="forward")
    optimizer = optax.adam(3e-3)

    @jax.jit
    def train(tasks, state):
        key = jax.random.key(1)
        return maml.train(algorithm, optimizer, tasks, state, key, meta_steps, chunk=1)

    state, _ = train(train_tasks, maml.init(algorithm, optimizer, initial(jax.random.key(0))))
    test, key = test_tasks(jax.random.key(2)), jax.random.key(3)
    _, metrics = maml.evaluate(algorithm.learner, loss, state.params, test, key, 2, chunk=1)
    mean, ci95 = maml.mean_ci95(metrics["accuracy"])
    for steps in range(3):
        print(f"inner steps: {steps}, accuracy: {100 * mean[steps]:.1f} ± {100 * ci95[steps]:.1f}%")
    return mean


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, help="file of uint8 [class, image, side, side]")
    file = parser.parse_args().images
    main(drawings() if file is None else np.load(file))
