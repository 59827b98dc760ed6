"""The authorization server of nginx's ``auth_request``: whether a key is valid, and whether a server answers films.

nginx compares strings byte by byte and stops at the first that differs, and has no SHA-256; so it hands over the key
and gets 204 or 401. It is the only client: what is not its kind of request is closed.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cxr_client import ClientError, InferenceClient
from pneumoscan.edge.keys import Key, KeyRing
from pneumoscan.server.readiness import CANARY_TIMEOUT_S, canary_film

_READY_S: Final = 5.0  # how long an answer about readiness is believed: probes cost films
_LONGEST_HEAD: Final = 64 * 1024


class EdgeReadiness:
    """Whether any of the servers answers a made-up film, asked at most once in five seconds whoever asks."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = tuple(urls)
        self._lock = threading.Lock()
        self._answer: tuple[float, str | None] | None = None
        self._film = canary_film()

    def why_not(self) -> str | None:
        """Give None when one answers, else why none does."""
        with self._lock:
            if self._answer is None or time.monotonic() - self._answer[0] > _READY_S:
                why = self._ask()
                self._answer = time.monotonic(), why
            return self._answer[1]

    def _ask(self) -> str | None:
        why = "no server"
        for url in self._urls:
            try:
                with InferenceClient(url, timeout_s=CANARY_TIMEOUT_S) as client:
                    client.predict(self._film, cam="none")
                return None
            except ClientError as error:
                why = str(error)
        return why


class AuthServer:
    """Answers nginx until it is stopped, in a thread of its own.

    Parameters
    ----------
    socket
        The unix socket; what stands there is replaced.
    keys
        The keys that are valid.
    readiness
        Asked for ``/readyz``.
    """

    def __init__(self, socket: Path, keys: KeyRing, readiness: EdgeReadiness) -> None:
        self._socket, self._keys, self._readiness = socket, keys, readiness
        self._loop = asyncio.new_event_loop()
        self._listening = threading.Event()
        self._failed: OSError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Listen; returns once nginx can ask.

        Raises
        ------
        OSError
            The socket cannot be made.
        """
        self._thread.start()
        self._listening.wait()
        if self._failed is not None:
            raise self._failed

    def stop(self) -> None:
        """Stop listening and remove the socket."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(timeout=5.0)
        self._socket.unlink(missing_ok=True)

    @property
    def is_alive(self) -> bool:
        """Whether it still answers."""
        return self._thread.is_alive()

    def _run(self) -> None:
        self._socket.unlink(missing_ok=True)
        try:
            starting = asyncio.start_unix_server(self._serve, self._socket, limit=_LONGEST_HEAD, backlog=1024)
            server = self._loop.run_until_complete(starting)
        except OSError as error:
            self._failed = error
            return
        finally:
            self._listening.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(await self._answer(head))
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, ValueError):
            pass  # nginx closed a connection that it kept, or it was not nginx
        finally:
            writer.close()

    async def _answer(self, head: bytes) -> bytes:
        request, *lines = head.decode("latin-1").split("\r\n")
        path = request.split(" ")[1] if request.count(" ") == 2 else ""
        if path == "/readyz":
            why = await self._loop.run_in_executor(None, self._readiness.why_not)
            return _reply(200, b'{"status":"ready"}') if why is None else _reply(503, json.dumps({"why": why}).encode())
        if path != "/check":
            return _reply(404)
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        found = self._keys.match(key_of(fields.get("authorization", ""), fields.get("x-api-key", "")))
        return _reply(401) if found is None else _reply(204, key=found)


def key_of(authorization: str, x_api_key: str) -> str:
    """Give the key of a request's two headers: the bearer token (RFC 6750 section 2.1), else ``X-Api-Key``."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else x_api_key


def _reply(status: int, body: bytes = b"", key: Key | None = None) -> bytes:
    phrase = {200: "OK", 204: "No Content", 401: "Unauthorized", 404: "Not Found", 503: "Service Unavailable"}[status]
    head = f"HTTP/1.1 {status} {phrase}\r\nConnection: keep-alive\r\n"
    if key is not None:
        head += f"X-Key-Name: {key.name}\r\n"
    if status != 204:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode("ascii") + b"\r\n" + body
