"""The run folder of one server: its lock, its pid file, its socket, its logs and its temporary files."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from pneumoscan.daemon import Daemon, Running, holding
from pneumoscan.errors import AlreadyRunning, RunFolderError
from pneumoscan.files import clear_drafts, is_locked, write_text
from pneumoscan.server.capacity import Capacity

# sockaddr_un.sun_path: 108 bytes on Linux with the closing zero.
SOCKET_PATH_LIMIT = 107
# TorchServe puts ".ts.sock.<port>" into its temporary folder, one for each worker.
WORKER_SOCKET_NAME = "/.ts.sock.65535"
_TEMP_PREFIX = "pneumoscan-"
# In the temporary folder: names of requests whose clients have left. More than may wait at any time.
LEFT_FOLDER = "left"
_MARKS_KEPT = 4096
# Where the reason is when a server does not become ready: first what the workers wrote, then what TorchServe did.
_TELLING_LOGS = ("model_log.log", "ts_log.log")
# What may be in a run folder that no server was started from yet: keys of an edge and its folder, films of the page.
_BEFORE_A_START = frozenset({"keys", "keys.lock", "edge", "examples", "logs", "lost+found"})


@dataclass(frozen=True)
class ServerState:
    """What the pid file says about the server that holds a run folder.

    Parameters
    ----------
    pid
        The supervisor, `pneumoscan serve`: the one to signal.
    jvm_pid
        TorchServe's front end; also the id of the process group that holds its workers. 0 until it is started.
    url, metrics_url
        Inference and metrics addresses.
    temp
        Temporary folder of the server.
    versions
        Versions it was started with, the default one first.
    digests
        SHA-256 of the archive of each of them, as it was when the server started.
    store
        Model store of the server.
    capacity
        What each version got; None in a file of an older server.
    trust
        File of the keys that archives must be signed with; empty where none must.
    """

    pid: int
    jvm_pid: int
    url: str
    metrics_url: str
    temp: str
    versions: list[str]
    digests: dict[str, str] = field(default_factory=dict)
    store: str = ""
    capacity: Capacity | None = None
    trust: str = ""

    def with_jvm(self, jvm_pid: int) -> ServerState:
        """The same state with the JVM's process id."""
        return replace(self, jvm_pid=jvm_pid)


@dataclass(frozen=True)
class RunDir:
    """Paths under one run folder. Two servers with different run folders and ports do not touch each other."""

    path: Path

    @property
    def socket(self) -> Path:
        """Unix socket of the management API."""
        return self.path / "management.sock"

    @property
    def token(self) -> Path:
        """Token of the management port, while there is one."""
        return self.path / "management.token"

    @property
    def config(self) -> Path:
        """TorchServe's configuration, as it was started with."""
        return self.path / "config.properties"

    @property
    def logs(self) -> Path:
        """TorchServe's log files, and serve.log of a detached server."""
        return self.path / "logs"

    @property
    def serve_log(self) -> Path:
        """What a detached server has to say."""
        return self.logs / "serve.log"

    @property
    def ends(self) -> Path:
        """How often a server or a worker ended without being asked to; see `pneumoscan.server.pulse`."""
        return self.logs / "ends.json"

    @property
    def pid_file(self) -> Path:
        """`ServerState` of the running server, as JSON."""
        return self.path / "server.json"

    @property
    def _temp(self) -> Path:
        return self.path / "tmp"

    @property
    def lock(self) -> Path:
        """Locked while a server runs."""
        return self.path / "server.lock"

    def create(self) -> None:
        """Make the folder and its logs, for this user only.

        Raises
        ------
        RunFolderError
            The folder cannot be made, the management socket's path would not fit, or it is somebody's own folder.
        """
        if len(os.fsencode(self.socket)) > SOCKET_PATH_LIMIT:
            raise RunFolderError(
                f"{self.socket} is longer than the {SOCKET_PATH_LIMIT} bytes of a unix socket: give a shorter --run-dir"
            )
        try:
            # Before anything in it is changed: it may be somebody's home.
            if (foreign := self._foreign()) is not None:
                raise RunFolderError(f"{self.path} is not ours, it holds {foreign}: give another --run-dir")
            self.logs.mkdir(parents=True, exist_ok=True)
            # An open folder would give the management API to every user of the machine.
            self.path.chmod(0o700)
        except OSError as error:
            raise RunFolderError(f"cannot use {self.path} as run folder: {error}") from error

    def _foreign(self) -> str | None:
        """The name of something that no run folder holds, in a folder that never was one."""
        if self.lock.exists() or not self.path.exists():
            return None
        if self.path.stat().st_uid != os.geteuid():
            return "another user's files"
        return min((path.name for path in self.path.iterdir() if path.name not in _BEFORE_A_START), default=None)

    def locked(self, handed_down: int | None = None, noun: str = "a server") -> AbstractContextManager[int]:
        """Hold the folder; give the lock's file descriptor. The kernel lets go when its last holder ends, in any way.

        Parameters
        ----------
        handed_down
            File descriptor under which the process that started this one holds it already.

        Raises
        ------
        AlreadyRunning
            Another process holds it.
        """
        why = f"{noun} already runs from {self.path}: stop it with --stop, or give another --run-dir"
        return holding(self.lock, handed_down=handed_down, busy=AlreadyRunning(why))

    def is_locked(self) -> bool:
        """Whether a server holds the folder."""
        return is_locked(self.lock)

    def read_state(self) -> ServerState | None:
        """What the pid file says, or None when there is none that can be read."""
        try:
            read = json.loads(self.pid_file.read_text())
            capacity = read.pop("capacity", None)
            return ServerState(**read, capacity=None if capacity is None else Capacity(**capacity))
        except (OSError, ValueError, TypeError, AttributeError):
            return None

    def write_state(self, state: ServerState) -> None:
        """Write the pid file, whole or not at all."""
        write_text(self.pid_file, json.dumps(asdict(state), indent=2) + "\n")

    def create_temp(self) -> Path:
        """Make an empty temporary folder whose path leaves room for the workers' sockets.

        Returns
        -------
        Path
            ``tmp`` in the run folder, or a private folder under the system's when that path is too long.

        Raises
        ------
        RunFolderError
            Both are too long.
        """
        temp = self._temp
        shutil.rmtree(temp, ignore_errors=True)  # what a killed server left
        if _fits(temp):
            temp.mkdir(mode=0o700, exist_ok=True)  # a file system of its own cannot be removed, but is empty
            temp.chmod(0o700)
            return temp
        elsewhere = Path(tempfile.mkdtemp(prefix=_TEMP_PREFIX))
        if not _fits(elsewhere):
            elsewhere.rmdir()
            raise RunFolderError(
                f"{temp} and {elsewhere} are too long for unix sockets: give a shorter --run-dir or TMPDIR"
            )
        return elsewhere

    def mark_left(self, state: ServerState, ticket: str) -> None:
        """Tell a running server's workers that the client of a request has left.

        Marks are empty files, read by `cxr.serving.arrival`; those of requests that must have ended by now are removed.
        """
        folder = Path(state.temp, LEFT_FOLDER)
        with contextlib.suppress(OSError):  # another user's server, or one that just ended
            (folder / ticket).touch()
            if len(marks := list(folder.iterdir())) > 2 * _MARKS_KEPT:
                for old in sorted(marks, key=os.path.getmtime)[:-_MARKS_KEPT]:
                    old.unlink(missing_ok=True)

    def clean_leftovers(self) -> None:
        """Remove what a server that was killed could not; only while the folder is `locked`."""
        state = self.read_state()
        # A pid file is only a file: nothing else than a temporary folder of ours is removed on its word.
        if state is not None and Path(state.temp).name.startswith(_TEMP_PREFIX):
            shutil.rmtree(state.temp, ignore_errors=True)
        clear_drafts(self.path)
        self.clean(self._temp)

    def log_marks(self) -> dict[str, int]:
        """The present length of each log file that `last_lines` reads."""
        return {name: _size(self.logs / name) for name in _TELLING_LOGS}

    def last_lines(self, marks: dict[str, int], count: int = 25, version: str | None = None) -> str:
        """The last lines that workers, or else TorchServe, wrote to their logs after `log_marks`.

        Parameters
        ----------
        version
            Only this version's workers: those of the others go on answering, and write more.
        """
        for name in _TELLING_LOGS:
            path = self.logs / name
            # A file that is shorter than it was has been rotated: all of it is new.
            begin = marks[name] if marks[name] <= _size(path) else 0
            if _size(path) <= begin:
                continue
            with path.open("rb") as log:
                log.seek(begin)
                lines = log.read().decode(errors="replace").splitlines()
            if version is not None:
                lines = [line for line in lines if f"_{version}-std" in line.partition(" MODEL_LOG - ")[0]]
            lines = lines[-count:]
            if not lines:
                continue
            # Without "date [INFO ] W-9000-pneumonia_1.0.0-stdout MODEL_LOG - ", wider than what it stands before.
            return "".join([f"--- {path}\n", *(line.split(" MODEL_LOG - ", 1)[-1] + "\n" for line in lines)])
        return ""

    def clean(self, temp: Path) -> None:
        """Remove what only a running server needs; logs and configuration stay to be read."""
        shutil.rmtree(temp, ignore_errors=True)
        for path in (self.socket, self.token, self.pid_file, self.path / "key_file.json"):
            path.unlink(missing_ok=True)


def make_record_folder(folder: Path) -> Path:
    """Make the folder of the record of predictions, for this user only; give its absolute path.

    Raises
    ------
    RunFolderError
        It cannot be made or written to.
    """
    folder = folder.absolute()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RunFolderError(
            f"cannot write predictions to {folder} ({error.strerror}): give another --record"
        ) from error
    return folder


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _fits(temp: Path) -> bool:
    return len(os.fsencode(temp)) + len(WORKER_SOCKET_NAME) <= SOCKET_PATH_LIMIT


# How long TorchServe may take to finish what it is answering before it is killed.
GRACE_S = 30.0


def daemon(run_dir: RunDir) -> Daemon:
    """The server of a run folder, as it is started, asked and stopped in the background."""

    def running() -> Running | None:
        state = run_dir.read_state()
        return None if state is None else Running(state.pid, state.url, state.jvm_pid)

    return Daemon(
        program="pneumoscan serve",
        noun="server",
        folder=run_dir.path,
        log=run_dir.serve_log,
        state_file=run_dir.pid_file,
        lock=run_dir.lock,
        running=running,
        clean=run_dir.clean_leftovers,
        stop_s=GRACE_S + 15.0,  # after its grace TorchServe is killed at once; the rest is time to clear up
        killed_then=True,
    )
