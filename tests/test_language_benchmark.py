"""Tiny runs of the language benchmark: with and without adaptation, by place and by text."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from benchmarks import language
from benchmarks.language_experiment import load, make_study, network, report_divergence
from benchmarks.report import reading
from tasks.language_models import next_chunk

WORDS = "the cat sat on the mat and the dog sat on the log. "
STEPS, TOKENS = 3, 4


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Three texts of one's own, one for each split, and the smallest transformer."""
    folder = tmp_path_factory.mktemp("language")
    for split, times in (("train", 4), ("val", 2), ("test", 3)):
        (folder / "texts" / split).mkdir(parents=True)
        (folder / "texts" / split / "a.txt").write_text(WORDS * times)
    (folder / "texts" / "test" / "short.txt").write_text("the cat")
    return replace(
        language.STDLIB,
        **{"dataset": "texts", "data": folder / "texts", "out": folder / "run"},
        **{"width": 4, "layers": 1, "heads": 1, "window": 5, "step_tokens": TOKENS},
        **{"inner_steps": STEPS, "eval_steps": STEPS, "meta_batch": 2, "meta_steps": 4},
        **{"steps_per_call": 2, "val_tasks": 2, "eval_tasks": 5},
    )


@pytest.fixture(scope="module")
def result(config):
    return language.main(config)


def test_a_run_has_the_bits_of_each_place_with_and_without_adaptation(config, result):
    written = {path.name for path in config.out.iterdir()}
    assert {"reading.png", "learning_curve.png", "summary.json", "log.jsonl"} <= written
    summary = json.loads((config.out / "summary.json").read_text())
    for name in ("bits", "bits_static", "gain"):
        assert [*summary[name]] == [*map(str, range(STEPS)), "mean"]
    gain = {when: value["mean"] for when, value in summary["gain"].items()}
    assert abs(gain["0"]) < 1e-6 < abs(gain["1"])  # the first chunk is read by the same parameters
    bits = summary["bits_static"]["mean"]["mean"] - summary["bits"]["mean"]["mean"]
    assert gain["mean"] == pytest.approx(bits, abs=1e-6)
    assert (summary["metric"], summary["steps"]) == ("bits", "mean") and summary["tasks"] == 5
    assert summary["adapted_parameters"] < summary["parameters"]


def test_bits_without_adaptation_are_those_of_the_model_on_each_text(config, result):
    corpus = load(config)
    model, size = network(config, len(corpus.vocabulary)), STEPS * TOKENS
    loss = jax.jit(next_chunk(model))
    tokens = corpus.splits["test"]["test/a.txt"].astype(np.int32)
    passages = [tokens[at : at + size + 1] for at in range(0, len(tokens) - size, size)]
    kept = [passages[place * len(passages) // 5] for place in range(5)]
    key = jax.random.key(0)
    nats = [loss(result.of_seed(), (text, model.start()), key)[0] for text in kept]
    got = result.summary["bits_static"]["mean"]["mean"]
    np.testing.assert_allclose(got, np.mean(nats) / np.log(2), rtol=1e-5)


def test_the_rate_of_an_evaluation_is_the_best_on_validation_texts(
    config, result, tmp_path, capsys
):
    """Dynamic evaluation of a model that was trained before, with one rate that is far too high."""
    change = {"algorithm": "pretrained", "optimizer": "dynamic", "adapts": "all"}
    change |= {"meta_steps": 0, "start_from": config.out, "inner_rate": 1.0}
    dynamic = replace(config, factors=(1e6, 1e-6), out=tmp_path / "run", **change)
    summary = language.main(dynamic).summary
    assert summary["factor"]["mean"]["mean"] == pytest.approx(1e-6)
    assert (
        "Validation bits by the factor of the inner learning rate: 1e+06:"
        in capsys.readouterr().out
    )
    assert 0 < abs(summary["gain"]["2"]["mean"]) < 1e-3
    assert summary["bits_static"] == result.summary["bits_static"]


def test_texts_that_diverge_are_told_with_their_rate_and_first_chunk(capsys):
    bits = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, np.inf], [1.0, np.nan, np.nan]])
    names = ["a.txt from token 0", "b.txt from token 12", "b.txt from token 24"]
    report_divergence(bits, "inner learning rate 0.5", "test", names)
    assert capsys.readouterr().out == (
        "With the inner learning rate 0.5, 2 of 3 test passages diverged; the first of them is"
        " b.txt from token 12, in chunk 3 after 2 inner steps.\n"
    )
    report_divergence(bits[:1], "inner learning rate 0.5", "test", names)
    assert not capsys.readouterr().out


def test_what_is_left_out_of_the_texts_is_said(config, capsys):
    load(replace(config, window=40))
    said = capsys.readouterr().out
    assert "The window of 40 tokens reaches over a whole passage of 12." in said
    short = "Texts of test that are shorter than a passage of 13 tokens are left out: 1 of 2."
    assert short in said
    assert "Tokens after the last whole passages of test are left out: 8." in said
    assert "Passages of test that are read: 5 of 12." in said
    with pytest.raises(ValueError, match="dataset ptb needs --data"):
        load(replace(config, dataset="ptb", data=None))
    with pytest.raises(ValueError, match="401 tokens; the longest of 1 train texts has"):
        make_study(replace(config, inner_steps=100))


def test_words_are_also_told_as_nats_and_perplexity(result, capsys):
    """Those of the bits with and without adaptation; their difference has no perplexity."""
    reading.show(result.summary | {"config": result.summary["config"] | {"level": "words"}})
    assert capsys.readouterr().out.count("perplexity") == 2
    shown = "6.931 nats a word, perplexity 1024.0 (512.0 to 2048.0)"
    assert reading.in_words({"mean": 10.0, "ci95": 1.0}) == shown
    assert reading.in_words({"mean": None, "ci95": None}) == "diverged"
    assert reading.perplexity({"mean": 102.5, "ci95": 1239.0}).endswith("(0.0 to inf)")


def test_tables_have_the_differences_of_each_seed_from_meta_training_through_steps(
    result, tmp_path
):
    """By hand: mean -+ t(0.975, 1 degree) std / sqrt(2), and the p-value of a t of one degree."""

    def run(preset, algorithm, bits, **more):
        each = {"bits": {"mean": bits}, "bits_static": {"mean": [b + 1 for b in bits]}}
        each["factor"] = {"mean": [1.0, 0.5]}
        return result.summary | {
            **{"preset": preset, "algorithm": algorithm, "each_seed": each, "seeds": 2},
            **more,
        }

    second = run(reading.REFERENCE, "maml", [2.0, 3.0])
    static = run("static", "pretrained", [2.25, 3.75])
    page = reading.markdown([second, static, run("fewer texts", "maml", [9.0, 9.0], tasks=1)])
    t = 0.5 / 0.25
    p = 1 - 2 * np.arctan(t) / np.pi
    assert f"| static (naive test-time training) | 4 | 0.500 ± 3.177 (p = {p:.2g}) |" in page
    assert "| static, without adaptation | 4 | 1.500 ± 3.177 (p = 0.11) |" in page
    assert "| fewer texts |" in page and "| fewer texts | 4 | 7" not in page
    assert "clipped, rate 0.5 and 1" in page


def test_runs_of_other_models_or_tokens_have_tables_and_figures_of_their_own(result, tmp_path):
    """Words are given as perplexities; a difference that has no variance has no p-value."""
    each = {"bits": {"mean": [2.0, 3.0]}, "bits_static": {"mean": [3.0, 4.0]}}
    each["factor"] = {"mean": [1.0, 1.0]}
    run = result.summary | {"each_seed": each, "seeds": 2, "preset": reading.REFERENCE}
    rates = run | {"preset": "rates", "algorithm": "meta_sgd"}
    words = rates | {"config": run["config"] | {"level": "words"}, "preset": "of words"}
    page = reading.markdown([run, words, rates])
    of_characters, of_words = page.split("\n\n**")[1:]
    assert "bits with adaptation" in of_characters and "of words" not in of_characters
    assert "| rates | 4 | 0.000 ± 0.000 |" in of_characters
    assert "clipped, learned rates, at first 1 |" in of_characters
    assert "perplexity with adaptation" in of_words and "minus" not in of_words
    figures = reading.compare([run, words, rates], tmp_path)
    assert [len(figure.axes[0].lines) for figure in figures] == [2, 1]
    assert len([*tmp_path.glob("positions-*-words-*.png")]) == 1
