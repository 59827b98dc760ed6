"""The management API on a loopback port as well, for tools that cannot use a unix socket: behind a token.

TorchServe 0.12.0 listens for management on one address only, and its own tokens would be asked of every prediction too.
So a small forwarder stands on the port: it asks for ``Authorization: Bearer <token>`` and passes requests for
``/models`` on to the unix socket. ``/workflows``, which runs code, is not among them, and what is registered is a file
of the store.
"""

from __future__ import annotations

import hmac
import http.client
import re
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl

from pneumoscan.files import write_text

_HOST: Final = "127.0.0.1"
_PATHS: Final = re.compile(r"/models(/[A-Za-z0-9][A-Za-z0-9._-]*){0,3}")
_TIMEOUT_S: Final = 300.0  # registering unpacks an archive before it answers
_IDLE_S: Final = 30.0
# What may be asked. Not "handler", which would run another code than the archive's.
_OPTIONS: Final = frozenset(
    {"url", "model_name", "initial_workers", "batch_size", "max_batch_delay", "response_timeout", "startup_timeout"}
    | {"synchronous", "min_worker", "max_worker", "timeout", "limit", "next_page_token", "customized"}
)
_ARCHIVE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.mar")


@contextmanager
def management_port(port: int, socket_path: Path, token_file: Path) -> Iterator[None]:
    """Listen on a loopback port until the block ends, with a new token in a file that its user alone may read.

    Raises
    ------
    OSError
        The port cannot be had, or the file not be written.
    """
    token = secrets.token_urlsafe(32)
    write_text(token_file, token + "\n", mode=0o600)
    try:
        with ThreadingHTTPServer((_HOST, port), _forwarder(socket_path, token)) as server:
            server.daemon_threads = True
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
            thread.start()
            try:
                yield
            finally:
                server.shutdown()
                thread.join()
    finally:
        token_file.unlink(missing_ok=True)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _why_not(query: str) -> str | None:
    # TorchServe's Netty (4.1.53) ends an option at ";" as well, and would find a "handler" behind one.
    if ";" in query or not query.isascii():
        return "options are separated by & and written in ASCII"
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _OPTIONS:
            return f"the option {name!r} is not forwarded"
        if name == "url" and not _ARCHIVE.fullmatch(value):
            return "url is not the file name of an archive in the model store"
    return None


def _forwarder(socket_path: Path, token: str) -> type[BaseHTTPRequestHandler]:
    expected = f"Bearer {token}".encode()

    class Forwarder(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = _IDLE_S  # a client that says nothing does not keep a thread

        def answer(self) -> None:
            if not hmac.compare_digest(self.headers.get("Authorization", "").encode("utf-8", "replace"), expected):
                self._refuse(401, "give the token in the server's run folder: Authorization: Bearer <management.token>")
            elif not _PATHS.fullmatch(self.path.partition("?")[0]):
                self._refuse(404, "only /models is forwarded")
            elif "Transfer-Encoding" in self.headers or self.headers.get("Content-Length", "0") != "0":
                self._refuse(413, "give options in the query and no body")
            elif (why := _why_not(self.path.partition("?")[2])) is not None:
                self._refuse(403, why)
            else:
                self._forward()

        do_GET = do_POST = do_PUT = do_DELETE = do_OPTIONS = answer

        def _forward(self) -> None:
            connection = _UnixConnection(socket_path)
            try:
                connection.request(self.command, self.path)
                reply = connection.getresponse()
                status, kind, content = reply.status, reply.getheader("Content-Type", ""), reply.read()
            except (OSError, http.client.HTTPException) as error:
                self._refuse(502, f"the management API does not answer: {error}")
                return
            finally:
                connection.close()
            self._send(status, kind, content)

        def _refuse(self, status: int, text: str) -> None:
            self.close_connection = True  # its body was not read
            self._send(status, "text/plain; charset=utf-8", f"{text}\n".encode())

        def _send(self, status: int, kind: str, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            if status == 401:
                self.send_header("WWW-Authenticate", "Bearer")
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(content)

        def version_string(self) -> str:
            return "pneumoscan"

        def log_message(self, *_: Any) -> None:
            pass

    return Forwarder
