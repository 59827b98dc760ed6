"""The running server of a run folder, as `pneumoscan models` sees it: its versions and its default."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cxr_client import ClientError, ManagementClient, ManagementFailed
from cxr_client.management import Readiness, VersionState
from pneumoscan.errors import NeverReady, VersionError
from pneumoscan.model_store import MODEL_NAME, Archive
from pneumoscan.server.capacity import Capacity
from pneumoscan.server.readiness import WorkerDeaths, ask_canary
from pneumoscan.server.run_folder import RunDir, ServerState

# Registering unpacks the archive before it answers, unregistering waits for the workers' end.
_PATIENCE_S: Final = 300.0
_POLL_S: Final = 0.2


@dataclass(frozen=True)
class LiveServer:
    """One running server.

    Parameters
    ----------
    run_dir
        Its run folder.
    state
        What it was started with.
    management
        Talks to it.
    """

    run_dir: RunDir
    state: ServerState
    management: ManagementClient

    @property
    def store(self) -> Path:
        """Its model store."""
        return Path(self.state.store)

    @property
    def capacity(self) -> Capacity:
        """What each of its versions gets; one worker where it was started before that was written down."""
        return self.state.capacity or Capacity(1, 1, 1, 1, 64)

    def look(self) -> Readiness:
        """The state of all its versions."""
        return self.management.ready(MODEL_NAME)

    def versions(self) -> dict[str, VersionState]:
        """The state of all its versions by version."""
        return {version.version: version for version in self.look().versions}

    def default(self) -> str:
        """Its default version.

        Raises
        ------
        VersionError
            It has none.
        """
        for version in self.look().versions:
            if version.is_default:
                return version.version
        raise VersionError(f"the server of {self.run_dir.path} has no version: start it again")

    def load(self, archive: Archive, workers: int, timeout_s: float) -> None:
        """Have a version loaded, and wait until it answers a film with as many READY workers as asked.

        A worker is READY only after it has found its files' digests right and has given the golden films' answers.

        Raises
        ------
        VersionError
            It does not come to that; the version may be registered half.
        ClientError
            The server refuses, or does not answer.
        """
        version, capacity = archive.version.text, self.capacity
        marks = self.run_dir.log_marks()
        self.management.register(MODEL_NAME, archive.path.name, workers, capacity.batch_size, capacity.batch_delay_ms)
        deadline = time.monotonic() + timeout_s
        deaths = WorkerDeaths()
        why: str | None = "not started"
        while time.monotonic() < deadline:
            state = self.versions().get(version)
            if state is None:
                raise VersionError(f"TorchServe has dropped {version}: see {self.run_dir.logs}")
            try:
                deaths.count(state)
                ready = sum(worker.is_ready for worker in state.workers)
                why = self.why_no_answer(version) if state.is_ready else f"{ready} of {workers} workers are READY"
            except NeverReady as error:
                raise VersionError(f"{self.run_dir.last_lines(marks, version=version)}{error}") from error
            if why is None:
                return
            time.sleep(_POLL_S)
        raise VersionError(f"{version} is not ready within {timeout_s:g} s: {why}")

    def why_no_answer(self, version: str) -> str | None:
        """Why a version does not answer the canary film; None when it does.

        Raises
        ------
        NeverReady
            It refuses the film.
        """
        return ask_canary(self.state.url, version)

    def check_ready(self, version: str) -> None:
        """Check that a version can take the default's place now.

        Raises
        ------
        VersionError
            It is not on the server, its workers are not READY, or it does not answer a film.
        """
        state = self.versions().get(version)
        if state is None:
            raise VersionError(f"{version} is not on the server: run pneumoscan models register {version}")
        if not state.is_ready:
            count = sum(worker.is_ready for worker in state.workers)
            raise VersionError(
                f"{version} has {count} READY workers of {max(1, state.min_workers)}: wait, or see {self.run_dir.logs}"
            )
        try:
            why = self.why_no_answer(version)
        except NeverReady as error:
            why = str(error)
        if why is not None:
            raise VersionError(f"{version}: {why}")

    def forget(self, version: str) -> None:
        """Unregister a version; it is fine if it is not there.

        Raises
        ------
        ClientError
            The server refuses, or does not answer.
        """
        try:
            self.management.unregister(MODEL_NAME, version)
        except ManagementFailed as error:
            if error.status != 404:
                raise

    def make_default(self, version: str) -> None:
        """Switch the default, and look whether it is.

        Raises
        ------
        VersionError, ClientError
            It is not.
        """
        self.management.set_default(MODEL_NAME, version)
        if (found := self.default()) != version:
            raise VersionError(f"the server's default is {found} and not {version}")


@contextmanager
def live_server(run_dir: RunDir) -> Iterator[LiveServer]:
    """The running server of a run folder.

    Raises
    ------
    VersionError
        None runs there, or it does not answer.
    """
    state = run_dir.read_state()
    if state is None or not run_dir.is_locked():
        raise VersionError(
            f"no server runs from {run_dir.path}: start one with pneumoscan serve, or give its --run-dir"
        )
    if not state.store:
        raise VersionError(f"the server of {run_dir.path} was started by an older pneumoscan serve: start it again")
    with ManagementClient(run_dir.socket, timeout_s=_PATIENCE_S) as management:
        try:
            management.ready(MODEL_NAME)
        except ClientError as error:
            raise VersionError(f"the server of {run_dir.path} does not answer: {error}") from error
        yield LiveServer(run_dir, state, management)
