from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pneumoscan.daemon import Daemon, Notifier, Running
from pneumoscan.errors import NeverReady
from pneumoscan.files import is_locked, locked

# Stands in for a server: holds the lock, writes its state, says "ready" and ends on SIGTERM, or what `how` says.
SERVER = """
import json, os, signal, sys, time
from pathlib import Path
from pneumoscan.daemon import Notifier
from pneumoscan.files import locked

folder, how, notify = Path(sys.argv[1]), sys.argv[2], int(sys.argv[4])
print("starts", flush=True)
with locked(folder / "lock"):
    if how == "silent":
        sys.exit(3)
    if how == "fails":
        Notifier(notify).failed("no memory\\nfor it")
        sys.exit(1)
    if how == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (folder / "state.json").write_text(json.dumps({"pid": os.getpid(), "url": "http://here"}))
    if how == "slow":
        signal.pause()
    Notifier(notify).ready("ready: http://here")
    signal.pause()
"""


def daemon(folder: Path, *, stop_s: float = 20.0, killed_then: bool = False) -> Daemon:
    state_file = folder / "state.json"

    def running() -> Running | None:
        try:
            return Running(**json.loads(state_file.read_text()))
        except (OSError, ValueError):
            return None

    def clean() -> None:
        assert is_locked(folder / "lock")
        state_file.unlink(missing_ok=True)

    log, lock = folder / "log", folder / "lock"
    return Daemon("scripts.x", "server", folder, log, state_file, lock, running, clean, stop_s, killed_then)


def command(folder: Path, how: str = "") -> list[str]:
    return [sys.executable, "-c", SERVER, str(folder), how]


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_server_is_started_asked_and_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = daemon(tmp_path)
    assert server.detach(command(tmp_path), "stop it so") == 0
    assert capsys.readouterr() == ("ready: http://here\n", "stop it so\n")
    assert server.log.read_text() == "starts\nready: http://here\n"
    assert server.ready(lambda _: None) == 0
    assert server.ready(lambda found: f"{found.url} loads") == 1
    assert capsys.readouterr() == ("ready: http://here\n", "not ready: http://here loads\n")
    assert server.stop() == 0
    assert capsys.readouterr().out == "stopped: http://here\n"
    assert not server.state_file.exists()
    assert server.stop() == 0
    assert capsys.readouterr().out == f"no server runs from {tmp_path}\n"


def test_what_is_for_another_program_stays_at_the_end(tmp_path: Path) -> None:
    server = daemon(tmp_path)
    assert server.detach([*command(tmp_path), "--", "--notify-fd", "99"]) == 0
    assert server.stop() == 0


@pytest.mark.parametrize(("how", "status", "told"), [("fails", 1, "no memory\nfor it\n"), ("silent", 3, "starts\n")])
def test_a_server_that_does_not_come_up_says_why_or_its_log_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str, status: int, told: str
) -> None:
    assert daemon(tmp_path).detach(command(tmp_path, how)) == status
    assert capsys.readouterr() == ("", told)


def test_an_interrupted_start_is_ended(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.pneumoscan.test_daemon import command, daemon\n"
        "folder = Path(sys.argv[1]); sys.exit(daemon(folder).detach(command(folder, 'slow')))"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stderr=subprocess.PIPE, text=True) as starter:
        until(lambda: daemon(tmp_path).running() is not None)
        starter.send_signal(signal.SIGINT)
        assert starter.wait(20) == 1
        assert starter.stderr is not None
        assert starter.stderr.read() == "scripts.x: interrupted; the server was stopped\n"
    assert not is_locked(tmp_path / "lock")


def test_a_server_that_does_not_end_is_killed_only_where_that_is_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert daemon(tmp_path).detach(command(tmp_path, "stubborn")) == 0
    found = daemon(tmp_path).running()
    assert found is not None
    assert daemon(tmp_path, stop_s=0.2).stop() == 1
    assert capsys.readouterr().err == f"scripts.x: process {found.pid} does not end\n"
    assert daemon(tmp_path, stop_s=0.2, killed_then=True).stop() == 0
    assert not daemon(tmp_path).state_file.exists()


def test_what_a_killed_server_left_names_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = daemon(tmp_path)
    # The process id of another process, as a state file has it after a while: it must not be signalled.
    server.state_file.write_text(json.dumps({"pid": os.getpid(), "url": "http://here"}))
    assert server.ready(lambda _: None) == 1
    assert capsys.readouterr().err == f"not ready: no server runs from {tmp_path}\n"
    assert server.stop() == 0
    assert not server.state_file.exists()


def test_a_server_whose_state_cannot_be_read_is_left_to_a_person(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = daemon(tmp_path)
    server.state_file.write_text("damaged")
    with locked(server.lock):
        assert server.stop() == 1
    assert capsys.readouterr().err == f"scripts.x: {server.state_file} cannot be read; end the server by hand\n"


def test_waiting_that_is_no_use_is_a_reason_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refuses(_: Running) -> str | None:
        raise NeverReady("the canary film is refused")

    server = daemon(tmp_path)
    server.state_file.write_text(json.dumps({"pid": 1, "url": "http://here"}))
    with locked(server.lock):
        assert server.ready(refuses) == 1
    assert capsys.readouterr().err == "not ready: the canary film is refused\n"


def test_without_a_pipe_a_person_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    notifier = Notifier(None)
    assert not notifier.is_detached
    notifier.ready("ready: http://here")
    notifier.failed("it ended")
    assert capfd.readouterr() == ("ready: http://here\n", "it ended\n")
