"""The README is short, its snippets print what it says, and its links lead to files."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.usefixtures("optimised")  # for 10,000 meta-steps
def test_the_snippets_run_and_print_what_the_page_says(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope = {}
    for code in SNIPPETS:
        exec(code, scope)
    (said,) = re.findall(r"```\n(inner steps: 0.*?)```", README, re.DOTALL)
    printed, expected = (
        [float(number) for number in re.findall(r"[\d.]+", text)]
        for text in (capsys.readouterr().out, said)
    )
    # 10,000 meta-steps amplify the rounding in which machines and compilers differ.
    assert printed == pytest.approx(expected, rel=0.1)
    assert scope["predictions"].shape == (10, 1) and int(scope["state"].step) == 10_000
    assert scope["sample"](scope["jax"].random.key(0)).support[0].shape == (5, 28, 28, 3)


def test_it_is_short():
    assert len(README.splitlines()) <= 140


@pytest.mark.parametrize(
    "page", ["README.md", *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/**/*.md"))]
)
def test_links_to_files_lead_to_files(page):
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)]
    local = [link for link in links if link and "://" not in link]
    assert [link for link in local if not (ROOT / page).parent.joinpath(link).exists()] == []
