"""Three minutes of meta-learning, with no data and no network: `make demo`.

Meta-trains on sinusoids and on the embedded glyphs, prints both tables beside the numbers of
MAML's paper, and leaves the figures in results/demo.
"""

import shutil
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from benchmarks import hardware, omniglot, sinusoid
from benchmarks.session import RESULTS


def main(out: Path = RESULTS / "demo", **changes: int) -> None:
    """Runs both; `changes` make them smaller."""
    shutil.rmtree(out, ignore_errors=True)
    console = Console()
    console.rule("Sinusoids: a wave from 5 of its points")
    sinusoid.main(replace(sinusoid.PAPER, out=out / "sinusoid", **changes))
    console.rule("Glyphs: 5 characters of unseen scripts from 1 drawing each")
    glyphs = omniglot.PRESETS["glyphs-5-way-1-shot"]
    omniglot.main(replace(glyphs, out=out / "glyphs", **changes))
    console.print("Omniglot itself: python -m benchmarks.omniglot --help")
    for figure in sorted(out.rglob("*.png")):
        console.print(f"figure: {figure}")


if __name__ == "__main__":
    hardware.start()
    main()
