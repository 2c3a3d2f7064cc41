"""Four minutes of meta-learning, with no data and no network: `make demo`.

Meta-trains on sinusoids, on the embedded glyphs and on walks to a goal out of sight, prints the
tables beside the numbers of MAML's paper, and leaves the figures in results/demo.
"""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, TypeVar

import tyro
from rich.console import Console

from benchmarks import navigation, omniglot, sinusoid
from benchmarks.harness import hardware
from benchmarks.harness.command_line import exit_with_message
from benchmarks.harness.files import read_object
from benchmarks.harness.folders import RESULTS
from benchmarks.harness.options import Run

C = TypeVar("C", bound=Run)
PARTS = {"sinusoid": "sinusoid", "glyphs": "omniglot", "navigation": "navigation"}  # benchmarks


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Options of the demo."""

    out: Path = RESULTS / "demo"
    """Folder of its three runs. Those of an earlier demo are replaced when these are complete."""


def main(out: Path = RESULTS / "demo", **changes: int) -> None:
    """Runs all three; `changes` make them smaller, where they have such an option.

    Raises:
        ValueError: what would be replaced is not of a demo.
    """

    def changed(config: C, **options: Any) -> C:
        known = {name: value for name, value in changes.items() if hasattr(config, name)}
        return replace(config, **(options | known))

    check(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(mkdtemp(prefix=f"{out.name}-", dir=out.parent))
    console = Console()
    console.rule("Sinusoids: a wave from 5 of its points")
    sinusoid.main(changed(sinusoid.PAPER, out=fresh / "sinusoid"))
    console.rule("Glyphs: 5 characters of unseen scripts from 1 drawing each")
    omniglot.main(changed(omniglot.PRESETS["glyphs-5-way-1-shot"], out=fresh / "glyphs"))
    console.rule("Navigation: to a goal out of sight, after one policy-gradient step")
    walks = changed(navigation.BEST, out=fresh / "navigation", seeds=1, meta_steps=50)
    navigation.main(walks)
    replace_parts(out, fresh)
    console.print("Omniglot itself: python -m benchmarks.omniglot --help")
    for figure in sorted(out.rglob("*.png")):
        console.print(f"figure: {figure}")


def check(out: Path) -> None:
    """Refuses a folder whose parts are not those of a demo.

    Raises:
        ValueError: naming the part.
    """
    for part, benchmark in PARTS.items():
        mark = out / part / "config.json"
        made = mark.exists() and read_object(mark, {}).get("benchmark") == benchmark
        if (out / part).exists() and not made:
            raise ValueError(
                f"{out / part} is no run of {benchmark}, so it is not replaced: name another --out"
            )


def replace_parts(out: Path, fresh: Path) -> None:
    """Puts the runs of a new demo in the place of an earlier one's; all other files stay."""
    check(out)
    out.mkdir(exist_ok=True)
    for part in PARTS:
        old = fresh / f"old-{part}"
        if (out / part).exists():
            (out / part).rename(old)
        (fresh / part).rename(out / part)
        for path in old.iterdir() if old.exists() else ():
            if not (out / part / path.name).exists():
                path.rename(out / part / path.name)
    shutil.rmtree(fresh)


if __name__ == "__main__":
    with exit_with_message():
        options = tyro.cli(Demo, description=__doc__)
        hardware.start()
        main(options.out)
