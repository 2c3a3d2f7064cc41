"""Recurrent cells that were found by search, beside random ones and an LSTM, on a whole text.

Trains language models on the words of Penn Treebank, all for the same number of epochs and with
about as many parameters: with the cells that a search found, with random cells of the same space,
and with an LSTM. Reports the perplexity, without and with dynamic evaluation.

    python -m benchmarks.recurrent_cells --data FOLDER                  # the cells in the results
    python -m benchmarks.recurrent_cells --data FOLDER --search RUN     # of a search of yours
    python -m benchmarks.recurrent_cells --data FOLDER --layers 2 --width 128 --dynamic

Each seed trains the best cell of another run of the search, so the intervals include the variation
between searches. The same command with the same --out resumes a run that was stopped, and may be
given more seeds and models.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from benchmarks.harness import folders
from benchmarks.harness.bounds import check, check_used
from benchmarks.harness.command_line import launch
from benchmarks.harness.display import bar
from benchmarks.harness.files import COUNT, NUMBER, TEXT, append_line, sole_writer
from benchmarks.harness.summary import write_summary
from benchmarks.search import cell_report
from benchmarks.search.found_cells import Candidate, Name, candidates
from benchmarks.search.recurrent import penn_treebank_words
from benchmarks.search.retraining import (
    Texts,
    cut_for_adaptation,
    cut_texts,
    measure_adapting,
    perplexity,
    programs,
    train,
)
from tasks.architectures.recurrent_training import TextBudget

LOG = "trainings.jsonl"
LINE = {"model": TEXT, "seed": COUNT, "tokens": [COUNT], "val": [(NUMBER, None)]}
LINE |= {"test": (NUMBER, None), "seconds": {"train": NUMBER, "evaluate": NUMBER}}
INDEPENDENT = "models", "seeds"  # options that add trainings, and change none
CHUNK = 5  # words for which the rates of dynamic evaluation are given


@dataclass(frozen=True, kw_only=True)
class Retraining:
    """Options of the comparison."""

    data: Path
    """Folder of Penn Treebank, with ptb.train.txt, ptb.valid.txt and ptb.test.txt, or the same
    files compressed (.gz)."""
    search: Path = folders.RESULTS / "architecture_search" / "recurrent"
    """Folder of a finished run of `benchmarks.architecture_search --space recurrent`."""
    models: tuple[Name, ...] = ("reinforce", "random", "random-cell", "lstm")
    """Models: with the best cell of a strategy of the search, with a cell that is drawn at random
    (random-cell), or with long short-term memory (lstm)."""
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
    dynamic_rates: tuple[float, ...] = (3e-5, 5e-5, 1e-4)
    """Learning rates of dynamic evaluation for chunks of 5 words, of which the best one on the
    validation text is used. For chunks of n words they are multiplied by n / 5."""
    decay: float = 0.002
    """Speed at which dynamic evaluation returns to the trained parameters, for chunks of 5 words.
    For chunks of n words it is multiplied by n / 5."""
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
        check_used(self.text, ("scale",), False, "benchmarks.architecture_search")


def main(config: Retraining) -> dict[str, Any]:
    """Trains the models, prints the table, draws the figure and writes `summary.json`."""
    vocabulary, words = penn_treebank_words(config.data)
    texts, short = cut_texts(words, config.text), None
    if config.dynamic:
        short = cut_for_adaptation(words, config.text, config.dynamic_chunk)
    sizes = {name: getattr(config, name) for name in ("seeds", "seed", "width", "layers")}
    models = candidates(config.search, config.models, vocabulary=vocabulary, **sizes)
    out = config.out or folders.new_folder("recurrent-cells")
    options = folders.result_options(cell_report.NAME, config)
    folders.claim_folder(out, {n: value for n, value in options.items() if n not in INDEPENDENT})
    with sole_writer(out):
        lines = train_models(config, models, texts, short, out)
        summary: dict[str, Any] = {"seeds": config.seeds, "seed": config.seed, "models": {}}
        for name, model in models.items():
            of_model = [line for line in lines if line["model"] == name]
            facts = {"width": model.width, "parameters": model.parameters}
            summary["models"][name] = facts | cell_report.statistics(of_model)
        parts = ("train", "evaluate")
        summary["seconds"] = {part: sum(line["seconds"][part] for line in lines) for part in parts}
        summary = write_summary(cell_report.NAME, config, out, summary, record=config.record)
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
) -> list[dict[str, Any]]:
    """Trains and evaluates all models, and goes on where a run in the same folder was stopped.

    Args:
        config: Options of the comparison.
        models: Models by name.
        texts: Texts.
        short: Texts in short chunks for dynamic evaluation, or None.
        out: Folder of the results.

    Returns:
        A line for each training, as `LINE`.

    Raises:
        ValueError: The folder has the training of another cell.
    """
    finished = {(x["model"], x["seed"]): x for x in folders.recover_lines(out / LOG, LINE)}
    trainings = [(name, seed) for name in models for seed in range(config.seeds)]
    for name, seed in trainings:
        tokens, found = models[name].tokens[seed].tolist(), finished.get((name, seed))
        if found and found["tokens"] != tokens:
            raise ValueError(
                f"{out} has a training of {name}, seed {seed}, with the cell {found['tokens']};"
                f" got {tokens}: name another folder with --out"
            )
    epochs, size, rate = config.text.epochs, len(texts.train), config.dynamic_chunk / CHUNK
    rates, decay = [rate * x for x in config.dynamic_rates], rate * config.decay
    done = epochs * sum(training in finished for training in trainings)
    with bar(epochs * len(trainings), done) as move:
        for name, model in models.items():

            def report(count: int, seconds: float, val: float, name: str = name) -> None:
                speed = f"{seconds:.3g} s an epoch" if seconds else "compiling"
                latest = f", perplexity {val:.1f}" if count else ""
                move(count, speed, cell_report.LABELS[name] + latest)

            program = programs(model.child, config.text, epochs * size, decay)
            for seed, tokens in enumerate(model.tokens):
                if (name, seed) in finished:
                    continue
                key = jax.random.fold_in(jax.random.split(jax.random.key(config.seed))[0], seed)
                folder = out / "checkpoints" / f"{name}-{seed}"
                state = train(program, tokens, epochs, texts, key, folder, report)
                since, params = time.perf_counter(), state.training.params
                line = {"model": name, "seed": seed, "tokens": tokens.tolist()}
                test = perplexity(program.nats(tokens, params, texts.test))
                line |= {"val": state.val.tolist(), "test": test}
                if short:
                    line |= measure_adapting(program, tokens, params, short, rates)
                seconds = {"train": float(state.seconds), "evaluate": time.perf_counter() - since}
                finished[name, seed] = line | {"seconds": seconds}
                append_line(out / LOG, finished[name, seed])
    return [finished[training] for training in trainings]


if __name__ == "__main__":
    launch(main, Retraining, __doc__)
