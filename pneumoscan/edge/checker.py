"""The authorization server of nginx's ``auth_request``: is a key valid, is a form one film, does a server answer.

nginx compares strings byte by byte and stops at the first that differs, and has no SHA-256; so it hands over the key
and gets 204 or 401. It is the only client: what is not its kind of request is closed.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from cxr_client import ClientError, InferenceClient
from cxr_client.errors import ServerFailed
from pneumoscan.edge import forms
from pneumoscan.edge.comparer import ROUTES, Comparer
from pneumoscan.edge.keys import KeyRing
from pneumoscan.server.readiness import CANARY_TIMEOUT_S, canary_film

_READY_S: Final = 5.0  # how long an answer about readiness is believed: probes cost films
_FULL_S: Final = 60.0  # how long a server may refuse every probe because its queue is full
_LONGEST_HEAD: Final = 64 * 1024
# Of two of these one would count, another one to nginx than to TorchServe.
_ONCE: Final = ("cxr-cam", "cxr-target", "cxr-view", "cxr-regions", "cxr-film", "content-type", "content-encoding")
_HELP: Final = """\
# HELP pneumoscan_edge_keys_refused_total Requests without a key or with one that opens nothing.
# TYPE pneumoscan_edge_keys_refused_total counter
"""


class EdgeReadiness:
    """Whether any of the servers answers a made-up film, asked at most once in five seconds whoever asks."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = tuple(urls)
        self._lock = threading.Lock()
        self._answer: tuple[float, str | None] | None = None
        self._answered, self._is_full = -_FULL_S, False
        self._film = canary_film()

    def why_not(self) -> str | None:
        """None when one answers, else why none does."""
        with self._lock:
            if self._answer is None or time.monotonic() - self._answer[0] > _READY_S:
                why = self._ask()
                now = time.monotonic()
                if why is None:
                    self._answered = now
                # Full is not away: under load most films are refused, and some are answered.
                elif self._is_full and now - self._answered < _FULL_S:
                    why = None
                self._answer = now, why
            return self._answer[1]

    def _ask(self) -> str | None:
        why, self._is_full = "no server", False
        for url in self._urls:
            try:
                with InferenceClient(url, timeout_s=CANARY_TIMEOUT_S) as client:
                    client.predict(self._film, cam="none")
                return None
            except ClientError as error:
                why = str(error)
                self._is_full = self._is_full or (isinstance(error, ServerFailed) and error.code == "OVERLOADED")
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
    comparer
        Says which requests are in a trial, and gets their films.
    """

    def __init__(self, socket: Path, keys: KeyRing, readiness: EdgeReadiness, comparer: Comparer) -> None:
        self._socket, self._keys, self._readiness, self._comparer = socket, keys, readiness, comparer
        self._refused = {"missing": 0, "wrong": 0}
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
                writer.write(await self._answer(head, reader))
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, ValueError):
            pass  # nginx closed a connection that it kept, or it was not nginx
        finally:
            writer.close()

    async def _answer(self, head: bytes, reader: asyncio.StreamReader) -> bytes:
        request, *lines = head.decode("latin-1").split("\r\n")
        path = request.split(" ")[1] if request.count(" ") == 2 else ""
        if path == "/readyz":
            why = await self._loop.run_in_executor(None, self._readiness.why_not)
            return _reply(200, b'{"status":"ready"}') if why is None else _reply(503, json.dumps({"why": why}).encode())
        if path == "/metrics":
            return _reply(200, self._metrics().encode(), "text/plain; version=0.0.4; charset=utf-8")
        named = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        fields = dict(named)
        if path.startswith("/form/"):
            return await self._loop.run_in_executor(None, self._form, path.removeprefix("/form"), fields)
        # The mirror, with its request's query. It waits for nothing but this: the client's next request waits for it.
        if path.partition("?")[0] == "/trial":
            body = await reader.readexactly(int(fields.get("content-length") or 0))
            if (route := fields.get("x-route", "")) in ROUTES:
                self._comparer.offer(fields.get("x-pair", ""), route, fields, body)
            return _reply(204)
        if path != "/check":
            return _reply(404)
        text = key_of(fields.get("authorization", ""), fields.get("x-api-key", ""))
        found = self._keys.match(text)
        if found is None:
            self._refused["wrong" if text else "missing"] += 1
            return _reply(401)
        names = Counter(name for name, _ in named)
        if any(names[name] > 1 for name in _ONCE):
            return _reply(403, X_Key_Name=found.name, X_Problem=forms.REPEATED_OPTION)
        version, pair = self._comparer.place(fields.get("x-trial-id", ""))
        return _reply(204, X_Key_Name=found.name, X_Trial=version, X_Pair=pair)

    def _form(self, asked: str, fields: Mapping[str, str]) -> bytes:
        """Where nginx goes on with a form: with what was asked for, or with a problem."""
        given = fields.get("x-form-file", "")  # none where there is no body
        path = Path(given)
        if given and not path.resolve().is_relative_to(self._socket.parent.resolve()):
            return _reply(404)
        try:
            why = forms.why_not(path, fields.get("x-form-type", "")) if given else forms.BAD_FORM
        except OSError:
            return _reply(503)
        if why is None:
            return _reply(200, X_Accel_Redirect=f"/_judged{asked}")
        # nginx keeps the type of the answer that redirects.
        return _reply(200, content_type="application/problem+json", X_Accel_Redirect=f"/_problem/{why}")

    def _metrics(self) -> str:
        lines = [f'pneumoscan_edge_keys_refused_total{{key="{key}"}} {count}\n' for key, count in self._refused.items()]
        return _HELP + "".join(lines) + self._comparer.metrics()


def key_of(authorization: str, x_api_key: str) -> str:
    """The key of a request's two headers: the bearer token (RFC 6750 section 2.1), else ``X-Api-Key``."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else x_api_key


def _reply(status: int, body: bytes = b"", content_type: str = "application/json", **headers: str) -> bytes:
    phrase = {200: "OK", 204: "No Content", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found"}.get(
        status, "Service Unavailable"
    )
    head = f"HTTP/1.1 {status} {phrase}\r\nConnection: keep-alive\r\n"
    head += "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    if status != 204:
        head += f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
    return head.encode("ascii") + b"\r\n" + body
