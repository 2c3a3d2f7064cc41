"""The options of an architecture search."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from benchmarks.harness.bounds import check_size, check_used
from benchmarks.search.children import SPACES, Children
from benchmarks.search.figures import TOPS
from benchmarks.search.recurrent import OPTIONS, Recurrent
from benchmarks.search.scales import PERCENT, Scale, perplexity
from tasks.architectures.nasbench_nlp import SCALE

NAMES = "random", "evolution", "reinforce", "ppo"
SpaceName = Literal[
    "nasbench201",
    "macro-table",
    "nasbench-nlp",
    "graphs",
    "maml-bench",
    "macro",
    "cells",
    "recurrent",
]
TOKENS = 16  # about the number of tokens of a child network


@dataclass(frozen=True, kw_only=True)
class Search(Children, Recurrent):
    """Options of the search."""

    space: SpaceName = "nasbench201"
    """Search space: a table in a file (nasbench201, macro-table, nasbench-nlp), the table of the
    package nas-bench-graph (graphs), or that of `benchmarks.maml_bench` (maml-bench); or a space
    whose child networks are trained: the convolutions of Zoph and Le (macro), the cells of NASNet
    (cells), or recurrent cells (recurrent)."""
    table: Path | None = None
    """File of the table, where the search space needs one."""
    dataset: str | None = None
    """Data set of the table, omniglot or glyphs for child networks that read images, or ptb for
    recurrent cells; None is the first one of the search space."""
    children: int = 100
    """Number of child networks of a search."""
    runs: int | None = None
    """Number of searches with each strategy; None is 500 for a table, and 3 with training."""
    strategies: tuple[Literal["random", "evolution", "reinforce", "ppo"], ...] = NAMES
    """Strategies to compare, among them random, the baseline."""
    executor: Literal["devices", "ray"] = "devices"
    """Executor that trains child networks: the devices of this process, or Ray."""
    policy: Literal["factorised", "lstm"] = "factorised"
    """Policy of REINFORCE and PPO."""
    rate: float | None = None
    """Learning rate of REINFORCE and PPO; None is 0.05 for the factorised policy and 0.001 for the
    LSTM."""
    batch: int = 10
    """Number of child networks between two updates of PPO, a divisor of `children`."""
    seed: int = 0
    """Seed of all searches."""
    cache: bool = True
    """Keep compiled programs in the user's cache directory, and take them from there."""
    out: Path | None = None
    """Folder of the results; None is a new one under results/runs."""
    record: bool = False
    """Add the summary to results/*.jsonl, from which the tables are made."""

    def __post_init__(self) -> None:
        self.check_options(self.space, self.dataset)
        check_used(self, OPTIONS, self.space == "recurrent", "space recurrent")
        if self.children < (least := max(TOPS)):
            raise ValueError(f"children must be >= {least}; got {self.children}")
        if self.children % self.batch:
            raise ValueError(f"the batch must divide {self.children} children; got {self.batch}")
        if self.executor == "ray" and find_spec("ray") is None:
            raise ValueError("--executor ray needs Ray: pip install 'maml-jax[ray]'")
        if "random" not in self.strategies:
            raise ValueError(f"strategies must include random, the baseline; got {self.strategies}")
        if self.table is not None and (self.trains or self.space == "graphs"):
            reads = "no table" if self.trains else "a package, not a file"
            raise ValueError(f"--space {self.space} reads {reads}; got --table {self.table}")
        if not self.trains and self.executor != "devices":
            raise ValueError(f"executor must be devices for a table; got {self.executor}")
        learns = bool({"reinforce", "ppo"} & set(self.strategies))
        check_used(self, ("policy", "rate"), learns, "strategies reinforce and ppo")
        check_used(self, ("batch",), "ppo" in self.strategies, "strategy ppo")
        tokens = TOKENS * self.repeats * self.children
        check_size(tokens, "the searches of a strategy", "runs or children")

    @property
    def repeats(self) -> int:
        """Number of searches with each strategy."""
        return self.runs or (3 if self.trains else 500)

    @property
    def trains(self) -> bool:
        """Whether child networks are trained, instead of a table being read."""
        return self.space in (*SPACES, "recurrent")

    @property
    def scale(self) -> Scale:
        """Scale on which rewards are shown."""
        numbers = {"recurrent": self.text.scale, "nasbench-nlp": SCALE}
        return perplexity(numbers[self.space]) if self.space in numbers else PERCENT
