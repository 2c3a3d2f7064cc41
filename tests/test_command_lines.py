"""Invalid command lines are refused in one line, and recorded commands still parse."""

import json
import os
import re
import runpy
import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest

from benchmarks import omniglot, weights
from benchmarks.architecture_search import Search
from benchmarks.harness import folders
from benchmarks.harness.bounds import BOUNDS
from benchmarks.harness.command_line import configure, launch
from benchmarks.harness.command_line import parse as read_options
from benchmarks.harness.renamed import config_of_today
from benchmarks.report import tables

ROOT = Path(__file__).parents[1]
OPTIONS = {
    "architecture_search": "Search",
    "architecture_pilot": "Pilot",
    "maml_bench": "Bench",
    "recurrent_cells": "Retraining",
    "ablation": "Ablation",
    "estimators": "Estimators",
    "memory": "Options",
    "scaling": "Options",
    "peers": "Options",
    "report": "Report",
    "weights": "Weights",
    "classify": "Classify",
    "page": "Page",
} | dict.fromkeys(
    ("omniglot", "images", "sinusoid", "language", "navigation", "bandits"), "PRESETS"
)

# script -> the command line, and a part of what is said
REFUSED = {
    "sinusoid": {
        "--preset": "argument --preset: expected one argument",
        "--preset nonesuch": "no preset 'nonesuch'; there are maml-paper-5-shot",
        "--nonesuch 1": "Unrecognized options: --nonesuch",
        "--meta-step 1": "Unrecognized options: --meta-step, 1 (did you mean --meta-steps?)",
        "--preset half-hour-5-way-1-shot": "no preset 'half-hour-5-way-1-shot'",
        "--preset quik": "no preset 'quik' (did you mean quick?); there are",
        "--meta-steps many": "invalid literal for int() with base 10: 'many'",
        "--meta-steps 1e9": "Error parsing --meta-steps",
        "--meta-steps": "Missing value for argument '--meta-steps'",
        f"--meta-steps {10**30}": f"meta_steps must be <= 1,000,000,000; got {10**30}",
        f"--meta-steps {2**40} --steps-per-call 1": "meta_steps must be <= 1,000,000,000",
        f"--meta-steps {2**31} --steps-per-call 1": "meta_steps must be <= 1,000,000,000",
        f"--steps-per-call {2**40}": "steps_per_call must be <= 100,000; got 1099511627776",
        "--steps-per-call 0": "steps_per_call must be >= 1; got 0",
        "--steps-per-call 999": "steps_per_call must divide meta_steps; got 999",
        f"--meta-batch {10**12}": "meta_batch must be <= 100,000; got 1000000000000",
        "--meta-batch 0": "meta_batch must be >= 1; got 0",
        f"--seed {2**70}": "seed must be <= 2,147,483,647; got 1180591620717411303424",
        f"--seed {2**31}": "seed must be <= 2,147,483,647; got 2147483648",
        "--seed -1": "seed must be >= 0; got -1",
        f"--prefetch {10**9}": "prefetch must be <= 10,000; got 1000000000",
        "--prefetch 0": "prefetch must be >= 1; got 0",
        "--prefetch 10000 --meta-batch 100000": "522 GiB at once, and the limit is 16 GiB",
        f"--eval-tasks {10**15}": "eval_tasks must be <= 1,000,000; got 1000000000000000",
        "--eval-tasks 1": "eval_tasks must be >= 2; got 1",
        f"--val-tasks {10**15}": "val_tasks must be <= 1,000,000; got 1000000000000000",
        f"--eval-steps {10**9}": "eval_steps must be <= 10,000; got 1000000000",
        "--algorithm cavia --context -1": "context must be >= 1; got -1",
        "--algorithm cavia --context 0": "context must be >= 1; got 0",
        "--context 7": "context is used only with algorithm cavia; leave it at 5; got 7",
        "--hvp forward --algorithm fomaml": "hvp is used only with algorithm maml or maml++ or",
        "--inner-rate nan": "inner_rate must be a finite number; got nan",
        "--inner-rate inf": "inner_rate must be a finite number; got inf",
        "--inner-rate -0.1": "inner_rate must be >= 0.0; got -0.1",
        "--outer-rate nan": "outer_rate must be a finite number; got nan",
        "--outer-rate=-inf": "outer_rate must be a finite number; got -inf",
        "--outer-rate 1e39": "outer_rate must be <= 3.4e+38; got 1e+39",
        "--save-seconds nan": "save_seconds must be a finite number; got nan",
        "--save-seconds -1": "save_seconds must be >= 0.0; got -1.0",
        "--inner-steps -1": "inner_steps must be >= 0; got -1",
        f"--inner-steps {10**9}": "inner_steps must be <= 10,000; got 1000000000",
        "--shots 0": "shots must be >= 1; got 0",
        f"--shots {10**9}": "shots must be <= 10,000; got 1000000000",
        "--train-shots -3": "train_shots must be >= 1; got -3",
        "--patience 0": "patience must be >= 1; got 0",
        "--chunk 0": "chunk must be >= 1 or auto or all; got 0",
        f"--devices {10**12}": "devices must be <= 10,000; got 1000000000000",
        "--out=~/run": "out begins with ~, which the shell did not expand; got ~/run",
        "--out ''": "--out is given an empty value",
        "--out=": "--out is given an empty value",
        "--out FILE": "out must be a folder, and FILE is a file; got FILE",
        "--out FILE/run": "out must be a folder, and FILE is a file; got FILE/run",
        f"--out {'a' * 300}": "out must be a folder that can be made: File name too long",
        "--out 'a\0b'": r"out must be a folder that can be made; got 'a\x00b'",
        "--preset best-5-shot --inner-steps 7": "or pretrained or oracle; leave it at 1; got 7",
        "--algorithm nonesuch": "invalid choice 'nonesuch'",
        "--precision float16": "invalid choice 'float16'",
    },
    "language": {
        "--data FILE": "data is used only with dataset ptb or texts; leave it at None",
        "--window 0": "window must be >= 1; got 0",
        "--step-tokens 0": "step_tokens must be >= 1; got 0",
        "--inner-steps 0": "inner_steps must be >= 1, the number of chunks of a text; got 0",
        "--eval-steps 0": "eval_steps must be >= 1, the number of chunks of a text; got 0",
        "--algorithm reptile": "algorithm reptile needs adapts all; got 'second'",
        "--model lstm": "model lstm needs adapts all; got 'second'",
        "--model lstm --adapts all --window 9": "window is used only with model transformer",
        "--optimizer dynamic --adapts all": "needs algorithm pretrained; got 'maml'",
        "--decay 0.1": "decay is used only with optimizer dynamic; leave it at 0.002; got 0.1",
        "--factors 0.1 1.0": "several factors are compared on validation texts, and need val_tasks",
        "--factors 0.0": "factors must be >= 1e-06; got 0.0",
        "--level bytes": "invalid choice 'bytes'",
        "--precision bfloat16": "precision must be float32 or tensorfloat32; got bfloat16",
        "--step-tokens 65536 --meta-batch 1000": "a meta-batch of texts would take about",
    },
    "omniglot": {
        "--dataset glyphs --train-ways 0": "train_ways must be >= 2; got 0",
        "--dataset glyphs --train-queries 0": "train_queries must be >= 1; got 0",
        "--dataset glyphs --momentum 1": "momentum must be <= 0.999999; got 1.0",
        "--dataset glyphs --momentum 0.5": "momentum is used only with batch_norm running",
        "--batch-norm running --momentum -0.1": "momentum must be >= 0.0; got -0.1",
        "--dataset glyphs --regularisation -1": "regularisation must be >= 1e-30; got -1.0",
        "--dataset glyphs --regularisation 3": "regularisation is used only with algorithm imaml",
        "--algorithm imaml": "inner_rate * regularisation must be < 2 for imaml",
        "--dataset glyphs --resize antialias": "resize is used only with dataset omniglot",
        "--dataset glyphs --split alphabets": "split is used only with dataset omniglot or images",
        "--dataset glyphs --data FILE": "data is used only with dataset omniglot or cifar-fs or",
        "--dataset glyphs --size 28": "size is used only with dataset images; leave it at 32",
        "--augment-set query": "augment_set is used only with augment; leave it at 'both'; got 'q",
        "--augment --augment-set neither": "invalid choice 'neither'",
        "--leave-out-small": "leave_out_small is used only with dataset images",
        "--dataset glyphs --model fully-connected --channels 8": "channels is used only with model",
        "--data ''": "--data is given an empty value",
        "--ways 1": "ways must be >= 2; got 1",
        f"--ways {10**9}": "ways must be <= 10,000; got 1000000000",
        "--shots 0": "shots must be >= 1; got 0",
        "--queries -2": "queries must be >= 1; got -2",
        "--train-ways 20": "train_ways is used only with algorithm protonet or r2d2; leave it",
        "--learn-rates": "learn_rates is used only with algorithm maml++; leave it at False",
        "--multi-step 10": "multi_step is used only with algorithm maml++; leave it at 0; got 10",
        "--preset maml++-5-way-1-shot --algorithm maml": "is used only with algorithm maml++",
        "--first-order -5 --algorithm maml++": "first_order must be >= 0; got -5",
        "--tokens 0,1,2": "tokens is used only with model cells",
        "--zero-head --model fully-connected": "zero_head is used only with model conv4 or",
        "--features 8": "features is used only with model cells; leave it at 16; got 8",
        "--model cells --tokens 0,0,0,0,0,0,0,0,0,0 --copies 0": "copies must be >= 1; got 0",
        "--algorithm protonet --inner-steps 7": "inner_steps is used only with algorithm maml or",
        "--algorithm r2d2 --inner-rate 7": "inner_rate is used only with algorithm maml or",
        "--algorithm protonet --remat": "remat is used only with algorithm maml or maml++ or",
        "--algorithm reptile": "reptile needs inner_steps >= 2; got 1",
        "--meta-batch 100000 --prefetch 500": "episodes of 10 images would take",
        f"--meta-batch {10**12}": "meta_batch must be <= 100,000",
        "--chunk 5": "a chunk must divide a device's 32 tasks; got 5",
    },
    "navigation": {
        f"--goals {10**12}": "goals must be <= 100,000; got 1000000000000",
        f"--trajectories {10**12}": "trajectories must be <= 100,000; got 1000000000000",
        f"--horizon {10**12}": "horizon must be <= 100,000; got 1000000000000",
        "--horizon 100000 --trajectories 100000": "the trajectories of a batch would take",
        "--eval-trajectories 100000 --horizon 10000": "the trajectories of a batch would take",
        "--horizon 0": "horizon must be >= 1; got 0",
        f"--seeds {10**9}": "seeds must be <= 1,000; got 1000000000",
        "--seeds 0": "seeds must be >= 1; got 0",
        "--discount nan": "discount must be a finite number; got nan",
        "--discount 1.5": "discount must be <= 1.0; got 1.5",
        "--gae-lambda -1": "gae_lambda must be >= 0.0; got -1.0",
        "--radius inf": "radius must be a finite number; got inf",
        "--radius 0": "radius must be >= 1e-30; got 0.0",
        "--outer promp --clip nan": "clip must be a finite number; got nan",
        "--clip 0.2": "clip is used only with outer promp; leave it at 0.3; got 0.2",
        "--epochs 7": "epochs is used only with outer promp; leave it at 5; got 7",
        "--kl-coef 1": "kl_coef is used only with outer promp; leave it at 0.0005; got 1.0",
        "--outer-rate 0.1": "outer_rate is used only with outer promp and adam",
        "--outer adam --radius 0.1": "only with outer trpo; leave it at 0.01; got 0.1",
        "--outer adam --fvp-trajectories 4": "fvp_trajectories is used only with outer trpo",
        "--algorithm pretrained --exploration-coef 1": "is used only with algorithm maml or fomaml",
        "--algorithm rl2 --inner-reward square": "inner_reward is used only with",
        "--algorithm rl2 --std 0.5": "std is used only with algorithms that adapt",
        "--algorithm rl2 --surrogate dice": "surrogate is used only with algorithm maml or fomaml",
        "--preset rl2 --inner-steps 2": "inner_steps is used only with algorithms that adapt",
        "--preset rl2 --inner-rate 2": "inner_rate is used only with algorithm maml or fomaml",
        "--algorithm random --meta-steps 50": "meta_steps is used only with algorithms that are",
        "--std 0": "std must be >= 1e-06; got 0.0",
        f"--width {10**9}": "width must be <= 4,096; got 1000000000",
        "--corners --squared": "--corners excludes --algorithm oracle and --squared",
        "--goals 3 --devices 2": "must divide goals, which is 3; got 2",
        "--eval-steps -1": "eval_steps must be >= 0; got -1",
    },
    "bandits": {
        f"--arms {10**9}": "arms must be <= 10,000; got 1000000000",
        "--arms 1": "arms must be >= 2; got 1",
        f"--budget {10**9}": "budget must be <= 100,000; got 1000000000",
        "--budget 7": "budget must be a multiple of inner_steps + 1, and",
        f"--eval-tasks {10**15}": "eval_tasks must be <= 1,000,000",
        "--preset mdp-10 --eval-tasks 1000000 --arms 100": "the test tasks would take",
        "--outer adam --fvp-trajectories 4": "fvp_trajectories is used only with outer trpo",
        "--discount 0.5": "discount is used only with episodes of several steps; leave it at 0.99",
        "--width 64": "width is used only with algorithm rl2; leave it at 128; got 64",
        "--trajectories 7": "Unrecognized options: --trajectories",
        "--horizon 5": "horizon must be 1 for a bandit, a single pull; got 5",
        "--inner-rate inf": "inner_rate must be a finite number; got inf",
        "--preset": "argument --preset: expected one argument",
    },
    "architecture_search": {
        f"--children {10**12}": "children must be <= 100,000; got 1000000000000",
        "--children 24": "children must be >= 25; got 24",
        f"--runs {10**12}": "runs must be <= 10,000; got 1000000000000",
        "--children 100000 --runs 10000": "the searches of a strategy would take",
        "--rate nan": "rate must be a finite number; got nan",
        "--rate -1": "rate must be >= 1e-30; got -1.0",
        "--batch 7": "the batch must divide 100 children; got 7",
        f"--seed {2**70}": "seed must be <= 2,147,483,647",
        "--strategies random --policy lstm": "used only with strategies reinforce and ppo",
        "--strategies random evolution --batch 20": "batch is used only with strategy ppo",
        "--strategies random random": "must be different from each other; got 'random' twice",
        "--strategies": "strategies must have at least one value",
        "--space graphs --ways 5": "ways is used only with space macro or cells",
        "--space graphs --data FILE": "data is used only with space macro or cells or recurrent",
        "--space graphs --shared-steps 9": "is used only with space macro or cells",
        "--space macro --blocks 3": "blocks is used only with space cells; leave it at 2; got 3",
        "--space cells --layers 4": "layers is used only with space macro; leave it at 3; got 4",
        "--space macro --dataset glyphs --data FILE": "data is used only with dataset omniglot",
        f"--space macro --budget.meta-steps {10**30}": "budget.meta_steps must be <= 1,000,000,000",
        "--space macro --budget.outer-rate nan": "outer_rate must be a finite number",
        "--space macro --budget.inner-rate 0.1": "inner_rate is used only with budget.learner maml",
        "--space macro --budget.meta-steps -1": "meta_steps",
        "--out ''": "--out is given an empty value",
        "--table ''": "--table is given an empty value",
    },
    "architecture_pilot": {
        f"--architectures {10**9}": "architectures must be <= 100,000; got 1000000000",
        "--retrainings 1": "retrainings must be >= 2; got 1",
        f"--shared-steps {10**12}": "shared_steps must be <= 1,000,000,000; got 1000000000000",
        "--ways 1": "ways must be >= 2; got 1",
        "--seed -1": "seed must be >= 0; got -1",
        "--dataset glyphs --data FILE": "data is used only with dataset omniglot",
    },
    "maml_bench": {
        "--layers 12": "a table must have at most 1,000,000 architectures",
        f"--layers {10**9}": "layers must be <= 32; got 1000000000",
        "--blocks 3": "blocks is used only with space cells; leave it at 2; got 3",
        "--trainings 1": "trainings must be >= 2; got 1",
        "--shared-steps 5": "shared_steps must be 0 for the table; got 5",
        "--filters 0": "filters must be >= 1; got 0",
        "--filters": "filters must have at least one value",
        "--sizes 2": "filters must have odd sizes",
    },
    "recurrent_cells": {
        "": "--data",
        "--data FILE --seeds 0": "seeds must be >= 1; got 0",
        "--data FILE --layers 0": "layers must be >= 1; got 0",
        "--data FILE --models gru": "invalid choice 'gru'",
        "--data FILE --models lstm lstm": "models must be different from each other",
        "--data FILE --text.dropout 1": "dropout must be a finite number >= 0.0 and < 1.0; got 1.0",
        "--data FILE --text.epochs 0": "number of epochs must be an integer >= 1; got 0",
        "--data FILE --decay 0.1": "decay is used only with --dynamic; leave it at 0.002; got 0.1",
        "--data FILE --dynamic --dynamic-rates nan": "dynamic_rates must be a finite number",
    },
    "ablation": {
        "--seeds 0": "seeds must be >= 1; got 0",
        f"--seeds {10**9}": "seeds must be <= 1,000; got 1000000000",
        "--meta-steps 100": "meta_steps must be a multiple of 8; got 100",
        "--meta-steps 0": "meta_steps must be a multiple of 8; got 0",
        "--dataset glyphs --data FILE": "data is used only with dataset omniglot",
    },
    "estimators": {
        "--largest 60": "largest must be <= 20; got 60",
        "--largest 3": "largest must be >= 4; got 3",
        "--repeats 0": "repeats must be >= 1; got 0",
        "--out ''": "--out is given an empty value",
    },
    "memory": {
        f"--steps 1 {10**9}": "steps must be <= 10,000; got 1000000000",
        "--steps": "steps must have at least one value",
        "--inner-rate nan": "inner_rate must be a finite number; got nan",
        "--model conv4 --layers 2": "layers is used only with model transformer",
        "--model conv4 --text FILE": "text is used only with model transformer",
        f"--length {10**9}": "length must be <= 65,536; got 1000000000",
        "--model conv5": "invalid choice 'conv5'",
    },
    "scaling": {
        f"--tasks {10**9}": "tasks must be <= 65,536; got 1000000000",
        "--tasks 0": "tasks must be >= 1; got 0",
        "--ways 5 9999": "the classes of glyphs",
        "--models": "models must have at least one value",
        "--models conv5": "models must be among conv4, fully-connected, sinusoid; got conv5",
        "--devices -1": "devices must be >= 1; got -1",
        "--chunks 0": "chunks must be >= 1 or all; got 0",
        "--width 0": "width must be >= 1; got 0",
        "--out FILE": "out must be a folder, and FILE is a file",
    },
    "peers": {
        f"--rounds {10**9}": "rounds must be <= 1,000; got 1000000000",
        "--workloads": "workloads must have at least one value",
        "--peers tensorflow": "no peer 'tensorflow'; there are loop",
    },
    "report": {
        "--out FILE run": "out must be a folder, and FILE is a file",
        "": "runs",
    },
    "weights": {
        "": "files",
        "a.npz --eval-tasks 1": "eval_tasks must be >= 2; got 1",
        f"a.npz --eval-tasks {10**15}": "eval_tasks must be <= 1,000,000",
        "a.npz --ways 0": "ways must be >= 2; got 0",
        "a.npz --run FILE --ways 5": "only with an evaluation, and --run writes a file",
        "a.npz --run FILE --record": "record is used only with an evaluation",
    },
    "classify": {
        "": "--support",
        "--support . --query b.png": "weights must have at least one value",
        "a.npz --support FILE --query b.png": "support must be a folder or a zip of classes; got",
        "a.npz --support . --query b.png": "query must be files of pictures; there is no b.png",
        "a.npz --support . --query b.png --out FILE": "out must be a folder, and FILE is a file",
    },
}


def options_of(script):
    module = import_module(f"benchmarks.{script}")
    if hasattr(module, "__path__"):  # a package, which runs its __main__
        module = import_module(f"{module.__name__}.__main__")
    return getattr(module, OPTIONS[script])


def parse(script, argv):
    options = options_of(script)
    if isinstance(options, Mapping):
        return configure(options, "words", argv)
    return read_options(options, "words", argv)


def test_the_number_of_meta_steps_in_a_call_follows_that_of_the_run():
    config = parse_preset("--meta-steps", "100")
    assert (config.meta_steps, config.steps_per_call) == (100, 100)
    assert parse_preset("--meta-steps", "5200").steps_per_call == 2600
    assert parse_preset("--meta-steps=6", "--steps-per-call", "3").steps_per_call == 3
    with pytest.raises(ValueError, match="steps_per_call must divide meta_steps"):
        parse_preset("--meta-steps", "10007")
    with pytest.raises(ValueError, match="steps_per_call must divide meta_steps"):
        parse_preset("--meta-steps", "100", "--resume", "--out", "results/runs/nowhere")


def test_a_resumed_run_has_the_number_of_meta_steps_in_a_call_with_which_it_began(tmp_path):
    words = "--meta-steps", "1000", "--out", str(tmp_path)
    begun = parse_preset(*words)
    (tmp_path / "config.json").write_text(json.dumps(folders.result_options("sinusoid", begun)))
    assert begun.steps_per_call == 1000
    assert parse_preset(*words, "--resume") == replace(begun, resume=True)
    longer = parse_preset("--meta-steps", "3000", "--out", str(tmp_path), "--resume")
    assert (longer.meta_steps, longer.steps_per_call) == (3000, 1000)


def parse_preset(*argv):
    return configure(options_of("sinusoid"), "words", argv)


def test_help_has_a_line_for_each_preset_and_option(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit):
        parse("omniglot", ["--help"])
    shown = capsys.readouterr().out
    assert all(f"{name}: " in shown for name in options_of("omniglot"))
    assert re.search(r"--resume.*latest checkpoint. Another .* number of meta-steps holds", shown)


def test_help_that_is_not_read_to_its_end_ends_without_a_traceback(monkeypatch):
    read, write = os.pipe()
    os.close(read)
    monkeypatch.setattr(sys, "stdout", os.fdopen(write, "w"))
    with pytest.raises(SystemExit) as ended:
        launch(fail, omniglot.PRESETS, "words", ["--help"], start=fail)
    assert isinstance(ended.value.__cause__, BrokenPipeError)
    sys.stdout.close()  # what is still buffered is written without an error


def fail(*_, **__):
    pytest.fail("something was started")


@pytest.mark.parametrize(
    ("script", "words", "says"),
    [(script, *case) for script, cases in REFUSED.items() for case in cases.items()],
)
def test_invalid_command_lines_end_with_status_2_before_any_work(
    script, words, says, tmp_path, capsys
):
    (tmp_path / "file").touch()
    here = str(tmp_path / "file")
    with pytest.raises(SystemExit) as refusal:
        launch(
            fail, options_of(script), "words", shlex.split(words.replace("FILE", here)), start=fail
        )
    said = capsys.readouterr()
    assert refusal.value.code == 2 and not said.out
    assert says.replace("FILE", here) in said.err and len(said.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"meta_batch": True}, "meta_batch must be an integer; got True"),
        ({"meta_batch": 2.0}, "meta_batch must be an integer; got 2.0"),
        ({"cosine": 1}, "cosine must be true or false; got 1"),
        ({"tokens": 3}, "tokens must be a string; got 3"),
        ({"seed": None}, "seed must be an integer; got None"),
        ({"outer_rate": "0.1"}, "outer_rate must be a finite number; got '0.1'"),
        ({"algorithm": "mamba"}, "algorithm must be one of maml, .*; got 'mamba'"),
        ({"batch_norm": None}, "batch_norm must be one of .*; got None"),
        ({"shots_range": (5, 1)}, r"shots_range must begin with the fewest; got \(5, 1\)"),
        ({"out": "results"}, "out must be a pathlib.Path; got 'results'"),
        ({"data": "omniglot"}, "data must be a pathlib.Path; got 'omniglot'"),
    ],
)
def test_options_from_python_are_refused_alike(change, says):
    with pytest.raises(ValueError, match=says):
        replace(omniglot.PAPER, **change)
    assert replace(omniglot.PAPER, seed=np.int64(3)).seed == 3


def test_every_bound_can_be_reached_and_belongs_to_an_option():
    names = set()
    for script in OPTIONS:
        options = options_of(script)
        kinds = map(type, options.values()) if isinstance(options, Mapping) else [options]
        names |= {name for kind in kinds for name in kind.__dataclass_fields__}
    assert BOUNDS.keys() <= names
    for seed in BOUNDS["seed"]:
        assert Search(seed=int(seed)).seed == seed


@pytest.mark.parametrize("script", OPTIONS)
def test_help_prints_the_usage_and_does_nothing_else(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    for module in (f"benchmarks.{script}", f"benchmarks.{script}.__main__"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.delenv("PJRT_NPROC", raising=False)
    with pytest.raises(SystemExit) as end:
        runpy.run_module(f"benchmarks.{script}", run_name="__main__", alter_sys=True)
    shown = capsys.readouterr().out
    assert end.value.code == 0 and "PJRT_NPROC" not in os.environ
    assert shown.startswith(f"usage: python -m benchmarks.{script} ")
    assert "show this help message" in shown


def test_an_archive_that_was_cut_off_is_refused_in_one_line(tmp_path):
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04" + bytes(100))

    def main(options):
        ZipFile(options.files[0])

    command, unstarted = [str(tmp_path / "cut.npz")], {"start": lambda cache: None}
    with pytest.raises(SystemExit, match="BadZipFile: File is not a zip file"):
        launch(main, weights.Weights, "words", command, **unstarted)


def recorded():
    """Everything that is committed with its command and its options."""
    mine = {ROOT / "results" / name for name in ("runs", "demo")}  # are not committed
    paths = (ROOT / "results").rglob("summary.json")
    paths = (path for path in paths if mine.isdisjoint(path.parents))
    result = tables.read_results(ROOT / "results") + [
        json.loads(path.read_text()) for path in paths
    ]
    return {run["command"]: run for run in result if "command" in run and "config" in run}


# Recorded options that may be properties of the options today, by script.
DERIVED = {
    "architecture_search": {"runs": "repeats"},
    "bandits": {"trajectories": "trajectories"},
    "navigation": {"meta_steps": "total_steps"},
}
# Options of recorded runs that do not exist any more, which all had the value that is left.
GONE = {"memory": None}


@pytest.mark.parametrize("run", recorded().values(), ids=recorded().keys())
def test_recorded_commands_still_mean_what_they_meant(run):
    module, *argv = run["command"].split()[2:]
    script = module.removeprefix("benchmarks.")
    options = parse(script, argv)
    config = folders.options_as_json(options)
    derived = {name: getattr(options, by) for name, by in DERIVED.get(script, {}).items()}
    config = derived | config
    if script == "weights":  # its options, where they are given, change those of the file
        config = {name: value for name, value in config.items() if value is not None}
    assert all(run["config"].get(name, value) == value for name, value in GONE.items())
    before = config_of_today(run["config"])
    common = (config.keys() & before.keys()) - {*folders.NO_EFFECT}
    if script not in ("weights", "ablation"):
        assert before.keys() <= config.keys()
    config |= {n: value for n, value in derived.items() if before[n] != config[n]}
    for name in common:
        value = config[name]
        if isinstance(value, dict):  # options of a part, which may have more of them today
            value = {option: value[option] for option in before[name]}
        assert value == before[name], name
