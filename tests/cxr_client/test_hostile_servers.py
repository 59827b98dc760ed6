"""A server that is broken or hostile costs one error within its time, and no memory."""

from __future__ import annotations

import gzip
import socketserver
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from cxr_client import ClientError, InferenceClient, ManagementClient
from cxr_client.metrics import MetricsClient

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


def dripping_head(write: Write) -> None:
    write(b"HTTP/1.1 200 OK\r\nA: ")
    for _ in range(200):
        write(b"a")
        time.sleep(0.1)


def dripping_status(write: Write) -> None:
    for one in b"HTTP/1.1 200 OK" * 20:
        write(bytes([one]))
        time.sleep(0.1)


def dripping_chunks(write: Write) -> None:
    write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(200):
        write(b"1\r\n \r\n")
        time.sleep(0.1)


def continuing(write: Write) -> None:
    for _ in range(200):
        write(b"HTTP/1.1 100 Continue\r\n\r\n")
        time.sleep(0.1)


def endless_trailer(write: Write) -> None:
    write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
    for _ in range(200):
        write(b"A: a\r\n")
        time.sleep(0.1)


def silent(write: Write) -> None:  # noqa: ARG001 (nothing is written)
    time.sleep(6)


def redirecting(write: Write) -> None:
    """Each request to the next, as long as it is followed."""
    time.sleep(0.5)
    write(reply(b"", "Location: /again", status="307 Temporary Redirect"))


def packed(data: bytes) -> bytes:
    return reply(gzip.compress(data), "Content-Encoding: gzip")


BEHAVIOURS: dict[str, Callable[[Write], object]] = {
    "drips": dripping,
    "drips its head": dripping_head,
    "drips its status": dripping_status,
    "drips chunks": dripping_chunks,
    "continues on and on": continuing,
    "has a trailer without end": endless_trailer,
    "is silent": silent,
    "never ends": endless,
    "never ends, in chunks": endless_parts,
    "a gzip bomb": lambda write: write(packed(bytes(100 << 20))),
    "a gzip bomb in a gzip bomb": lambda write: write(
        reply(gzip.compress(gzip.compress(bytes(100 << 20))), "Content-Encoding: gzip, gzip")
    ),
    "a gzip bomb of an error": lambda write: write(packed(b" " * (100 << 20)).replace(b"200 OK", b"500 NO")),
    "damaged gzip": lambda write: write(reply(b"no gzip", "Content-Encoding: gzip")),
    "packed a hundred times over": lambda write: write(reply(b"a", "Content-Encoding: " + "gzip, " * 99 + "gzip")),
    "deep JSON": lambda write: write(reply(b"[" * 200_000)),
    "deep JSON of an error": lambda write: write(reply(b'{"a":' * 200_000, status="422 X")),
    "wide JSON": lambda write: write(reply(b"[" + b"[]," * 5_000_000 + b"[]]")),
    "wide JSON of an error": lambda write: write(reply(b'{"a": [' + b"{}," * 5_000_000 + b"{}]}", status="500 X")),
    "a number of a million digits": lambda write: write(reply(b"9" * 1_000_000)),
    "a list": lambda write: write(reply(b"[[]]")),
    "a text": lambda write: write(reply(b'"OK"')),
    "NaN": lambda write: write(reply(b'{"a": NaN}')),
    "no text": lambda write: write(reply(bytes(range(256)))),
    "ends early": lambda write: write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"),
    "no HTTP": lambda write: write(b"SSH-2.0-OpenSSH\r\n"),
    "nothing": lambda write: write(b""),
    "a length that is none": lambda write: write(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"),
    "a length below zero": lambda write: write(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"),
    "a status that is none": lambda write: write(b"HTTP/1.1 abc\r\n\r\n"),
    "a redirect": lambda write: write(reply(b"", "Location: http://127.0.0.1:9/", status="302 Found")),
    "redirects in a circle": redirecting,
    "chunks that are none": lambda write: write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
    "a header without end": lambda write: write(b"HTTP/1.1 200 OK\r\nA: " + b"a" * (1 << 20)),
    "headers without end": lambda write: write(b"HTTP/1.1 200 OK\r\n" + b"A: a\r\n" * 100_000),
    "control characters": lambda write: write(
        reply(b'{"code": "A\\u001b[2J", "title": "B\\u0007", "detail": "\\u001b]0;owned\\u0007 c\\nd"}', status="422 X")
    ),
    "control characters of a good reply": lambda write: write(
        reply(b"[]", "Content-Type: a\x1b[2J", "x-request-id: \x1b]0;owned\x07")
    ),
}


MOST_MEMORY: Final = 64 << 20
EMPTY: Final = ("a length that is none", "a length below zero")


@cache
def prepared(behaviour: str) -> Callable[[Write], object]:
    """A behaviour whose bytes are there already, so that only the client takes memory."""
    behave = BEHAVIOURS[behaviour]
    if behave.__name__ != "<lambda>":
        return behave
    parts: list[bytes] = []
    behave(parts.append)
    return lambda write: [write(part) for part in parts]


@contextmanager
def served(behave: Callable[[Write], object], path: Path | None = None) -> Iterator[str]:
    """A server that does so, on a port or on a unix socket."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.settimeout(5)
            try:
                self.request.recv(1 << 16)
                behave(self.request.sendall)
            except OSError:  # the client has had enough
                return

    class Unix(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True
        block_on_close = False

    class Tcp(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Tcp(("127.0.0.1", 0), Handler) if path is None else Unix(str(path), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}" if path is None else str(path)
        finally:
            server.shutdown()


def check_ends(ask: Callable[[], object], timeout_s: float) -> None:
    """One error of ours within its time and little memory, in words that can be shown."""
    started = time.monotonic()
    tracemalloc.start()
    try:
        with pytest.raises(ClientError) as caught:
            ask()
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.monotonic() - started < timeout_s + 5.0  # the machine may be busy
    assert most < MOST_MEMORY
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 3000


def test_there_are_33_of_them() -> None:
    assert len(BEHAVIOURS) >= 33


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_each_ends_in_one_error_of_ours_within_its_time_and_64_mib(behaviour: str) -> None:
    with served(prepared(behaviour)) as url, InferenceClient(url, timeout_s=1.5) as client:
        check_ends(lambda: client.predict(b"film"), 1.5)


# A page without metrics, or one that ends when the connection does, is what a server has before its first figure.
@pytest.mark.parametrize("behaviour", [name for name in BEHAVIOURS if name not in ("no text", *EMPTY)])
def test_so_it_does_for_who_asks_for_metrics(behaviour: str) -> None:
    with served(prepared(behaviour)) as url, MetricsClient(url, timeout_s=1.5) as client:
        check_ends(client.look, 1.5)


@pytest.mark.parametrize("behaviour", [name for name in BEHAVIOURS if name != "control characters of a good reply"])
def test_so_it_does_for_who_manages(behaviour: str, tmp_path: Path) -> None:
    path = tmp_path / "m.sock"
    with served(prepared(behaviour), path), ManagementClient(path, timeout_s=1.5) as client:
        check_ends(lambda: client.ready("pneumonia"), 1.5)


@pytest.mark.parametrize(
    "answer",
    [
        *(b"[{}]", b'[{"modelVersion": "1", "workers": 5}]', b'[{"modelVersion": "1", "workers": [1]}]', b"{}", b"[1]"),
        *(b'[{"modelVersion": "1", "minWorkers": "x"}]', b'[{"modelVersion": "1", "jobQueueStatus": []}, 1]'),
        b'[{"modelVersion": "1", "workers": [{"id": 1, "status": "READY", "pid": 1e999}]}]',
    ],
)
def test_a_description_that_is_none_is_a_failure_of_the_server(answer: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.sock"
    with served(lambda write: write(reply(answer)), path), ManagementClient(path, timeout_s=3.0) as client:
        for ask in (lambda: client.ready("pneumonia"), lambda: client.card("pneumonia")):
            with pytest.raises(ClientError):
                ask()


def test_a_head_that_comes_in_parts_and_in_time_is_read() -> None:
    """Else the time limit would be one that nothing meets."""

    def slowly(write: Write) -> None:
        for part in (b"HTTP/1.1 200 OK\r\nContent-", b"Length: 14\r\n\r\n{", b'"label": "a"}'):
            write(part)
            time.sleep(0.1)

    with served(slowly) as url, InferenceClient(url, timeout_s=20.0) as client:
        assert client.predict(b"film") == {"label": "a"}
