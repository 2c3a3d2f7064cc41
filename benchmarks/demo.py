"""A demonstration of meta-learning in four minutes, without data or network: `make demo`.

Meta-trains on sinusoids, on characters of fonts and on navigation to an unseen goal. Prints the
tables beside the numbers of MAML's paper, and writes the figures to results/demo.
"""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, TypeVar

from rich.console import Console

from benchmarks import navigation, omniglot, sinusoid
from benchmarks.harness.command_line import launch
from benchmarks.harness.files import read_object
from benchmarks.harness.folders import RESULTS
from benchmarks.harness.options import RunOptions

C = TypeVar("C", bound=RunOptions)
PARTS = {"sinusoid": "sinusoid", "glyphs": "omniglot", "navigation": "navigation"}  # benchmarks


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Options of the demo."""

    out: Path = RESULTS / "demo"
    """Folder of the three runs, which replace those of an earlier demo when they are complete."""


def main(out: Path = RESULTS / "demo", **changes: int) -> None:
    """Runs the three parts.

    Raises:
        ValueError: A folder that would be replaced is not that of a demo.
    """

    def adjust(config: C, **options: Any) -> C:
        known = {name: value for name, value in changes.items() if hasattr(config, name)}
        return replace(config, **(options | known))

    check(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    new = Path(mkdtemp(prefix=f"{out.name}-", dir=out.parent))
    console = Console()
    console.rule("Sinusoids: a wave from 5 of its points")
    sinusoid.main(adjust(sinusoid.PAPER, out=new / "sinusoid"))
    console.rule("Glyphs: 5 characters of new scripts, from 1 image of each")
    omniglot.main(adjust(omniglot.PRESETS["glyphs-5-way-1-shot"], out=new / "glyphs"))
    console.rule("Navigation: to an unseen goal, after one policy-gradient step")
    walks = adjust(navigation.BEST, out=new / "navigation", seeds=1, meta_steps=50)
    navigation.main(walks)
    replace_parts(out, new)
    console.print("To train on Omniglot: python -m benchmarks.omniglot --help")
    for figure in sorted(out.rglob("*.png")):
        console.print(f"figure: {figure}")


def check(out: Path) -> None:
    """Refuses a folder whose parts are not those of a demo.

    Raises:
        ValueError: A part is another run; the message names it.
    """
    for part, benchmark in PARTS.items():
        mark = out / part / "config.json"
        made = mark.exists() and read_object(mark, {}).get("benchmark") == benchmark
        if (out / part).exists() and not made:
            raise ValueError(
                f"{out / part} is not a run of {benchmark}; it stays, so name another --out"
            )


def replace_parts(out: Path, new: Path) -> None:
    """Replaces the runs of an earlier demo by those of a new one; all other files stay."""
    check(out)
    out.mkdir(exist_ok=True)
    for part in PARTS:
        old = new / f"old-{part}"
        if (out / part).exists():
            (out / part).rename(old)
        (new / part).rename(out / part)
        for path in old.iterdir() if old.exists() else ():
            if not (out / part / path.name).exists():
                path.rename(out / part / path.name)
    shutil.rmtree(new)


if __name__ == "__main__":
    launch(lambda options: main(options.out), Demo, __doc__)
