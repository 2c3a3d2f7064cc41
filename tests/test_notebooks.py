"""The committed notebooks are paired with their sources and name no machine."""

import json
import re
from pathlib import Path

import jupytext
import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
ABSOLUTE = re.compile(
    r"(?<![\w.])/(?:home|root|Users|work|tmp|mnt|opt|usr|var|data|private)\b|\b[A-Z]:\\|file:/|~/"
)


def test_every_notebook_has_its_pair():
    scripts = {path.stem for path in FOLDER.glob("[0-9]*.py")}
    assert NOTEBOOKS and scripts == {path.stem for path in NOTEBOOKS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_says_what_its_script_says(path):
    def cells(notebook):
        return [(cell.cell_type, cell.source) for cell in notebook.cells]

    notebook, script = nbformat.read(path, 4), jupytext.read(path.with_suffix(".py"))
    assert cells(notebook) == cells(script)
    assert notebook.metadata.jupytext.formats == "ipynb,py:percent"
    assert notebook.metadata.kernelspec.name == script.metadata.kernelspec.name == "python3"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_without_outputs(path):
    code = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_names_no_path_of_a_machine(path):
    notebook = nbformat.read(path, 4)
    metadata = [notebook.metadata, *(cell.metadata for cell in notebook.cells)]
    text = path.with_suffix(".py").read_text() + json.dumps(metadata)
    assert str(FOLDER.parent) not in text and not ABSOLUTE.findall(text)
