"""The site builds without a network, and the code of its pages prints what they say."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import maml  # noqa: F401  (fills sys.modules)

ROOT = Path(__file__).parents[1]
FRONT = [ROOT / "docs" / name for name in ("getting-started.md", "algorithms.md")]
PAGES = sorted([*FRONT, *ROOT.glob("docs/guides/*.md")])
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
OPTIONAL = {"equinox", "flax", "orbax"}
SITE = ["latex2mathml", "material", "mkdocs", "mkdocs_jupyter", "mkdocstrings"]
OFFLINE = "import mkdocs.__main__, socket; socket.socket.connect = None; mkdocs.__main__.cli()"
LOADED = re.compile(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//[^>]*>")


def code(page: Path) -> list[tuple[str, str]]:
    """The blocks of code of a page, each with the output that follows it."""
    return BLOCK.findall(page.read_text())


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    missing = [package for package in SITE if find_spec(package) is None]
    if missing:
        pytest.skip(f"`make docs` installs what builds the site; missing: {', '.join(missing)}")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-c", OFFLINE, "build", "--strict", "--site-dir", folder]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return folder


def test_the_site_is_built_and_loads_nothing_from_a_network(site):
    pages = {page.relative_to(site).as_posix(): page.read_text() for page in site.rglob("*.html")}
    assert {"index.html", "guides/own-model.html", "notebooks/02_sinusoid.html"} <= pages.keys()
    assert [
        (page, LOADED.findall(text)) for page, text in pages.items() if LOADED.search(text)
    ] == []
    first = pages["notebooks/01_maml_from_scratch.html"]
    assert "<math" in first and 'href="02_sinusoid.html"' in first
    assert not any('.ipynb"' in text for text in pages.values())


@pytest.mark.parametrize("module", ["maml", "maml.rl", "maml.search"])
def test_the_reference_has_every_public_name(site, module):
    page = site / "reference" / f"{module.rpartition('.')[2]}.html"
    names = sys.modules[module].__all__
    modules = {name for name in names if f"{module}.{name}" in sys.modules}
    shown = set(re.findall(rf'id="{module}\.(\w+)"', page.read_text()))
    assert set(names) - modules <= shown | {"maml"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs_and_prints_what_it_says(page, capsys, tmp_path, monkeypatch):
    blocks = code(page)
    imported = set(
        re.findall(r"^(?:import|from) (\w+)", "\n".join(c for c, _ in blocks), re.MULTILINE)
    )
    for package in sorted(OPTIONAL & imported):
        pytest.importorskip(package, reason=f"{package} is not installed")
    monkeypatch.chdir(tmp_path)
    scope = {"__name__": page.stem}
    for number, (source, expected) in enumerate(blocks):
        exec(compile(source, f"{page.name}, block {number}", "exec"), scope)
        printed = capsys.readouterr().out
        assert re.sub(NUMBER, "", printed) == re.sub(NUMBER, "", expected)
        # Training amplifies the rounding in which machines and compilers differ.
        got, wanted = ([float(n) for n in re.findall(NUMBER, text)] for text in (printed, expected))
        assert got == pytest.approx(wanted, rel=0.3, abs=0.02)
        for first, last in re.findall(r"([\d.]+) at first, ([\d.]+) at last", printed):
            assert float(last) < 0.9 * float(first)
