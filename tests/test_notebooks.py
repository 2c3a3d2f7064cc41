"""The committed notebooks are paired with their sources, have outputs, and name no machine.

`make test` also executes them.
"""

import json
import re
from pathlib import Path

import jupytext
import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LARGEST = 300_000  # bytes of a notebook with its figures
ABSOLUTE = re.compile(
    r"(?<![\w.])/(?:home|root|Users|work|tmp|mnt|opt|usr|var|data|private)\b|\b[A-Z]:\\|file:/|~/"
)


def test_every_notebook_has_its_pair():
    scripts = {path.stem for path in FOLDER.glob("[0-9]*.py")}
    assert NOTEBOOKS and scripts == {path.stem for path in NOTEBOOKS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_the_cells_of_its_script(path):
    def cells(notebook):
        return [(cell.cell_type, cell.source) for cell in notebook.cells]

    notebook, script = nbformat.read(path, 4), jupytext.read(path.with_suffix(".py"))
    assert cells(notebook) == cells(script)
    assert notebook.metadata.jupytext.formats == "ipynb,py:percent"
    assert notebook.metadata.kernelspec.name == script.metadata.kernelspec.name == "python3"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_the_outputs_of_one_run(path):
    code = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert all(output.output_type in ("stream", "display_data") for output in outputs)
    assert all(output.name == "stdout" for output in outputs if "name" in output)
    figures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(figures) == sum("plt.show()" in cell.source for cell in code)
    assert path.stat().st_size < LARGEST


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_names_no_path_of_a_machine(path):
    notebook = nbformat.read(path, 4)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            output.get("data", {}).pop("image/png", None)
    text = json.dumps(notebook).replace(r"\n", "\n")
    assert str(FOLDER.parent) not in text and not ABSOLUTE.findall(text)
