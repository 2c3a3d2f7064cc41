"""The page tells drawings apart, refuses what it cannot use, and works in a browser."""

import asyncio
import json
import os
import re
import sys
import threading
from base64 import b64encode
from queue import Queue

import chromium
import jax
import numpy as np
import pytest
import requests
import uvicorn
from starlette.exceptions import HTTPException
from starlette.requests import Request
from test_classify import MAML, PROTONET, STROKES, draw
from tiny_pictures import RED, content, large, plain

from benchmarks import trained
from benchmarks.page import __main__ as page
from benchmarks.page import networks, server

BLANK = b64encode(bytes(28 * 28)).decode()
NAMES = sorted(STROKES)
DROP = """(() => {{
    const data = new DataTransfer(), bytes = Uint8Array.from(atob("{}"), (c) => c.charCodeAt(0));
    data.items.add(new File([bytes], "dropped.png"));
    const options = {{dataTransfer: data, bubbles: true, cancelable: true}};
    document.querySelector("li:nth-child(3)").dispatchEvent(new DragEvent("drop", options));
}})()"""


@pytest.fixture(scope="module")
def opened():
    return [networks.open_network(file) for file in (PROTONET, MAML)]


@pytest.fixture(scope="module")
def address(opened):
    """The address of a server with both networks."""
    with server.listen(0) as listening:
        config = uvicorn.Config(server.make_app(opened), log_level="warning", ws="none")
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        yield f"http://{server.HOST}:{listening.getsockname()[1]}"
        running.should_exit = True
        thread.join()


def post(address, path, body, **options):
    answer = requests.post(f"{address}/{path}", data=body, timeout=60, **options)
    return answer.status_code, answer.json()


def question(support, query=BLANK):
    return json.dumps({"support": support, "query": query})


def test_the_answers_are_those_of_the_classifier_after_each_number_of_inner_steps(opened):
    """Here with two drawings of one class and one of the other."""
    network, fit = opened[1], trained.load(MAML, 5).fit
    assert (network.classes, network.steps, network.shape) == (5, [0, 1, 2, 3, 4, 5], (28, 28, 1))
    first, second, other, query = (
        network.read(content(draw(name, which)))
        for name, which in (("tent", 0), ("tent", 1), ("ring", 0), ("ring", 1))
    )

    @jax.jit
    def expected(images):
        fitted = (fit(images, np.array([0, 0, 1]), inner_steps=k) for k in (0, 1))
        return [classifier.predict_proba(query)[:2] for classifier in fitted]

    answers = networks.probabilities(network, [[first, second], [other]], query)
    np.testing.assert_allclose(answers[:2], expected(np.stack([first, second, other])), atol=1e-5)
    assert answers[-1, 1] > 0.9


@pytest.mark.parametrize("number", [0, 1], ids=["protonet", "maml"])
def test_five_new_drawings_are_told_apart_one_at_a_time(address, number):
    def read(name, which):
        status, answer = post(address, f"read/{number}", content(draw(name, which)))
        assert status == 200
        return answer["drawing"]

    support = [[read(name, which) for which in (0, 1)] for name in NAMES]
    for place, name in enumerate(NAMES):
        status, answer = post(address, f"classify/{number}", question(support, read(name, 2)))
        probabilities = np.array(answer["probabilities"])
        assert status == 200 and probabilities.shape == ([1, 6][number], 5)
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
        assert probabilities[-1].argmax() == place


REFUSED = [
    ("read/0?name=a%20b.png", b"hello", 422, "cannot read the picture a b.png: it is no PNG"),
    ("read/0", content(draw("tent", 0))[:200], 422, "truncated"),
    ("read/0", large(20_000, 20_000), 422, "at most 100000000 pixels; got 400000000"),
    ("read/0", plain(RED), 422, "dark ink on light paper"),
    ("read/0", b"", 422, "it starts with b''"),
    ("read/2", plain(RED), 404, "no network 2; there are 2, from 0"),
    ("classify/0", b"\xff", 422, "codec can't decode"),
    ("classify/0", "{", 422, "the question is not JSON"),
    ("classify/0", "{}", 422, "got null at 'support'; expected a list"),
    ("classify/0", question([[BLANK], BLANK]), 422, "at 'support/1'; expected a list"),
    ("classify/1", question([[BLANK]]), 422, "tells 2 to 5 characters apart; got 1"),
    ("classify/1", question([[BLANK]] * 6), 422, "tells 2 to 5 characters apart; got 6"),
    ("classify/0", question([[BLANK]] * 11), 422, "tells 2 to 10 characters apart; got 11"),
    ("classify/0", question([[BLANK], []]), 422, r"1 to 5 drawings; got \[1, 0\]"),
    ("classify/0", question([[BLANK], [BLANK] * 6]), 422, r"1 to 5 drawings; got \[1, 6\]"),
    ("classify/0", question([["!"], [BLANK]]), 422, "a drawing must be base64"),
    ("classify/0", question([["QUJD"], [BLANK]]), 422, r"\[28, 28, 1\] .* got 3 bytes"),
    ("networks", "", 405, "Method Not Allowed"),
    ("../server.py", "", 405, "Not Allowed"),
]


@pytest.mark.parametrize(
    ("path", "body", "status", "says"), REFUSED, ids=[says for *_, says in REFUSED]
)
def test_what_the_page_cannot_use_is_refused_in_words(address, path, body, status, says):
    got, answer = post(address, path, body)
    assert got == status and re.search(says, answer["error"])


def test_a_body_that_is_too_large_is_refused_while_it_is_read():
    chunks = []

    async def receive():
        chunks.append(None)
        return {"type": "http.request", "body": bytes(2**20), "more_body": True}

    with pytest.raises(HTTPException, match="at most 16 MiB") as refused:
        asyncio.run(server.bounded_body(Request({"type": "http"}, receive)))
    assert refused.value.status_code == 413 and len(chunks) == 17


def test_another_host_is_refused(address):
    for host in ("example.com", "127.0.0.1.example.com", "[::1]"):
        answer = requests.get(address, headers={"Host": host}, timeout=60)
        assert (answer.status_code, answer.text) == (400, "Invalid host header")
    answer = requests.get(address, headers={"Host": "localhost:80"}, timeout=60)
    assert answer.status_code == 200 and "Which character is it?" in answer.text


def test_the_files_of_the_page_name_no_other_host():
    files = {path.name: path.read_text() for path in server.STATIC.iterdir()}
    assert {"index.html", "page.js", "style.css"} <= files.keys()
    named = [url for text in files.values() for url in re.findall(r"\w*://[^\s\"']*", text)]
    assert named == ["http://www.w3.org/2000/svg"]  # the name of a format


written: list[str] | None = None  # files that were opened for writing, while a test records them


def record(event, arguments):
    if event == "open" and written is not None and arguments[2] & (os.O_WRONLY | os.O_RDWR):
        written.append(str(arguments[0]))


def test_no_upload_is_written_to_a_disk(address, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "written", [])
    sys.addaudithook(record)
    (tmp_path / "seen").write_bytes(b"")
    picture = content(draw("tent", 0).resize((4000, 4000)), "BMP")  # 16 MB
    assert post(address, "read/0", picture)[0] == 200
    assert post(address, "classify/0", question([[BLANK], [BLANK]]))[0] == 200
    assert written == [str(tmp_path / "seen")]


def test_the_command_refuses_a_busy_port_before_it_loads_weights(monkeypatch):
    monkeypatch.setattr(networks, "open_network", None)
    with server.listen(0) as listening:
        host, port = listening.getsockname()
        assert host == "127.0.0.1"
        with pytest.raises(ValueError, match=rf"port {port} cannot be used .* --port 0 takes any"):
            page.main(page.Page(port=port))


def test_the_command_prints_the_address_and_opens_it(monkeypatch, capsys):
    opened, served = Queue(), []
    monkeypatch.setattr(networks, "open_network", lambda file: file.stem)
    monkeypatch.setattr(page.webbrowser, "open", opened.put)
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: served.extend(sockets))
    page.main(page.Page(port=0, open=True))
    assert len(served) == 1
    assert f"The page is at {opened.get(timeout=60)} (Ctrl-C ends it)." in capsys.readouterr().out


def test_the_command_says_which_packages_are_missing(monkeypatch):
    monkeypatch.setattr(page, "find_spec", lambda name: None if name == "uvicorn" else name)
    with pytest.raises(ValueError, match=r"the page needs uvicorn: pip install '.\[page\]'"):
        page.Page()


def strokes(name):
    """The strokes of a character, with points from 0 to 1."""
    return [[(x / 105, y / 105) for x, y in points] for points in STROKES[name]]


@pytest.mark.skipif(chromium.PATH is None, reason="no Chromium is installed")
def test_the_page_in_a_browser(address, tmp_path):
    """Draws, classifies, renames, survives a broken upload, reads a picture, clears and resets."""
    (tmp_path / "notes.png").write_bytes(b"hello")
    draw("tent", 0).convert("CMYK").save(tmp_path / "tent.tif")
    rows = "document.querySelectorAll('#bars tbody tr').length"
    answer = "document.querySelector('#answer').textContent"
    message = "document.querySelector('#message')"
    with chromium.open_tab(tmp_path / "profile") as tab:
        tab.open(address)
        tab.wait(f"{answer} === 'Draw at least two characters.'")
        tab.draw("li:nth-child(1) canvas", strokes("cross"))
        tab.draw("li:nth-child(2) canvas", strokes("ladder"))
        tab.wait(f"{answer} === 'Draw one of them again, here.'")
        tab.draw("#query canvas", strokes("cross"))
        tab.draw("#query canvas", [[(0.9, 0.5)]])  # a dot
        tab.wait(f"{answer}.startsWith('It looks like A, ') && {rows} === 2")

        tab.evaluate("document.querySelector('li:nth-child(1) .name').focus()")
        tab.send("Input.insertText", text="cross")
        tab.wait(f"{answer}.startsWith('It looks like cross, ')")

        tab.upload("li:nth-child(3) input[type=file]", tmp_path / "notes.png")
        tab.wait(f"!{message}.hidden")
        said = "cannot read the picture notes.png: it is no PNG, JPEG"
        assert said in tab.evaluate(f"{message}.textContent")
        assert tab.evaluate(rows) == 2
        tab.upload("li:nth-child(3) input[type=file]", tmp_path / "tent.tif")
        tab.wait(f"{rows} === 3 && {answer}.startsWith('It looks like cross, ')")

        tab.evaluate("document.querySelector('li:nth-child(3) canvas').focus()")
        for kind in ("rawKeyDown", "keyUp"):
            tab.send("Input.dispatchKeyEvent", type=kind, key="Delete")
        tab.wait(f"{rows} === 2")
        tab.evaluate(DROP.format(b64encode(content(draw("tent", 1))).decode()))
        tab.wait(f"{rows} === 3")
        tab.evaluate("document.querySelector('#reset').click()")
        tab.wait(f"{answer} === 'Draw at least two characters.'")
        assert tab.evaluate("document.querySelectorAll('.cell[data-empty=true]').length") == 4

        tab.evaluate("document.querySelector('#example').click()")
        tab.wait(f"{answer}.startsWith('It looks like fork, ') && {rows} === 5")
        tab.evaluate("document.querySelector('#network').value = 1")
        tab.evaluate("document.querySelector('#network').dispatchEvent(new Event('change'))")
        tab.wait(f"{rows} === 5 && document.querySelector('#bars tr').cells.length === 7")
    assert tab.events_of("Runtime.exceptionThrown") == []
    asked = tab.events_of("Network.requestWillBeSent")
    assert {event["request"]["url"][: len(address)] for event in asked} == {address}
