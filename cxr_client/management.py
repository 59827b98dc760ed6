"""What the server has loaded, and whether it can answer: TorchServe's management API over its unix socket."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import requests
import requests_unixsocket

from cxr_client.errors import ManagementFailed, ServerUnreachable


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
    """One registered version of a model and its workers."""

    version: str
    is_default: bool
    min_workers: int
    workers: tuple[WorkerState, ...]

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


class ManagementClient:
    """Talks to the management API through its unix socket.

    Parameters
    ----------
    socket_path : Path
        ``run/management.sock`` of a server that `scripts.serve` started.
    timeout_s : float
        How long one reply may take.
    """

    def __init__(self, socket_path: Path, timeout_s: float = 10.0) -> None:
        self.socket_path = Path(socket_path).absolute()
        self.timeout_s = timeout_s
        self._session = requests_unixsocket.Session()  # type: ignore[no-untyped-call]
        self._session.trust_env = False  # no proxy between a program and a file
        self._url = f"http+unix://{quote(str(self.socket_path), safe='')}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that were kept open."""
        self._session.close()

    def list_models(self) -> list[dict[str, str]]:
        """Give ``{"modelName", "modelUrl"}`` for each registered model (of its default version)."""
        models = self._get("/models?limit=1000").get("models", [])
        return [dict(model) for model in models]

    def describe(self, model: str, version: str | None = None) -> list[dict[str, Any]]:
        """Give TorchServe's description of a model: one object for a version, or for the default version.

        Parameters
        ----------
        model : str
            Name of the model, ``pneumonia``.
        version : str, optional
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
        if not isinstance(value, list):
            raise ManagementFailed(f"GET {path} did not answer with a list of versions")
        return value

    def card(self, model: str, version: str | None = None) -> dict[str, Any]:
        """Give the model card that a worker tells of itself: its use and limits, what it was made from, how it did.

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
        card = value[0].get("customizedMetadata") if isinstance(value, list) and value else None
        if not isinstance(card, dict):
            raise ManagementFailed(f"GET {path}?customized=true tells no model card")
        return card

    def ready(self, model: str) -> Readiness:
        """Give the state of every registered version of a model; none of them if the model is not registered."""
        try:
            every = self.describe(model, "all")
            default = {str(entry["modelVersion"]) for entry in self.describe(model)}
        except ManagementFailed as error:
            if error.status != 404:
                raise
            return Readiness(model, ())
        return Readiness(model, tuple(_version_state(entry, default) for entry in every))

    def _get(self, path: str) -> Any:
        try:
            reply = self._session.get(self._url + path, timeout=self.timeout_s)
        except requests.RequestException as error:
            raise ServerUnreachable(f"nobody answers on {self.socket_path} (is the server running?)") from error
        if not reply.ok:
            raise ManagementFailed(f"GET {path}: {reply.status_code} {_message(reply)}", status=reply.status_code)
        try:
            return reply.json()
        except requests.exceptions.JSONDecodeError as error:
            raise ManagementFailed(f"GET {path} did not answer with JSON", status=reply.status_code) from error


def _version_state(entry: dict[str, Any], default: set[str]) -> VersionState:
    version = str(entry["modelVersion"])
    workers = tuple(
        WorkerState(str(worker["id"]), str(worker["status"]), int(worker.get("pid", -1)))
        for worker in entry.get("workers", ())
    )
    return VersionState(version, version in default, int(entry.get("minWorkers", 0)), workers)


def _message(reply: requests.Response) -> str:
    try:
        value = reply.json()
    except requests.exceptions.JSONDecodeError:
        return reply.text[:200]
    return str(value.get("message", value)) if isinstance(value, dict) else str(value)
