"""Docstrings are complete: every entry stands alone, and Args are followed by Returns."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("maml", "tasks", "benchmarks")
PATHS = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
FILES = {path.relative_to(ROOT).as_posix() for path in PATHS}

BANNED = re.compile(r"\b(of what|so many|other ones|what was got|is said)\b")
SECTION = re.compile(r"^(Args|Attributes|Returns):\n((?: +.*(?:\n|$))+)", re.MULTILINE)
ENTRY = re.compile(r"^ {4}(\S.*)", re.MULTILINE)
COMPLETE = {"Returns": re.compile(r"[A-Z`]"), "Args": re.compile(r"\w+(, \w+)*: [A-Z`]")}
OPTION = re.compile(r"(?!Of )[A-Z].*\.$", re.DOTALL)


def flaws(node: ast.Module | ast.ClassDef | ast.FunctionDef) -> Iterator[str]:
    text = ast.get_docstring(node) or ""
    yield from BANNED.findall(text)
    yield from re.findall(r"\AOf .*", text)
    sections = {name: ENTRY.findall(section) for name, section in SECTION.findall(text)}
    for name, entries in sections.items():
        complete = COMPLETE["Returns" if name == "Returns" else "Args"]
        starts = entries[:1] if name == "Returns" else entries
        yield from (entry for entry in starts if not complete.match(entry))
    if isinstance(node, ast.FunctionDef) and "Args" in sections and "Returns" not in sections:
        returns_none = node.returns is not None and ast.unparse(node.returns) == "None"
        yield from [] if returns_none else [f"{node.name} has Args but no Returns"]
    if isinstance(node, ast.ClassDef):
        options = [text for text in texts_of_options(node) if not OPTION.match(text)]
        yield from (option.partition("\n")[0] for option in options)


def texts_of_options(node: ast.ClassDef) -> Iterator[str]:
    """The docstrings below the fields of a class, which `--help` prints."""
    for field, text in zip(node.body, node.body[1:], strict=False):
        constant = text.value if isinstance(text, ast.Expr) else None
        if isinstance(field, ast.AnnAssign) and isinstance(constant, ast.Constant):
            yield str(constant.value)


@pytest.mark.parametrize("file", sorted(FILES))
def test_docstrings_are_complete(file):
    kinds = ast.Module, ast.ClassDef, ast.FunctionDef
    nodes = ast.walk(ast.parse((ROOT / file).read_text()))
    assert [flaw for node in nodes if isinstance(node, kinds) for flaw in flaws(node)] == []


def test_flaws_are_found():
    entries = '"""Of a thing.\n\nArgs:\n    a, b: of what.\n    c: A thing.\n"""'
    tree = ast.parse(f"def f(a, b, c) -> int:\n{entries}".replace("\n", "\n    "))
    (function,) = tree.body
    assert isinstance(function, ast.FunctionDef)
    assert list(flaws(function)) == [
        "of what",
        "Of a thing.",
        "a, b: of what.",
        "f has Args but no Returns",
    ]


def test_options_that_do_not_stand_alone_are_found():
    texts = "Of an episode.", "classes of an episode.", "Number of classes", "Number of classes."
    fields = "".join(f'\n    x{n}: int\n    """{text}"""' for n, text in enumerate(texts))
    (options,) = ast.parse(f"class Options:{fields}").body
    assert isinstance(options, ast.ClassDef)
    assert list(flaws(options)) == list(texts[:3])
