"""A server with more to do than it can: its figures and its readiness against what its clients were answered."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from cxr.model.spec import Preprocessing
from cxr_client.metrics import MetricsClient
from pneumoscan.archive import package
from pneumoscan.metrics_report import report_of
from tests.cxr.networks import save_model
from tests.e2e.servers import fresh_server
from tests.films import encoded, film
from tests.programs import NEEDS_JAVA

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.alone, NEEDS_JAVA]

SECONDS, CLIENTS, PAUSE_S = 10.0, 24, 0.1
MISTAKES = 20  # one of so many is no film


def test_the_answered_share_is_the_clients_own_and_a_full_queue_keeps_the_server_ready(tmp_path: Path) -> None:
    save_model(tmp_path, preprocessing=Preprocessing())
    data, over = encoded(film()), threading.Event()
    with fresh_server() as server:
        package(tmp_path, "1.0.0", server.store)
        started = server.call("--detach", "--device", "cpu", "--workers", "1", "--queue", "2", "--batch-size", "1")
        assert started.returncode == 0, started.stderr
        metrics = MetricsClient(f"http://127.0.0.1:{server.ports[1]}")

        def ask(first: int) -> Counter[int]:
            statuses: Counter[int] = Counter()
            number = first
            with requests.Session() as session:
                session.headers["Content-Type"] = "application/octet-stream"
                while not over.is_set():
                    number += 1
                    body = b"no film" if number % MISTAKES == 0 else data
                    reply = session.post(f"{server.url}/predictions/pneumonia", data=body, timeout=60)
                    statuses[reply.status_code] += 1
                    time.sleep(PAUSE_S)
            return statuses

        with ThreadPoolExecutor(CLIENTS) as pool:
            warm = [
                pool.submit(requests.post, f"{server.url}/predictions/pneumonia", data=data) for _ in range(CLIENTS)
            ]
            assert {one.result().status_code for one in warm} >= {
                503
            }  # the series of 5xx is there from the first one on
            before = metrics.look()
            asked = [pool.submit(ask, first) for first in range(CLIENTS)]
            ready, end = [], time.monotonic() + SECONDS
            while time.monotonic() < end:
                ready.append(server.call("--ready"))
            over.set()
            statuses = sum((one.result() for one in asked), Counter[int]())
        said = report_of(metrics.look().since(before), SECONDS)["server"]["answered"]
    share = statuses[200] / statuses.total()
    print(f"\n{dict(statuses)}: clients {share:.4f}, said {said}; --ready {len(ready)} times")
    assert {200, 503} <= set(statuses) <= {200, 415, 503}
    assert statuses[503] > statuses[200]
    assert said["share"] == pytest.approx(share, abs=0.02)
    assert [one.stderr for one in ready if one.returncode] == []
