"""The server of the page: its files, pictures to drawings, and drawings to probabilities.

It answers this machine alone, keeps nothing between two requests, and writes nothing to a disk.

    GET  /networks           networks and bounds
    POST /read/NUMBER?name=  a picture, in any common format -> the drawing that the network sees
    POST /classify/NUMBER    {"support": [[drawing, ...], ...], "query": drawing} -> probabilities

A drawing is its pixels `[height, width, channel]` of 8 bits in base64. What is refused is answered
with a status of 4xx and {"error": message}.
"""

import binascii
import os
import socket
from base64 import b64decode, b64encode
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from benchmarks.harness.files import TEXT, parse_json
from benchmarks.page.networks import DRAWINGS, Network, probabilities
from benchmarks.trained import Pixels

HOST = "127.0.0.1"
STATIC = Path(__file__).parent / "static"
LARGEST = 2**24  # largest size of a picture and of a request in bytes
QUESTION = {"support": [[TEXT]], "query": TEXT}


def listen(port: int) -> socket.socket:
    """A socket on a port of this machine, which no other machine reaches; 0 is any free port.

    Raises:
        ValueError: The port is in use, or reserved for the system.
    """
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise ValueError(
            f"port {port} cannot be used ({reason}); --port 0 takes any free port"
        ) from error


def make_app(networks: Sequence[Network]) -> Starlette:
    """The application that serves the page with these networks.

    Requests with another host than this machine are refused, since a page of another site could
    send them if its name was resolved to this machine.
    """

    def chosen(request: Request) -> Network:
        number = request.path_params["number"]
        if number >= len(networks):
            raise HTTPException(404, f"no network {number}; there are {len(networks)}, from 0")
        return networks[number]

    async def describe(request: Request) -> JSONResponse:
        names = "name", "classes", "steps", "shape"
        described = [{name: getattr(network, name) for name in names} for network in networks]
        bounds = {"drawings": DRAWINGS, "largest": LARGEST}
        return JSONResponse(bounds | {"networks": described})

    async def read(request: Request) -> JSONResponse:
        network, picture = chosen(request), await bounded_body(request)
        name = request.query_params.get("name")
        drawing = await run_in_threadpool(network.read, picture, name=name)
        return JSONResponse({"drawing": b64encode(drawing.tobytes()).decode()})

    async def classify(request: Request) -> JSONResponse:
        network, question = chosen(request), await bounded_body(request)
        answer = await run_in_threadpool(answer_question, network, question)
        return JSONResponse({"probabilities": answer})

    return Starlette(
        routes=[
            Route("/networks", describe),
            Route("/read/{number:int}", read, methods=["POST"]),
            Route("/classify/{number:int}", classify, methods=["POST"]),
            Mount("/", StaticFiles(directory=STATIC, html=True)),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=["localhost", HOST])],
        exception_handlers={HTTPException: explain, ValueError: explain},
    )


async def bounded_body(request: Request) -> bytes:
    """The body of a request, of which no more than the largest size is ever in memory.

    Raises:
        HTTPException: The body is larger.
    """
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > LARGEST:
            raise HTTPException(413, f"a request has at most {LARGEST / 2**20:.0f} MiB; got more")
    return bytes(content)


def answer_question(network: Network, question: bytes) -> list[list[float]]:
    """The probabilities of a question in JSON, `[step, class]`.

    Raises:
        ValueError: The question has another form, or `probabilities` refuses it.
    """
    asked = parse_json(question.decode(), QUESTION, "the question")
    support = [[as_pixels(network, text) for text in drawings] for drawings in asked["support"]]
    return probabilities(network, support, as_pixels(network, asked["query"])).tolist()


def as_pixels(network: Network, text: str) -> Pixels:
    """The pixels of a drawing in base64.

    Raises:
        ValueError: The text is not base64, or has another number of bytes.
    """
    try:
        content = b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"a drawing must be base64: {error}") from error
    if len(content) != np.prod(network.shape):
        raise ValueError(
            f"a drawing must have {list(network.shape)} pixels of 8 bits; got {len(content)} bytes"
        )
    return np.frombuffer(content, np.uint8).reshape(network.shape)


async def explain(request: Request, error: Exception) -> JSONResponse:
    """The answer to what is refused."""
    known = isinstance(error, HTTPException)
    status, message = (error.status_code, error.detail) if known else (422, str(error))
    return JSONResponse({"error": message}, status)
