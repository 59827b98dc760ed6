"""A real edge for a test: nginx before real servers, in a run folder of its own."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from cxr_client import InferenceClient
from pneumoscan.edge import keys as key_file
from pneumoscan.edge.run import read_state
from pneumoscan.server.run_folder import RunDir
from tests.e2e.servers import clean_environment
from tests.places import REPOSITORY
from tests.ports import free_port


@dataclass
class Edge:
    """One run folder of an edge, and a key that opens it."""

    folder: Path
    upstreams: tuple[str, ...]
    port: int
    key: str = ""
    bundle: Path | None = None  # what is believed instead of the edge's own certificate

    @property
    def run_dir(self) -> RunDir:
        return RunDir(self.folder / "edge")

    @property
    def keys(self) -> Path:
        return self.run_dir.path / "keys"

    @property
    def certificate(self) -> Path:
        return self.run_dir.path / "self-signed.crt"

    @property
    def believed(self) -> Path:
        return self.bundle or self.certificate

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def predictions(self) -> str:
        return f"{self.url}/predictions/pneumonia"

    def command(self, *arguments: str) -> list[str]:
        given = ["--listen", f"127.0.0.1:{self.port}", "--run-dir", str(self.run_dir.path), "--drain", "30"]
        for upstream in self.upstreams:
            given += ["--upstream", upstream]
        return [sys.executable, "-m", "scripts.edge", *given, *arguments]

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            cwd=REPOSITORY,
            env=clean_environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def start(self, *arguments: str) -> None:
        if not self.key:
            self.run_dir.create()
            self.key = key_file.add(self.keys, "test")
        started = self.call("--detach", *arguments)
        assert (started.returncode, started.stdout) == (0, f"ready: {self.url}\n"), started.stderr

    def client(self) -> InferenceClient:
        return InferenceClient(self.url, key=self.key, ca=self.certificate)

    def ask(self, method: str, path: str, headers: dict[str, str] | None = None, **sent: Any) -> requests.Response:
        """Send one request with the key, unless the headers say otherwise."""
        headers = {"Authorization": f"Bearer {self.key}"} if headers is None else headers
        return requests.request(
            method, f"{self.url}{path}", headers=headers, verify=str(self.believed), timeout=60, **sent
        )

    def connect(self) -> ssl.SSLSocket:
        """A bare connection, for what no HTTP library would send."""
        context = ssl.create_default_context(cafile=str(self.believed))
        return context.wrap_socket(socket.create_connection(("127.0.0.1", self.port)), server_hostname="127.0.0.1")

    def signal(self, number: signal.Signals) -> None:
        state = read_state(self.run_dir)
        assert state is not None
        os.kill(state.pid, number)

    def processes(self) -> list[int]:
        """Every process that has this edge's folder in its command line or as its working folder."""
        found: list[int] = []
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it ended while we looked
                here = str(self.run_dir.path)
                if here.encode() in (path / "cmdline").read_bytes() or str((path / "cwd").readlink()) == here:
                    found.append(int(path.name))
        return found

    def wait_until_gone(self) -> None:
        deadline = time.monotonic() + 40
        while left := self.processes():
            assert time.monotonic() < deadline, f"still there: {left}"
            time.sleep(0.05)

    def log(self, name: str = "access.log") -> str:
        return (self.run_dir.logs / name).read_text()


@contextmanager
def fresh_edge(upstreams: Sequence[str], *arguments: str) -> Iterator[Edge]:
    """A running edge before some servers; stopped at the end, and no process left whatever happens."""
    with tempfile.TemporaryDirectory(prefix="cxr-", dir="/tmp") as folder:
        edge = Edge(Path(folder), tuple(upstreams), free_port())
        try:
            edge.start(*arguments)
            yield edge
        finally:
            edge.call("--stop")
            for pid in edge.processes():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
