"""What every client here shares: a session that is closed after its ``with`` block, and replies that are bounded.

A server can be broken or hostile. The time limit of urllib3 is one for each read, so that a head or a body that drips
would never end; here it is one for the whole reply. A body has a most of bytes, and JSON a most of values, since a list
of empty lists takes fifty times its bytes.
"""

from __future__ import annotations

import http.client
import io
import json
import socket
import time
from types import TracebackType
from typing import Any, Final, Self

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool

MOST_BYTES: Final = 16 << 20  # of a reply: one film's with map and picture has up to 6 MB
_MOST_VALUES: Final = 200_000  # of JSON; every version of a store with its workers has a few thousand
_MOST_DEPTH: Final = 32  # of JSON; a reply's is 5
_PART: Final = 1 << 16


class ReplyTooLarge(Exception):
    """A reply that has more than any that was promised."""

    def __init__(self, received: int) -> None:
        super().__init__(f"at most {MOST_BYTES:,} bytes of a reply are read")
        self.received = received


class HoldsSession:
    """A client with connections that are kept open until it is closed."""

    _session: requests.Session

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that were kept open."""
        self._session.close()


def body_of(reply: requests.Response, deadline: float) -> bytearray:
    """The body of a streamed reply, unpacked, as long as it comes in time and has an end.

    Raises
    ------
    TimeoutError
        It drips past the deadline, of `time.monotonic`.
    ReplyTooLarge
        It has more than `MOST_BYTES`.
    """
    body = bytearray()
    with reply:
        while part := reply.raw.read1(_PART, decode_content=True):
            body += part
            if len(body) > MOST_BYTES:
                raise ReplyTooLarge(len(body))
            if time.monotonic() > deadline:
                raise TimeoutError
    return body


def json_in(body: bytes | bytearray) -> Any:
    """The value in a reply.

    Raises
    ------
    ValueError
        It is no JSON, which has no NaN, or has values inside values or beside values without end.
    """
    if sum(map(body.count, (b",", b"[", b"{"))) > _MOST_VALUES:
        raise ValueError("more values than any reply has")
    try:
        value = json.loads(body, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("values inside values without end") from error
    level = [value]
    for _ in range(_MOST_DEPTH):
        inner = [list(one.values()) if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        level = [one for many in inner for one in many]
    if level:  # whoever writes them again would go as deep
        raise ValueError("values inside values without end")
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


class _TimedReads(io.RawIOBase):
    """The bytes of a socket, all of which have to come within the time limit that it has now."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._raw = connection.makefile("rb", buffering=0)
        limit = connection.gettimeout()
        self._deadline = None if limit is None else time.monotonic() + limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        if self._deadline is not None:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            self._connection.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class TimedResponse(http.client.HTTPResponse):
    """A response whose head and body share one time limit."""

    def __init__(self, sock: socket.socket, *values: Any, **named: Any) -> None:
        super().__init__(sock, *values, **named)
        self.fp.close()
        self.fp = io.BufferedReader(_TimedReads(sock))


class _Pool(HTTPConnectionPool):
    def _new_conn(self) -> Any:
        connection: Any = super()._new_conn()
        connection.response_class = TimedResponse
        return connection


class _SecurePool(HTTPSConnectionPool):
    def _new_conn(self) -> Any:
        connection: Any = super()._new_conn()
        connection.response_class = TimedResponse
        return connection


class TimedAdapter(HTTPAdapter):
    """Connections whose read timeout is one for the whole reply."""

    def init_poolmanager(self, *values: Any, **named: Any) -> None:  # noqa: D102 (requests')
        super().init_poolmanager(*values, **named)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}


def timed(session: requests.Session, connections: int) -> requests.Session:
    """A session with such connections, as many of which are kept open."""
    adapter = TimedAdapter(pool_maxsize=connections)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session
