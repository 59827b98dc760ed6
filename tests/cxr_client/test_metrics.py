"""Series read as Prometheus reads them, and what happened between two looks."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from cxr_client import AnswerLost, ServerUnreachable
from cxr_client.metrics import MetricsClient, MetricsUnreadable, Snapshot

TEXT = """# HELP Requests5XX Torchserve prometheus counter metric with unit: Count
# TYPE Requests5XX counter
Requests5XX{Level="Host",Hostname="vm",} 3.0
# HELP cxr_requests_total Torchserve prometheus counter metric with unit: Count
# TYPE cxr_requests_total counter
cxr_requests_total{ModelName="pneumonia",model_version="1.0.0",outcome="ok",code="OK",Hostname="vm",} 6.0
cxr_requests_total{ModelName="pneumonia",model_version="1.0.0",outcome="refused",code="TOO_SMALL",Hostname="vm",} 2.0
cxr_requests_total{ModelName="pneumonia",model_version="1.1.0",outcome="ok",code="OK",Hostname="vm",} 1.0
"""


def exposed(*seconds: float, total: float = 0.0, gauge: float = 0.0) -> Snapshot:
    """A histogram of these observations, a counter and a gauge, by way of Prometheus' own exporter."""
    registry = CollectorRegistry()
    histogram = Histogram("cxr_decode_seconds", "", registry=registry, buckets=(0.01, 0.1, 1.0))
    for one in seconds:
        histogram.observe(one)
    Counter("cxr_requests_total", "", registry=registry).inc(total)
    Gauge("cxr_drift_psi", "", registry=registry).set(gauge)
    return Snapshot.parse(generate_latest(registry).decode(), 0.0)


def test_torchserves_own_text_is_read() -> None:
    seen = Snapshot.parse(TEXT, 1.0)
    assert seen.total("cxr_requests_total") == 9
    assert seen.total("cxr_requests_total", {"model_version": "1.0.0"}) == 8
    assert seen.by("cxr_requests_total", "outcome") == {"ok": 7, "refused": 2}
    assert seen.by("cxr_requests_total", "outcome", {"model_version": "1.1.0"}) == {"ok": 1}
    assert seen.total("Requests5XX_total") == 3
    assert seen.kinds == {"Requests5XX_total": "counter", "cxr_requests_total": "counter"}
    assert seen.total("cxr_unknown") == 0
    assert seen.by("cxr_requests_total", "nobody") == {}


def test_between_two_looks_counters_and_histograms_grow_and_gauges_are_what_they_are() -> None:
    change = exposed(0.05, 0.5, 0.5, total=7, gauge=0.4).since(exposed(0.05, total=3, gauge=0.9))
    assert change.total("cxr_requests_total") == 4
    assert change.total("cxr_drift_psi") == 0.4
    assert change.total("cxr_decode_seconds_count") == 2
    assert change.mean("cxr_decode_seconds") == pytest.approx(0.5)


def test_after_a_restart_everything_is_new() -> None:
    change = exposed(0.05, total=2).since(exposed(0.05, 0.05, 0.05, total=30))
    assert change.total("cxr_requests_total") == 2
    assert change.total("cxr_decode_seconds_count") == 1


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.5, 0.01), (0.25, 0.005), (0.6, 0.01 + 0.09 * 0.4), (0.75, 0.1), (1.0, 1.0)],
)
def test_a_quantile_lies_in_its_bucket_by_proportion(share: float, expected: float) -> None:
    """Of four observations two lie in 0-0.01, one in 0.01-0.1 and one above 1, which counts as 1."""
    seen = exposed(0.005, 0.006, 0.05, 5.0)
    assert seen.quantile("cxr_decode_seconds", share) == pytest.approx(expected)


def test_nothing_observed_has_no_quantile_and_no_mean() -> None:
    assert exposed().quantile("cxr_decode_seconds", 0.95) is None
    assert exposed().mean("cxr_decode_seconds") is None
    assert exposed().quantile("cxr_other_seconds", 0.95) is None


@pytest.mark.parametrize("text", ["<html><body>no</body></html>", '{"status": "Healthy"}', 'a{b="c} 1', "a b c d"])
def test_another_format_is_told(text: str) -> None:
    with pytest.raises(MetricsUnreadable, match="metrics port"):
        Snapshot.parse(text, 0.0)


class _Exporter(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = TEXT.encode()
        self.send_response(200 if self.path == "/metrics" else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def exporter() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Exporter)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("path", ["", "/", "/metrics"])
def test_the_address_may_be_given_with_or_without_its_path(exporter: str, path: str) -> None:
    with MetricsClient(exporter + path) as client:
        assert client.look().total("cxr_requests_total") == 9


def test_this_machine_is_not_asked_through_a_proxy(exporter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with MetricsClient(exporter) as client:
        assert client.look().total("cxr_requests_total") == 9


def test_another_page_nobody_and_a_silent_server_are_three_errors(exporter: str) -> None:
    with MetricsClient(f"{exporter}/elsewhere") as client, pytest.raises(MetricsUnreadable, match="404"):
        client.look()
    with MetricsClient("http://127.0.0.1:9") as client, pytest.raises(ServerUnreachable, match="nobody answers"):
        client.look()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with MetricsClient(url, timeout_s=0.2) as client, pytest.raises(AnswerLost, match=r"0\.2 s"):
            client.look()


def test_a_histogram_written_as_counters_is_one() -> None:
    text = "".join(
        f"# TYPE seconds{part} counter\n" + "".join(f"seconds{part}{labels} {value}\n" for labels, value in lines)
        for part, lines in {
            "_bucket": [('{le="1"}', 0.0), ('{le="2"}', 4.0), ('{le="+Inf"}', 4.0)],
            "_count": [("", 4.0)],
            "_sum": [("", 6.0)],
        }.items()
    )
    seen = Snapshot.parse(text, 0.0)
    assert seen.quantile("seconds", 0.5) == 1.5
    assert seen.mean("seconds") == 1.5
    assert seen.kinds == {"seconds": "histogram"}
    assert seen.since(seen).quantile("seconds", 0.5) is None
