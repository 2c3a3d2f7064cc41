"""Options, problems and algorithms of `benchmarks.memory`."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

import maml
from benchmarks import few_shot_experiment, omniglot
from benchmarks.harness import algorithms
from benchmarks.harness.bounds import check, check_used
from maml.types import LossFn, Params
from tasks.language import Transformer, markov_chains, next_token
from tasks.language_models import WindowTransformer, next_chunk, start_of
from tasks.passages import random_readings, text_passages

Model = Literal["conv4", "transformer", "reader"]
Mode = Literal[
    "reverse",
    "reverse-remat",
    "forward",
    "forward-remat",
    "first-order",
    "first-order-remat",
    "implicit",
]
MODES, EXACT = get_args(Mode), get_args(Mode)[:4]
# eps_root keeps the derivative of Adam finite where the gradient is 0: at tokens that do not occur.
OPTIMIZERS = {"sgd": (optax.sgd, 0.05), "adam": (partial(optax.adam, eps_root=1e-6), 1e-3)}
STRENGTH = 2.0  # regularisation of implicit MAML


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the measurement."""

    model: tuple[Model, ...] = ("conv4", "transformer")
    """Models, in the order of the tables. A `reader` takes an inner step on each chunk of `length`
    tokens of a text."""
    steps: tuple[int, ...] = (1, 5, 20, 100)
    """Numbers of inner steps."""
    modes: tuple[Mode, ...] = MODES
    """Modes of the meta-gradient."""
    repeats: int = 3
    """Number of timed runs of each program."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """Inner optimiser."""
    inner_rate: float | None = None
    """Learning rate of the inner optimiser; None is 0.05 for SGD and 0.001 for Adam."""
    layers: int = 4
    """Number of layers of the transformer or reader."""
    width: int = 128
    """Number of features of the transformer or reader."""
    heads: int = 4
    """Number of attention heads in each layer of the transformer or reader."""
    length: int = 128
    """Number of tokens of a passage of the transformer, or of a chunk of the reader."""
    sequences: int = 8
    """Number of passages in the support set, and in the query set, of the transformer."""
    text: Path | None = None
    """File of a text that the transformer or reader adapts to; None is a random Markov chain for
    the transformer and random bytes for the reader."""
    out: Path | None = None
    """Folder of memory.json and memory.png; None writes no files."""

    def __post_init__(self) -> None:
        check(self)
        reads = ("layers", "width", "heads", "length", "text")
        is_read = bool({"transformer", "reader"} & {*self.model})
        check_used(self, reads, is_read, "model transformer or reader")
        check_used(self, ("sequences",), "transformer" in self.model, "model transformer")
        if "reader" in self.model and {*self.modes} == {"implicit"}:
            raise ValueError("model reader has no mode implicit: another mode is needed; got none")
        if not self.rate > 0:
            raise ValueError(f"inner_rate must be positive; got {self.rate}")
        if "implicit" in self.modes and self.optimizer == "sgd" and self.rate * STRENGTH >= 2:
            raise ValueError(f"inner_rate must be < {2 / STRENGTH:g} for implicit; got {self.rate}")

    @property
    def rate(self) -> float:
        """Learning rate of the inner optimiser."""
        return OPTIMIZERS[self.optimizer][1] if self.inner_rate is None else self.inner_rate


class Setting(NamedTuple):
    """A problem whose meta-gradient is measured.

    Attributes:
        loss: Loss of a task, or of a chunk of a text.
        params: Parameters of the model.
        sampler: Sampler of tasks, as a function of the number of inner steps.
        mask: Mask of the parameters that adapt; None is all.
        start: Carry before the first chunk, for `maml.reading`; None for tasks that are not read.
    """

    loss: LossFn
    params: Params
    sampler: Callable[[int], maml.Sampler]
    mask: PyTree[bool] | None = None
    start: Callable[[Params], PyTree] | None = None


def problem(model: Model, options: Options) -> Setting:
    """The problem of a model; the batch-norm biases of Conv4 are constant."""
    if model == "conv4":
        experiment = few_shot_experiment.experiment(omniglot.PRESETS["glyphs-5-way-1-shot"])
        params = experiment.initial()
        mask = maml.complement(maml.mask_by_path(params, "/norm"))
        return Setting(experiment.metric, params, lambda steps: experiment.samplers["train"], mask)
    key, sizes = jax.random.key(0), {n: getattr(options, n) for n in ("layers", "width", "heads")}
    if model == "reader":
        reader = WindowTransformer(**sizes)
        content = (
            options.text.read_bytes() if options.text else np.random.default_rng(0).bytes(2**18)
        )
        text = np.frombuffer(content, np.uint8)
        params = jax.jit(reader.init)(key, jnp.zeros(1, jnp.int32), reader.start())
        return Setting(
            next_chunk(reader),
            params,
            lambda steps: random_readings([text], steps, options.length),
            maml.mask_by_path(params, "/second"),
            start_of(reader),
        )
    counts = (options.sequences, options.sequences, options.length)
    sample = (
        text_passages(options.text.read_bytes(), *counts)
        if options.text
        else markov_chains(*counts)
    )
    network = Transformer(**sizes, length=options.length)
    params = jax.jit(network.init)(key, jnp.zeros((1, 1), jnp.int32))
    return Setting(next_token(network), params, lambda steps: sample)


def algorithm(problem: Setting, mode: Mode, steps: int, options: Options) -> maml.Algorithm:
    """The algorithm of a mode, with a number of inner steps."""
    built = algorithms.build(
        {"implicit": "imaml", "first-order": "fomaml"}.get(mode.removesuffix("-remat"), "maml"),
        problem.loss,
        options.rate,
        steps,
        optimizer=OPTIMIZERS[options.optimizer][0],
        mask=problem.mask,
        regularisation=STRENGTH,
        hvp="forward" if "forward" in mode else "reverse",
        remat="remat" in mode,
    )
    if problem.start is None:
        return built
    return built._replace(grad=maml.reading(built.learner, problem.start))
