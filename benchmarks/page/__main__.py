"""A page on which you draw characters that a trained network then tells apart, while you draw.

Serves a page to a browser on this machine, with the weights of `results/weights`. It needs neither
data nor a network, and nothing that is drawn or uploaded is written to a disk.

    make page                                           # in a checkout
    python -m benchmarks.page --open                    # with starlette and uvicorn installed
    python -m benchmarks.page --weights FILE FILE ...   # other weights of drawings
"""

import webbrowser
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Thread

from benchmarks.harness.bounds import check
from benchmarks.harness.command_line import launch
from benchmarks.harness.display import track
from benchmarks.harness.folders import RESULTS

WEIGHTS = "maml-5-way-1-shot", "prototypes-augmented-20-way-1-shot"


@dataclass(frozen=True, kw_only=True)
class Page:
    """Options of the page."""

    weights: tuple[Path, ...] = tuple(RESULTS / "weights" / f"{name}.npz" for name in WEIGHTS)
    """Files of weights, between which the page has a choice."""
    port: int = 8765
    """Port of the server; 0 is any free port."""
    open: bool = False
    """Open the page in the browser of this machine."""

    def __post_init__(self) -> None:
        check(self)
        if missing := [name for name in ("starlette", "uvicorn") if find_spec(name) is None]:
            raise ValueError(f"the page needs {' and '.join(missing)}: pip install '.[page]'")


def main(options: Page) -> None:
    """Loads the networks and serves the page until Ctrl-C.

    Raises:
        ValueError: A file does not hold weights, or the port is in use.
    """
    import uvicorn

    from benchmarks.page.networks import open_network
    from benchmarks.page.server import HOST, listen, make_app

    with listen(options.port) as listening:
        files = track(options.weights, "Loading and compiling the networks")
        app = make_app([open_network(file) for file in files])
        address = f"http://{HOST}:{listening.getsockname()[1]}"
        print(f"The page is at {address} (Ctrl-C ends it).", flush=True)
        if options.open:  # beside the server, since a browser in a terminal does not return
            Thread(target=webbrowser.open, args=[address], daemon=True).start()
        with suppress(KeyboardInterrupt):
            server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none"))
            server.run(sockets=[listening])


if __name__ == "__main__":
    launch(main, Page, __doc__)
