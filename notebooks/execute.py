"""Writes each notebook anew from its script and stores the outputs of one run of it.

python notebooks/execute.py                # all notebooks
python notebooks/execute.py 02_sinusoid    # one of them
"""

import sys
from base64 import b64decode, b64encode
from io import BytesIO
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from PIL import Image

FOLDER = Path(__file__).parent


def smaller(png: str) -> str:
    """A PNG in base64, with 256 colours: a plot looks the same and takes a third of the bytes."""
    file = BytesIO()
    image = Image.open(BytesIO(b64decode(png))).convert("RGB")
    image.quantize(256, dither=Image.Dither.NONE).save(file, "png", optimize=True)
    return b64encode(file.getvalue()).decode()


def stored(outputs: list) -> list:
    """The outputs of a cell, with adjacent pieces of text joined and figures made smaller."""
    kept: list = []
    for output in outputs:
        if "image/png" in output.get("data", {}):
            output.data["image/png"] = smaller(output.data["image/png"])
        if kept and "name" in output and output.name == kept[-1].get("name"):
            kept[-1].text += output.text
        else:
            kept.append(output)
    return kept


def main(names: list[str]) -> None:
    """Executes the notebooks with these names, or all."""
    for name in names or sorted(path.stem for path in FOLDER.glob("[0-9]*.py")):
        notebook = jupytext.read(FOLDER / f"{name}.py")
        for number, cell in enumerate(notebook.cells):
            cell.id = f"cell-{number}"  # the same in every run, unlike those of a new notebook
        NotebookClient(notebook, record_timing=False).execute(cwd=FOLDER)
        notebook.metadata.pop("language_info", None)
        notebook.metadata.jupytext.pop("text_representation", None)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = stored(cell.outputs)
        nbformat.write(notebook, FOLDER / f"{name}.ipynb")
        print(name)


if __name__ == "__main__":
    main(sys.argv[1:])
