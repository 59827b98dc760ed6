"""A running server that hangs, loses its files or has workers that hang: each is noticed, and what is well is not."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pneumoscan.server.capacity import Capacity
from pneumoscan.server.pulse import HUNG, LOST, WORKER_HUNG, Pulse, StillWorkers, count_end, read_ends
from pneumoscan.server.run_folder import RunDir, ServerState
from tests.film_server import Management, described, serving_socket


@pytest.fixture
def run_dir() -> Iterator[RunDir]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        made = RunDir(Path(folder))
        made.create()
        (made.path / "tmp" / "models").mkdir(parents=True)
        yield made


@pytest.fixture
def state(run_dir: RunDir) -> ServerState:
    capacity = Capacity(1, 1, 1, 1, 32)
    made = ServerState(1, 2, "http://x", "http://y", str(run_dir.path / "tmp"), ["1.0.0"], {}, "store", capacity)
    run_dir.write_state(made)
    return made


@pytest.fixture
def management(run_dir: RunDir) -> Iterator[Management]:
    management = Management()
    management.versions = [described("1.0.0", "READY")]
    with serving_socket(management, run_dir.socket):
        yield management


@pytest.fixture
def halted() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing, and was stopped."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        process.send_signal(signal.SIGSTOP)
        wait_for(lambda: Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        yield process
        process.kill()


def wait_for(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not what():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)


def test_a_jvm_that_hangs_is_noticed(run_dir: RunDir, state: ServerState) -> None:
    with socket.socket(socket.AF_UNIX) as halted:  # as a stopped process: the kernel takes the connection, nobody reads
        halted.bind(str(run_dir.socket))
        halted.listen()
        pulse = Pulse(run_dir, state, every_s=0.01, timeout_s=0.2)
        wait_for(lambda: pulse.lost)
    assert pulse.lost is not None
    assert pulse.lost[0] == HUNG


@pytest.mark.usefixtures("management")
@pytest.mark.parametrize("name", ["management.sock", "tmp", "tmp/models"])
def test_what_a_server_cannot_go_on_without_is_missed_by_name(run_dir: RunDir, state: ServerState, name: str) -> None:
    path = run_dir.path / name
    pulse = Pulse(run_dir, state, every_s=0.01)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    wait_for(lambda: pulse.lost)
    assert pulse.lost == (LOST, f"{path} was removed under the running server, which cannot go on without")


@pytest.mark.usefixtures("management")
@pytest.mark.parametrize("text", [None, "", "{", '{"pid": "Doe"}'])
def test_a_state_file_that_was_spoilt_is_put_back_and_the_server_goes_on(
    run_dir: RunDir, state: ServerState, text: str | None
) -> None:
    pulse = Pulse(run_dir, state, every_s=0.01)
    run_dir.pid_file.unlink()
    if text is not None:
        run_dir.pid_file.write_text(text)
    wait_for(lambda: run_dir.read_state() == state)
    assert pulse.lost is None
    pulse.stop()


def test_a_halted_worker_is_found_and_one_that_waits_for_work_is_not(halted: subprocess.Popen[bytes]) -> None:
    still = StillWorkers(patience_s=0.0)
    assert still.hung([halted.pid], is_work_waiting=False) == []  # it is seen for the first time
    assert still.hung([halted.pid], is_work_waiting=False) == [halted.pid]
    halted.send_signal(signal.SIGCONT)
    wait_for(lambda: still.hung([halted.pid], is_work_waiting=False) == [])
    assert still.hung([halted.pid], is_work_waiting=False) == []
    wait_for(lambda: still.hung([halted.pid], is_work_waiting=True))  # others wait, and it does nothing


def test_a_worker_that_computes_is_not_found() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        still, ticks = StillWorkers(patience_s=0.5), []
        for _ in range(3):
            ticks += still.hung([busy.pid], is_work_waiting=True)
            time.sleep(0.02)
        busy.kill()
    assert ticks == []


def test_a_hung_worker_is_ended_and_counted(
    run_dir: RunDir, state: ServerState, management: Management, halted: subprocess.Popen[bytes]
) -> None:
    management.versions[0]["workers"][0]["pid"] = halted.pid
    pulse = Pulse(run_dir, state, every_s=0.01)
    pulse._still = StillWorkers(patience_s=0.0)
    assert halted.wait(30) == -signal.SIGKILL
    wait_for(lambda: read_ends(run_dir)[WORKER_HUNG] == 1)
    pulse.stop()
    count_end(run_dir, HUNG)
    assert read_ends(run_dir) == {WORKER_HUNG: 1, HUNG: 1}
