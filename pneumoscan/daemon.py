"""Servers in the background: started and waited for, asked whether they answer, stopped; known by their run folder."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from pneumoscan.errors import NeverReady
from pneumoscan.files import is_locked, locked
from pneumoscan.processes import STDERR, STDOUT, Console, birth, kill_group, write_out

_STARTING: Final = "starting "  # before a line that is no verdict yet
_MORE_TIME_S: Final = 60  # of a start that comes along


@contextlib.contextmanager
def holding(lock: Path, *, handed_down: int | None = None, busy: Exception | None = None) -> Iterator[int]:
    """Hold the lock of a run folder under this process's name; give its file descriptor.

    Parameters
    ----------
    handed_down
        File descriptor under which the process that started this one holds it already.
    busy
        As in `pneumoscan.files.locked`.
    """
    if handed_down is None:
        with locked(lock, busy=busy) as held:
            _name_holder(held, os.getpid())
            yield held
    else:
        with os.fdopen(handed_down, "a"):
            _name_holder(handed_down, os.getpid())
            yield handed_down


def _name_holder(held: int, pid: int) -> None:
    """Write into a lock file who is to be signalled, from the first moment that it is held."""
    with contextlib.suppress(OSError):  # a full disk: there is the state file as well
        os.ftruncate(held, 0)
        os.write(held, f"{pid} {birth(pid)}\n".encode())


def _holder(lock: Path) -> int | None:
    """The process that a lock file names, if it lives."""
    try:
        pid, _, born = lock.read_text().rstrip("\n").partition(" ")
        return int(pid) if birth(int(pid)) == born else None
    except (OSError, ValueError):
        return None


@dataclass(frozen=True)
class Running:
    """What the state file of a server says of it.

    Parameters
    ----------
    pid
        The process to signal.
    url
        Where it answers.
    group
        Process group that may outlive the process, and holds the lock then; 0 for none.
    """

    pid: int
    url: str
    group: int = 0


@dataclass(frozen=True)
class Daemon:
    """One kind of server in one run folder.

    Parameters
    ----------
    program, noun
        What messages call its command line and itself.
    folder, log, state_file, lock
        Its run folder and the files there: what it writes in the background, and the two that show that it runs.
    running
        Reads the state file; None where there is none that can be read.
    clean
        Removes what one that was killed left; called while the folder is locked.
    stop_s
        How long a stop may take.
    killed_then
        Whether it is killed when that is over.
    """

    program: str
    noun: str
    folder: Path
    log: Path
    state_file: Path
    lock: Path
    running: Callable[[], Running | None]
    clean: Callable[[], object]
    stop_s: float
    killed_then: bool = False

    def detach(self, command: Sequence[str], lock: int, remark: str = "") -> int:
        """Start it in the background and wait until it answers; give the exit status.

        Parameters
        ----------
        command
            A whole command line, all paths in it absolute; ``--notify-fd N``, which `Notifier` takes, and
            ``--lock-fd N``, which `holding` takes, are added. What stands behind a ``--`` is for another program.
        lock
            The lock as `holding` gives it. It is handed down: from the first moment on nobody else can start, and a
            stop finds whom to end.
        remark
            Printed to stderr once it answers.
        """
        hear, notify = os.pipe()
        end = command.index("--") if "--" in command else len(command)
        if self.log.exists():  # why the last one ended may be wanted still
            self.log.replace(self.log.with_name(f"{self.log.name}.1"))
        with self.log.open("w") as log:
            child = subprocess.Popen(
                [*command[:end], "--notify-fd", str(notify), "--lock-fd", str(lock), *command[end:]],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(notify, lock),
                start_new_session=True,
            )
        os.close(notify)
        _name_holder(lock, child.pid)
        try:
            # The end of the pipe is also how a child that died without a word is noticed.
            with os.fdopen(hear, encoding="utf-8", errors="replace") as pipe:
                verdict, text = _verdict(pipe)
        except KeyboardInterrupt:
            child.terminate()
            child.wait()
            print(f"{self.program}: interrupted; the {self.noun} was stopped", file=sys.stderr)
            return 1
        if verdict == "ready":
            print(text)
            if remark:
                print(remark, file=sys.stderr)
            return 0
        status = child.wait()
        print((text or self.log.read_text(errors="replace")).rstrip("\n"), file=sys.stderr)
        return status or 1

    def ready(self, why_not: Callable[[Running], str | None]) -> int:
        """0 if it runs and nothing keeps it from answering, else 1 and one line of why on stderr."""
        found = self.running()
        if not is_locked(self.lock):
            why: str | None = f"no {self.noun} runs from {self.folder}"
        elif found is None:
            why = f"{self.state_file} cannot be read: the {self.noun} starts, or the file was changed"
        else:
            try:
                why = why_not(found)
            except NeverReady as error:
                why = str(error)
        if found is None or why is not None:
            print(f"not ready: {why}", file=sys.stderr)
            return 1
        print(f"ready: {found.url}")
        return 0

    def stop(self) -> int:
        """Stop it and wait until its last process is gone; give the exit status."""
        found = self.running()
        if not is_locked(self.lock):
            if found is not None:
                self._clean()
            print(f"no {self.noun} runs from {self.folder}")
            return 0
        found = self._found()
        if found is None:
            print(f"{self.program}: {self.state_file} cannot be read; end the {self.noun} by hand", file=sys.stderr)
            return 1
        _signal(found, signal.SIGTERM)
        if not self._ends_within(self.stop_s, found.pid):
            if self.killed_then:
                _signal(self._found() or found, signal.SIGKILL)
            if not self.killed_then or not self._ends_within(5.0, found.pid):
                print(f"{self.program}: process {found.pid} does not end", file=sys.stderr)
                return 1
        self._clean()
        print(f"stopped: {found.url}")
        return 0

    def _found(self, patience_s: float = 2.0) -> Running | None:
        """Who is to be signalled: the name in the lock, written just after it is taken, before that in the state."""
        deadline = time.monotonic() + patience_s
        while True:
            found, holder = self.running(), _holder(self.lock)
            if holder is not None:
                return Running(holder, str(self.folder)) if found is None else replace(found, pid=holder)
            if found is not None or time.monotonic() > deadline:
                return found
            time.sleep(0.02)

    def _clean(self) -> None:
        # One that starts just now cleans up itself.
        with contextlib.suppress(BlockingIOError), locked(self.lock):
            self.clean()

    def _ends_within(self, seconds: float, signalled: int) -> bool:
        """Wait for its last process, and for the one that was signalled even where it has let go of the lock."""
        deadline, born = time.monotonic() + seconds, birth(signalled)
        while is_locked(self.lock) or (born is not None and birth(signalled) == born):
            if (holder := _holder(self.lock)) not in (None, signalled):
                # The lock was just being handed down from a starter to its server.
                assert holder is not None
                signalled, born = holder, birth(holder)
                _signal(Running(signalled, ""), signal.SIGTERM)
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True


def _verdict(lines: Iterable[str]) -> tuple[str, str]:
    """The verdict of a starting server and its text; how it comes along is shown meanwhile."""
    verdict, text = "", ""
    for line in lines:
        if verdict:
            text += line
        elif line.startswith(_STARTING):
            print(line.removeprefix(_STARTING), end="", file=sys.stderr, flush=True)
        else:
            verdict = line.rstrip("\n")
    return verdict, text


class Notifier:
    """Says how a start went: to a person at the terminal, or to the `Daemon.detach` that waits at the end of a pipe."""

    def __init__(self, pipe: int | None) -> None:
        self._pipe = pipe
        self.is_detached = pipe is not None
        self._beaten = 0.0
        self._errors = Console(partial(write_out, STDERR))
        self._answers = self._errors if self.is_detached else Console(partial(write_out, STDOUT))

    @property
    def starter_has_gone(self) -> bool:
        """Whether the `Daemon.detach` that waited has ended: nobody would know of the server."""
        if self._pipe is None:
            return False
        poll = select.poll()
        poll.register(self._pipe, 0)  # an error is reported whatever is asked for
        return bool(poll.poll(0))

    def ready(self, text: str) -> bool:
        """Say once that it answers; give whether who waits for it, if anybody does, was there to hear it."""
        self._answers.write(f"{text}\n")
        self._answers.finish()
        _tell_manager("READY=1")
        return self._send(f"ready\n{text}")

    def starting(self, text: str) -> None:
        """Say how a start comes along, a line now and then; systemd gives it more time for that."""
        self.remark(text)
        _tell_manager(f"STATUS={text}\nEXTEND_TIMEOUT_USEC={_MORE_TIME_S * 1_000_000}")
        if self._pipe is not None:
            with contextlib.suppress(OSError):  # who started it has gone, which is noticed elsewhere
                os.write(self._pipe, f"{_STARTING}{text}\n".encode())

    def beat(self) -> None:
        """Tell systemd's watchdog, where there is one, that this process does not hang; at most once a second."""
        if time.monotonic() - self._beaten >= 1.0:
            self._beaten = time.monotonic()
            _tell_manager("WATCHDOG=1")

    def failed(self, text: str) -> None:
        """Say why it failed; after it was ready, only the log of a detached one gets it."""
        self.remark(text)
        self._send(f"failed\n{text}")

    def remark(self, text: str) -> None:
        """Say something on stderr that is no verdict."""
        self._errors.write(f"{text}\n")
        self._errors.finish()

    def _send(self, message: str) -> bool:
        pipe, self._pipe = self._pipe, None
        if pipe is None:
            return True
        try:
            os.write(pipe, message.encode())
        except OSError:
            return False
        finally:
            os.close(pipe)
        return True


def _tell_manager(state: str) -> None:
    """Send systemd a state where it asked for one: sd_notify(3), a datagram to the socket that it names."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.setblocking(False)
        manager.sendto(state.encode(), address.replace("@", "\0", 1) if address.startswith("@") else address)


def _signal(found: Running, number: signal.Signals) -> None:
    """Signal the process, or the group that outlived it: the lock is held, so one of the two still has its id."""
    try:
        os.kill(found.pid, number)
    except ProcessLookupError:
        if found.group:
            with contextlib.suppress(ProcessLookupError):  # it ended just now
                os.kill(found.group, number)
    if number == signal.SIGKILL and found.group:
        kill_group(found.group)
