"""What is done to an edge from outside: start it in the background, ask it, renew its certificate, stop it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pneumoscan.edge.run import clean
from pneumoscan.server.run_folder import RunDir

_STOP_S: Final = 240.0
_START_S: Final = 300.0  # with --serve a model is loaded


@dataclass(frozen=True)
class EdgeState:
    """What the state file of a running edge says."""

    pid: int
    nginx_pid: int
    listen: str


def read_state(run_dir: RunDir) -> EdgeState | None:
    """Give what the state file says, or None where there is none that can be read."""
    try:
        return EdgeState(**json.loads((run_dir.path / "edge.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None


def detach(run_dir: RunDir, arguments: Sequence[str]) -> int:
    """Start an edge in the background and wait until it listens; give the exit code."""
    log = run_dir.logs / "edge.log"
    with log.open("w") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "pneumoscan.commands.edge", *arguments],
            cwd=run_dir.path,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    deadline = time.monotonic() + _START_S
    try:
        while child.poll() is None and time.monotonic() < deadline:
            state = read_state(run_dir)
            if state is not None and state.pid == child.pid:
                print(f"ready: https://{state.listen}")
                return 0
            time.sleep(0.05)
    except KeyboardInterrupt:
        child.terminate()
        child.wait()
        print("scripts.edge: interrupted; the edge was stopped", file=sys.stderr)
        return 1
    child.terminate()
    status = child.wait()
    print(log.read_text(errors="replace"), end="", file=sys.stderr)
    return status or 1


def ready(run_dir: RunDir) -> int:
    """Give 0 if a film is answered behind a running edge, else 1 and one line of why on stderr."""
    state = read_state(run_dir)
    why = f"no edge runs from {run_dir.path}" if state is None or not run_dir.is_locked() else _ask(state)
    if why is None and state is not None:
        print(f"ready: https://{state.listen}")
        return 0
    print(f"not ready: {why}", file=sys.stderr)
    return 1


def _ask(state: EdgeState) -> str | None:
    host, _, port = state.listen.rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "[::]": "::1"}.get(host, host.strip("[]"))
    # Whether it answers is asked, on this machine, and not who it is.
    anyone = ssl.create_default_context()
    anyone.check_hostname = False
    anyone.verify_mode = ssl.CERT_NONE
    connection = http.client.HTTPSConnection(host, int(port), timeout=60.0, context=anyone)
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
    """Let a running edge take a renewed certificate; give the exit code."""
    state = read_state(run_dir)
    if state is None or not run_dir.is_locked():
        print(f"scripts.edge: no edge runs from {run_dir.path}", file=sys.stderr)
        return 1
    os.kill(state.pid, signal.SIGUSR1)
    print(f"reloads: https://{state.listen}")
    return 0


def stop(run_dir: RunDir) -> int:
    """Drain and stop the edge of a run folder and wait until it is gone; give the exit code."""
    state = read_state(run_dir)
    if not run_dir.is_locked():
        if state is not None:
            with run_dir.locked():
                clean(run_dir.path)  # of an edge that was killed
        print(f"no edge runs from {run_dir.path}")
        return 0
    if state is None:
        print(f"scripts.edge: {run_dir.path / 'edge.json'} cannot be read; end the edge by hand", file=sys.stderr)
        return 1
    with contextlib.suppress(ProcessLookupError):  # it ends by itself just now
        os.kill(state.pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_S
    while run_dir.is_locked():
        if time.monotonic() > deadline:
            print(f"scripts.edge: process {state.pid} does not end", file=sys.stderr)
            return 1
        time.sleep(0.1)
    print(f"stopped: https://{state.listen}")
    return 0
