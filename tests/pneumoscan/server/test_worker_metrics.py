"""Workers and queue as series: from a management socket that answers as TorchServe 0.12 does."""

from __future__ import annotations

import http.server
import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from cxr_client.metrics import Snapshot
from pneumoscan.server.pulse import HUNG, count_end
from pneumoscan.server.run_folder import RunDir
from pneumoscan.server.worker_metrics import WorkerSeries


def version(number: str, *states: str, wanted: int = 1, pending: int = 0) -> dict[str, Any]:
    return {
        "modelName": "pneumonia",
        "modelVersion": number,
        "minWorkers": wanted,
        "workers": [{"id": str(9000 + i), "status": state, "pid": 1} for i, state in enumerate(states)],
        "jobQueueStatus": {"remainingCapacity": 200 - pending, "pendingRequests": pending},
    }


@contextmanager
def management(folder: Path, every: list[dict[str, Any]], default: str) -> Iterator[Path]:
    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            chosen = every if self.path.endswith("/all") else [one for one in every if one["modelVersion"] == default]
            body = json.dumps(chosen or {"code": 404, "message": "Model not found: pneumonia"}).encode()
            self.send_response(200 if chosen else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def address_string(self) -> str:
            return "socket"

        def log_message(self, *_: object) -> None:
            return

    path = RunDir(folder).socket
    with socketserver.ThreadingUnixStreamServer(str(path), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield path
        server.shutdown()
        thread.join()


def scrape(path: Path) -> Snapshot:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(WorkerSeries(RunDir(path.parent)))
    return Snapshot.parse(generate_latest(registry).decode(), 0.0)


def test_workers_queue_and_default_are_told_for_each_version(tmp_path: Path) -> None:
    every = [version("1.0.0", "READY", "UNLOADING", wanted=2, pending=30), version("1.1.0", "READY", "NEW_STATE")]
    with management(tmp_path, every, "1.1.0") as path:
        seen = scrape(path)
    assert seen.total("cxr_management_up") == 1
    assert seen.by("cxr_workers", "state", {"model_version": "1.0.0"}) == {"READY": 1, "UNLOADING": 1, "OTHER": 0}
    assert seen.by("cxr_workers", "state", {"model_version": "1.1.0"}) == {"READY": 1, "UNLOADING": 0, "OTHER": 1}
    assert seen.by("cxr_workers_wanted", "model_version") == {"1.0.0": 2, "1.1.0": 1}
    assert seen.by("cxr_queue_length", "model_version") == {"1.0.0": 30, "1.1.0": 0}
    assert seen.by("cxr_queue_capacity", "model_version") == {"1.0.0": 200, "1.1.0": 200}
    assert seen.by("cxr_default_version", "model_version") == {"1.0.0": 0, "1.1.0": 1}


def test_a_version_without_workers_wants_one(tmp_path: Path) -> None:
    with management(tmp_path, [version("1.0.0", wanted=0)], "1.0.0") as path:
        seen = scrape(path)
    assert seen.by("cxr_workers", "state") == {"READY": 0, "UNLOADING": 0, "OTHER": 0}
    assert seen.by("cxr_workers_wanted", "model_version") == {"1.0.0": 1}


@pytest.mark.parametrize("is_there", [True, False])
def test_no_version_is_a_state_and_no_server_is_a_failure(tmp_path: Path, is_there: bool) -> None:
    if is_there:
        with management(tmp_path, [], "1.0.0") as path:
            seen = scrape(path)
    else:
        seen = scrape(tmp_path / "nobody.sock")
    assert {name for name, _ in seen.values} - {"cxr_ends_created"} == {"cxr_management_up", "cxr_ends_total"}
    assert seen.total("cxr_management_up") == is_there


def test_ends_that_nobody_asked_for_are_counted_by_why_also_while_no_server_runs(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    run_dir.create()
    assert scrape(run_dir.socket).by("cxr_ends_total", "why") == {"hung": 0, "lost": 0, "ended": 0, "worker_hung": 0}
    count_end(run_dir, HUNG)
    assert scrape(run_dir.socket).by("cxr_ends_total", "why")["hung"] == 1
