"""Imports run one way: benchmarks -> tasks -> maml; the harness imports no experiment."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Folder -> modules of the project that its files must not import.
FORBIDDEN = {
    "maml": ("tasks", "benchmarks"),
    "tasks": ("benchmarks",),
    "benchmarks/harness": ("benchmarks",),
    "benchmarks/report": ("benchmarks",),
    "benchmarks/search": ("benchmarks",),
}
ALLOWED = {
    "benchmarks/harness": ("benchmarks.harness",),
    "benchmarks/report": ("benchmarks.harness", "benchmarks.report", "benchmarks.search"),
    "benchmarks/search": ("benchmarks.harness", "benchmarks.report", "benchmarks.search"),
}


def imports(path: Path) -> set[str]:
    """Returns the modules that a file imports, by their full names."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_imports_run_one_way(folder):
    for path in (ROOT / folder).rglob("*.py"):
        allowed = ALLOWED.get(folder, ())
        names = {name for name in imports(path) if within(name, FORBIDDEN[folder])}
        wrong = {name for name in names - {"benchmarks"} if not within(name, allowed)}
        assert not wrong, f"{path.relative_to(ROOT)} imports {', '.join(sorted(wrong))}"
