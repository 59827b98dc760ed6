"""HTTP/1.1 by hand: requests prepared as bytes, replies read from a socket."""

from __future__ import annotations

import contextlib
import json
import socket
from typing import Final

CHUNK: Final = 1 << 18

Address = tuple[str, int]


def post(address: Address, path: str, body: bytes, content_type: str) -> bytes:
    """A request as it goes over the wire."""
    host, port = address
    head = f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: {content_type}\r\nAccept: */*\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def ask(address: Address, request: bytes, timeout_s: float = 60.0) -> tuple[int, bytes]:
    """Status and body of one reply over a connection of its own; (0, nothing) where none comes."""
    with contextlib.suppress(OSError), Kept(address, timeout_s) as connection:
        return connection.ask(request)
    return 0, b""


class Kept:
    """A connection that is kept for one request after the other, each waiting for its reply.

    Raises
    ------
    OSError
        Nobody listens there, or no reply came in time.
    """

    def __init__(self, address: Address, timeout_s: float = 60.0) -> None:
        self._socket = socket.create_connection(address, timeout=timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Kept:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the reply; (0, nothing) where the connection ends without one."""
        reply = Reply()
        self._socket.sendall(request)
        while not reply.complete:
            data = self._socket.recv(CHUNK)
            reply.feed(data)
            if not data and not reply.complete:
                return 0, b""
        return reply.status, reply.body


class Reply:
    """One HTTP/1.1 reply as it comes in."""

    def __init__(self) -> None:
        self._got = bytearray()
        self._start = self._length = -1
        self.status = 0
        self.complete = self.closes = False

    @property
    def started(self) -> bool:
        """Whether any byte came."""
        return bool(self._got)

    @property
    def body(self) -> bytes:
        """What follows the head."""
        return bytes(self._got[self._start :])

    def feed(self, data: bytes) -> None:
        """Take what came; nothing means that the other end closed."""
        self._got += data
        if self._start < 0 and (end := self._got.find(b"\r\n\r\n")) >= 0:
            self._read_head(bytes(self._got[:end]))
            self._start = end + 4
        if self._start < 0:
            return
        if self._length >= 0:
            self.complete = len(self._got) - self._start >= self._length
        else:  # to the last chunk, or to the end of the connection
            self.complete = self._got.endswith(b"0\r\n\r\n") or not data

    def _read_head(self, head: bytes) -> None:
        first, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(first.split(" ", 2)[1])
        for line in lines:
            name, _, value = line.partition(":")
            if name.lower() == "content-length":
                self._length = int(value)
            elif name.lower() == "connection" and value.strip().lower() == "close":
                self.closes = True


def code_of(status: int, body: bytes) -> str:
    """What a reply calls its error: the ``code`` of problem+json, TorchServe's ``type``, or ``HTTP_<status>``."""
    try:
        said = json.loads(body)
    except ValueError:
        said = None
    if isinstance(said, dict):
        for name in ("code", "type"):
            if isinstance(said.get(name), str):
                return str(said[name])
    return f"HTTP_{status}"
