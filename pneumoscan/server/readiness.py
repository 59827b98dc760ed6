"""The readiness of a server: the state of its workers, one made-up film answered, and waiting for both."""

from __future__ import annotations

import io
import os
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from cxr_client import ClientError, InferenceClient, ManagementClient, PredictionRefused
from cxr_client.errors import AnswerLost, ServerFailed
from cxr_client.management import Readiness, VersionState
from pneumoscan.errors import NeverReady, StillBusy
from pneumoscan.model_store import MODEL_NAME
from pneumoscan.processes import Child, StopRequest
from pneumoscan.server.run_folder import RunDir

# A CPU worker that is busy with a full batch of eight needs its seconds too.
CANARY_TIMEOUT_S = 30.0
# Once may be bad luck (memory, say).
DEATHS_WHILE_STARTING = 2

# How long a start may take, and how long one that computes on: a worker reads its archive, checks and compiles.
START_S: Final = 180.0
LONGEST_START_S: Final = 900.0
_REPORT_EVERY_S: Final = 10.0
_WINDOW_S: Final = 10.0
_WORKING_S: Final = 0.1
_POLL_S: Final = 0.2
_NOT_ANSWERED: Final = "the workers are READY but the canary film is not answered: {}"
_FULL: Final = "OVERLOADED"  # what the client calls a 503 of TorchServe's own


def canary_film(size: int = 256) -> bytes:
    """A PNG that passes for a frontal chest film: bright body, dark lungs with ribs, spine, heart. No patient's.

    Parameters
    ----------
    size
        Width and height in pixels.
    """
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    film = np.where(_ellipse(x, y, 0.0, 0.15, 0.95, 1.1), 170.0 - 25.0 * y, 12.0)
    for side in (-1, 1):
        lung = _ellipse(x, y, 0.42 * side, -0.05, 0.33, 0.68)
        ribs = 18.0 * np.cos(14.0 * (y + 0.25 * np.abs(x - 0.42 * side)))
        film = np.where(lung, 62.0 + ribs, film)
    film = np.where(_ellipse(x, y, 0.14, 0.28, 0.26, 0.30), 165.0, film)
    film = np.where(np.abs(x) < 0.07, film + 35.0, film)
    png = io.BytesIO()
    Image.fromarray(np.clip(film, 0, 255).astype(np.uint8), mode="L").save(png, format="PNG")
    return png.getvalue()


def why_not_ready(run_dir: RunDir, url: str) -> str | None:
    """What keeps a running server from answering, in one line, or None when it answers.

    Load does not: a queue that is full is refused from, and a film that waits behind others is answered later. Workers
    that compute tell the two from a server that hangs.

    Parameters
    ----------
    run_dir
        The server's run folder, for its management socket.
    url
        Its inference address.

    Raises
    ------
    NeverReady
        READY workers refuse the film.
    """
    try:
        state = _readiness(run_dir)
    except ClientError as error:
        return str(error)
    if not state.is_ready:
        return state.summary
    pids = [worker.pid for each in state.versions for worker in each.workers if worker.pid > 0]
    used = processor_ticks(pids)
    try:
        _predict_canary(url)
    except AnswerLost as error:
        return None if processor_ticks(pids) != used else _NOT_ANSWERED.format(error)
    except ServerFailed as error:
        return None if error.code == _FULL else _NOT_ANSWERED.format(error)
    except ClientError as error:
        return _NOT_ANSWERED.format(error)
    return None


class StartCheck:
    """A server that is starting: ready when every version it was started with is, and not only the default one.

    Parameters
    ----------
    run_dir, url
        As in `why_not_ready`.
    versions
        Versions the server was started with.
    """

    def __init__(self, run_dir: RunDir, url: str, versions: Sequence[str]) -> None:
        self._run_dir = run_dir
        self._url = url
        self._versions = frozenset(versions)
        self._deaths = WorkerDeaths()

    def why_not_ready(self) -> str | None:
        """What is missing, or None when the server answers; to be called again and again.

        Raises
        ------
        NeverReady
            Waiting is no use: a version was not accepted, its worker keeps dying, or READY workers refuse the film.
        """
        try:
            state = _readiness(self._run_dir)
        except ClientError as error:
            return str(error)
        # TorchServe opens its socket after it has registered what it could; what it could not is only in its log.
        if missing := sorted(self._versions - {version.version for version in state.versions}):
            raise NeverReady(f"TorchServe did not accept {MODEL_NAME} {', '.join(missing)}")
        for version in state.versions:
            self._deaths.count(version)
        if not all(version.is_ready for version in state.versions):
            return state.summary
        return ask_canary(self._url)


def wait_until_ready(
    server: Child,
    stop: StopRequest,
    check: Callable[[], str | None],
    timeout_s: float | None,
    report: Callable[[str], object] = lambda _: None,
) -> str | None:
    """Wait until a server can answer.

    Parameters
    ----------
    check
        Gives None when the server is ready and otherwise what is missing; raises `NeverReady` when waiting is no use.
    timeout_s
        How long to wait, in seconds; None follows the machine: `START_S`, and as long after that as the server's
        processes compute, up to `LONGEST_START_S`: with much else to do a machine took 173 s.
    report
        Called now and then with what is missing.

    Returns
    -------
    str or None
        None when the server is ready or is to stop, otherwise why it never was.
    """
    begun = time.monotonic()
    limit_s = START_S if timeout_s is None else timeout_s
    missing: str | None = "not started"
    work, reported = None if timeout_s is not None else _Work(server.pid), begun
    while (waited := time.monotonic() - begun) < limit_s or (
        work is not None and waited < LONGEST_START_S and work.goes_on()
    ):
        if stop.requested.is_set():
            return None
        if server.exit_status is not None:
            return f"TorchServe ended while starting (exit status {server.exit_status})"
        try:
            missing = check()
        except NeverReady as error:
            return str(error)
        if missing is None:
            return None
        if time.monotonic() - reported >= _REPORT_EVERY_S:
            reported = time.monotonic()
            report(f"starting for {waited:.0f} s: {missing}")
        stop.requested.wait(_POLL_S)
    waited = time.monotonic() - begun if timeout_s is None else timeout_s
    return f"not ready within {waited:.3g} s: {missing}"


class _Work:
    """Whether a process and its descendants compute: a tenth of a second of a processor in ten seconds."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._used, self._looked, self._answer = self._ticks(), time.monotonic(), True

    def goes_on(self) -> bool:
        """True unless nothing has been computed since the last look, ten seconds ago or longer."""
        now = time.monotonic()
        if now - self._looked >= _WINDOW_S:
            used = self._ticks()
            # Processes that ended took their time along.
            self._answer = abs(used - self._used) >= _WORKING_S * os.sysconf("SC_CLK_TCK")
            self._used, self._looked = used, now
        return self._answer

    def _ticks(self) -> int:
        return sum(processor_ticks([self._pid]).values())


class WorkerDeaths:
    """Counts the workers that died while they loaded.

    TorchServe 0.12.0 starts a dead worker again for five minutes, under the same id with another process id, and says
    no more about it than "UNLOADING".
    """

    def __init__(self) -> None:
        self._pids: defaultdict[tuple[str, str], set[int]] = defaultdict(set)

    def count(self, version: VersionState) -> None:
        """Look at a version once more.

        Raises
        ------
        NeverReady
            One of its workers keeps dying.
        """
        for worker in version.workers:
            pids = self._pids[version.version, worker.id]
            pids |= {worker.pid} if worker.pid > 0 else set()
            if not worker.is_ready and len(pids) > DEATHS_WHILE_STARTING:
                raise NeverReady(
                    f"a worker of {MODEL_NAME} {version.version} died {DEATHS_WHILE_STARTING} times while loading"
                )


def _readiness(run_dir: RunDir) -> Readiness:
    with ManagementClient(run_dir.socket) as management:
        return management.ready(MODEL_NAME)


def ask_canary(url: str, version: str | None = None) -> str | None:
    """Why a version, or the default one, does not answer the canary film; None when it does.

    Raises
    ------
    NeverReady
        It refuses the film.
    """
    try:
        _predict_canary(url, version)
    except ClientError as error:
        return _NOT_ANSWERED.format(error)
    return None


def _predict_canary(url: str, version: str | None = None) -> None:
    try:
        with InferenceClient(url, timeout_s=CANARY_TIMEOUT_S) as inference:
            inference.predict(canary_film(), cam="none", version=version)
    except PredictionRefused as error:
        raise NeverReady(f"the workers are READY but the canary film is refused: {error}") from error


def _ellipse(
    x: np.ndarray, y: np.ndarray, center_x: float, center_y: float, radius_x: float, radius_y: float
) -> np.ndarray:
    inside: np.ndarray = ((x - center_x) / radius_x) ** 2 + ((y - center_y) / radius_y) ** 2 < 1.0
    return inside


# TorchServe tells how many requests wait, but not which worker is busy. One that computes uses its processor, one that
# waits for work uses none at all.
QUIET_S: Final = 1.5
_PROC: Final = Path("/proc")


def wait_until_idle(management: ManagementClient, version: str, timeout_s: float) -> None:
    """Wait until no request waits for a version and none of its workers has done anything for a while.

    Raises
    ------
    StillBusy
        It was never idle within the time limit: clients ask for this version by name.
    ClientError
        The server does not say.
    """
    deadline = time.monotonic() + timeout_s
    last: object = None
    quiet_since = time.monotonic()
    while True:
        state = next((each for each in management.ready(MODEL_NAME).versions if each.version == version), None)
        if state is None:
            return
        used = processor_ticks([worker.pid for worker in state.workers if worker.pid > 0])
        if state.waiting or used != last:
            last, quiet_since = used, time.monotonic()
        elif time.monotonic() - quiet_since >= QUIET_S:
            return
        if time.monotonic() > deadline:
            raise StillBusy(
                f"{MODEL_NAME} {version} was not idle for {QUIET_S:g} s within {timeout_s:g} s: clients still "
                f"ask for /predictions/{MODEL_NAME}/{version} by name; have them ask without a version, or give a "
                "longer --timeout"
            )
        time.sleep(_POLL_S)


def processor_ticks(pids: Sequence[int], proc: Path = _PROC) -> dict[int, int]:
    """The processor time that processes and their descendants have used, in the kernel's ticks.

    References
    ----------
    proc(5), ``/proc/pid/stat``: fields 4 (ppid), 14 (utime) and 15 (stime).
    """
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for path in proc.glob("[0-9]*/stat"):
        try:
            # The second field is the command in parentheses, and may hold spaces and parentheses itself.
            fields = path.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        except OSError:  # it ended while we looked
            continue
        pid = int(path.parent.name)
        parents[pid], ticks[pid] = int(fields[1]), int(fields[11]) + int(fields[12])
    wanted = set(pids)
    while grown := {pid for pid, parent in parents.items() if parent in wanted} - wanted:
        wanted |= grown
    return {pid: ticks[pid] for pid in wanted if pid in ticks}
