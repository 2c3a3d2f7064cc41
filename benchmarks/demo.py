"""Four minutes of meta-learning, with no data and no network: `make demo`.

Meta-trains on sinusoids, on the embedded glyphs and on walks to a goal out of sight, prints the
tables beside the numbers of MAML's paper, and leaves the figures in results/demo.
"""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import hardware, navigation, omniglot, sinusoid
from benchmarks.config import C
from benchmarks.session import RESULTS


def main(out: Path = RESULTS / "demo", **changes: int) -> None:
    """Runs all three; `changes` make them smaller, where they have such an option."""

    def changed(config: C, **options: Any) -> C:
        known = {name: value for name, value in changes.items() if hasattr(config, name)}
        return replace(config, **(options | known))

    shutil.rmtree(out, ignore_errors=True)
    console = Console()
    console.rule("Sinusoids: a wave from 5 of its points")
    sinusoid.main(changed(sinusoid.PAPER, out=out / "sinusoid"))
    console.rule("Glyphs: 5 characters of unseen scripts from 1 drawing each")
    omniglot.main(changed(omniglot.PRESETS["glyphs-5-way-1-shot"], out=out / "glyphs"))
    console.rule("Navigation: to a goal out of sight, after one policy-gradient step")
    navigation.main(changed(navigation.BEST, out=out / "navigation", seeds=1, meta_steps=50))
    console.print("Omniglot itself: python -m benchmarks.omniglot --help")
    for figure in sorted(out.rglob("*.png")):
        console.print(f"figure: {figure}")


if __name__ == "__main__":
    hardware.start()
    main()
