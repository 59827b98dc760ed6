"""What the server has loaded, whether it can answer, and what it shall load: TorchServe's management API."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import requests
import requests_unixsocket
from requests_unixsocket.adapters import UnixAdapter, UnixHTTPConnectionPool
from urllib3.exceptions import HTTPError, ReadTimeoutError

from cxr_client.errors import AnswerLost, ManagementFailed, ServerUnreachable, shown
from cxr_client.sessions import HoldsSession, ReplyTooLarge, TimedResponse, body_of, json_in


@dataclass(frozen=True)
class WorkerState:
    """One worker process of one version. TorchServe 0.12.0 says READY, and UNLOADING for everything else."""

    id: str
    status: str
    pid: int

    @property
    def is_ready(self) -> bool:
        """Whether the worker has loaded its model and answers."""
        return self.status == "READY"


@dataclass(frozen=True)
class VersionState:
    """One registered version of a model, its workers, and the requests that wait for one of them."""

    version: str
    is_default: bool
    min_workers: int
    workers: tuple[WorkerState, ...]
    waiting: int = 0

    @property
    def is_ready(self) -> bool:
        """Whether as many workers are READY as the version asks for, and at least one."""
        return sum(worker.is_ready for worker in self.workers) >= max(1, self.min_workers)


@dataclass(frozen=True)
class Readiness:
    """Whether a model can answer, by the states of its workers; ``GET /ping`` is 200 even when there are none."""

    model: str
    versions: tuple[VersionState, ...]

    @property
    def is_ready(self) -> bool:
        """Whether the default version is ready: the one that a request without a version gets."""
        return any(version.is_default and version.is_ready for version in self.versions)

    @property
    def summary(self) -> str:
        """One line for people, such as ``pneumonia 1.0.0 (default): 1/1 READY``."""
        if not self.versions:
            return f"{self.model}: no version is registered"
        return "; ".join(
            f"{self.model} {state.version}{' (default)' if state.is_default else ''}: "
            f"{sum(worker.is_ready for worker in state.workers)}/{max(state.min_workers, len(state.workers))} READY"
            for state in self.versions
        )


class ManagementClient(HoldsSession):
    """Talks to the management API through its unix socket.

    Parameters
    ----------
    socket_path
        ``run/management.sock`` of a server that `pneumoscan serve` started.
    timeout_s
        How long one reply may take.
    """

    def __init__(self, socket_path: Path, timeout_s: float = 10.0) -> None:
        self.socket_path = Path(socket_path).absolute()
        self.timeout_s = timeout_s
        self._session = requests_unixsocket.Session()  # type: ignore[no-untyped-call]
        self._session.mount("http+unix://", _TimedUnixAdapter())  # type: ignore[no-untyped-call]
        self._session.trust_env = False  # no proxy between a program and a file
        self._url = f"http+unix://{quote(str(self.socket_path), safe='')}"

    def list_models(self) -> list[dict[str, str]]:
        """``{"modelName", "modelUrl"}`` for each registered model (of its default version)."""
        value = self._get("/models?limit=1000")
        with _promised():
            return [{str(key): str(text) for key, text in model.items()} for model in value.get("models", [])]

    def describe(self, model: str, version: str | None = None) -> list[dict[str, Any]]:
        """TorchServe's description of a model: one object for a version, or for the default version.

        Parameters
        ----------
        model
            Name of the model, ``pneumonia``.
        version
            A version, or ``all``.

        Raises
        ------
        ManagementFailed
            The model or version is not registered (``status`` 404), or the server failed.
        ServerUnreachable
            Nobody answers on the socket.
        """
        path = f"/models/{quote(model, safe='')}" + (f"/{quote(version, safe='')}" if version else "")
        value = self._get(path)
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            raise ManagementFailed(f"GET {path} did not answer with a list of versions")
        return value

    def card(self, model: str, version: str | None = None) -> dict[str, Any]:
        """The model card that a worker tells of itself: its use and limits, what it was made from, how it did.

        Parameters
        ----------
        model, version
            As in `describe`, without ``all``.

        Raises
        ------
        ManagementFailed
            As in `describe`, or the model tells no card.
        """
        path = f"/models/{quote(model, safe='')}" + (f"/{quote(version, safe='')}" if version else "")
        value = self._get(f"{path}?customized=true")
        with _promised():
            card = value[0].get("customizedMetadata") if value else None
        if not isinstance(card, dict):
            raise ManagementFailed(f"GET {path}?customized=true tells no model card")
        return card

    def ready(self, model: str) -> Readiness:
        """The state of every registered version of a model; none of them if the model is not registered."""
        try:
            every, chosen = self.describe(model, "all"), self.describe(model)
        except ManagementFailed as error:
            if error.status != 404:
                raise
            return Readiness(model, ())
        with _promised():
            default = {str(entry["modelVersion"]) for entry in chosen}
            return Readiness(model, tuple(_version_state(entry, default) for entry in every))

    def register(self, model: str, archive: str, workers: int, batch_size: int, batch_delay_ms: int) -> None:
        """Have the server load an archive of its model store; returns before the workers have loaded it.

        Parameters
        ----------
        model
            Name of the model, ``pneumonia``.
        archive
            File name of the archive in the server's store.
        workers
            Worker processes to start.
        batch_size, batch_delay_ms
            Requests a worker takes at once, and how long it waits for the second one.

        Raises
        ------
        ManagementFailed
            The archive is not there or cannot be unpacked, or its version is registered already (``status`` 409).
        """
        asked: dict[str, str | int] = {"url": archive, "model_name": model, "initial_workers": workers}
        asked |= {"batch_size": batch_size, "max_batch_delay": batch_delay_ms, "synchronous": "false"}
        self._ask("POST", f"/models?{urlencode(asked)}")

    def set_default(self, model: str, version: str) -> None:
        """Make a registered version the one that a request without a version gets.

        Raises
        ------
        ManagementFailed
            It is not registered (``status`` 404).
        """
        self._ask("PUT", f"/models/{quote(model, safe='')}/{quote(version, safe='')}/set-default")

    def unregister(self, model: str, version: str) -> None:
        """End a version's workers and forget it. TorchServe 0.12.0 breaks off what they are answering.

        Raises
        ------
        ManagementFailed
            It is not registered, or is the default one of several (``status`` 403).
        """
        self._ask("DELETE", f"/models/{quote(model, safe='')}/{quote(version, safe='')}")

    def _get(self, path: str) -> Any:
        return self._ask("GET", path)

    def _ask(self, method: str, path: str) -> Any:
        deadline = time.monotonic() + self.timeout_s
        try:
            reply = self._session.request(
                method, self._url + path, timeout=self.timeout_s, allow_redirects=False, stream=True
            )
            body = body_of(reply, deadline)
        except (requests.ReadTimeout, ReadTimeoutError, TimeoutError) as error:
            raise AnswerLost(f"{method} {path} was not answered within {self.timeout_s:g} s") from error
        except ReplyTooLarge as error:
            raise ManagementFailed(f"{method} {path}: {error}", status=reply.status_code) from error
        except (requests.RequestException, HTTPError) as error:
            raise ServerUnreachable(f"nobody answers on {self.socket_path} (is the server running?)") from error
        if not 200 <= reply.status_code < 300:
            raise ManagementFailed(f"{method} {path}: {reply.status_code} {_message(body)}", status=reply.status_code)
        try:
            return json_in(body)
        except ValueError as error:
            raise ManagementFailed(f"{method} {path} did not answer with JSON", status=reply.status_code) from error


class _TimedUnixPool(UnixHTTPConnectionPool):
    def _new_conn(self) -> Any:
        connection = super()._new_conn()  # type: ignore[no-untyped-call]
        connection.response_class = TimedResponse
        return connection


class _TimedUnixAdapter(UnixAdapter):
    """Connections through a file whose read timeout is one for the whole reply."""

    def get_connection(self, url: str | bytes, proxies: object = None) -> Any:  # noqa: ARG002 (its caller gives them)
        with self.pools.lock:
            pool = self.pools.get(url)
            if pool is None:
                pool = self.pools[url] = _TimedUnixPool(url, self.timeout)  # type: ignore[no-untyped-call]
        return pool


@contextmanager
def _promised() -> Iterator[None]:
    """Read what TorchServe promises of a reply: another one is a failure of whoever answered, not of who asked."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ManagementFailed("the management API does not answer as TorchServe does") from error


def _version_state(entry: dict[str, Any], default: set[str]) -> VersionState:
    version = shown(str(entry["modelVersion"]))
    workers = tuple(
        WorkerState(shown(str(worker["id"])), shown(str(worker["status"])), int(worker.get("pid", -1)))
        for worker in entry.get("workers", ())
    )
    waiting = int((entry.get("jobQueueStatus") or {}).get("pendingRequests", 0))
    return VersionState(version, version in default, int(entry.get("minWorkers", 0)), workers, waiting)


def _message(body: bytearray) -> str:
    try:
        value = json_in(body)
    except ValueError:
        return shown(body[:200].decode("utf-8", "replace"))
    return shown(str(value.get("message", value)) if isinstance(value, dict) else str(value))
