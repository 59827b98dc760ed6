"""A real TorchServe for a test: a run folder of its own, and no process left whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pneumoscan.server.run_folder import RunDir
from tests.places import REPOSITORY
from tests.ports import free_ports


@dataclass
class Server:
    """One run folder and the command line that is used on it."""

    folder: Path
    ports: list[int] = field(default_factory=lambda: free_ports(2))

    @property
    def run_dir(self) -> RunDir:
        return RunDir(self.folder / "run")

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    def command(self, *arguments: str) -> list[str]:
        ports = ["--port", str(self.ports[0]), "--metrics-port", str(self.ports[1])]
        where = ["--store", str(self.store), "--run-dir", str(self.run_dir.path)]
        return [sys.executable, "-m", "scripts.serve", *where, *ports, *arguments]

    def call(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            cwd=REPOSITORY,
            env=clean_environment() | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def processes(self) -> list[int]:
        """Every process that has this server's folder in its command line: supervisor, JVM, workers."""
        found: list[int] = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if str(self.run_dir.path).encode() in path.read_bytes():
                    found.append(int(path.parent.name))
            except OSError:  # it ended while we looked
                continue
        return found

    def wait_until_gone(self) -> None:
        deadline = time.monotonic() + 20
        while left := self.processes():
            assert time.monotonic() < deadline, f"still there: {left}"
            time.sleep(0.05)


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"SOME_SECRET": "s"}


@contextmanager
def fresh_server() -> Iterator[Server]:
    """A server that is not started yet, in an empty folder; stopped at the end."""
    # Not tmp_path, which is too long for worker sockets.
    with tempfile.TemporaryDirectory(prefix="cxr-", dir="/tmp") as folder:
        server = Server(Path(folder))
        try:
            yield server
        finally:
            server.call("--stop")
            for pid in server.processes():
                os.kill(pid, signal.SIGKILL)
