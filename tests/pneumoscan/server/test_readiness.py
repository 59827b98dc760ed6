from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pneumoscan.edge.checker import EdgeReadiness
from pneumoscan.errors import NeverReady
from pneumoscan.server.readiness import StartCheck, canary_film, why_not_ready
from pneumoscan.server.run_folder import RunDir
from tests.film_server import Answer, Asked, FilmServer, Management, described, problem, serving, serving_socket


@pytest.fixture
def run_dir() -> Iterator[RunDir]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield RunDir(Path(folder))


@pytest.fixture
def management(run_dir: RunDir) -> Iterator[Management]:
    management = Management()
    with serving_socket(management, run_dir.socket):
        yield management


@pytest.fixture
def server() -> Iterator[FilmServer]:
    with serving(FilmServer()) as server:
        yield server


def test_the_canary_film_is_a_grey_png_with_contrast() -> None:
    with Image.open(io.BytesIO(canary_film())) as film:
        assert (film.format, film.mode, film.size) == ("PNG", "L", (256, 256))
        pixels = np.asarray(film)
    assert pixels.std() > 40
    assert canary_film() == canary_film()


def test_ready_workers_and_an_answered_film_are_ready(
    run_dir: RunDir, management: Management, server: FilmServer
) -> None:
    management.versions = [described("1.0.0", "READY")]
    assert why_not_ready(run_dir, server.url) is None
    assert server.asked[0].body == canary_film()


def test_the_film_is_not_sent_to_workers_that_are_not_ready(
    run_dir: RunDir, management: Management, server: FilmServer
) -> None:
    management.versions = [described("1.0.0", "UNLOADING")]
    assert why_not_ready(run_dir, server.url) == "pneumonia 1.0.0 (default): 0/1 READY"
    assert server.asked == []


def test_ready_workers_that_answer_nothing_are_not_ready(
    run_dir: RunDir, management: Management, server: FilmServer
) -> None:
    management.versions = [described("1.0.0", "READY")]
    server.answer = lambda _: problem(507, "OUT_OF_MEMORY", "A worker died.", retryable=True)
    why = why_not_ready(run_dir, server.url)
    assert why is not None
    assert "not answered: 507 OUT_OF_MEMORY" in why


def test_a_full_queue_is_load_and_no_reason_to_take_a_server_away(
    run_dir: RunDir, management: Management, server: FilmServer
) -> None:
    management.versions = [described("1.0.0", "READY")]
    said = {"code": 503, "type": "ServiceUnavailableException", "message": "no worker"}  # TorchServe 0.12.0's own words
    server.answer = lambda _: Answer(503, json.dumps(said).encode(), {"Content-Type": "application/json"})
    assert why_not_ready(run_dir, server.url) is None
    assert StartCheck(run_dir, server.url, ["1.0.0"]).why_not_ready() is not None  # nobody can have filled it yet


@pytest.mark.parametrize("computes", [True, False])
def test_a_film_that_waits_is_load_where_the_workers_compute(
    run_dir: RunDir, management: Management, server: FilmServer, monkeypatch: pytest.MonkeyPatch, computes: bool
) -> None:
    monkeypatch.setattr("pneumoscan.server.readiness.CANARY_TIMEOUT_S", 0.5)
    management.versions = [described("1.0.0", "READY")]
    done = threading.Event()

    def waits(_: Asked) -> Answer:
        done.wait(10)
        return Answer(503)

    server.answer = waits
    code = "while True: pass" if computes else "import time; time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code]) as worker:
        time.sleep(0.5)  # it has started
        management.versions[0]["workers"][0]["pid"] = worker.pid
        why = why_not_ready(run_dir, server.url)
        worker.kill()
    done.set()
    assert (why is None) == computes


def test_an_edge_stays_ready_while_its_server_is_full(server: FilmServer) -> None:
    readiness = EdgeReadiness([server.url])
    assert readiness.why_not() is None
    readiness._answer = None
    server.answer = lambda _: problem(503, "OVERLOADED", "The queue is full.", retryable=True)
    assert readiness.why_not() is None
    readiness._answer, readiness._answered = None, -1e9  # nothing was answered for a minute
    assert "OVERLOADED" in str(readiness.why_not())


def test_without_a_management_socket_nothing_is_ready(run_dir: RunDir, server: FilmServer) -> None:
    assert "nobody answers on" in str(why_not_ready(run_dir, server.url))


def test_an_old_version_matters_to_a_start_and_not_to_a_running_server(
    run_dir: RunDir, management: Management, server: FilmServer
) -> None:
    management.versions = [described("1.1.0", "READY"), described("1.0.0", "UNLOADING")]
    assert why_not_ready(run_dir, server.url) is None
    why = StartCheck(run_dir, server.url, ["1.1.0", "1.0.0"]).why_not_ready()
    assert why == "pneumonia 1.1.0 (default): 1/1 READY; pneumonia 1.0.0: 0/1 READY"


def test_a_version_that_was_not_accepted_is_named_at_once(
    run_dir: RunDir, management: Management, server: FilmServer
) -> None:
    management.versions = [described("1.0.0", "READY")]
    with pytest.raises(NeverReady, match=r"did not accept pneumonia 1\.1\.0"):
        StartCheck(run_dir, server.url, ["1.1.0", "1.0.0"]).why_not_ready()


def test_a_refused_canary_is_not_asked_again(run_dir: RunDir, management: Management, server: FilmServer) -> None:
    management.versions = [described("1.0.0", "READY")]
    server.answer = lambda _: problem(422, "NOT_A_RADIOGRAPH", "No chest film.")
    with pytest.raises(NeverReady, match="NOT_A_RADIOGRAPH"):
        StartCheck(run_dir, server.url, ["1.0.0"]).why_not_ready()


def test_a_worker_that_keeps_dying_ends_the_start(run_dir: RunDir, management: Management, server: FilmServer) -> None:
    start = StartCheck(run_dir, server.url, ["1.0.0"])
    for pid in (-1, 100, 100, 200):  # not started, loading, still loading, started again
        management.versions = [described("1.0.0", "UNLOADING")]
        management.versions[0]["workers"][0]["pid"] = pid
        assert start.why_not_ready() == "pneumonia 1.0.0 (default): 0/1 READY"
    management.versions[0]["workers"][0]["pid"] = 300
    with pytest.raises(NeverReady, match=r"a worker of pneumonia 1\.0\.0 died 2 times while loading"):
        start.why_not_ready()
