"""The options of `benchmarks.language`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.harness.bounds import check_size, check_used
from benchmarks.harness.options import DataOptions
from tasks.corpus import Level


@dataclass(frozen=True, kw_only=True)
class Language(DataOptions):
    """Options of the language benchmark."""

    algorithm: Literal["maml", "fomaml", "reptile", "meta_sgd", "pretrained"] = "maml"
    """Algorithm. `pretrained` is trained without adaptation, and adapts only in the evaluation;
    `maml` uses second derivatives; `meta_sgd` learns the inner learning rates."""
    dataset: Literal["stdlib", "ptb", "texts"] = "stdlib"
    """Texts: source files of Python's standard library, Penn Treebank, or texts of your own."""
    data: Path | None = None
    """Folder of Penn Treebank, with ptb.train.txt, ptb.valid.txt and ptb.test.txt, or the same
    files compressed (.gz); or a text of your own, or a folder of them, in UTF-8."""
    level: Level = "characters"
    """Kind of the tokens; words are separated by white space."""
    model: Literal["transformer", "lstm"] = "transformer"
    """Model: a transformer with a sliding window, or an LSTM."""
    width: int = 128
    """Number of features of each token."""
    layers: int = 4
    """Number of layers."""
    heads: int = 4
    """Number of attention heads in each layer of the transformer."""
    window: int = 64
    """Number of tokens before itself that a token attends to in each layer of the transformer."""
    step_tokens: int = 32
    """Number of tokens that are read before each inner step. A text for training has as many chunks
    of this length as `inner_steps`, a text for evaluation as many as `eval_steps`."""
    optimizer: Literal["sgd", "clipped", "adam", "dynamic"] = "clipped"
    """Inner optimiser: SGD, SGD on gradients clipped to norm 1, Adam, or the rule of dynamic
    evaluation, which adapts all parameters."""
    adapts: Literal["second", "all"] = "second"
    """Parameters that adapt: the second feed-forward networks in the last quarter of the
    transformer's layers, or all."""
    decay: float = 0.002
    """Speed at which dynamic evaluation returns to the trained parameters; its authors use 0.002
    for chunks of 5 tokens."""
    factors: tuple[float, ...] = (1.0,)
    """Factors by which the inner learning rate is multiplied in the evaluation. The best one on
    the validation texts is used in the test; the validation during meta-training uses the first."""

    @property
    def unread_options(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """As in `DataOptions`, with the options of the transformer and of dynamic evaluation."""
        yield from super().unread_options
        if self.model != "transformer":
            yield ("heads", "window"), "model transformer"
        if self.optimizer != "dynamic":
            yield ("decay",), "optimizer dynamic"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_used(self, ("data",), self.dataset != "stdlib", "dataset ptb or texts")
        if self.precision == "bfloat16":
            raise ValueError("precision must be float32 or tensorfloat32; got bfloat16")
        choices = {"algorithm": "reptile", "optimizer": "dynamic", "model": "lstm"}
        for name, choice in choices.items():
            if getattr(self, name) == choice and self.adapts != "all":
                raise ValueError(f"{name} {choice} needs adapts all; got {self.adapts!r}")
        if self.optimizer == "dynamic" and self.algorithm != "pretrained":
            raise ValueError(
                "optimizer dynamic adapts a model in its evaluation alone, and needs algorithm"
                f" pretrained; got {self.algorithm!r}"
            )
        for name in ("inner_steps", "eval_steps"):
            if not getattr(self, name):
                raise ValueError(f"{name} must be >= 1, the number of chunks of a text; got 0")
        if len(self.factors) > 1 and not self.val_tasks:
            raise ValueError(
                "several factors are compared on validation texts, and need val_tasks >= 2; got 0"
            )
        steps = max(self.inner_steps, self.eval_steps)
        size = self.meta_batch * steps * self.step_tokens * self.width
        check_size(size, "a meta-batch of texts", "meta_batch, inner_steps or step_tokens")
