"""A server that is broken or hostile costs one error within its time, and no memory."""

from __future__ import annotations

import gzip
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from cxr_client import ClientError, InferenceClient

Write = Callable[[bytes], object]


def reply(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode("latin_1") + b"\r\n\r\n" + body


def dripping(write: Write) -> None:
    write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    for _ in range(200):
        write(b" ")
        time.sleep(0.1)


def endless(write: Write) -> None:
    write(b"HTTP/1.1 200 OK\r\n\r\n")
    for _ in range(2000):
        write(bytes(1 << 20))


def endless_parts(write: Write) -> None:
    write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(2000):
        write(b"100000\r\n" + bytes(1 << 20) + b"\r\n")


BEHAVIOURS: dict[str, Callable[[Write], object]] = {
    "drips": dripping,
    "never ends": endless,
    "never ends, in chunks": endless_parts,
    "a gzip bomb": lambda write: write(reply(gzip.compress(bytes(200 << 20)), "Content-Encoding: gzip")),
    "damaged gzip": lambda write: write(reply(b"no gzip", "Content-Encoding: gzip")),
    "deep JSON": lambda write: write(reply(b"[" * 200_000)),
    "deep JSON of an error": lambda write: write(reply(b'{"a":' * 200_000, status="422 X")),
    "a list": lambda write: write(reply(b"[]")),
    "NaN": lambda write: write(reply(b'{"a": NaN}')),
    "no text": lambda write: write(reply(bytes(range(256)))),
    "ends early": lambda write: write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"),
    "no HTTP": lambda write: write(b"SSH-2.0-OpenSSH\r\n"),
    "nothing": lambda write: write(b""),
    "a length that is none": lambda write: write(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"),
    "a status that is none": lambda write: write(b"HTTP/1.1 abc\r\n\r\n"),
    "a redirect": lambda write: write(reply(b"", "Location: http://127.0.0.1:9/", status="302 Found")),
    "chunks that are none": lambda write: write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
    "a header without end": lambda write: write(b"HTTP/1.1 200 OK\r\nA: " + b"a" * (1 << 20)),
    "control characters": lambda write: write(
        reply(b'{"code": "A\\u001b[2J", "title": "B\\u0007", "detail": "\\u001b]0;owned\\u0007 c\\nd"}', status="422 X")
    ),
}


@contextmanager
def served(behave: Callable[[Write], object]) -> Iterator[str]:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.settimeout(5)
            self.request.recv(1 << 16)
            try:
                behave(self.request.sendall)
            except OSError:  # the client has had enough
                return

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_each_ends_in_one_error_of_ours_within_its_time(behaviour: str) -> None:
    with served(BEHAVIOURS[behaviour]) as url, InferenceClient(url, timeout_s=3.0) as client:
        started = time.monotonic()
        with pytest.raises(ClientError) as caught:
            client.predict(b"film")
        assert time.monotonic() - started < 8.0
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 3000
