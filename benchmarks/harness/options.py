"""The options that all benchmarks share."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import maml
from benchmarks.harness import hardware, tensorboard
from benchmarks.harness.bounds import check


@dataclass(frozen=True, kw_only=True)
class Run:
    """The options of every benchmark that meta-trains."""

    preset: str
    """The named set of defaults of all the other options."""
    seed: int = 0
    """Of initialisation and meta-training; the tasks of an evaluation are always the same."""
    seeds: int = 1
    """Number of seeds that are trained: `seed`, `seed` + 1, and so on."""
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

    @property
    def unread(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Options that nothing reads beside these others, and what would; presets set them."""
        yield from ()

    def __post_init__(self) -> None:
        if self.tensorboard:
            tensorboard.check_installed()
        check(self)
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
    prefetch: int = 1
    """Largest number of meta-steps whose episodes are drawn at once."""
    chunk: int | None = None
    """Tasks that a device maps at once, 0 for all; None is what is fastest."""
    hvp: maml.Hvp | None = None
    """Mode of the Hessian-vector products in second derivatives; None is the fastest."""
    remat: bool = False
    """Compute the inner steps again for the meta-gradient, which needs less memory."""
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

    @property
    def drawn(self) -> int:
        """Tasks that are drawn at once while meta-training, at most."""
        return self.meta_batch * min(self.prefetch, self.steps_per_call)
