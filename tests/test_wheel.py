"""The wheel holds one package, and works beside a user's files of any name."""

import os
import shutil
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path

import pytest
from test_readme import SNIPPETS

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder that the wheel is unpacked to."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT / "maml", source / "maml", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([sys.executable, "-m", *build, "--wheel-dir", folder, source], check=True)
    (wheel,) = folder.glob("maml_jax-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_holds_one_package(site):
    packages = {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")}
    assert packages == {"maml"}
    assert (site / "maml" / "py.typed").exists() and (site / "maml" / "rl").is_dir()


def test_the_example_of_the_readme_runs_beside_files_of_the_users(site, tmp_path):
    for name in ("tasks", "benchmarks"):
        (tmp_path / f"{name}.py").write_text("MINE = True\n")
    example = SNIPPETS[0].replace("meta_steps=10_000", "meta_steps=10")
    check = (
        "import tasks, benchmarks\nassert tasks.MINE and benchmarks.MINE\nprint(maml.__file__)\n"
    )
    (tmp_path / "main.py").write_text(f"{example}{check}print(maml.__file__)\n")
    environment = os.environ | {"PYTHONPATH": str(site)}
    run = partial(subprocess.run, cwd=tmp_path, env=environment, check=True)
    ran = run([sys.executable, "main.py"], capture_output=True, text=True)
    lines = ran.stdout.splitlines()
    assert lines[0].startswith("inner steps: 0, mean squared error")
    assert Path(lines[-1]) == site / "maml" / "__init__.py"
