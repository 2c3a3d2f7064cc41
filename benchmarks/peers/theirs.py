"""The PyTorch sides of `benchmarks.peers`: MAML's meta-step in four usual ways.

All inputs are NumPy arrays in JAX's layouts. No other module of the repository imports torch.
"""

from collections.abc import Callable
from functools import partial
from timeit import timeit
from typing import NamedTuple

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch import Tensor  # pyright: ignore[reportMissingImports]
from torch.nn import functional  # pyright: ignore[reportMissingImports]

Weights = dict[str, Tensor]
Batch = tuple[Tensor, Tensor]  # (inputs, targets)
Arrays = dict[str, np.ndarray]
GradientFunction = Callable[[], Tensor]  # adds to the `.grad` of the weights; returns the loss


class Problem(NamedTuple):
    """The problem of every peer: the query loss after SGD on a support batch, over tasks."""

    weights: Weights
    tasks: tuple[Batch, Batch]  # (support, query), each `[task, ...]`
    loss: Callable[..., Tensor]  # (weights, inputs, targets) -> loss
    rate: float
    steps: int


def adapted_names(problem: Problem) -> list[str]:
    """The names of the weights that adapt: all but the biases of batch normalisation."""
    return [name for name in problem.weights if not name.startswith("norm")]


def unfold_conv(x: Tensor, kernel: Tensor, *, stride: int) -> Tensor:
    """A convolution of 3 x 3 as a matrix product with patches."""
    side = (x.shape[-1] - 3) // stride + 1
    columns = functional.unfold(x, 3, stride=stride)
    return (kernel.flatten(1) @ columns).unflatten(-1, (side, side))


def conv4_loss(
    weights: Weights,
    x: Tensor,
    labels: Tensor,
    *,
    convolve: Callable[..., Tensor] = functional.conv2d,
    pool: bool = False,
) -> Tensor:
    """The cross-entropy of `tasks.models.Conv4` on images NCHW."""
    stride = 1 if pool else 2
    for block in range(4):
        # SAME: with stride 2, an even side is padded at its end alone.
        pad = (0, 1, 0, 1) if x.shape[-1] % 2 == 0 and not pool else (1, 1, 1, 1)
        x = convolve(functional.pad(x, pad), weights[f"conv{block}"], stride=stride)
        bias = weights[f"norm{block}/bias"]
        x = functional.batch_norm(x, None, None, bias=bias, training=True, eps=1e-3)
        x = functional.relu(x)
        x = functional.max_pool2d(x, 2) if pool else x
    x = x.permute(0, 2, 3, 1).flatten(1) if pool else x.mean((2, 3))
    return functional.cross_entropy(x @ weights["head/kernel"] + weights["head/bias"], labels)


def mlp_loss(weights: Weights, x: Tensor, y: Tensor) -> Tensor:
    """The mean squared error of `tasks.models.MLP`."""
    for layer in range(2):
        x = functional.relu(x @ weights[f"Dense_{layer}/kernel"] + weights[f"Dense_{layer}/bias"])
    x = x @ weights["head/kernel"] + weights["head/bias"]
    return functional.mse_loss(x, y)


LOSSES = {"mlp": mlp_loss, "conv4": conv4_loss, "conv4-pool": partial(conv4_loss, pool=True)}


class Loss(torch.nn.Module):
    """The loss of a problem as a module, whose parameters are those that adapt."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.problem, self.names = problem, adapted_names(problem)
        for name in self.names:
            self.register_parameter(name, problem.weights[name])

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch."""
        adapted = {name: getattr(self, name) for name in self.names}
        return self.problem.loss(self.problem.weights | adapted, inputs, targets)


def loop_over_tasks(
    problem: Problem, query_loss: Callable[[Batch, Batch], Tensor]
) -> GradientFunction:
    """The mean over tasks in a Python loop, with one backward pass for each task."""
    tasks = [*zip(*(zip(*batch, strict=True) for batch in problem.tasks), strict=True)]

    def meta_gradient() -> Tensor:
        total = torch.tensor(0.0)
        for support, query in tasks:
            loss = query_loss(support, query) / len(tasks)
            loss.backward()
            total = total + loss.detach()
        return total

    return meta_gradient


def loop(problem: Problem) -> GradientFunction:
    """The meta-gradient with `torch.autograd.grad`, as in learn2learn."""
    names = adapted_names(problem)

    def query_loss(support: Batch, query: Batch) -> Tensor:
        weights = dict(problem.weights)
        for _ in range(problem.steps):
            loss = problem.loss(weights, *support)
            leaves = [weights[name] for name in names]
            for name, grad in zip(
                names, torch.autograd.grad(loss, leaves, create_graph=True), strict=True
            ):
                weights[name] = weights[name] - problem.rate * grad
        return problem.loss(weights, *query)

    return loop_over_tasks(problem, query_loss)


def higher(problem: Problem) -> GradientFunction:
    """The meta-gradient with `higher`, as in its examples/maml-omniglot.py."""
    from higher import innerloop_ctx  # pyright: ignore[reportMissingImports]

    module = Loss(problem)
    inner = torch.optim.SGD(module.parameters(), lr=problem.rate)

    def query_loss(support: Batch, query: Batch) -> Tensor:
        with innerloop_ctx(module, inner, copy_initial_weights=False) as (loss, optimizer):
            for _ in range(problem.steps):
                optimizer.step(loss(*support))
            return loss(*query)

    return loop_over_tasks(problem, query_loss)


def torchopt(problem: Problem) -> GradientFunction:
    """The meta-gradient with `torchopt`, as in its examples/few-shot/maml_omniglot.py."""
    import torchopt as package  # pyright: ignore[reportMissingImports]

    loss = Loss(problem)
    inner = package.MetaSGD(loss, lr=problem.rate)
    start = [package.extract_state_dict(part, by="reference") for part in (loss, inner)]

    def query_loss(support: Batch, query: Batch) -> Tensor:
        for _ in range(problem.steps):
            inner.step(loss(*support))
        value = loss(*query)
        for part, state in zip((loss, inner), start, strict=True):
            package.recover_state_dict(part, state)
        return value

    return loop_over_tasks(problem, query_loss)


def torch_func(problem: Problem) -> GradientFunction:
    """The meta-gradient with `torch.func.grad` in `torch.func.vmap` and the faster convolution.

    Under vmap `conv2d` becomes a grouped convolution, which may be slower than `unfold_conv`.
    """
    if problem.loss is mlp_loss:
        return vmap_over_tasks(problem)
    losses = problem.loss, partial(problem.loss, convolve=unfold_conv)
    gradients = [vmap_over_tasks(problem._replace(loss=loss)) for loss in losses]
    return min(gradients, key=partial(timeit, number=2))


def vmap_over_tasks(problem: Problem) -> GradientFunction:
    """The meta-gradient with `torch.func.grad` in `torch.func.vmap`."""
    weights, tasks, loss, rate, steps = problem
    names = adapted_names(problem)

    def query_loss(start: Weights, support: Batch, query: Batch) -> Tensor:
        adapted = {name: start[name] for name in names}
        for _ in range(steps):
            grads = torch.func.grad(lambda part: loss(start | part, *support))(adapted)
            adapted = {name: leaf - rate * grads[name] for name, leaf in adapted.items()}
        return loss(start | adapted, *query)

    def total(start: Weights) -> Tensor:
        return torch.func.vmap(query_loss, in_dims=(None, 0, 0))(start, *tasks).mean()

    def meta_gradient() -> Tensor:
        start = {name: leaf.detach() for name, leaf in weights.items()}
        grads, value = torch.func.grad_and_value(total)(start)
        for name, leaf in weights.items():
            leaf.grad = grads[name]
        return value

    return meta_gradient


PEERS = {"loop": loop, "higher": higher, "torchopt": torchopt, "torch.func": torch_func}


def build(
    peer: str, params: Arrays, tasks: tuple[tuple, tuple], rate: float, steps: int, model: str
) -> tuple[Callable[[], tuple[float, Arrays]], Callable[[], object]]:
    """Builds a peer, by its name in `PEERS`, for the fields of `benchmarks.peers.ours.Problem`.

    Returns:
        Functions of the loss and meta-gradient at the current weights, and of one meta-step.

    Raises:
        ImportError: The package of the peer is not installed.
    """
    weights = {name: torch.nn.Parameter(_tensor(leaf)) for name, leaf in params.items()}
    support, query = (tuple(_tensor(part) for part in batch) for batch in tasks)
    meta_gradient = PEERS[peer](Problem(weights, (support, query), LOSSES[model], rate, steps))
    optimizer = torch.optim.Adam(weights.values(), lr=1e-3)

    def check() -> tuple[float, Arrays]:
        optimizer.zero_grad()
        value = meta_gradient().item()
        arrays = {name: leaf.grad.numpy().copy() for name, leaf in weights.items()}
        return value, {k: a.transpose(2, 3, 1, 0) if a.ndim == 4 else a for k, a in arrays.items()}

    def step() -> None:
        optimizer.zero_grad()
        meta_gradient()
        optimizer.step()

    return check, step


def matmul(size: int) -> Callable[[], object]:
    """A function that multiplies two square float32 matrices."""
    a, b = torch.ones(size, size), torch.ones(size, size)
    return lambda: a @ b


def _tensor(array: np.ndarray) -> Tensor:
    """Converts kernels HWIO to OIHW, images `[task, n, h, w, c]` to NCHW, labels to int64."""
    if array.ndim >= 4:
        array = np.moveaxis(array, -1, 2) if array.ndim == 5 else array.transpose(3, 2, 0, 1)
    tensor = torch.from_numpy(np.array(array, order="C"))
    return tensor if tensor.is_floating_point() else tensor.long()
