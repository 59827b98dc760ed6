"""What is done to a server from outside: start it in the background, ask whether it answers, stop it."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from pneumoscan.errors import NeverReady
from pneumoscan.server.readiness import why_not_ready
from pneumoscan.server.run_folder import RunDir, ServerState
from pneumoscan.server.supervisor import GRACE_S, kill_group

# After its grace TorchServe is killed at once; the rest is time to clear up.
STOP_TIMEOUT_S = GRACE_S + 15.0


def detach(run_dir: RunDir, arguments: Sequence[str]) -> int:
    """Start a server in the background and wait until it answers; give the exit code.

    Parameters
    ----------
    arguments : sequence of str
        Command line of the server, all paths absolute.
    """
    hear, tell = os.pipe()
    with run_dir.serve_log.open("w") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "pneumoscan.commands.serve", *arguments, "--notify-fd", str(tell)],
            cwd=run_dir.path,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(tell,),
            start_new_session=True,
        )
    os.close(tell)
    try:
        # The end of the pipe is also how a child that died without a word is noticed.
        with os.fdopen(hear, encoding="utf-8", errors="replace") as pipe:
            verdict, _, text = pipe.read().partition("\n")
    except KeyboardInterrupt:
        child.terminate()
        child.wait()
        print("scripts.serve: interrupted; the server was stopped", file=sys.stderr)
        return 1
    if verdict == "ready":
        print(text)
        stop_it = f"python -m scripts.serve --run-dir {shlex.quote(str(run_dir.path))} --stop"
        print(f"logs: {run_dir.logs}; stop: {stop_it}", file=sys.stderr)
        return 0
    status = child.wait()
    print(text or run_dir.serve_log.read_text(errors="replace"), file=sys.stderr)
    return status or 1


def ready(run_dir: RunDir) -> int:
    """Give 0 if the server of a run folder answers a film with READY workers, else 1 and one line of why on stderr."""
    state = run_dir.read_state()
    if state is None:
        why: str | None = f"no server runs from {run_dir.path}"
    else:
        try:
            why = why_not_ready(run_dir, state.url)
        except NeverReady as error:
            why = str(error)
    if why is not None or state is None:
        print(f"not ready: {why}", file=sys.stderr)
        return 1
    print(f"ready: {state.url}")
    return 0


def stop(run_dir: RunDir) -> int:
    """Stop the server of a run folder and wait until its last process is gone; give the exit code."""
    state = run_dir.read_state()
    if not run_dir.is_locked():
        if state is not None:
            with run_dir.locked():
                run_dir.clean_leftovers()  # of a server that was killed
        print(f"no server runs from {run_dir.path}")
        return 0
    if state is None:
        print(f"scripts.serve: {run_dir.pid_file} cannot be read; end the server by hand", file=sys.stderr)
        return 1
    _signal(state, signal.SIGTERM)
    if not _wait_until_free(run_dir, STOP_TIMEOUT_S):
        _signal(state, signal.SIGKILL)
        if not _wait_until_free(run_dir, 5.0):
            print(f"scripts.serve: process {state.pid} does not end", file=sys.stderr)
            return 1
    with run_dir.locked():
        run_dir.clean_leftovers()
    print(f"stopped: {state.url}")
    return 0


def _signal(state: ServerState, number: signal.Signals) -> None:
    """Signal the supervisor, or the JVM that outlived it: the lock is held, so one of the two still has its id."""
    try:
        os.kill(state.pid, number)
    except ProcessLookupError:
        if state.jvm_pid:
            with contextlib.suppress(ProcessLookupError):  # it ended just now
                os.kill(state.jvm_pid, number)
    if number == signal.SIGKILL and state.jvm_pid:
        kill_group(state.jvm_pid)


def _wait_until_free(run_dir: RunDir, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while run_dir.is_locked():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
