"""Language models that adapt while they read (after TTT-E2E, Tandon et al. 2025).

A text is read in chunks. The model first predicts a chunk, which gives its loss, and then takes an
inner step on it. Meta-training differentiates the mean loss of a text through these steps. The
result is the loss in bits for each token of the test texts, by the position in the text, with and
without adaptation.

    python -m benchmarks.language       # Python's standard library; 90 seconds on one core
    python -m benchmarks.language --preset ptb-second-order --data FOLDER
    python -m benchmarks.language --preset ptb-dynamic --data FOLDER --start-from RUN --meta-steps 0
    python -m benchmarks.language --dataset texts --data FILE_OR_FOLDER

The presets `ptb-*` read Penn Treebank in characters, and compare ways to train the model. They try
several inner learning rates on the validation texts. The model of `ptb-static` is trained without
adaptation, so its bits with adaptation are those of naive test-time training. `ptb-dynamic` is
dynamic evaluation of a model that is already trained: RUN is the folder of a run of `ptb-static`.
"""

from dataclasses import replace

from benchmarks.harness.command_line import launch
from benchmarks.harness.run import Result, run
from benchmarks.language_experiment import make_study
from benchmarks.language_options import Language
from benchmarks.report import figures, reading

STDLIB = Language(
    preset="stdlib",
    width=64,
    layers=2,
    heads=2,
    window=32,
    step_tokens=16,
    inner_rate=1.0,
    inner_steps=32,
    outer_rate=5e-3,
    cosine=True,
    meta_batch=4,
    meta_steps=500,
    steps_per_call=25,
    val_tasks=0,
    eval_tasks=100,
    eval_steps=32,
)
PTB = replace(
    STDLIB,
    preset="ptb-second-order",
    dataset="ptb",
    width=128,
    layers=4,
    heads=4,
    window=64,
    step_tokens=32,
    meta_steps=1000,
    steps_per_call=50,
    val_tasks=48,
    eval_tasks=400,
    factors=(1.0, 0.01, 0.03, 0.1, 0.3, 3.0),
)
STATIC = replace(PTB, preset="ptb-static", algorithm="pretrained")
DYNAMIC = {"optimizer": "dynamic", "adapts": "all", "inner_rate": 1e-3}
PRESETS = {
    preset.preset: preset
    for preset in (
        *(STDLIB, PTB, replace(PTB, preset="ptb-fomaml", algorithm="fomaml")),
        replace(PTB, preset="ptb-reptile", algorithm="reptile", adapts="all", inner_rate=0.1),
        replace(PTB, preset="ptb-learned-rates", algorithm="meta_sgd"),
        replace(PTB, preset="ptb-sgd", optimizer="sgd"),
        replace(PTB, preset="ptb-adam", optimizer="adam", inner_rate=1e-3),
        STATIC,
        replace(STATIC, preset="ptb-dynamic", **DYNAMIC),
    )
}


def main(config: Language) -> Result:
    """Runs the experiment, prints the table and draws the figures."""
    result = run(make_study(config), config)
    reading.show(result.summary)
    if config.total_steps:
        names, title = {"bits": "meta-training texts"}, f"{config.dataset}, {config.algorithm}"
        figures.learning_curve(result.out, names, "bits a token", title=title)
    reading.draw(result.out, result.summary)
    return result


if __name__ == "__main__":
    launch(main, PRESETS, __doc__)
