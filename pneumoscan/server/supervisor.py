"""Supervise TorchServe's JVM: start it, wait until it can answer, pass signals on, leave no process behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO

from pneumoscan.errors import NeverReady

# How long TorchServe may take to finish what it is answering before it is killed.
GRACE_S = 30.0
_POLL_S = 0.2
# <sys/prctl.h>
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

Check = Callable[[], str | None]


class StopRequest:
    """SIGTERM, SIGINT and SIGHUP as something to wait for. A second signal asks to hurry."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.hurry = threading.Event()

    def listen(self) -> None:
        """Take the three signals from now on; in the main thread only. A SIGHUP that nohup took away stays away."""
        hangup = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
        for number in (signal.SIGTERM, signal.SIGINT, *hangup):
            signal.signal(number, self._take)

    def _take(self, _number: int, _frame: FrameType | None) -> None:
        (self.hurry if self.asked.is_set() else self.asked).set()


class ServerProcess:
    """TorchServe's JVM and, in its process group, its workers.

    Parameters
    ----------
    command, environment, folder
        What is run, with which variables, in which working folder.
    keep_open : int
        File descriptor the JVM holds as well: the run folder's lock, which shows a JVM whose supervisor was killed.
    show : IO[str]
        Where the JVM's output goes for as long as `quiet` has not been called.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], folder: Path, keep_open: int, show: IO[str]
    ) -> None:
        self._show: IO[str] | None = show
        self._last: deque[str] = deque(maxlen=30)
        self._process = subprocess.Popen(
            command,
            env=dict(environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            pass_fds=(keep_open,),
            # A session of its own: the terminal's Ctrl-C reaches only us, and its id names the JVM and all its workers.
            start_new_session=True,
            preexec_fn=die_with_parent(),
        )
        # TorchServe 0.12.0 writes each log line to its console as well; somebody has to read that pipe.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Process id of the JVM, which is also its process group's."""
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """What the JVM ended with, or None while it runs; -N for signal N."""
        return self._process.poll()

    def quiet(self) -> None:
        """Show no more output: TorchServe's own log files have all of it and are rotated."""
        self._show = None

    def last_output(self) -> str:
        """Give the last lines that the JVM wrote to its console."""
        self._reader.join(timeout=1.0 if self.exit_status is not None else 0.0)
        return "".join(self._last)

    def end(self, hurry: threading.Event) -> None:
        """End the JVM, then whatever is left of its group.

        TorchServe gets `GRACE_S` to finish; a worker that outlived its JVM gets nothing: nobody can ask it any more.
        """
        if self.exit_status is None:
            self._process.terminate()
            deadline = time.monotonic() + GRACE_S
            while self.exit_status is None and time.monotonic() < deadline and not hurry.wait(0.05):
                pass
            if self.exit_status is None:
                self._process.kill()
        self._process.wait()
        kill_group(self.pid)
        self._reader.join(timeout=5.0)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._last.append(line)
            if (show := self._show) is not None:
                show.write(line)
                show.flush()


def kill_group(group: int, patience_s: float = 5.0) -> None:
    """Kill every process of a group and wait until none is left."""
    deadline = time.monotonic() + patience_s
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(group, signal.SIGKILL)
            # A dead process stays in its group until its parent has looked at it: see `adopt_orphans`.
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-group, os.WNOHANG) != (0, 0):
                    pass
            time.sleep(0.02)


def adopt_orphans() -> None:
    """Become the parent of workers whose JVM died (Linux), so that they are gone when they have been killed.

    Without this they wait for process 1, which in a container often looks after nobody.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def wait_until_ready(server: ServerProcess, stop: StopRequest, check: Check, timeout_s: float) -> str | None:
    """Wait until a server can answer.

    Parameters
    ----------
    check : callable
        Gives None when the server is ready and otherwise what is missing; raises `NeverReady` when waiting is no use.
    timeout_s : float
        How long to wait, in seconds.

    Returns
    -------
    str or None
        None when the server is ready or was asked to stop, otherwise why it never was.
    """
    deadline = time.monotonic() + timeout_s
    missing: str | None = "not started"
    while time.monotonic() < deadline:
        if stop.asked.is_set():
            return None
        if server.exit_status is not None:
            return f"TorchServe ended while starting (exit status {server.exit_status})"
        try:
            missing = check()
        except NeverReady as error:
            return str(error)
        if missing is None:
            return None
        stop.asked.wait(_POLL_S)
    return f"not ready within {timeout_s:g} s: {missing}"


def wait_until_asked(server: ServerProcess, stop: StopRequest) -> str | None:
    """Wait for a signal; give None after one, or what happened when the JVM ended without."""
    while not stop.asked.wait(_POLL_S):
        if server.exit_status is not None:
            return f"TorchServe ended by itself (exit status {server.exit_status})"
    return None


def die_with_parent() -> Callable[[], None] | None:
    """Give what a child runs before it becomes another program, so that ``kill -9`` of its parent ends it too."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)  # loaded here: between fork and exec nothing may be
    parent = os.getpid()

    def prepare() -> None:
        # SIGTERM, not SIGKILL: the JVM's own shutdown takes its workers along, and so does gunicorn's.
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return prepare
