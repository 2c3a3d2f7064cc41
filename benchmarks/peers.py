"""The time of one meta-gradient: ours against PyTorch's `torch.func`, in one run.

    make peers      # PyTorch in an environment of its own; two minutes on two cores

Omniglot 5-way 1-shot as in MAML's paper: 32 tasks, one inner step, second order. Both sides get
the same images and the same parameters, and are timed only if their losses and meta-gradients
agree to float32 rounding. Repeats are interleaved, and medians are reported.
"""

import time
from collections.abc import Callable
from dataclasses import replace

import jax
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from rich.console import Console
from rich.table import Table

import maml
from benchmarks.omniglot import PRESETS, experiment

REPEATS = 15
CONFIG = replace(PRESETS["glyphs-5-way-1-shot"], meta_batch=32)  # the pixels do not change the time


def torch_meta_gradient(params: dict, rate: float) -> Callable[[tuple], tuple]:
    """MAML's meta-gradient by `torch.func.grad` in `torch.func.vmap`.

    Convolutions are `unfold` and a matrix product, like ours: `conv2d`, whose kernels differ from
    task to task under vmap, becomes a grouped convolution, and PyTorch is slower with it.

    Args:
        params: flax's, as numpy arrays; every leaf but the batch-norm biases adapts.
        rate: of the one inner step.

    Returns:
        From (support, labels, query, labels), each `[task, ...]`, to loss and meta-gradient.
    """
    functional = torch.nn.functional

    def forward(weights: dict, images: torch.Tensor) -> torch.Tensor:
        x = images
        for block in range(4):
            pad = (0, 1, 0, 1) if x.shape[-1] % 2 == 0 else (1, 1, 1, 1)  # SAME with stride 2
            layer, side = weights[f"conv{block}"], (x.shape[-1] + 1) // 2
            columns = functional.unfold(functional.pad(x, pad), 3, stride=2)
            x = (layer["kernel"].flatten(1) @ columns).unflatten(-1, (side, side))
            x = x + layer["bias"][:, None, None]
            mean = x.mean((0, 2, 3), keepdim=True)
            var = x.var((0, 2, 3), keepdim=True, unbiased=False)
            x = (x - mean) * torch.rsqrt(var + 1e-3) + weights[f"norm{block}"]["bias"][
                :, None, None
            ]
            x = functional.relu(x)
        return x.mean((2, 3)) @ weights["head"]["kernel"] + weights["head"]["bias"]

    def loss(weights: dict, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(forward(weights, images), labels)

    def outer(weights: dict, task: tuple) -> torch.Tensor:
        support, support_labels, query, labels = task
        grads = torch.func.grad(loss)(weights, support, support_labels)
        adapted = {
            layer: {
                name: leaf if layer.startswith("norm") else leaf - rate * grads[layer][name]
                for name, leaf in leaves.items()
            }
            for layer, leaves in weights.items()
        }
        return loss(adapted, query, labels)

    def total(weights: dict, tasks: tuple) -> torch.Tensor:
        return torch.func.vmap(outer, in_dims=(None, 0))(weights, tasks).mean()

    def as_torch(path: tuple, leaf: np.ndarray) -> torch.Tensor:
        return torch.tensor(leaf.transpose(3, 2, 0, 1) if leaf.ndim == 4 else leaf)

    weights = jax.tree.map_with_path(as_torch, params)
    return lambda tasks: torch.func.grad_and_value(total)(weights, tasks)[::-1]


def timed(call: Callable[[], object]) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    """Checks that both compute the same, times them in turns, and prints the medians."""
    chosen = experiment(CONFIG)
    key = jax.random.key(0)
    episodes = jax.jit(maml.batched(chosen.samplers["train"], CONFIG.meta_batch))(key)
    ours = jax.jit(
        lambda params, episodes, key: maml.meta_gradient(
            chosen.algorithm.grad, params, episodes, key, chunk=CONFIG.chunk
        )
    )
    params = jax.tree.map(np.asarray, chosen.params)["params"]
    theirs = torch_meta_gradient(params, CONFIG.inner_rate)

    def images(batch: jax.Array) -> torch.Tensor:
        return torch.tensor(np.asarray(batch).transpose(0, 1, 4, 2, 3))

    def labels(batch: jax.Array) -> torch.Tensor:
        return torch.tensor(np.asarray(batch), dtype=torch.long)

    (support, support_labels), (query, query_labels) = episodes
    batch = images(support), labels(support_labels), images(query.images), labels(query_labels)
    grads, metrics = ours(chosen.params, episodes, key)
    their_loss, their_grads = theirs(batch)
    np.testing.assert_allclose(metrics["loss"], their_loss.item(), rtol=1e-4)
    as_flax = [
        leaf.numpy().transpose(2, 3, 1, 0) if leaf.ndim == 4 else leaf.numpy()
        for leaf in jax.tree.leaves(their_grads)
    ]
    flat, their_flat = (
        np.concatenate([np.ravel(leaf) for leaf in leaves])
        for leaves in (jax.tree.leaves(grads), as_flax)
    )
    error = np.linalg.norm(flat - their_flat) / np.linalg.norm(flat)
    if error > 1e-3:
        raise ValueError(f"the meta-gradients differ by {error:.2g} of their length")

    calls = {
        "maml": lambda: jax.block_until_ready(ours(chosen.params, episodes, key)),
        "torch.func": lambda: theirs(batch),
    }
    seconds = {name: [] for name in calls}
    for _ in range(REPEATS):
        for name, call in calls.items():
            seconds[name].append(timed(call))
    table = Table(title="Omniglot 5-way 1-shot, one second-order meta-gradient of 32 tasks")
    for column in ("", "median ms", "tasks/s", "their time / ours"):
        table.add_column(column, justify="right")
    for name, spent in seconds.items():
        median, ratio = np.median(spent), np.median(np.array(spent) / np.array(seconds["maml"]))
        rate = CONFIG.meta_batch / median
        table.add_row(name, f"{1000 * median:.0f}", f"{rate:.0f}", f"{ratio:.2f}")
    table.caption = (
        f"jax {jax.__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads"
    )
    Console().print(table)


if __name__ == "__main__":
    main()
