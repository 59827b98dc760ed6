"""A server with more to do than it can: its figures and its readiness against what its clients were answered."""

from __future__ import annotations

import os
import statistics
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

SECONDS, CLIENTS, PAUSE_S = float(os.environ.get("OVERLOAD_SECONDS", "10")), 24, 0.1
MISTAKES = 20  # one of so many is no film


def test_the_answered_share_is_the_clients_own_and_a_full_queue_keeps_the_server_ready(tmp_path: Path) -> None:
    save_model(tmp_path, preprocessing=Preprocessing())
    data, over = encoded(film()), threading.Event()
    with fresh_server() as server:
        package(tmp_path, "1.0.0", server.store)
        started = server.call("--detach", "--device", "cpu", "--workers", "1", "--queue", "2", "--batch-size", "1")
        assert started.returncode == 0, started.stderr
        metrics = MetricsClient(f"http://127.0.0.1:{server.ports[1]}")

        took: list[float] = []

        def ask(first: int) -> Counter[int]:
            statuses: Counter[int] = Counter()
            number = first
            with requests.Session() as session:
                session.headers["Content-Type"] = "application/octet-stream"
                while not over.is_set():
                    number += 1
                    body = b"no film" if number % MISTAKES == 0 else data
                    sent = time.time()
                    when = {"X-Request-Start": f"t={sent:.3f}"}
                    reply = session.post(f"{server.url}/predictions/pneumonia", data=body, headers=when, timeout=60)
                    statuses[reply.status_code] += 1
                    if reply.status_code != 503:  # those reached no worker
                        took.append(time.time() - sent)
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
        seen = metrics.look().since(before)
        said, p95 = report_of(seen, SECONDS)["server"]["answered"], seen.quantile("cxr_request_seconds", 0.95)
    share = statuses[200] / statuses.total()
    print(f"\n{dict(statuses)}: clients {share:.4f}, said {said}; --ready {len(ready)} times")
    own = statistics.quantiles(took, n=20)[-1]
    print(f"95th percentile of {len(took)} answers: clients {own:.3f} s, the server says {p95}")
    assert {200, 503} <= set(statuses) <= {200, 415, 503}
    assert statuses[503] > statuses[200]
    assert p95 == pytest.approx(own, rel=0.1, abs=0.05)  # client and server share the processors of the test
    assert said["share"] == pytest.approx(share, abs=0.02)
    assert [one.stderr for one in ready if one.returncode] == []
