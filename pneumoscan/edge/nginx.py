"""The processes of an edge: two nginx, the checker beside them, and logs that stay small."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pneumoscan.errors import EdgeError
from pneumoscan.server.supervisor import die_with_parent

LOG_BYTES: Final = 10 * 1024 * 1024
LOGS_KEPT: Final = 3
_SYSLOG: Final = re.compile(r"^<\d+>\w{3} [ \d]\d [\d:]{8} ")
_UPSTREAM: Final = re.compile(r', upstream: "(?:https?://)?([^/"]+)')


def find_nginx() -> str:
    """Give the path of nginx.

    Raises
    ------
    EdgeError
        There is none.
    """
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise EdgeError("no nginx was found: install it (Debian and Ubuntu: nginx-light)")
    return found


class Nginx:
    """One nginx in the foreground of a run folder; it ends with its parent.

    Parameters
    ----------
    program, folder : str, Path
        nginx, and the folder from which all of its paths count.
    config : str
        Name of its configuration there.
    """

    def __init__(self, program: str, folder: Path, config: str) -> None:
        self._command = [program, "-p", str(folder), "-c", str(folder / config)]
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def check(self) -> None:
        """Let nginx read its configuration.

        Raises
        ------
        EdgeError
            It does not take it; the message is nginx's own.
        """
        done = subprocess.run(
            [*self._command, "-e", "stderr", "-t", "-q"],
            cwd=self._folder,
            env=_ENVIRONMENT,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode or done.stderr:
            raise EdgeError(f"nginx does not take its configuration: {done.stderr.strip()}")

    def start(self) -> None:
        """Start it."""
        self._process = subprocess.Popen(
            # nginx 1.22 writes every line to a file as well, whatever error_log says, and quotes requests in it.
            [*self._command, "-e", "/dev/null"],
            cwd=self._folder,
            env=_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # a terminal's Ctrl-C would make it drop what it is answering
            preexec_fn=die_with_parent(),
        )

    @property
    def pid(self) -> int:
        """Process id of its master; 0 before it is started."""
        return self._process.pid if self._process else 0

    @property
    def exit_status(self) -> int | None:
        """What it ended with, or None while it runs."""
        return self._process.poll() if self._process else None

    def tell(self, number: signal.Signals) -> None:
        """Send its master a signal: HUP to read its certificate again, USR1 to open its logs again."""
        if self._process and self.exit_status is None:
            self._process.send_signal(number)

    def drain(self, patience_s: float, hurry: Callable[[], bool] = lambda: False) -> bool:
        """Take no new request, finish those on their way, end; give whether all of them were finished."""
        self.tell(signal.SIGQUIT)
        deadline = time.monotonic() + patience_s
        while self._process and self.exit_status is None:
            if time.monotonic() > deadline or hurry():
                self.tell(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(timeout=5.0)
                self._kill_rest()
                return False
            time.sleep(0.05)
        self._kill_rest()
        return True

    def _kill_rest(self) -> None:
        """Kill what is left of its group: the workers of a master that was killed wait for nobody else to do it."""
        if self._process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()


# Nothing of the shell: nginx needs none of it.
_ENVIRONMENT: Final = {"PATH": os.defpath, "LANG": "C"}


def without_quotes(line: str) -> str:
    """Give a line of nginx's error log without what it quotes of a request: path, query, header, host.

    Kept are the moment, what happened and which server it happened with.
    """
    line = _SYSLOG.sub("", line.strip())
    what, _, rest = line.partition(", client: ")
    upstream = _UPSTREAM.search(f", {rest}") if rest else _UPSTREAM.search(line)
    before, *quoted = what.split('"')
    # What is quoted may hold quotes itself, or be cut off: only after a single pair comes nginx's own text again.
    said = f'{before}"..."{quoted[1] if len(quoted) == 2 else ""}' if quoted else before
    return said + (f", server {upstream.group(1)}" if upstream else "")


class ErrorLog:
    """Takes what both nginx have to say from a unix socket and writes it down without what it quotes of requests."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "errors.sock"
        self._log = folder / "logs" / "error.log"
        self._path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self._path))
        self._socket.settimeout(0.5)
        self._stop = threading.Event()
        self._writing = threading.Lock()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        """Add a line."""
        with self._writing, contextlib.suppress(OSError):  # a full disk must not end the edge
            rotate(self._log)
            with self._log.open("a", encoding="utf-8", errors="replace") as log:
                log.write(line + "\n")

    def stop(self) -> None:
        """Write what has come and stop."""
        self._stop.set()
        self._thread.join(timeout=5.0)
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _read(self) -> None:
        while True:
            try:
                line = self._socket.recv(8192).decode("utf-8", "replace")
            except TimeoutError:
                if self._stop.is_set():
                    return
                continue
            self.write(without_quotes(line))


def rotate(path: Path, limit: int = LOG_BYTES) -> bool:
    """Move a log that has grown past a limit out of the way, the oldest away; give whether it was."""
    try:
        if path.stat().st_size < limit:
            return False
    except OSError:
        return False
    for number in range(LOGS_KEPT - 1, 0, -1):
        older = path.with_name(f"{path.name}.{number}")
        if older.exists():
            older.replace(path.with_name(f"{path.name}.{number + 1}"))
    path.replace(path.with_name(f"{path.name}.1"))
    return True
