from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pneumoscan.daemon import Daemon, Notifier, Running, holding
from pneumoscan.errors import NeverReady
from pneumoscan.files import is_locked, locked
from pneumoscan.processes import birth

# Stands in for a server: holds the lock, writes its state, says "ready" and ends on SIGTERM, or what `how` says.
SERVER = """
import json, os, signal, sys, time
from pathlib import Path
from pneumoscan.daemon import Notifier, holding

folder, how, notify, lock = Path(sys.argv[1]), sys.argv[2], int(sys.argv[4]), int(sys.argv[6])
print("starts", flush=True)
with holding(folder / "lock", handed_down=lock):
    if how == "silent":
        sys.exit(3)
    if how == "fails":
        Notifier(notify).failed("no memory\\nfor it")
        sys.exit(1)
    if how == "mute":
        signal.pause()
    if how == "lingers":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        import atexit
        atexit.register(time.sleep, 1.0)
    if how == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (folder / "state.json").write_text(json.dumps({"pid": os.getpid(), "url": "http://here"}))
    if how == "slow":
        notifier = Notifier(notify)
        while not notifier.starter_has_gone:
            time.sleep(0.05)
        sys.exit(1)
    notifier = Notifier(notify)
    if how == "reports":
        notifier.starting("0/2 READY")
        notifier.starting("1/2 READY")
    notifier.ready("ready: http://here")
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


def detach(server: Daemon, how: str = "", *arguments: str, remark: str = "") -> int:
    """Start a server as a command does: with the lock in hand."""
    with holding(server.lock) as lock:
        return server.detach([*command(server.folder, how), *arguments], lock, remark)


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_server_is_started_asked_and_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = daemon(tmp_path)
    assert detach(server, remark="stop it so") == 0
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


def test_how_a_start_comes_along_is_shown_by_its_starter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert detach(daemon(tmp_path), "reports") == 0
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("ready: http://here\n", "0/2 READY\n1/2 READY\n")
    assert daemon(tmp_path).stop() == 0


def test_what_is_for_another_program_stays_at_the_end(tmp_path: Path) -> None:
    server = daemon(tmp_path)
    assert detach(server, "", "--", "--notify-fd", "99") == 0
    assert server.stop() == 0


@pytest.mark.parametrize(("how", "status", "told"), [("fails", 1, "no memory\nfor it\n"), ("silent", 3, "starts\n")])
def test_a_server_that_does_not_come_up_says_why_or_its_log_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str, status: int, told: str
) -> None:
    assert detach(daemon(tmp_path), how) == status
    assert capsys.readouterr() == ("", told)


STARTER = (
    "import sys; from pathlib import Path; from tests.pneumoscan.test_daemon import daemon, detach\n"
    "sys.exit(detach(daemon(Path(sys.argv[1])), sys.argv[2]))"
)


def test_what_the_last_one_said_when_it_ended_is_kept_beside_what_this_one_says(tmp_path: Path) -> None:
    server = daemon(tmp_path)
    assert detach(server, "fails") == 1
    assert detach(server) == 0
    assert "no memory" in server.log.with_name("log.1").read_text()
    assert server.log.read_text() == "starts\nready: http://here\n"
    assert server.stop() == 0


def test_an_interrupted_start_is_ended(tmp_path: Path) -> None:
    started = [sys.executable, "-c", STARTER, str(tmp_path), "slow"]
    with subprocess.Popen(started, stderr=subprocess.PIPE, text=True) as starter:
        until(lambda: daemon(tmp_path).running() is not None)
        starter.send_signal(signal.SIGINT)
        assert starter.wait(20) == 1
        assert starter.stderr is not None
        assert starter.stderr.read() == "scripts.x: interrupted; the server was stopped\n"
    assert not is_locked(tmp_path / "lock")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_start_whose_starter_is_ended_leaves_no_server_that_nobody_knows_of(
    tmp_path: Path, number: signal.Signals
) -> None:
    with subprocess.Popen([sys.executable, "-c", STARTER, str(tmp_path), "slow"]) as starter:
        until(lambda: daemon(tmp_path).running() is not None)
        starter.send_signal(number)
        assert starter.wait(20) == -number
    until(lambda: not is_locked(tmp_path / "lock"))


def test_a_server_that_is_still_starting_is_found_and_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the moment that its starter has the lock: it has told nothing of itself yet."""
    started = [sys.executable, "-c", STARTER, str(tmp_path), "mute"]
    with subprocess.Popen(started, stderr=subprocess.DEVNULL) as starter:
        until(lambda: is_locked(tmp_path / "lock"))
        stopped = daemon(tmp_path).stop()
        starter.kill()  # should it not have ended
        assert stopped == 0
        assert capsys.readouterr().out == f"stopped: {tmp_path}\n"
        assert not is_locked(tmp_path / "lock")


def test_a_stop_waits_for_the_process_and_not_only_for_the_lock(tmp_path: Path) -> None:
    assert detach(daemon(tmp_path), "lingers") == 0
    found = daemon(tmp_path).running()
    assert found is not None
    assert daemon(tmp_path).stop() == 0
    assert birth(found.pid) is None


def test_a_server_that_does_not_end_is_killed_only_where_that_is_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert detach(daemon(tmp_path), "stubborn") == 0
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
    with locked(server.lock):  # by an older server, which did not write its name into it
        assert server.stop() == 1
    assert capsys.readouterr().err == f"scripts.x: {server.state_file} cannot be read; end the server by hand\n"


def test_a_server_whose_state_cannot_be_read_is_stopped_by_the_name_in_its_lock(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = daemon(tmp_path)
    assert detach(server) == 0
    server.state_file.write_text("damaged")
    assert server.ready(lambda _: None) == 1
    assert "cannot be read: the server starts, or the file was changed" in capsys.readouterr().err
    assert server.stop() == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"stopped: {tmp_path}"


def test_waiting_that_is_no_use_is_a_reason_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refuses(_: Running) -> str | None:
        raise NeverReady("the canary film is refused")

    server = daemon(tmp_path)
    server.state_file.write_text(json.dumps({"pid": 1, "url": "http://here"}))
    with locked(server.lock):
        assert server.ready(refuses) == 1
    assert capsys.readouterr().err == "not ready: the canary film is refused\n"


def test_systemd_is_told_that_it_is_ready_and_does_not_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notifier = Notifier(None)
        notifier.ready("ready: http://here")
        for _ in range(3):
            notifier.beat()
        assert [manager.recv(99), manager.recv(99)] == [b"READY=1", b"WATCHDOG=1"]
        manager.setblocking(False)
        with pytest.raises(BlockingIOError):
            manager.recv(99)


def test_without_a_pipe_a_person_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    notifier = Notifier(None)
    assert not notifier.is_detached
    notifier.ready("ready: http://here")
    notifier.failed("it ended")
    assert capfd.readouterr() == ("ready: http://here\n", "it ended\n")
