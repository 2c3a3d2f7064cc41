"""Recurrent cells that were found by search, beside random ones and an LSTM, on a whole text.

Trains language models on the words of Penn Treebank, all for the same number of epochs and with the
same number of parameters. The cells are those that the searches of a run of
`benchmarks.architecture_search --space recurrent` ended with, random cells of the same space, and
long short-term memory. Reports the perplexity, without and with dynamic evaluation.

    python -m benchmarks.recurrent_cells --data FOLDER                  # the cells in the results
    python -m benchmarks.recurrent_cells --data FOLDER --search RUN     # of a search of yours
    python -m benchmarks.recurrent_cells --data FOLDER --layers 2 --width 128 --dynamic

Seed n of a strategy has the best cell of its search n, so that an interval over seeds has the
spread of the searches in it. The same command with the same --out resumes a run that was stopped.
"""

import time
from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.harness import folders
from benchmarks.harness.bounds import check, check_used
from benchmarks.harness.command_line import launch
from benchmarks.harness.display import bar
from benchmarks.harness.files import COUNT, NUMBER, TEXT, as_json, sole_writer
from benchmarks.harness.stored import checkpoint_paths
from benchmarks.harness.summary import write_summary
from benchmarks.search import cell_report
from benchmarks.search.found_cells import Candidate, Name, candidates
from benchmarks.search.recurrent import penn_treebank_words
from benchmarks.search.retraining import (
    Texts,
    cut_for_adaptation,
    cut_texts,
    measure,
    measure_adapting,
    programs,
    train,
)
from tasks.architectures.recurrent_training import TextBudget

LOG = "log.jsonl"
LINE = {"model": TEXT, "seed": COUNT, "epoch": COUNT, "seconds": NUMBER}
LINE |= {"train": (NUMBER, None), "val": (NUMBER, None)}  # perplexities


@dataclass(frozen=True, kw_only=True)
class Retraining:
    """Options of the comparison."""

    data: Path
    """Folder of Penn Treebank, with ptb.train.txt, ptb.valid.txt and ptb.test.txt, or the same
    files compressed (.gz)."""
    search: Path = folders.RESULTS / "architecture_search" / "recurrent"
    """Folder of a finished run of `benchmarks.architecture_search --space recurrent`."""
    models: tuple[Name, ...] = ("reinforce", "random", "drawn", "lstm")
    """Models: with the best cell of a strategy of the search, with a cell that is drawn at random,
    or with long short-term memory."""
    seeds: int = 3
    """Number of trainings of each model; it is at most the number of searches."""
    width: int = 64
    """Number of features of the words and of each layer. An LSTM gets the width with which it has
    about as many parameters as the others."""
    layers: int = 1
    """Number of layers."""
    text: TextBudget = field(default_factory=lambda: TextBudget(share=1.0, epochs=5, val_share=1.0))
    """Amount of training."""
    dynamic: bool = False
    """Read the test text with dynamic evaluation too."""
    dynamic_chunk: int = 5
    """Number of words that are read before each inner step of dynamic evaluation."""
    dynamic_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    """Learning rates of dynamic evaluation; the best one on the validation text is used."""
    decay: float = 0.002
    """Speed at which dynamic evaluation returns to the trained parameters."""
    seed: int = 0
    """Seed of all trainings and of the random cells."""
    out: Path | None = None
    """Folder of the results; None is a new one under results/runs."""
    record: bool = False
    """Add the summary to results/*.jsonl, from which the tables are made."""

    def __post_init__(self) -> None:
        check(self)
        names = "dynamic_chunk", "dynamic_rates", "decay"
        check_used(self, names, self.dynamic, "--dynamic")


def main(config: Retraining) -> dict[str, Any]:
    """Trains the models, prints the table, draws the figure and writes `summary.json`."""
    vocabulary, words = penn_treebank_words(config.data)
    texts, short = cut_texts(words, config.text), None
    if config.dynamic:
        short = cut_for_adaptation(words, config.text, config.dynamic_chunk)
    sizes = {name: getattr(config, name) for name in ("seeds", "seed", "width", "layers")}
    models = candidates(config.search, config.models, vocabulary=vocabulary, **sizes)
    out = folders.script_folder("recurrent-cells", config)
    with sole_writer(out):
        log, results, seconds = train_models(config, models, texts, short, out)
        summary = {"seeds": config.seeds, "seed": config.seed, "seconds": seconds, "models": {}}
        for name, model in models.items():
            tokens = [np.asarray(cell).tolist() for cell in model.tokens]
            facts = {"width": model.width, "parameters": model.parameters, "tokens": tokens}
            lines = [line for line in log if line["model"] == name]
            summary["models"][name] = facts | cell_report.statistics(lines, results[name])
        summary = write_summary("recurrent_cells", config, out, summary, record=config.record)
    cell_report.show(summary)
    cell_report.draw(out, summary)
    print(f"figure: {out}")
    return summary


def train_models(
    config: Retraining,
    models: dict[str, Candidate],
    texts: Texts,
    short: Texts | None,
    out: Path,
) -> tuple[list[dict[str, Any]], dict[str, list[dict[str, float]]], dict[str, float]]:
    """Trains and evaluates all models, and goes on where a run in the same folder was stopped.

    Args:
        config: Options of the comparison.
        models: Models by name.
        texts: Texts.
        short: Texts in short chunks for dynamic evaluation, or None.
        out: Folder of the results.

    Returns:
        The lines of the log, the results of each seed by model, and the seconds of training and of
        evaluation.
    """
    epochs, size, results = config.text.epochs, len(texts.train), defaultdict(list)

    def done(line: dict[str, Any]) -> bool:
        paths = checkpoint_paths(checkpoint_folder(out, line["model"], line["seed"]))
        return bool(paths) and line["epoch"] * size <= int(paths[-1].name)

    log = folders.recover_lines(out / LOG, LINE, done)
    seconds = {"train": 0.0, "evaluate": 0.0}
    with bar(len(models) * config.seeds * epochs, len(log)) as move, (out / LOG).open("a") as file:

        def record(name: str, seed: int, line: dict[str, Any]) -> None:
            log.append({"model": name, "seed": seed} | line)
            file.write(as_json(log[-1]) + "\n")
            file.flush()
            latest = f"{cell_report.LABELS[name]}, perplexity {line['val']:.1f}"
            move(1, f"{line['seconds']:.3g} s an epoch", latest)

        for name, model in models.items():
            program = programs(model.child, config.text, epochs * size, config.decay)
            for seed, tokens in enumerate(model.tokens):
                key = jax.random.fold_in(jax.random.key(config.seed), seed)
                where = checkpoint_folder(out, name, seed), partial(record, name, seed)
                params = train(program, tokens, epochs, texts, key, *where)
                since = time.perf_counter()
                result = measure(program, tokens, params, texts.test)
                if short:
                    rates = config.dynamic_rates
                    result |= measure_adapting(program, tokens, params, short, rates)
                results[name].append(result)
                seconds["evaluate"] += time.perf_counter() - since
    seconds["train"] = sum(line["seconds"] for line in log)
    return log, results, seconds


def checkpoint_folder(out: Path, model: str, seed: int) -> Path:
    """The folder of the checkpoints of a training."""
    return out / "checkpoints" / f"{model}-{seed}"


if __name__ == "__main__":
    launch(main, Retraining, __doc__)
