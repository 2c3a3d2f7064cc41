"""The memory benchmark at a tiny size: its rows, its files and its refusals."""

import json
from dataclasses import replace

import jax
import pytest
from problems import quick

from benchmarks import memory
from benchmarks.memory import EXACT, MODES, Options

TINY = Options(
    model=("transformer",),
    steps=(20,),
    repeats=1,
    layers=1,
    width=8,
    heads=2,
    length=8,
    sequences=2,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The rows by mode, and the folder."""
    out = tmp_path_factory.mktemp("memory") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "jit", quick)
        rows = memory.main(replace(TINY, out=out))
    return {row["mode"]: row for row in rows}, out


def test_there_is_a_row_for_every_mode_and_the_exact_ones_agree(run):
    rows, _ = run
    assert tuple(rows) == MODES
    for mode, row in rows.items():
        assert row["temp_bytes"] > 0 and row["seconds"] > 0 and row["compile_seconds"] > 0
        assert row["error"] is None if mode not in EXACT else row["error"] < 1e-5
    assert rows["reverse"]["memory_ratio"] == rows["reverse"]["time_ratio"] == 1


def test_what_recomputes_or_takes_no_second_derivative_needs_less_memory(run):
    rows, _ = run
    for mode in ("reverse-remat", "forward-remat", "first-order", "implicit"):
        assert rows[mode]["memory_ratio"] < 0.7


def test_the_modes_of_reading_agree_and_it_has_no_implicit_one(monkeypatch):
    monkeypatch.setattr(jax, "jit", quick)
    modes = "reverse", "forward-remat", "implicit"
    first, last = memory.main(
        replace(TINY, model=("reader",), sequences=8, steps=(6,), modes=modes)
    )
    assert (first["mode"], last["mode"]) == modes[:2] and last["error"] < 1e-5


def test_first_order_reading_needs_less_memory_where_its_steps_are_recomputed(monkeypatch):
    monkeypatch.setattr(jax, "jit", quick)
    tiny = replace(TINY, model=("reader",), sequences=8, steps=(16,))
    kept, recomputed = memory.main(replace(tiny, modes=("first-order", "first-order-remat")))
    assert recomputed["temp_bytes"] < 0.7 * kept["temp_bytes"]


def test_a_run_leaves_its_rows_and_a_figure(run):
    rows, out = run
    report = json.loads((out / "memory.json").read_text())
    assert report["rows"] == list(rows.values())
    assert report["options"]["inner_rate"] == 0.05 and "jax" in report["versions"]
    assert {path.name for path in out.iterdir()} == {"config.json", "memory.json", "memory.png"}
    with pytest.raises(ValueError, match="holds a run of other options: model"):
        memory.main(Options(out=out))


def test_a_program_beyond_the_memory_is_compiled_and_not_run(monkeypatch, capsys):
    monkeypatch.setattr(memory, "free_bytes", lambda: 0)
    monkeypatch.setattr(jax, "jit", quick)
    (row,) = memory.main(replace(TINY, modes=("first-order",), steps=(1,)))
    assert row["temp_bytes"] > 0 and row["seconds"] is None and row["memory_ratio"] is None
    assert "first-order" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modes": ("forwards",)}, "modes must be one of reverse, .*; got 'forwards'"),
        ({"model": ()}, "model must have at least one value"),
        ({"steps": (5, 0)}, "steps must be >= 1; got 0"),
        ({"steps": ()}, "steps must have at least one value"),
        ({"repeats": 0}, "repeats must be >= 1; got 0"),
        ({"inner_rate": -0.1}, "inner_rate must be >= 0.0; got -0.1"),
        ({"inner_rate": 0.0}, "inner_rate must be positive; got 0.0"),
        ({"sequences": 0}, "sequences must be >= 1; got 0"),
        ({"inner_rate": 1.0}, "inner_rate must be < 1 for implicit; got 1.0"),
        ({"model": ("conv4",)}, "layers is used only with model transformer or reader; leave it"),
        ({"model": ("reader",)}, "sequences is used only with model transformer; leave it at 8"),
        (
            {"model": ("reader",), "sequences": 8, "modes": ("implicit",)},
            "model reader has no mode implicit",
        ),
    ],
)
def test_bad_options_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 3}, "3 heads do not divide a width of 8"),
        ({"length": 400}, r"passages of 400 \+ 1 bytes need 1604 bytes of text; got 7"),
        (
            {"model": ("reader",), "sequences": 8, "steps": (1, 9), "length": 2},
            "9 chunks of 2 tokens needs a text of 19 tokens; the longest of 1 texts has 7",
        ),
    ],
)
def test_impossible_models_and_texts_are_refused_before_any_work(
    change, message, tmp_path, monkeypatch
):
    (tmp_path / "text").write_text("a text.")
    monkeypatch.setattr(memory, "measure", lambda *_: pytest.fail("started"))
    text = tmp_path / "text" if "length" in change else None
    with pytest.raises(ValueError, match=message):
        memory.main(replace(TINY, text=text, **change))
