"""Servers in the background: started and waited for, asked whether they answer, stopped; known by their run folder."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pneumoscan.errors import NeverReady
from pneumoscan.files import is_locked, locked
from pneumoscan.processes import STDERR, STDOUT, Console, kill_group, write_out


@dataclass(frozen=True)
class Running:
    """What the state file of a server says of it.

    Attributes
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

    Attributes
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

    def detach(self, command: Sequence[str], remark: str = "") -> int:
        """Start it in the background and wait until it answers; give the exit status.

        Parameters
        ----------
        command
            A whole command line, all paths in it absolute; ``--notify-fd N`` is added, which `Notifier` takes. What
            stands behind a ``--`` is for another program.
        remark
            Printed to stderr once it answers.
        """
        hear, notify = os.pipe()
        end = command.index("--") if "--" in command else len(command)
        with self.log.open("w") as log:
            child = subprocess.Popen(
                [*command[:end], "--notify-fd", str(notify), *command[end:]],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(notify,),
                start_new_session=True,
            )
        os.close(notify)
        try:
            # The end of the pipe is also how a child that died without a word is noticed.
            with os.fdopen(hear, encoding="utf-8", errors="replace") as pipe:
                verdict, _, text = pipe.read().partition("\n")
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
        """Give 0 if it runs and nothing keeps it from answering, else 1 and one line of why on stderr."""
        found = self.running()
        if found is None or not is_locked(self.lock):
            why: str | None = f"no {self.noun} runs from {self.folder}"
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
        if found is None:
            print(f"{self.program}: {self.state_file} cannot be read; end the {self.noun} by hand", file=sys.stderr)
            return 1
        _signal(found, signal.SIGTERM)
        if not self._ends_within(self.stop_s):
            if self.killed_then:
                _signal(found, signal.SIGKILL)
            if not self.killed_then or not self._ends_within(5.0):
                print(f"{self.program}: process {found.pid} does not end", file=sys.stderr)
                return 1
        self._clean()
        print(f"stopped: {found.url}")
        return 0

    def _clean(self) -> None:
        # One that starts just now cleans up itself.
        with contextlib.suppress(BlockingIOError), locked(self.lock):
            self.clean()

    def _ends_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while is_locked(self.lock):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True


class Notifier:
    """Says how a start went: to a person at the terminal, or to the `Daemon.detach` that waits at the end of a pipe."""

    def __init__(self, pipe: int | None) -> None:
        self._pipe = pipe
        self.is_detached = pipe is not None
        self._errors = Console(partial(write_out, STDERR))
        self._answers = self._errors if self.is_detached else Console(partial(write_out, STDOUT))

    def ready(self, text: str) -> None:
        """Say once that it answers."""
        self._answers.write(f"{text}\n")
        self._answers.finish()
        self._send(f"ready\n{text}")

    def failed(self, text: str) -> None:
        """Say why it failed; after it was ready, only the log of a detached one gets it."""
        self.remark(text)
        self._send(f"failed\n{text}")

    def remark(self, text: str) -> None:
        """Say something on stderr that is no verdict."""
        self._errors.write(f"{text}\n")
        self._errors.finish()

    def _send(self, message: str) -> None:
        if self._pipe is not None:
            with contextlib.suppress(OSError):  # the starter has gone: nobody listens
                os.write(self._pipe, message.encode())
            os.close(self._pipe)
            self._pipe = None


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
