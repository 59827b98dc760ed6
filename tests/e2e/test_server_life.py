"""A real TorchServe from its start to its end, with stand-in archives whose handler needs no torch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cxr_client import InferenceClient, ManagementClient
from pneumoscan.server.readiness import canary_film
from pneumoscan.server.run_folder import RunDir
from tests.e2e.servers import Server, clean_environment, fresh_server
from tests.places import REPOSITORY
from tests.programs import NEEDS_JAVA

pytestmark = [pytest.mark.e2e, NEEDS_JAVA]

HANDLER = """
import json, os, sys

def handle(data, context):
    if data is None:
        return None
    replies = []
    for at, row in enumerate(data):
        context.set_response_content_type(at, "application/json")
        reply = {
            "label": "NORMAL",
            "probabilities": {"NORMAL": 0.75, "PNEUMONIA": 0.25},
            "decision": {"indeterminate": False},
            "model": {"name": "pneumonia", "version": context.manifest["model"]["modelVersion"]},
            "bytes": len(row["body"]),
            "environment": sorted(os.environ),
            "temp": os.environ["TMPDIR"],
            "threads": os.environ["OMP_NUM_THREADS"],
        }
        replies.append(json.dumps(reply).encode())
    return replies
"""

DAMAGED = """
def handle(data, context):
    raise ValueError("the weights are not those of model.json")
"""

MODEL_CONFIG = """
responseTimeout: 30
startupTimeout: 60
"""


def pack(store: Path, version: str, handler: str) -> None:
    """Pack an archive with torch-model-archiver, as pneumoscan pack does."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "stand_in.py").write_text(handler)
        (work / "model-config.yaml").write_text(MODEL_CONFIG)
        (work / "out").mkdir()
        (work / "tmp").mkdir()
        archiver = [sys.executable, "-m", "model_archiver.model_packaging", "--model-name", "pneumonia"]
        archiver += ["--version", version, "--handler", str(work / "stand_in.py")]
        archiver += ["--config-file", str(work / "model-config.yaml"), "--export-path", str(work / "out")]
        subprocess.run(archiver, check=True, env={**os.environ, "TMPDIR": str(work / "tmp")}, capture_output=True)
        store.mkdir(exist_ok=True)
        (work / "out" / "pneumonia.mar").replace(store / f"pneumonia-{version}.mar")


@pytest.fixture
def server() -> Iterator[Server]:
    with fresh_server() as server:
        yield server


def leftovers(run_dir: RunDir) -> set[str]:
    return {path.name for path in run_dir.path.iterdir()} - {"config.properties", "logs", "server.lock"}


def test_a_detached_server_answers_and_a_killed_jvm_takes_everything_with_it(server: Server, tmp_path: Path) -> None:
    for version in ("1.9.0", "1.10.0"):
        pack(server.store, version, HANDLER)

    started = server.call("--detach")
    assert started.returncode == 0, started.stderr
    assert started.stdout == f"ready: {server.url}/predictions/pneumonia (1.10.0, 1.9.0)\n"

    asked = server.call("--ready")
    assert (asked.returncode, asked.stdout) == (0, f"ready: {server.url}\n")
    with ManagementClient(server.run_dir.socket) as management:
        versions = {state.version: state for state in management.ready("pneumonia").versions}
    assert versions["1.10.0"].is_default
    assert not versions["1.9.0"].is_default

    # A 25 MB DICOM as base64 in JSON is 34 MB; TorchServe's own limit is 6.5 MB.
    with InferenceClient(server.url) as client:
        reply = client.predict(bytes(34_000_000))
        assert reply["model"]["version"] == "1.10.0"
        assert reply["bytes"] == 34_000_000
        assert client.predict(b"x", version="1.9.0")["model"]["version"] == "1.9.0"
    assert reply["temp"] == str(server.run_dir.path / "tmp")
    assert not {"SOME_SECRET", "OLDPWD"} & set(reply["environment"])

    logs = {path.name for path in server.run_dir.logs.iterdir()}
    assert logs == {"access_log.log", "model_log.log", "ts_log.log", "serve.log"}
    assert all("[METRICS]" not in (server.run_dir.logs / name).read_text() for name in logs)
    assert "POST /predictions/pneumonia" in (server.run_dir.logs / "access_log.log").read_text()

    film = tmp_path / "film.png"
    film.write_bytes(canary_film())
    predict = [sys.executable, "-m", "scripts.predict", str(film), "--url", server.url, "--json"]
    said = subprocess.run(predict, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert json.loads(said.stdout)[0]["bytes"] == len(canary_film())

    again = server.call("--detach")
    assert again.returncode == 2
    assert "a server already runs from" in again.stderr

    elsewhere = Server(server.folder / "other", server.ports)
    elsewhere.store.parent.mkdir()
    server.store.rename(elsewhere.store)
    refused = elsewhere.call("--detach")
    assert refused.returncode == 2
    assert f"port {server.ports[0]} cannot be used" in refused.stderr

    state = server.run_dir.read_state()
    assert state is not None
    assert len(server.processes()) >= 4  # supervisor, JVM and one worker for each version
    os.kill(state.jvm_pid, signal.SIGKILL)
    server.wait_until_gone()
    assert leftovers(server.run_dir) == set()
    assert server.call("--ready").returncode == 1
    assert "TorchServe ended by itself" in server.run_dir.serve_log.read_text()


def test_a_server_is_as_large_as_was_asked_for(server: Server) -> None:
    """TorchServe 0.12.0 takes these numbers from several places; what counts is what it says it has."""
    pack(server.store, "1.0.0", HANDLER)
    asked = ["--workers", "2", "--threads", "3", "--batch-size", "5", "--batch-delay", "7", "--queue", "11"]
    started = server.call("--detach", "--device", "cpu", *asked, OMP_NUM_THREADS="64")
    assert started.returncode == 0, started.stderr
    assert "cpu: 2 workers of 3 threads for each version, batches of up to 5, 11 requests may wait" in started.stderr
    with ManagementClient(server.run_dir.socket) as management:
        (said,) = management.describe("pneumonia", "1.0.0")
    assert [worker["status"] for worker in said["workers"]] == ["READY", "READY"]
    assert (said["minWorkers"], said["maxWorkers"], said["batchSize"], said["maxBatchDelay"]) == (2, 2, 5, 7)
    assert said["jobQueueStatus"] == {"remainingCapacity": 11, "pendingRequests": 0}
    assert (said["responseTimeout"], said["startupTimeout"]) == (30, 60)  # the archive's own
    with InferenceClient(server.url) as client:
        assert client.predict(b"x")["threads"] == "3"


def test_a_stopped_server_leaves_nothing_and_a_killed_supervisor_no_process(server: Server) -> None:
    pack(server.store, "1.0.0", HANDLER)
    assert server.call("--detach").returncode == 0
    stopped = server.call("--stop")
    assert (stopped.returncode, stopped.stdout) == (0, f"stopped: {server.url}\n")
    assert server.processes() == []
    assert leftovers(server.run_dir) == set()

    assert server.call("--detach").returncode == 0
    state = server.run_dir.read_state()
    assert state is not None
    os.kill(state.pid, signal.SIGKILL)
    server.wait_until_gone()
    assert leftovers(server.run_dir) == {"server.json", "tmp"}
    assert server.call("--stop").returncode == 0
    assert leftovers(server.run_dir) == set()


def test_a_signal_ends_a_foreground_server_and_its_workers(server: Server) -> None:
    pack(server.store, "1.0.0", HANDLER)
    with subprocess.Popen(
        server.command(), cwd=REPOSITORY, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as foreground:
        assert foreground.stdout is not None
        assert foreground.stdout.readline().startswith(b"ready: ")
        foreground.send_signal(signal.SIGTERM)
        assert foreground.wait(timeout=60) == 0
    assert server.processes() == []
    assert leftovers(server.run_dir) == set()


def test_a_start_is_stopped_at_once_and_ends_with_its_starter(server: Server) -> None:
    """At any moment of a start one command ends it, and one that is killed leaves no server that nobody knows of."""
    pack(server.store, "1.0.0", HANDLER)
    for is_stopped in (True, False):
        with subprocess.Popen(
            server.command("--detach", "--device", "cpu"),
            cwd=REPOSITORY,
            env=clean_environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as starter:
            deadline = time.monotonic() + 30
            while server.run_dir.read_state() is None and not (is_stopped and server.run_dir.is_locked()):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            if is_stopped:
                # By its folder, or by its address where the start was that far when the stop came to look.
                assert server.call("--stop").stdout in (f"stopped: {server.run_dir.path}\n", f"stopped: {server.url}\n")
            else:
                starter.kill()
            assert starter.wait(30) != 0
        server.wait_until_gone()
        assert leftovers(server.run_dir) == set()


@pytest.mark.slow
def test_a_jvm_that_hangs_is_noticed_within_half_a_minute_and_leaves_nothing(server: Server) -> None:
    pack(server.store, "1.0.0", HANDLER)
    assert server.call("--detach", "--device", "cpu").returncode == 0
    state = server.run_dir.read_state()
    assert state is not None
    os.kill(state.jvm_pid, signal.SIGSTOP)
    before = time.monotonic()
    while server.processes():
        assert time.monotonic() - before < 30
        time.sleep(0.1)
    assert leftovers(server.run_dir) == set()
    assert "TorchServe hangs" in server.run_dir.serve_log.read_text()


def test_a_damaged_archive_fails_within_the_time_limit_and_says_why(server: Server) -> None:
    pack(server.store, "1.0.0", DAMAGED)
    before = time.monotonic()
    failed = server.call("--detach", "--timeout", "60")
    assert failed.returncode == 1
    assert time.monotonic() - before < 75
    assert "ValueError: the weights are not those of model.json" in failed.stderr
    assert "died 2 times while loading" in failed.stderr.splitlines()[-1]
    assert server.processes() == []
    assert leftovers(server.run_dir) == set()


def test_a_pythonpath_refuses_to_serve_other_code(server: Server) -> None:
    pack(server.store, "1.0.0", HANDLER)
    refused = server.call("--detach", PYTHONPATH="/elsewhere/handler")
    assert refused.returncode == 2
    assert "env -u PYTHONPATH make serve" in refused.stderr
    assert not server.run_dir.path.exists()
