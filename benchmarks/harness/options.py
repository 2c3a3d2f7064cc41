"""The options that all benchmarks share."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import maml
from benchmarks.harness import algorithms, hardware
from benchmarks.harness.bounds import check, check_used
from benchmarks.harness.display import check_tensorboard
from benchmarks.harness.renamed import preset_of_today


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The options of every benchmark that meta-trains."""

    preset: str
    """Name of a set of defaults for all other options."""
    algorithm: str
    """Algorithm that is meta-trained."""
    seed: int = 0
    """Random seed of initialisation and meta-training. The tasks of an evaluation never change."""
    seeds: int = 1
    """Number of seeds that are trained: `seed`, `seed` + 1, and so on."""
    inner_rate: float
    """Learning rate of the inner optimiser, for the mean loss of the support set or of a chunk of
    text."""
    inner_steps: int
    """Number of inner steps during meta-training."""
    outer_rate: float = 1e-3
    """Learning rate of the outer Adam."""
    meta_batch: int
    """Number of tasks in one meta-step."""
    meta_steps: int
    """Number of meta-steps of the whole run."""
    steps_per_call: int
    """Number of meta-steps in one jitted call; the log gets a line after each call. With
    --meta-steps alone, it becomes a divisor of that number, unless all of these are small."""
    devices: int | None = None
    """Number of devices that share the tasks; None is all of them where a task is much work, as
    with a network for images, or else one."""
    cache: bool = True
    """Keep compiled programs in the user's cache directory, and load them from there."""
    out: Path | None = None
    """Folder of the run; None makes a new one under results/runs."""
    resume: bool = False
    """Continue the run in `out` from its latest checkpoint. Another outer learning rate or another
    number of meta-steps holds from there on."""
    start_from: Path | None = None
    """File of `benchmarks.weights`, or folder of a run, with the initial meta-parameters of a new
    run; the outer optimiser starts from its own initial state."""
    save_seconds: float = 60.0
    """Least number of seconds between two checkpoints; there is one at the end as well."""
    tensorboard: bool = False
    """Write the numbers of the log for TensorBoard too, into the folder of the run."""
    record: bool = False
    """Add the summary to results/*.jsonl, from which the tables of the docs are made."""

    @property
    def full_length_schedule(self) -> str | None:
        """Name of a schedule that spans all meta-steps, which fixes their number; or None."""
        return None

    @property
    def total_steps(self) -> int:
        """Number of meta-steps that the run takes."""
        return 0 if self.algorithm in algorithms.UNTRAINED else self.meta_steps

    @property
    def unread_options(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Names of options that nothing reads, and words for what would read them.

        On the command line they must keep the values of the preset.
        """
        yield from algorithms.unread(self)

    def __post_init__(self) -> None:
        if self.tensorboard:
            check_tensorboard()
        check(self)
        object.__setattr__(self, "preset", preset_of_today(self.preset))
        for names, readers in algorithms.unread(self):
            check_used(self, names, False, readers)
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
class DataOptions(RunOptions):
    """The options of every benchmark on data. A benchmark adds its own."""

    cosine: bool = False
    """Let the outer learning rate fall to zero along a cosine."""
    prefetch: int = 1
    """Largest number of meta-steps whose episodes are drawn at once."""
    chunk: hardware.Chunk = "auto"
    """Number of tasks that a device maps at once, or all of them; auto is 1 where a task is much
    work for a CPU core, or else all. This has nothing to do with the chunks of a text."""
    hvp: maml.Hvp | None = None
    """Mode of the Hessian-vector products in second derivatives; None is forward for networks of
    images and reverse for others."""
    remat: bool = False
    """Compute the inner steps again for the meta-gradient, to need less memory."""
    precision: hardware.Precision | None = None
    """Precision of the layers' matrix products; None is float32 on a CPU, else tensorfloat32.
    Meta-parameters, their statistics and updates are always float32."""
    val_tasks: int = 100
    """Number of validation tasks after every call; 0 is no validation."""
    eval_tasks: int = 10_000
    """Number of test tasks of the final evaluation, or the largest number of passages of texts."""
    patience: int = 20
    """Number of consecutive meta-steps whose gradient is not finite, after which the run ends. Each
    such meta-step is left out and counted."""
    eval_steps: int = 10
    """Number of inner steps of the final evaluation, which reports the result after each step. For
    texts it is the number of chunks of a passage."""

    @property
    def full_length_schedule(self) -> str | None:
        """Name of a schedule that spans all meta-steps: the cosine; or None."""
        return "the cosine of the outer rate" if self.cosine else super().full_length_schedule

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.val_tasks == 1:
            raise ValueError("val_tasks must be 0 or >= 2, to have a confidence interval; got 1")
        devices, chunk = self.devices or 1, self.chunk if isinstance(self.chunk, int) else 1
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
    def tasks_at_once(self) -> int:
        """Largest number of tasks that are drawn at once during meta-training."""
        return self.meta_batch * min(self.prefetch, self.steps_per_call)
