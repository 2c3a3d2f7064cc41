"""A headless Chromium with one tab, driven by its DevTools protocol over two pipes."""

import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

NAMES = "chromium", "chromium-browser", "google-chrome", "google-chrome-stable"
PATH = next(filter(None, map(shutil.which, NAMES)), None)
OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--no-first-run",
    "--remote-debugging-pipe",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
]
SECONDS = 20  # longest time that an answer may take


class Tab:
    """A tab; whatever it is told is done when the method returns."""

    def __init__(self, to: int, back: int):
        self.to, self.back, self.numbers, self.left = to, back, count(1), b""
        self.session: dict[str, str] = {}
        self.events: list[dict[str, Any]] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self.session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Sends a command and returns its result."""
        number = next(self.numbers)
        command = {"id": number, "method": method, "params": params} | self.session
        os.write(self.to, json.dumps(command).encode() + b"\0")
        while (answer := self._receive(method)).get("id") != number:
            pass  # an event
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _receive(self, what: str) -> dict[str, Any]:
        end = time.monotonic() + SECONDS
        while b"\0" not in self.left:
            ready, _, _ = select.select([self.back], [], [], max(0, end - time.monotonic()))
            assert ready, f"no answer to {what} in {SECONDS} s"
            more = os.read(self.back, 2**20)
            assert more, f"Chromium ended before it answered to {what}"
            self.left += more
        message, _, self.left = self.left.partition(b"\0")
        received = json.loads(message)
        if "method" in received:
            self.events.append(received)
        return received

    def evaluate(self, expression: str) -> Any:
        """Returns the value of a JavaScript expression; a promise is awaited."""
        options = {"returnByValue": True, "awaitPromise": True, "userGesture": True}
        result = self.send("Runtime.evaluate", expression=expression, **options)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def open(self, address: str) -> None:
        """Opens a page, and waits until it is loaded."""
        self.send("Page.navigate", url=address)
        while self._receive(address).get("method") != "Page.loadEventFired":
            pass

    def wait(self, condition: str) -> None:
        """Waits until a JavaScript expression is true."""
        again = "await new Promise((done) => setTimeout(done, 10))"
        self.evaluate(f"(async () => {{ while (!({condition})) {again}; }})()")

    def draw(self, selector: str, strokes: list[list[tuple[float, float]]]) -> None:
        """Draws strokes of points from 0 to 1 on an element, with the mouse."""
        find = f"document.querySelector({json.dumps(selector)})"
        self.evaluate(f"{find}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        box = self.evaluate(f"{find}.getBoundingClientRect().toJSON()")
        for points in strokes:
            places = [
                (box["x"] + box["width"] * x, box["y"] + box["height"] * y) for x, y in points
            ]
            kinds = ["mousePressed", *["mouseMoved"] * len(places), "mouseReleased"]
            for kind, (x, y) in zip(kinds, [places[0], *places, places[-1]], strict=True):
                options = {"button": "left", "buttons": int(kind != "mouseReleased")}
                self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, clickCount=1, **options)

    def events_of(self, method: str) -> list[dict[str, Any]]:
        """The parameters of the events of a kind that there have been."""
        return [event["params"] for event in self.events if event["method"] == method]

    def upload(self, selector: str, *files: Path) -> None:
        """Chooses files in an input."""
        find = f"document.querySelector({json.dumps(selector)})"
        node = self.send("Runtime.evaluate", expression=find)["result"]["objectId"]
        self.send("DOM.setFileInputFiles", files=list(map(str, files)), objectId=node)


@contextmanager
def open_tab(folder: Path) -> Iterator[Tab]:
    """A tab of a new Chromium, whose profile lies in a folder."""
    (read_here, write_there), (read_there, write_here) = os.pipe(), os.pipe()
    redirect = f'exec "$@" 3<&{read_there} 4>&{write_there}'
    command = ["bash", "-c", redirect, "bash", str(PATH), *OPTIONS, f"--user-data-dir={folder}"]
    ends = read_there, write_there
    with subprocess.Popen(
        command, pass_fds=ends, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        for end in ends:
            os.close(end)
        try:
            tab = Tab(write_here, read_here)
            yield tab
            tab.session = {}
            tab.send("Browser.close")
        finally:
            process.terminate()
            process.wait(SECONDS)
            os.close(read_here)
            os.close(write_here)
