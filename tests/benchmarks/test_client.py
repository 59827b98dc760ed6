"""The measuring client against small real servers: what it sends, what it counts, and from when."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from benchmarks.client import (
    NO_REPLY,
    NOT_SENT,
    TIMED_OUT,
    Address,
    Answer,
    Plan,
    Reply,
    drive,
    error_code,
    exchange,
    kept_connection,
    post,
)

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nContent-Length: 22\r\n\r\n"
    b'{"code": "OVERLOADED"}'
)
Serve = Callable[[socket.socket], None]


@contextmanager
def server(serve: Serve) -> Iterator[Address]:
    """A thread for each connection, as `serve` treats it."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=treat, args=(connection,), daemon=True).start()

    def treat(connection: socket.socket) -> None:
        with connection:
            serve(connection)

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def read_request(connection: socket.socket) -> bytes:
    """The body of the next request; empty at the end."""
    got = b""
    while b"\r\n\r\n" not in got:
        data = connection.recv(65536)
        if not data:
            return b""
        got += data
    head, _, body = got.partition(b"\r\n\r\n")
    length = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)
    return body


def answering(reply: Callable[[bytes], bytes]) -> Serve:
    def serve(connection: socket.socket) -> None:
        while body := read_request(connection):
            connection.sendall(reply(body))

    return serve


def requests_to(address: Address, *bodies: bytes) -> list[bytes]:
    return [post(address, "/predict", body, "application/octet-stream") for body in bodies]


def test_films_are_sent_whole_and_in_turn() -> None:
    bodies = [b"a" * 10, b"b" * 3_000_000, b"c" * 500]
    seen: list[bytes] = []

    def reply(body: bytes) -> bytes:
        seen.append(body)
        return OK

    with server(answering(reply)) as address:
        answers = drive(address, requests_to(address, *bodies), Plan((0.0, 0.05, 0.1, 0.15)))
    assert sorted(seen) == sorted([*bodies, bodies[0]])
    assert [one.status for one in answers] == [200] * 4
    assert all(one.ok for one in answers)


def test_in_a_closed_loop_each_client_waits_for_its_reply() -> None:
    together = [0, 0]
    lock = threading.Lock()

    def reply(_: bytes) -> bytes:
        with lock:
            together[0] += 1
            together[1] = max(together)
        time.sleep(0.02)
        with lock:
            together[0] -= 1
        return OK

    with server(answering(reply)) as address:
        answers = drive(address, requests_to(address, b"x"), Plan((0.0,) * 3, repeat_until=0.3))
    assert together[1] == 3
    assert len(answers) > 3
    assert all(one.due <= 0.3 for one in answers)


def test_latency_counts_from_when_a_request_was_due_and_not_from_when_it_was_sent() -> None:
    """One connection, a server that takes 0.1 s: the later requests wait for it, and that is their latency."""

    def reply(_: bytes) -> bytes:
        time.sleep(0.1)
        return OK

    with server(answering(reply)) as address:
        answers = drive(address, requests_to(address, b"x"), Plan((0.0, 0.001, 0.002)))
    assert [one.due for one in sorted(answers, key=lambda one: one.due)] == [0.0, 0.001, 0.002]
    late = Answer(due=1.0, sent=3.0, done=3.5, status=200, code="")
    assert late.latency_s == 2.5


def test_a_refusal_keeps_its_code_and_its_connection() -> None:
    connections = []

    def serve(connection: socket.socket) -> None:
        connections.append(connection)
        answering(lambda _: FULL)(connection)

    with server(serve) as address:
        answers = drive(address, requests_to(address, b"x"), Plan((0.0, 0.1, 0.2)))
    assert [(one.status, one.code) for one in answers] == [(503, "OVERLOADED")] * 3
    assert len(connections) == 1


def test_a_server_that_hangs_costs_the_deadline_and_no_more() -> None:
    released = threading.Event()

    def serve(connection: socket.socket) -> None:
        read_request(connection)
        released.wait(30)

    with server(serve) as address:
        answers = drive(address, requests_to(address, b"x"), Plan((0.0, 0.0), deadline_s=0.2))
        released.set()
    assert [one.code for one in answers] == [TIMED_OUT, TIMED_OUT]


def test_nobody_listening_is_counted_and_not_raised() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = gone.getsockname()
    answers = drive(address, requests_to(address, b"x"), Plan((0.0, 0.0)))
    assert [one.code for one in answers] == [NO_REPLY, NO_REPLY]
    assert exchange(address, b"x") == (0, b"")


def test_a_connection_that_breaks_within_a_reply_is_an_error() -> None:
    def serve(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")

    with server(serve) as address:
        answers = drive(address, requests_to(address, b"x"), Plan((0.0,)))
        assert exchange(address, requests_to(address, b"x")[0]) == (0, b"")
    assert [one.code for one in answers] == [NO_REPLY]


def test_a_kept_connection_that_the_server_closed_is_opened_again() -> None:
    def serve(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(OK)

    with server(serve) as address:
        answers = drive(address, requests_to(address, b"x"), Plan((0.0,), repeat_until=0.2))
    assert len(answers) > 1
    assert {one.status for one in answers} == {200}


def test_arrivals_beyond_the_connections_are_distinguished_from_errors_of_the_server() -> None:
    released = threading.Event()

    def serve(connection: socket.socket) -> None:
        read_request(connection)
        released.wait(30)
        connection.sendall(OK)

    with server(serve) as address:
        threading.Timer(0.3, released.set).start()
        answers = drive(address, requests_to(address, b"x"), Plan((0.0, 0.0, 0.0), connections=2))
    assert sorted(one.code for one in answers) == ["", "", NOT_SENT]


def test_without_requests_nothing_can_be_sent() -> None:
    with pytest.raises(ValueError, match="at least one film"):
        drive(("127.0.0.1", 1), [], Plan((0.0,)))


@pytest.mark.parametrize("cut", [1, 7, 20, 1000])
@pytest.mark.parametrize(
    "whole",
    [
        b"HTTP/1.1 201 Created\r\ncontent-length: 5\r\nConnection: close\r\n\r\nhello",
        b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ],
)
def test_a_reply_is_read_however_it_is_cut(whole: bytes, cut: int) -> None:
    reply = Reply()
    for start in range(0, len(whole), cut):
        assert not reply.complete
        reply.feed(whole[start : start + cut])
    assert reply.complete
    assert (reply.status, reply.closes) == (201, True)
    assert b"hello" in reply.body


def test_a_kept_connection_carries_several_requests() -> None:
    with server(answering(lambda body: OK if body == b"x" else FULL)) as address, kept_connection(address) as send:
        first, second = requests_to(address, b"x", b"y")
        assert send(first) == (200, b"{}")
        assert send(second)[0] == 503
        assert send(first) == (200, b"{}")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"code": "OVERLOADED", "type": "about:blank"}', "OVERLOADED"),
        (b'{"code": 503, "type": "ServiceUnavailableException"}', "ServiceUnavailableException"),
        (b"<html>", "HTTP_503"),
        (b"[1]", "HTTP_503"),
    ],
)
def test_an_error_is_called_what_the_reply_calls_it(body: bytes, code: str) -> None:
    assert error_code(503, body) == code
