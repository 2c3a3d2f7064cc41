"""The options that all benchmarks share, and how the command line sets them."""

import argparse
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax
import tyro

import maml
from benchmarks import hardware, tensorboard


def at_least(config: object, bounds: Mapping[str, int]) -> None:
    """Refuses an option below its bound; None is no number.

    Raises:
        ValueError: naming the option, what was got and what is the least.
    """
    for name, bound in bounds.items():
        if (getattr(config, name) is not None) and getattr(config, name) < bound:
            raise ValueError(f"{name} must be >= {bound}; got {getattr(config, name)}")


@dataclass(frozen=True, kw_only=True)
class Run:
    """The options of every benchmark that meta-trains."""

    preset: str
    """The named set of defaults of all the other options."""
    seed: int = 0
    """Of initialisation and meta-training; the tasks of an evaluation are always the same."""
    inner_rate: float
    """Learning rate of the inner optimiser, on the mean loss of the support set."""
    inner_steps: int
    """Inner steps while meta-training."""
    outer_rate: float = 1e-3
    """Learning rate of the outer Adam."""
    meta_batch: int
    """Tasks of one meta-step."""
    meta_steps: int
    """Meta-steps of the whole run."""
    steps_per_call: int
    """Meta-steps of one jitted call; progress and the log come once a call."""
    devices: int | None = None
    """Devices that share out the tasks; None is what is fastest for the model and the machine."""
    cache: bool = True
    """Keep compiled programs in the user's cache directory, and take them from there."""
    out: Path | None = None
    """Folder of the run; None is a new one under results/runs."""
    resume: bool = False
    """Go on with the run in `out`, from its latest checkpoint; another outer rate, or number of
    meta-steps, holds from there on."""
    start_from: Path | None = None
    """Weights of `benchmarks.weights`, or the folder of a run, whose meta-parameters a new run
    starts with; its outer optimiser starts afresh."""
    save_seconds: float = 60.0
    """Least time between two checkpoints; there is one at the end as well."""
    tensorboard: bool = False
    """Write the log's numbers for TensorBoard too, into the run's folder."""
    record: bool = False
    """Add the summary to results/*.jsonl, from which the README's tables are made."""

    @property
    def spanning(self) -> str | None:
        """The schedule that spans all meta-steps, so that their number has to stay; if any does."""
        return None

    def __post_init__(self) -> None:
        if self.tensorboard:
            tensorboard.check_installed()
        at_least(self, {"inner_steps": 0, "meta_steps": 0, "meta_batch": 1})
        at_least(self, {"steps_per_call": 1, "devices": 1, "save_seconds": 0})
        if self.meta_steps % self.steps_per_call:
            raise ValueError(
                f"steps_per_call must divide meta_steps; got {self.steps_per_call} for"
                f" {self.meta_steps} meta-steps"
            )
        if self.meta_batch % (self.devices or 1):
            raise ValueError(
                f"the devices must divide meta_batch, which is {self.meta_batch}; got"
                f" {self.devices}"
            )


@dataclass(frozen=True, kw_only=True)
class Config(Run):
    """The options of every benchmark on data. A benchmark adds its own."""

    cosine: bool = False
    """Let the outer rate fall to zero along a cosine instead of keeping it."""
    draw: int = 1
    """Meta-steps whose episodes are drawn at once, at most."""
    chunk: int | None = None
    """Tasks that a device maps at once, 0 for all; None is what is fastest."""
    memory: maml.Memory | None = None
    """What is kept of the inner steps, and how they are derived; None is what is fastest."""
    precision: hardware.Precision | None = None
    """Of the layers' matrix products; meta-parameters, their statistics and updates are float32.
    None is float32 on a CPU, and tensorfloat32 elsewhere."""
    val_tasks: int = 100
    """Validation tasks after every call; 0 is none."""
    eval_tasks: int = 10_000
    """Test tasks of the final evaluation; the papers take 600."""
    patience: int = 20
    """Meta-steps in a row whose gradient is not finite, after which the run ends. They are left out
    and counted; so are those that are fewer."""
    eval_steps: int = 10
    """Inner steps of the final evaluation, which reports every step from 0."""

    @property
    def spanning(self) -> str | None:
        """As every benchmark's, and the cosine."""
        return "the cosine of the outer rate" if self.cosine else super().spanning

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, {"eval_steps": 0, "val_tasks": 0, "eval_tasks": 2, "draw": 1, "chunk": 0})
        at_least(self, {"patience": 1})
        if self.val_tasks == 1:
            raise ValueError("val_tasks must be 0 or >= 2, to have a confidence interval; got 1")
        devices, chunk = self.devices or 1, self.chunk or 1
        for name in ("val_tasks", "eval_tasks"):
            if getattr(self, name) % devices:
                raise ValueError(
                    f"the devices must divide {name}, which is {getattr(self, name)}; got {devices}"
                )
        if self.meta_batch // devices % chunk:
            raise ValueError(
                f"a chunk must divide a device's {self.meta_batch // devices} tasks; got {chunk}"
            )


C = TypeVar("C", bound=Run)


def configure(
    presets: Mapping[str, C], description: str | None, argv: Sequence[str] | None = None
) -> C:
    """The preset that `--preset` names (default: the first), changed by the other options.

    Args:
        presets: by name.
        description: printed by `--help`.
        argv: the command line; None is the process's own.

    Raises:
        ValueError: there is no such preset, or options do not go together.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--preset", default=next(iter(presets)))
    name = parser.parse_known_args(argv)[0].preset
    if name not in presets:
        raise ValueError(f"no preset {name!r}; there are {', '.join(presets)}")
    words = f"{description}\n\nPresets: {', '.join(presets)}."
    return tyro.cli(type(presets[name]), default=presets[name], description=words, args=argv)


@contextmanager
def in_words() -> Iterator[None]:
    """What a script refuses, it refuses in one line."""
    try:
        yield
    except (ValueError, OSError, FloatingPointError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    except KeyboardInterrupt as error:
        raise SystemExit("Interrupted.") from error


def check_memory(config: Config, algorithm: str, *, through: Collection[str]) -> None:
    """Refuses a memory mode for an algorithm that is not among those through the inner steps.

    Raises:
        ValueError: saying which algorithm has no use for which mode.
    """
    if config.memory and algorithm not in through:
        raise ValueError(
            f"{algorithm} takes no derivative through inner steps, so there is no memory mode to"
            f" choose; got {config.memory!r}"
        )


def launch(
    main: Callable[[C], Any],
    presets: Mapping[str, C],
    description: str | None,
    argv: Sequence[str] | None = None,
) -> None:
    """Runs a benchmark from the command line; what it refuses, it refuses in one line."""
    try:
        with in_words():
            config = configure(presets, description, argv)
            hardware.start(cache=config.cache)
            main(config)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        knobs = "--chunk 1 (tasks at a time) and --memory forward-recompute need less"
        raise SystemExit(f"The device is out of memory: {knobs}.\n{error}") from error
