"""One edge from its start to its end: the order of its start and stop, and its readiness as seen from outside."""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import shutil
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final

from pneumoscan.daemon import Daemon, Notifier, Running
from pneumoscan.edge.checker import AuthServer, EdgeReadiness
from pneumoscan.edge.comparer import ANSWERS, Comparer
from pneumoscan.edge.keys import KeyRing
from pneumoscan.edge.nginx import (
    LEFT,
    Departures,
    EdgeSettings,
    ErrorLog,
    Nginx,
    render_adapter,
    render_edge,
    rotate,
)
from pneumoscan.errors import EdgeError
from pneumoscan.files import clear_drafts, write_text
from pneumoscan.processes import STDERR, Child, StopRequest, write_out
from pneumoscan.server.run_folder import RunDir

_POLL_S: Final = 0.2
_START_S: Final = 10.0
_SERVER_STOP_S: Final = 60.0
_STOP_S: Final = 240.0
_UNKNOWN: Final = "the command that started it has ended, so nobody would know of this edge"


@dataclass(frozen=True)
class EdgePlan:
    """Everything an edge is started from, checked.

    Parameters
    ----------
    keys
        File of the keys' digests.
    server
        Arguments of a ``pneumoscan serve`` that is started before and stopped after; None for no server.
    server_folders
        Run folders in which the servers of this machine may be.
    """

    run_dir: RunDir
    settings: EdgeSettings
    nginx: str
    drain_s: float
    keys: Path
    server: tuple[str, ...] | None = None
    server_folders: tuple[Path, ...] = ()

    def client_left(self, ticket: str) -> None:
        """Let the servers on this machine know that the client of a request has left."""
        for folder in map(RunDir, self.server_folders):
            state = folder.read_state()
            if state is not None and state.url.removeprefix("http://") in self.settings.upstreams:
                folder.mark_left(state, ticket)

    def write_configuration(self) -> tuple[Nginx, Nginx]:
        """Write both configurations and let nginx read them; give the edge and its adapter, not started.

        Raises
        ------
        EdgeError
            nginx does not take one.
        """
        folder = self.run_dir.path
        texts = {"nginx.conf": render_edge(self.settings), "nginx-adapter.conf": render_adapter(self.settings)}
        (folder / "tmp").mkdir(mode=0o700, exist_ok=True)
        made: list[Nginx] = []
        for name, text in texts.items():
            write_text(folder / name, text)
            made.append(Nginx(self.nginx, folder, name))
            made[-1].check()
        return made[0], made[1]


def check_listen(text: str) -> str:
    """``address:port`` to listen on.

    Raises
    ------
    EdgeError
        It is none, or the port cannot be had.
    """
    host, _, port_text = text.rpartition(":")
    try:
        address = ipaddress.ip_address(host.strip("[]"))
        port = int(port_text)
    except ValueError:
        raise EdgeError(f"--listen {text!r} is no address: give it as 0.0.0.0:8443 or [::]:8443") from None
    if not 1 <= port <= 65535:
        raise EdgeError(f"--listen {text!r}: port {port} is not between 1 and 65535")
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((str(address), port))
            probe.listen(1)
        except OSError as error:
            raise EdgeError(f"--listen {text} cannot be used ({error.strerror}): give another") from error
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def run(plan: EdgePlan, notifier: Notifier) -> int:
    """Run an edge until a signal comes; give the exit code. Its run folder is locked.

    Raises
    ------
    EdgeError
        It cannot be started as asked.
    """
    stop = StopRequest()
    stop.listen()
    reload = threading.Event()

    def ask_reload(_number: int, _frame: FrameType | None) -> None:
        reload.set()

    signal.signal(signal.SIGUSR1, ask_reload)
    # Before a server loads for a minute: a state file of an edge that was killed names another's process by now.
    clean(plan.run_dir.path)
    with _server(plan, stop, notifier) as server:
        if stop.requested.is_set():
            return 0
        if server is not None and server.exit_status is not None:
            notifier.remark(f"pneumoscan edge: pneumoscan serve did not start (exit status {server.exit_status})")
            return 1
        return _run(plan, server, stop, reload, notifier)


def _run(plan: EdgePlan, server: Child | None, stop: StopRequest, reload: threading.Event, notifier: Notifier) -> int:
    folder = plan.run_dir.path
    edge, adapter = plan.write_configuration()
    errors = ErrorLog(folder)
    departures = Departures(folder, plan.client_left)
    readiness = EdgeReadiness([f"http://{one}" for one in plan.settings.upstreams])
    comparer = Comparer(folder, plan.settings.upstreams, errors.write)
    checker = AuthServer(folder / "checker.sock", KeyRing(plan.keys, errors.write), readiness, comparer)
    why: str | None = None
    try:
        comparer.start()
        checker.start()
        adapter.start()
        edge.start()
        why = _wait_until_listening(plan, edge, adapter, stop)
        if why is None and not stop.requested.is_set():
            state = EdgeState(os.getpid(), edge.pid, plan.settings.listen, list(plan.settings.upstreams))
            write_text(state_file(plan.run_dir), json.dumps(asdict(state)) + "\n")
            if not notifier.ready(f"ready: {state.url}"):
                why = _UNKNOWN
            while why is None and not stop.requested.wait(_POLL_S):
                why = _what_ended(edge, adapter, checker, server)
                notifier.beat()
                moved = [rotate(folder / name) for name in ("logs/access.log", ANSWERS, LEFT)]
                if any(moved):
                    edge.signal(signal.SIGUSR1)
                if reload.is_set():
                    reload.clear()
                    edge.signal(signal.SIGHUP)
        if why is not None:
            notifier.remark(f"pneumoscan edge: {why}")
        return 0 if why is None else 1
    finally:
        # First nobody new, then what is on its way, then those who answer it.
        if not edge.drain(plan.drain_s, stop.hurry.is_set):
            notifier.remark(f"pneumoscan edge: requests were still on their way after {plan.drain_s:g} s")
        adapter.drain(5.0, stop.hurry.is_set)
        checker.stop()
        comparer.stop()
        departures.stop()
        errors.stop()
        clean(folder)


def _wait_until_listening(plan: EdgePlan, edge: Nginx, adapter: Nginx, stop: StopRequest) -> str | None:
    address = _here(plan.settings.listen)
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and not stop.requested.is_set():
        for each in (edge, adapter):
            if each.exit_status is not None:
                return f"nginx ended while starting (exit status {each.exit_status})"
        try:
            with socket.create_connection(address, timeout=1.0):
                return None
        except OSError:
            time.sleep(0.05)
    return None if stop.requested.is_set() else f"nginx did not listen within {_START_S:g} s"


def _what_ended(edge: Nginx, adapter: Nginx, checker: AuthServer, server: Child | None) -> str | None:
    for each in (edge, adapter):
        if each.exit_status is not None:
            return f"nginx ended by itself (exit status {each.exit_status})"
    if not checker.is_alive:
        return "the checker of keys ended by itself"
    if server is not None and server.exit_status is not None:
        return f"pneumoscan serve ended by itself (exit status {server.exit_status})"
    return None


@contextmanager
def _server(plan: EdgePlan, stop: StopRequest, notifier: Notifier) -> Iterator[Child | None]:
    """A server that is there before the edge and until after it; None where none was asked for."""
    if plan.server is None:
        yield None
        return
    reported = threading.Event()

    def show(line: str) -> None:
        reported.set()
        write_out(STDERR, line)

    command = [sys.executable, "-m", "pneumoscan", "serve", *plan.server]
    server = Child(command, folder=plan.run_dir.path, show=show, errors_too=False)
    try:
        while not reported.wait(_POLL_S) and server.exit_status is None and not stop.requested.is_set():
            if notifier.starter_has_gone:  # nobody would know of the two
                stop.requested.set()
        yield server
    finally:
        server.end(_SERVER_STOP_S)


def clean(folder: Path) -> None:
    """Remove what only a running edge needs, uploads among it; keys, certificate, configuration and logs stay."""
    shutil.rmtree(folder / "tmp", ignore_errors=True)
    clear_drafts(folder)
    for path in (*folder.glob("*.sock"), *folder.glob("*.pid"), folder / "edge.json"):
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class EdgeState:
    """What the state file of a running edge says."""

    pid: int
    nginx_pid: int
    listen: str
    upstreams: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"https://{self.listen}"


def state_file(run_dir: RunDir) -> Path:
    """`EdgeState` of the running edge, as JSON."""
    return run_dir.path / "edge.json"


def read_state(run_dir: RunDir) -> EdgeState | None:
    """What the state file says, or None where there is none that can be read."""
    try:
        return EdgeState(**json.loads(state_file(run_dir).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def daemon(run_dir: RunDir) -> Daemon:
    """The edge of a run folder, as it is started, asked and stopped in the background."""

    def running() -> Running | None:
        state = read_state(run_dir)
        return None if state is None else Running(state.pid, state.url)

    return Daemon(
        program="pneumoscan edge",
        noun="edge",
        folder=run_dir.path,
        log=run_dir.logs / "edge.log",
        state_file=state_file(run_dir),
        lock=run_dir.lock,
        running=running,
        clean=lambda: clean(run_dir.path),
        stop_s=_STOP_S,
    )


def why_not_ready(edge: Running) -> str | None:
    """Why no film is answered behind a running edge, or None when one is."""
    host, port = _here(edge.url.removeprefix("https://"))
    # Whether it answers is asked, on this machine, and not who it is.
    anyone = ssl.create_default_context()
    anyone.check_hostname = False
    anyone.verify_mode = ssl.CERT_NONE
    connection = http.client.HTTPSConnection(host, port, timeout=60.0, context=anyone)
    try:
        connection.request("GET", "/readyz")
        reply = connection.getresponse()
        reply.read()
    except (OSError, http.client.HTTPException) as error:
        return f"the edge does not answer: {error}"
    finally:
        connection.close()
    return None if reply.status == 200 else "no server behind the edge answers a film"


def reload(run_dir: RunDir) -> int:
    """Let a running edge take a renewed certificate; give the exit status."""
    state = read_state(run_dir)
    if state is None or not run_dir.is_locked():
        print(f"pneumoscan edge: no edge runs from {run_dir.path}", file=sys.stderr)
        return 1
    os.kill(state.pid, signal.SIGUSR1)
    print(f"reloads: {state.url}")
    return 0


def _here(listen: str) -> tuple[str, int]:
    """The address at which this machine reaches what listens there."""
    host, _, port = listen.rpartition(":")
    return {"0.0.0.0": "127.0.0.1", "[::]": "::1"}.get(host, host.strip("[]")), int(port)
