from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cxr_client import ManagementClient
from pneumoscan.errors import StillBusy
from pneumoscan.server import readiness as drain
from pneumoscan.server.readiness import processor_ticks, wait_until_idle
from tests.film_server import Management, described, serving_socket

# A worker that computes in a child of its own, as for a decoder that may crash.
BUSY = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True)\\nwhile True: pass'])"
QUIET = "import signal; print(1, flush=True); signal.pause()"


@pytest.fixture
def socket() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder) / "management.sock"


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "_POLL_S", 0.1)
    monkeypatch.setattr(drain, "QUIET_S", 0.3)


@pytest.fixture
def worker(request: pytest.FixtureRequest) -> Iterator[int]:
    with subprocess.Popen(
        [sys.executable, "-c", request.param], stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        os.killpg(process.pid, 9)


def entry(version: str, pid: int, waiting: int = 0) -> dict[str, object]:
    said = described(version, "READY")
    said["workers"][0]["pid"] = pid
    said["jobQueueStatus"] = {"pendingRequests": waiting, "remainingCapacity": 9}
    return said


@pytest.mark.parametrize("worker", [QUIET], indirect=True)
def test_a_version_that_does_nothing_is_idle(socket: Path, worker: int) -> None:
    server = Management()
    server.versions = [entry("1.1.0", os.getpid()), entry("1.0.0", worker)]
    with serving_socket(server, socket), ManagementClient(socket) as management:
        wait_until_idle(management, "1.0.0", 20)


@pytest.mark.parametrize("worker", [BUSY], indirect=True)
def test_a_version_whose_workers_child_computes_is_not_idle(socket: Path, worker: int) -> None:
    server = Management()
    server.versions = [entry("1.0.0", worker)]
    named = pytest.raises(StillBusy, match=r"/predictions/pneumonia/1\.0\.0 by name")
    with serving_socket(server, socket), ManagementClient(socket) as management, named:
        wait_until_idle(management, "1.0.0", 1.0)


@pytest.mark.parametrize("worker", [QUIET], indirect=True)
def test_a_version_with_requests_that_wait_is_not_idle(socket: Path, worker: int) -> None:
    server = Management()
    server.versions = [entry("1.0.0", worker, waiting=1)]
    with serving_socket(server, socket), ManagementClient(socket) as management, pytest.raises(StillBusy):
        wait_until_idle(management, "1.0.0", 1.0)


def test_a_version_that_is_gone_is_idle(socket: Path) -> None:
    server = Management()
    server.versions = [entry("1.0.0", os.getpid())]
    with serving_socket(server, socket), ManagementClient(socket) as management:
        wait_until_idle(management, "0.9.0", 0.0)


def test_processor_time_is_counted_for_the_process_and_all_below_it(tmp_path: Path) -> None:
    for pid, parent, user, system in ((10, 1, 5, 2), (11, 10, 7, 0), (12, 11, 1, 1), (13, 1, 99, 99)):
        (tmp_path / str(pid)).mkdir()
        fields = f"{pid} (a) S 1 (b) S {parent} 0 0 0 -1 0 0 0 0 0 {user} {system} 0 0"
        (tmp_path / str(pid) / "stat").write_text(fields)
    assert processor_ticks([10, 404], tmp_path) == {10: 7, 11: 7, 12: 2}
