"""The HTTP client that measures: one thread, many kept connections, requests prepared as bytes.

It is written by hand because it shares the cores with the server. Before a server that answers a constant,
`http.client` takes three times the processor time for a request of 10 kB (0.045 ms against 0.014), and needs a thread
for each connection.

Latency counts from the moment a request was due, not from the moment it could be sent: a server that stalls is charged
for those who would have come meanwhile as well.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import selectors
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

CHUNK: Final = 1 << 18  # bytes in one call of a socket
_TICK_S: Final = 0.25  # between two searches for requests past their deadline
NO_REPLY: Final = "NO_REPLY"
TIMED_OUT: Final = "TIMED_OUT"
NOT_SENT: Final = "NOT_SENT"

Address = tuple[str, int]


def post(address: Address, path: str, body: bytes, content_type: str) -> bytes:
    """A request as it goes over the wire."""
    host, port = address
    head = f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: {content_type}\r\nAccept: */*\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


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


def error_code(status: int, body: bytes) -> str:
    """The error of a reply: the ``code`` of problem+json, TorchServe's ``type``, or ``HTTP_<status>``."""
    with contextlib.suppress(ValueError):
        reply = json.loads(body)
        for name in ("code", "type"):
            if isinstance(reply, dict) and isinstance(reply.get(name), str):
                return str(reply[name])
    return f"HTTP_{status}"


@contextlib.contextmanager
def kept_connection(address: Address, timeout_s: float = 60.0) -> Iterator[Callable[[bytes], tuple[int, bytes]]]:
    """A connection for one request after the other, as a function that sends one and waits for status and body.

    They are 0 and nothing where the connection ends without a reply.

    Raises
    ------
    OSError
        Nobody listens there, or no reply came in time.
    """
    with socket.create_connection(address, timeout=timeout_s) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def send(request: bytes) -> tuple[int, bytes]:
            reply = Reply()
            connection.sendall(request)
            while not reply.complete:
                data = connection.recv(CHUNK)
                reply.feed(data)
                if not data and not reply.complete:
                    return 0, b""
            return reply.status, reply.body

        yield send


def exchange(address: Address, request: bytes, timeout_s: float = 60.0) -> tuple[int, bytes]:
    """Status and body of one reply over a connection of its own; (0, nothing) where none comes."""
    with contextlib.suppress(OSError), kept_connection(address, timeout_s) as send:
        return send(request)
    return 0, b""


@dataclass(frozen=True, slots=True)
class Plan:
    """When requests are sent; times in seconds from the start."""

    times: tuple[float, ...]  # at which a request is due, ascending
    repeat_until: float = 0.0  # until then each reply is followed by the next request at once (closed loop)
    deadline_s: float = 120.0  # what a client waits for a reply, from when its request was due
    connections: int = 4000  # at most; an arrival beyond is counted as NOT_SENT


@dataclass(frozen=True, slots=True)
class Answer:
    """The end of one request; times in seconds from the start."""

    due: float
    sent: float
    done: float
    status: int  # of the reply; 0 where none came
    code: str  # empty for 2xx, else the error of the reply, or why there is none

    @property
    def ok(self) -> bool:
        """Whether it was answered."""
        return not self.code

    @property
    def latency_s(self) -> float:
        """From when it was due."""
        return self.done - self.due


def drive(address: Address, requests: Sequence[bytes], plan: Plan) -> list[Answer]:
    """One answer for each request that was due, in the order they ended; `requests` are sent in turn.

    Raises
    ------
    ValueError
        There are no requests.
    """
    if not requests:
        raise ValueError("there is no request to send: give at least one film")
    with contextlib.closing(_Loop(address, requests, plan)) as loop:
        return loop.run()


class _Connection:
    """One connection, idle or with one request on it."""

    def __init__(self, address: Address) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.socket.connect_ex(address)
        self.used = 0  # requests it has carried
        self.busy = False

    def begin(self, request: bytes, due: float, sent: float) -> None:
        self.request, self.due, self.sent = request, due, sent
        self.unsent, self.reply = memoryview(request), Reply()
        self.used += 1
        self.busy = True

    def write(self) -> bool:
        """Send what the socket takes; whether all is sent."""
        with contextlib.suppress(BlockingIOError):
            while self.unsent:
                self.unsent = self.unsent[self.socket.send(self.unsent[:CHUNK]) :]
        return not self.unsent


class _Loop:
    def __init__(self, address: Address, requests: Sequence[bytes], plan: Plan) -> None:
        self._address, self._plan = address, plan
        self._requests = itertools.cycle(requests)
        self._selector = selectors.DefaultSelector()
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._answers: list[Answer] = []
        self._busy = 0

    def run(self) -> list[Answer]:
        times, at, tick = self._plan.times, 0, _TICK_S
        self._start = time.perf_counter()
        while True:
            now = self._now()
            while at < len(times) and times[at] <= now:
                self._send(times[at])
                at += 1
            if at == len(times) and not self._busy:
                return self._answers
            wait = min(times[at] if at < len(times) else tick, tick) - self._now()
            for key, events in self._selector.select(max(wait, 0.0)):
                self._advance(key.data, events)
            if self._now() >= tick:
                tick = self._now() + _TICK_S
                self._expire()

    def close(self) -> None:
        for connection in list(self._open):
            self._drop(connection)
        self._selector.close()

    def _now(self) -> float:
        return time.perf_counter() - self._start

    def _send(self, due: float) -> None:
        request = next(self._requests)
        if self._idle or len(self._open) < self._plan.connections:
            self._put(request, due)
        else:
            self._answers.append(Answer(due, self._now(), self._now(), 0, NOT_SENT))

    def _put(self, request: bytes, due: float) -> None:
        connection = self._idle.pop() if self._idle else self._connect()
        connection.begin(request, due, self._now())
        self._busy += 1
        try:
            done = connection.write()
        except OSError:  # the loop will find out what is wrong with it
            done = False
        if not done:
            self._selector.modify(connection.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, connection)

    def _connect(self) -> _Connection:
        connection = _Connection(self._address)
        self._open.add(connection)
        self._selector.register(connection.socket, selectors.EVENT_READ, connection)
        return connection

    def _drop(self, connection: _Connection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._selector.unregister(connection.socket)
        connection.socket.close()

    def _advance(self, connection: _Connection, events: int) -> None:
        if connection not in self._open:  # dropped since the selector saw it
            return
        try:
            if events & selectors.EVENT_WRITE and connection.busy and connection.write():
                self._selector.modify(connection.socket, selectors.EVENT_READ, connection)
            if events & selectors.EVENT_READ:
                self._read(connection)
        except BlockingIOError:
            return
        except OSError:
            self._lost(connection)

    def _read(self, connection: _Connection) -> None:
        data = connection.socket.recv(CHUNK)
        if not connection.busy:  # an idle one that the server closed
            self._drop(connection)
            return
        reply = connection.reply
        reply.feed(data)
        if reply.complete:
            code = "" if 200 <= reply.status < 300 else error_code(reply.status, reply.body)
            # A reply that came before all was sent leaves the connection in the middle of a request.
            self._end(connection, reply.status, code, keep=bool(data) and not (reply.closes or connection.unsent))
        elif not data:
            self._lost(connection)

    def _lost(self, connection: _Connection) -> None:
        if not connection.busy:
            self._drop(connection)
        elif connection.used > 1 and not connection.reply.started:
            # The server closed a kept connection just as it was used again: any client sends that request once more.
            self._busy -= 1
            self._drop(connection)
            for idle in list(self._idle):
                self._drop(idle)
            self._put(connection.request, connection.due)
        else:
            self._end(connection, 0, NO_REPLY, keep=False)

    def _end(self, connection: _Connection, status: int, code: str, *, keep: bool) -> None:
        now = self._now()
        self._answers.append(Answer(connection.due, connection.sent, now, status, code))
        self._busy -= 1
        connection.busy = False
        if keep:
            self._idle.append(connection)
        else:
            self._drop(connection)
        if now < self._plan.repeat_until:
            self._send(now)

    def _expire(self) -> None:
        limit = self._now() - self._plan.deadline_s
        for connection in [one for one in self._open if one.busy and one.due < limit]:
            self._end(connection, 0, TIMED_OUT, keep=False)
