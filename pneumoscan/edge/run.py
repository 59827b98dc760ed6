"""One edge from its start to its end: what starts before what, and who is stopped last."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

from pneumoscan.edge.checker import Checker, Readiness
from pneumoscan.edge.keys import KeyRing
from pneumoscan.edge.nginx import ErrorLog, Nginx, rotate
from pneumoscan.edge.settings import EdgeSettings, render_adapter, render_edge
from pneumoscan.errors import EdgeError
from pneumoscan.files import clear_drafts, write_text
from pneumoscan.server.run_folder import RunDir
from pneumoscan.server.supervisor import StopRequest, die_with_parent

_POLL_S: Final = 0.2
_START_S: Final = 10.0
_SERVER_STOP_S: Final = 60.0


@dataclass(frozen=True)
class EdgePlan:
    """Everything an edge is started from, checked.

    Attributes
    ----------
    keys : Path
        File of the keys' digests.
    server : tuple of str or None
        Arguments of a ``scripts.serve`` that is started before and stopped after; None for no server.
    """

    run_dir: RunDir
    settings: EdgeSettings
    nginx: str
    drain_s: float
    keys: Path
    server: tuple[str, ...] | None = None

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
    """Give ``address:port`` to listen on.

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


def run(plan: EdgePlan) -> int:
    """Run an edge until a signal comes; give the exit code.

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
    with plan.run_dir.locked():
        # Before a server loads for a minute: a state file of an edge that was killed names another's process by now.
        clean(plan.run_dir.path)
        with _server(plan, stop) as server:
            if stop.asked.is_set():
                return 0
            if server is not None and server.poll() is not None:
                return _say(f"scripts.serve did not start (exit status {server.returncode})")
            return _run(plan, server, stop, reload)


def _run(plan: EdgePlan, server: subprocess.Popen[str] | None, stop: StopRequest, reload: threading.Event) -> int:
    folder = plan.run_dir.path
    edge, adapter = plan.write_configuration()
    errors = ErrorLog(folder)
    readiness = Readiness([f"http://{one}" for one in plan.settings.upstreams])
    checker = Checker(folder / "checker.sock", KeyRing(plan.keys, errors.write), readiness)
    why: str | None = None
    try:
        checker.start()
        adapter.start()
        edge.start()
        why = _wait_until_listening(plan, edge, adapter, stop)
        if why is None and not stop.asked.is_set():
            state = {"pid": os.getpid(), "nginx_pid": edge.pid, "listen": plan.settings.listen}
            write_text(folder / "edge.json", json.dumps(state) + "\n")
            print(f"ready: https://{plan.settings.listen}", flush=True)
            while why is None and not stop.asked.wait(_POLL_S):
                why = _what_ended(edge, adapter, checker, server)
                if rotate(folder / "logs" / "access.log"):
                    edge.tell(signal.SIGUSR1)
                if reload.is_set():
                    reload.clear()
                    edge.tell(signal.SIGHUP)
        return 0 if why is None else _say(why)
    finally:
        # First nobody new, then what is on its way, then those who answer it.
        if not edge.drain(plan.drain_s, stop.hurry.is_set):
            print(f"scripts.edge: requests were still on their way after {plan.drain_s:g} s", file=sys.stderr)
        adapter.drain(5.0, stop.hurry.is_set)
        checker.stop()
        errors.stop()
        clean(folder)


def _wait_until_listening(plan: EdgePlan, edge: Nginx, adapter: Nginx, stop: StopRequest) -> str | None:
    host, _, port = plan.settings.listen.rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "[::]": "::1"}.get(host, host.strip("[]"))
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and not stop.asked.is_set():
        for each in (edge, adapter):
            if each.exit_status is not None:
                return f"nginx ended while starting (exit status {each.exit_status})"
        try:
            with socket.create_connection((host, int(port)), timeout=1.0):
                return None
        except OSError:
            time.sleep(0.05)
    return None if stop.asked.is_set() else f"nginx did not listen within {_START_S:g} s"


def _what_ended(edge: Nginx, adapter: Nginx, checker: Checker, server: subprocess.Popen[str] | None) -> str | None:
    for each in (edge, adapter):
        if each.exit_status is not None:
            return f"nginx ended by itself (exit status {each.exit_status})"
    if not checker.is_alive:
        return "the checker of keys ended by itself"
    if server is not None and server.poll() is not None:
        return f"scripts.serve ended by itself (exit status {server.returncode})"
    return None


@contextmanager
def _server(plan: EdgePlan, stop: StopRequest) -> Iterator[subprocess.Popen[str] | None]:
    """A server that is there before the edge and until after it; None where none was asked for."""
    if plan.server is None:
        yield None
        return
    # In a session of its own: the terminal's Ctrl-C must reach the edge first.
    child = subprocess.Popen(
        [sys.executable, "-m", "pneumoscan.commands.serve", *plan.server],
        cwd=plan.run_dir.path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=die_with_parent(),
    )
    said = threading.Event()

    def listen() -> None:
        assert child.stdout is not None
        for line in child.stdout:
            print(line, end="", file=sys.stderr, flush=True)
            said.set()

    threading.Thread(target=listen, daemon=True).start()
    try:
        while not said.wait(_POLL_S) and child.poll() is None and not stop.asked.is_set():
            pass
        yield child
    finally:
        child.terminate()
        try:
            child.wait(timeout=_SERVER_STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def clean(folder: Path) -> None:
    """Remove what only a running edge needs, uploads among it; keys, certificate, configuration and logs stay."""
    shutil.rmtree(folder / "tmp", ignore_errors=True)
    clear_drafts(folder)
    for path in (*folder.glob("*.sock"), *folder.glob("*.pid"), folder / "edge.json"):
        path.unlink(missing_ok=True)


def _say(why: str) -> int:
    print(f"scripts.edge: {why}", file=sys.stderr)
    return 1
