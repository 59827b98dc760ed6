"""Child processes that leave nobody behind, and signals as something to wait for."""

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
from typing import Final

STDOUT: Final = 1
STDERR: Final = 2
_LAST_LINES: Final = 30
_MOST_WAITING: Final = 1000
_PATIENCE_S: Final = 2.0
# <sys/prctl.h>
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36


class Console:
    """Shows lines in a thread of its own, to whoever may have gone, halted the terminal or filled the disk.

    Its caller never waits and never fails. Lines for which there is no room, or that cannot be written, are dropped,
    and how many is said before the next one that can.

    Parameters
    ----------
    show
        Writes a text; may raise OSError and may take for ever.
    """

    def __init__(self, show: Callable[[str], object]) -> None:
        self._show = show
        self._waiting: deque[str] = deque()
        self._changed = threading.Condition()
        self._dropped = 0
        self._is_busy = False
        self._is_started = False

    def write(self, text: str) -> None:
        """Show a text when there is time."""
        with self._changed:
            if not self._is_started:  # not before there is something: a process with threads is forked less safely
                self._is_started = True
                threading.Thread(target=self._run, daemon=True).start()
            if len(self._waiting) < _MOST_WAITING:
                self._waiting.append(text)
                self._changed.notify_all()
            else:
                self._dropped += 1

    def finish(self, patience_s: float = _PATIENCE_S) -> bool:
        """Wait, for a while, until what was written has been shown; give whether it has."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._is_busy, patience_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._is_busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: bool(self._waiting))
                self._is_busy = True
                text, dropped = self._waiting.popleft(), self._dropped
            try:
                if dropped:
                    self._show(f"({dropped} lines were not shown)\n")
                    with self._changed:
                        self._dropped -= dropped
                self._show(text)
            except (OSError, ValueError):  # who read it has gone, the disk is full, the stream is closed
                with self._changed:
                    self._dropped += 1


def write_out(descriptor: int, text: str) -> None:
    """Write a whole text to a file descriptor.

    Not through ``sys.stderr``: its lock, held by a thread that a halted terminal keeps, would stop all others and the
    end of the process.
    """
    data = text.encode("utf-8", "replace")
    while data:
        data = data[os.write(descriptor, data) :]


class StopRequest:
    """SIGTERM, SIGINT and SIGHUP as something to wait for. A second signal asks to hurry."""

    def __init__(self) -> None:
        self.requested = threading.Event()
        self.hurry = threading.Event()

    def listen(self) -> None:
        """Take the three signals from now on; in the main thread only. A SIGHUP that nohup took away stays away."""
        hangup = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
        for number in (signal.SIGTERM, signal.SIGINT, *hangup):
            signal.signal(number, self._take)

    def _take(self, _number: int, _frame: FrameType | None) -> None:
        (self.hurry if self.requested.is_set() else self.requested).set()


class Child:
    """A program in a session of its own, with whatever it starts itself; it ends with its parent.

    A terminal's Ctrl-C reaches the parent alone, and the child's id names the process group of all that it starts.

    Parameters
    ----------
    command, environment, folder
        What is run, with which variables, in which working folder; by default the parent's.
    show
        Gets each line that it writes, through a `Console`; without it, it writes where its parent does.
    errors_too
        Whether `show` gets what it writes to stderr as well.
    keep_open
        File descriptors it holds too.
    umask
        Of the files it makes; by default the parent's.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        show: Callable[[str], object] | None = None,
        errors_too: bool = True,
        keep_open: Sequence[int] = (),
        umask: int = -1,
    ) -> None:
        self._console = None if show is None else Console(show)
        self._is_quiet = False
        self._last: deque[str] = deque(maxlen=_LAST_LINES)
        self._process = subprocess.Popen(
            command,
            env=None if environment is None else dict(environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=None if show is None else subprocess.PIPE,
            stderr=subprocess.STDOUT if show is not None and errors_too else None,
            text=True,
            errors="replace",
            pass_fds=keep_open,
            umask=umask,
            start_new_session=True,
            preexec_fn=die_with_parent(),
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Its process id, which is also its process group's."""
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """What it ended with, or None while it runs; -N for signal N."""
        return self._process.poll()

    def quiet(self) -> None:
        """Show no more of what it writes."""
        self._is_quiet = True

    def last_output(self) -> str:
        """The last lines that it wrote, shown or not."""
        self._reader.join(timeout=1.0 if self.exit_status is not None else 0.0)
        return "".join(self._last)

    def signal(self, number: signal.Signals) -> None:
        """Signal it, unless it has ended."""
        if self.exit_status is None:
            self._process.send_signal(number)

    def wait(self) -> int:
        """Wait until it ends by itself; give its exit status."""
        return self._process.wait()

    def ends_within(self, seconds: float, hurry: Callable[[], bool] = lambda: False) -> bool:
        """Wait until it ends, for a while or until there is no time for that; give whether it has."""
        deadline = time.monotonic() + seconds
        while self.exit_status is None and time.monotonic() < deadline and not hurry():
            time.sleep(0.05)
        return self.exit_status is not None

    def end(self, grace_s: float, hurry: Callable[[], bool] = lambda: False) -> None:
        """End it: it gets SIGTERM and some time to finish, what is left of its group nothing."""
        self.signal(signal.SIGTERM)
        if not self.ends_within(grace_s, hurry):
            self._process.kill()
        self._process.wait()
        kill_group(self.pid)
        self._reader.join(timeout=5.0)
        if self._console is not None:
            self._console.finish()

    def _read(self) -> None:
        # Somebody has to read the pipe, always, or a child that writes much stops.
        for line in self._process.stdout or ():
            self._last.append(line)
            if self._console is not None and not self._is_quiet:
                self._console.write(line)


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


def birth(pid: int) -> str | None:
    """When a process was started, in the kernel's ticks since the machine was; None where it has ended.

    With it a process id names one process for good, since the kernel gives an id again. Empty where the system does not
    tell.

    References
    ----------
    proc(5), ``/proc/pid/stat``: fields 3 (state; Z has ended and waits for its parent to look) and 22 (starttime).
    """
    try:
        # The second field is the command in parentheses, and may hold spaces and parentheses itself.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return ""
    return None if fields[0] in "ZX" else fields[19]


def adopt_orphans() -> None:
    """Become the parent of processes whose own parent died (Linux), so that they are gone when they have been killed.

    Without this they wait for process 1, which in a container often looks after nobody.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> Callable[[], None] | None:
    """What a child runs before it becomes another program, so that ``kill -9`` of its parent ends it too."""
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
