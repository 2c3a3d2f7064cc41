"""The numbers of a run's log as scalars of TensorBoard, which tensorboardX writes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

Write = Callable[[dict[str, Any], int], None]


def check_installed() -> None:
    """Refuses to start without tensorboardX.

    Raises:
        ValueError: The package is missing; the message names the extra that has it.
    """
    if find_spec("tensorboardX") is None:
        raise ValueError("--tensorboard needs tensorboardX: pip install 'maml-jax[tensorboard]'")


@contextmanager
def scalar_writer(folder: Path, done: int, *, enabled: bool) -> Iterator[Write]:
    """Gives `write(line of the log, step)`; scalars of steps beyond `done` are deleted."""
    if not enabled:
        yield lambda line, step: None
        return
    from tensorboardX import SummaryWriter

    with SummaryWriter(str(folder), purge_step=done + 1) as writer:

        def write(line: dict[str, Any], step: int) -> None:
            for name, value in flatten(line).items():
                writer.add_scalar(name, value, step)

        yield write


def flatten(line: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Flattens nested dictionaries and lists to numbers by path.

    >>> flatten({"loss": 1.0, "val": {"mse": {"1": 2.0}}, "after": [3.0, 4.0]})
    {'loss': 1.0, 'val/mse/1': 2.0, 'after/0': 3.0, 'after/1': 4.0}
    >>> flatten({"loss": [1.0]})
    {'loss': 1.0}
    """
    numbers = {}
    for name, value in line.items():
        if isinstance(value, list):
            seeds = {str(place): number for place, number in enumerate(value)}
            value = seeds if len(value) > 1 else value[0]
        if isinstance(value, dict):
            numbers |= flatten(value, f"{prefix}{name}/")
        elif value is not None:
            numbers[f"{prefix}{name}"] = value
    return numbers
