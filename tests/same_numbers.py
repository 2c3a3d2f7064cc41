"""Proves that a reorganisation of the code changes no number: tiny runs before it and after it.

    python tests/same_numbers.py record FOLDER               # before the code is moved
    python tests/same_numbers.py compare FOLDER [RUN ...]    # afterwards; by default all runs

Every script that computes numbers runs at a tiny size, with fixed seeds, in float32 and on one CPU
device. All numbers and words of its results and of its log are kept, and a checksum of each array
of parameters in its last checkpoint. `compare` says which of them are not equal to the bit, and its
exit status is 1 if any is not. Both need the same machine and packages. All runs share one process,
because imports would take longer than they do. FOLDER keeps compiled programs, by their content.
"""

import argparse
import json
import os
import runpy
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

# Old name -> new name: of keys, of words that are values, and of files.
RENAMED: dict[str, str] = {"store": "reverse", "forward-recompute": "forward-remat"}
# Keys and files that are not compared: times, speeds, and what was asked for, paths among it.
FREE = {
    *("seconds", "seconds_per_seed", "compile_seconds", "time_ratio", "growth"),
    *("tasks_per_second", "ms_per_child_and_meta_step", "children/s"),
    *("config.json", "config", "options", "command", "start_from", "versions"),
}
SHORT = "--meta-steps=2 --steps-per-call=1 --meta-batch=2 --save-seconds=0"
FEW = f"{SHORT} --eval-steps=1 --eval-tasks=2 --val-tasks"
IMAGES = f"omniglot --preset=glyphs-5-way-1-shot {FEW}"
DENSE = f"{IMAGES}=0 --ways=2 --model=fully-connected --algorithm"
CELLS = f"{IMAGES}=0 --ways=2 --model=cells --features=2 --tokens=0,0,2,0,0,0,1,3,0,1"
EPISODES = f"{SHORT} --horizon=4 --width=4 --goals=2 --trajectories=3 --eval-trajectories=2"
WALK = f"navigation {EPISODES} --eval-steps=1 --seeds"
ARMS = f"bandits {SHORT} --inner-steps=1 --eval-tasks=4 --seeds"
BUDGET = "--budget.meta-steps=2 --budget.meta-batch=2 --budget.eval-tasks=20"
CHILD = f"--dataset=glyphs --side=7 --ways=2 --filters 2 {BUDGET}"
LAYER = f"{CHILD} --layers=1 --sizes 1 3 --strides 1"
SEARCH = "architecture_search --children=30 --runs=2 --space"
SMALL = "--layers=1 --width=4 --heads=1 --length=4 --sequences=1 --modes reverse forward-remat"
# The runs by name: what follows `python -m benchmarks.`; where it is empty, `special` runs them.
# {runs} is the folder of all runs, {out} that of this run; where it is not named, --out is added.
RUNS: dict[str, str] = {
    "sinusoid": f"sinusoid {FEW}=2",
    "sinusoid maml++": f"sinusoid {FEW}=0 --algorithm=maml++ --inner-steps=2 --remat",
    "sinusoid meta_sgd": f"sinusoid {FEW}=0 --preset=meta-sgd-paper-5-shot --prefetch=2",
    "sinusoid cavia": f"sinusoid {FEW}=0 --preset=cavia-paper",
    "sinusoid r2d2": f"sinusoid {FEW}=0 --preset=best-5-shot --seed=1",
    "sinusoid oracle": f"sinusoid {FEW}=0 --algorithm=oracle",
    "sinusoid started": f"sinusoid {FEW}=2 --algorithm=pretrained --start-from={{runs}}/sinusoid",
    "images": f"{IMAGES}=2",
    "images maml++": f"{DENSE}=maml++ --learn-rates --multi-step=2 --first-order=1 --per-step-norm",
    "images running": f"{DENSE}=maml --batch-norm=running --hvp=reverse --seed=1",
    "images support": f"{DENSE}=fomaml --batch-norm=support --shots=2 --queries=3",
    "images protonet": f"{DENSE}=protonet --train-ways=3 --precision=bfloat16",
    **{f"images {name}": f"{DENSE}={name} --inner-steps=2" for name in ("anil", "boil", "reptile")},
    **{f"images {name}": f"{DENSE}={name}" for name in ("r2d2", "meta_sgd")},
    "images imaml": f"{DENSE}=imaml --inner-rate=0.1",
    "images cells": f"{CELLS} --algorithm=protonet",
    "walk": f"{WALK}=1 --preset=best",
    "walk promp": f"{WALK}=2 --algorithm=meta_sgd --outer=promp --exploration-coef=0.1",
    "walk corners": f"{WALK}=1 --preset=corners --algorithm=fomaml --outer=adam --surrogate=taypo2",
    "walk oracle": f"{WALK}=1 --algorithm=oracle --outer=adam",
    "walk rl2": f"{WALK}=1 --preset=rl2",
    "bandits": f"{ARMS}=2 --preset=bandit-10-5",
    "bandits rl2": f"{ARMS}=1 --preset=bandit-10-5 --algorithm=rl2 --outer=promp --width=4",
    "bandits mdp": f"{ARMS}=1 --preset=mdp-10 --algorithm=maml --outer=promp --surrogate=dice",
    "search lstm": f"{SEARCH}=maml-bench --policy=lstm --strategies random ppo",
    "search table": f"{SEARCH}=graphs",
    "search macro": f"{SEARCH}=macro {LAYER} --strategies random reinforce",
    "search cells": f"{SEARCH}=cells {CHILD} --blocks=1 --strategies random",
    "pilot": f"architecture_pilot {LAYER} --architectures=3 --retrainings=2 --shared-steps=2",
    "maml_bench": f"maml_bench {LAYER} --trainings=2",
    "estimators": "estimators --largest=4 --repeats=2",
    "memory": f"memory --model transformer --steps 1 --repeats=1 {SMALL}",
    "weights": "weights {out}/weights.npz --run={runs}/images",
    "weights tested": "weights {runs}/weights/weights.npz --eval-tasks=2",
    **dict.fromkeys(("ablation", "scaling"), ""),
}


def special(name: str, out: Path) -> None:
    """Runs a script that has no options for a tiny size, as these runs need."""
    script = import_module(f"benchmarks.{name}")
    if name == "ablation":
        small = {"model": "fully-connected", "ways": 2, "inner_steps": 2, "eval_tasks": 2}
        variants = {variant: script.VARIANTS[variant] for variant in ("all", "none")}
        with patch.multiple(script, ALL=replace(script.ALL, **small), VARIANTS=variants):
            script.main(script.Ablation(dataset="glyphs", seeds=1, meta_steps=8, out=out))
    else:  # times sinusoids in place of images, which take long to compile
        few = dict.fromkeys(("devices", "chunks", "tasks", "steps", "width"), (1,))
        options = script.Options(models=("sinusoid",), ways=(2,), repeats=1, **few, out=out)
        with patch.object(script, "characters", lambda *_, **__: script.waves()):
            script.main(options)


def run(name: str, out: Path) -> dict[str, Any]:
    """Runs one of RUNS anew in its folder; returns its results, or why it `failed`."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    with out.with_suffix(".txt").open("w") as text, redirect_stdout(text), redirect_stderr(text):
        try:
            if RUNS[name]:
                command = RUNS[name] + ("" if "{out}" in RUNS[name] else " --out={out}")
                words = [word.format(runs=out.parent, out=out) for word in command.split()]
                with patch.object(sys, "argv", words):
                    runpy.run_module(f"benchmarks.{words[0]}", run_name="__main__", alter_sys=True)
            else:
                special(name, out)
            return results(out)
        except (Exception, SystemExit) as error:
            return {"failed": f"{type(error).__name__}: {error}; see {text.name}"}


def results(out: Path) -> dict[str, Any]:
    """Returns what the files of a run hold; of an array, its type, shape and checksum."""
    np, jax, result = import_module("numpy"), import_module("jax"), {}
    for path in sorted(out.rglob("*")):
        name, arrays = str(path.relative_to(out)), []
        if path.name == "checkpoints":
            ocp: Any = import_module("orbax.checkpoint").v1
            last = str(max(path.iterdir(), key=lambda step: int(step.name)))
            like = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), ocp.metadata(last).metadata)
            arrays = jax.tree.leaves(ocp.load(last, like)["params"])
        elif path.suffix == ".npz":
            arrays = [array for key, array in np.load(path).items() if key not in FREE]
        elif path.suffix in (".json", ".jsonl") and "checkpoints" not in name:
            lines = path.read_text().splitlines()
            result[name] = [
                *map(json.loads, lines if path.suffix == ".jsonl" else ["".join(lines)])
            ]
        if arrays:  # sorted and without axes of length 1, which names and seeds may change
            digests = ((x.dtype, x.squeeze().shape, sha256(x.tobytes())) for x in arrays)
            result[name] = sorted(f"{kind}{shape} {it.hexdigest()}" for kind, shape, it in digests)
    return result


def entries(value: Any, names: dict[str, str], *path: str) -> Iterator[tuple[str, str]]:
    """Yields the path and the exact text of all that is compared; `names` renames its words."""
    if isinstance(value, dict):
        for key, item in value.items():
            parts = [names.get(part, part) for part in str(key).split("/")]
            if FREE.isdisjoint([key, *parts]):
                yield from entries(item, names, *path, *parts)
    elif isinstance(value, list):  # of one item is the item: so may one seed be written
        for place, item in enumerate(value):
            yield from entries(item, names, *path, *([str(place)] if len(value) > 1 else []))
    else:
        yield "/".join(path), repr(names.get(value, value) if isinstance(value, str) else value)


def main() -> int:
    """Records or compares, prints the table, and returns the exit status."""
    parser = argparse.ArgumentParser(description="Proves that no number has changed.")
    parser.add_argument("task", choices=("record", "compare"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("run", nargs="*", help="runs, after those that they read; default: all")
    asked = parser.parse_args()
    folder, root = asked.folder.absolute(), Path(__file__).parents[1]
    kept, record = folder / "recorded.json", asked.task == "record"
    if record == kept.exists():
        parser.error(f"{kept} {'exists already' if record else 'does not exist'}")
    for name in [name for name in os.environ if name.startswith(("JAX_", "XLA_"))]:
        del os.environ[name]  # it could change numbers
    os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", "PJRT_NPROC": "1"}
    os.environ |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XDG_CACHE_HOME": str(folder / "cache")}
    os.chdir(root)
    sys.path.insert(0, str(root))
    before, after = {} if record else json.loads(kept.read_text()), {}
    table = [f"{name}: recorded, and no longer run" for name in before if name not in RUNS]
    wrong, done = 0, "recorded" if record else "equal"
    for name in asked.run or RUNS:
        print(f"{name} ...", file=sys.stderr)
        since = time.process_time()
        after[name] = run(name, folder / asked.task / name.replace(" ", "-"))
        new = dict(entries(after[name], {}))
        old = new if record else dict(entries(before.get(name, {}), RENAMED))
        bad = [key for key in old | new if old.get(key) != new.get(key) or key == "failed"]
        says = [f"{key}: {old.get(key, '-')[:99]} -> {new.get(key, '-')[:99]}" for key in bad[:3]]
        says.insert(0, f"{len(bad)} differ" if bad else f"{len(new)} {done}")
        table.append(f"{name:17} {time.process_time() - since:5.1f} s  {'; '.join(says)}")
        wrong += bool(bad)
    if record:
        kept.write_text(json.dumps(after))
    print(*table, f"{wrong} of {len(after)} runs differ or failed", sep="\n")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
