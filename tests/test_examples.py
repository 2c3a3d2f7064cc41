"""The examples use the library alone, and learn."""

import ast
import runpy
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
OTHERS = {"jax", "maml", "optax", "numpy", "argparse", "pathlib", "typing"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_one_short_file_on_the_library_alone(path):
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= OTHERS
    assert len(path.read_text().splitlines()) <= 90


def run(name, *args, **options):
    (path,) = (path for path in EXAMPLES if path.stem == name)
    module = runpy.run_path(str(path))
    return module["main"](*(arg(module) for arg in args), **options).tolist()


def test_the_examples_learn():
    before, after, _ = run("sinusoid", meta_steps=500)
    assert after < before - 0.2
    before, after, _ = run("images", lambda module: module["drawings"](30, 8), meta_steps=10)
    assert abs(before - 0.2) < 0.1 and after > 0.4
    before, after, _ = run("reinforcement_learning", meta_steps=60)
    assert after > before + 1
