"""A real HTTP server in a thread that answers as the contract says: what the client's tests talk to."""

from __future__ import annotations

import base64
import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

# 1 x 1 pixel.
PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==")


@dataclass(frozen=True)
class Asked:
    """One request as the server got it."""

    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes
    method: str = "POST"


@dataclass(frozen=True)
class Answer:
    """One reply as the server gives it."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def prediction(asked: Asked) -> Answer:
    """Answer as the contract says: a body of b"bad..." is refused, b"broken..." fails, the rest is a film."""
    if asked.body.startswith(b"bad"):
        return problem(422, "TOO_SMALL", "The film is 10 x 10 pixels; 64 is the least. Send the original.")
    if asked.body.startswith(b"broken"):
        return problem(503, "OVERLOADED", "The queue is full.", retryable=True)
    if asked.headers.get("accept") == "image/png":
        return Answer(body=PNG, headers={"Content-Type": "image/png"})
    probability = asked.body[0] / 255
    cam = asked.query["cam"][0]
    reply: dict[str, Any] = {
        "model": {"name": "pneumonia", "version": "1.0.0"},
        "label": "PNEUMONIA" if probability > 0.5 else "NORMAL",
        "probabilities": {"NORMAL": 1 - probability, "PNEUMONIA": probability},
        "decision": {"operating_point": "youden", "threshold": 0.5, "indeterminate": abs(probability - 0.5) < 0.1},
        "cam": {"target": asked.query["target"][0], "grid": [[0.0] * 7] * 7},
    }
    if cam in ("heatmap", "overlay"):
        reply["cam"]["png"] = base64.b64encode(PNG + asked.body).decode()
    return Answer(body=json.dumps(reply).encode(), headers={"Content-Type": "application/json"})


def problem(status: int, code: str, detail: str, retryable: bool = False) -> Answer:
    body: dict[str, Any] = {
        "type": f"urn:cxr:{code}",
        "title": code.replace("_", " ").capitalize(),
        "status": status,
        "code": code,
        "detail": detail,
        "request_id": "request-7",
        "retryable": retryable,
    }
    return Answer(status, json.dumps(body).encode(), {"Content-Type": "application/problem+json"})


class FilmServer:
    """Listens on a free loopback port; `answer` may be replaced, `asked` has every request."""

    def __init__(self, answer: Callable[[Asked], Answer] = prediction) -> None:
        self.answer = answer
        self.asked: list[Asked] = []
        self.url = ""

    def handler(self) -> type[BaseHTTPRequestHandler]:
        """The request handler class, bound to this server."""
        films = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                parts = urlsplit(self.path)
                length = int(self.headers.get("Content-Length", 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                asked = Asked(parts.path, parse_qs(parts.query), headers, self.rfile.read(length), self.command)
                films.asked.append(asked)
                answer = films.answer(asked)
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                with suppress(BrokenPipeError):  # a client that did not wait
                    self.end_headers()
                    self.wfile.write(answer.body)

            do_GET = do_PUT = do_DELETE = do_POST

            def address_string(self) -> str:
                return "client"

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def described(version: str, *statuses: str, min_workers: int = 1) -> dict[str, Any]:
    """One entry as TorchServe 0.12.0 describes a version."""
    workers = [
        {"id": str(9000 + at), "startTime": "2026-01-01T00:00:00.000Z", "status": status, "pid": 100 + at, "gpu": False}
        for at, status in enumerate(statuses)
    ]
    return {"modelName": "pneumonia", "modelVersion": version, "minWorkers": min_workers, "workers": workers}


class Management(FilmServer):
    """Answers as TorchServe's management API does, about the versions it is given; the first is the default."""

    def __init__(self) -> None:
        super().__init__(self.about)
        self.versions: list[dict[str, Any]] = []

    def about(self, asked: Asked) -> Answer:
        if asked.path == "/models":
            return self.say({"models": [{"modelName": "pneumonia", "modelUrl": "pneumonia-1.0.0.mar"}]})
        parts = asked.path.split("/")[2:]
        if parts[0] != "pneumonia" or not self.versions:
            said = {"code": 404, "type": "ModelNotFoundException", "message": f"Model not found: {parts[0]}"}
            return self.say(said, 404)
        if parts[1:] == ["all"]:
            return self.say(self.versions)
        return self.say(self.versions[:1])

    @staticmethod
    def say(value: object, status: int = 200) -> Answer:
        return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})


@contextmanager
def serving(server: FilmServer, port: int = 0) -> Iterator[FilmServer]:
    """Serve on a port, a free one without, until the block ends."""
    with ThreadingHTTPServer(("127.0.0.1", port), server.handler()) as http:
        server.url = f"http://127.0.0.1:{http.server_port}"
        with _running(http):
            yield server


@contextmanager
def serving_socket(server: FilmServer, path: Path) -> Iterator[FilmServer]:
    """Serve on a unix socket until the block ends."""

    class UnixHTTPServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True

    with UnixHTTPServer(str(path), server.handler()) as http, _running(http):
        yield server


@contextmanager
def _running(http: HTTPServer | socketserver.UnixStreamServer) -> Iterator[None]:
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        http.shutdown()
        thread.join()
