"""The report on a terminal: what it says of series, and how the command line ends."""

from __future__ import annotations

import http.server
import json
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from cxr_client.metrics import Snapshot
from pneumoscan.metrics_report import lines_of, report_of
from tests.commands import run_command
from tests.cxr_client.exposition import exposition
from tests.interrupts import hear_interrupts

ROOT = Path(__file__).parents[3]


def test_the_report_has_counts_shares_and_rates() -> None:
    report = report_of(Snapshot.parse(exposition(), 100.0), 10.0)
    one = report["versions"]["1.0.0"]
    assert (one["requests"], one["requests_per_s"]) == (10, 1.0)
    assert one["outcomes"] == {"ok": {"count": 8, "share": 0.8}, "refused": {"count": 2, "share": 0.2}}
    assert one["errors"] == {"TOO_SMALL": 2}
    assert one["labels"] == {"NORMAL": {"count": 6, "share": 0.75}, "PNEUMONIA": {"count": 2, "share": 0.25}}
    assert one["indeterminate"] == {"count": 1, "share": 0.125}
    assert one["rescored"] == {"count": 2, "share": 0.25}
    assert one["latency_s"]["decode"] == {"count": 4, "mean": 0.02, "p50": 0.025, "p95": 0.0475}
    assert one["latency_s"]["forward"] == {"count": 0, "mean": None, "p50": None, "p95": None}
    assert one["drift"]["signals"] == {
        "aspect": {"psi": 0.1, "limit": 0.25, "shifted": False},
        "score": {"psi": 0.6, "limit": 0.25, "shifted": True},
    }
    assert report["server"]["mean_queue_s"] == 0.02
    json.dumps(report, allow_nan=False)


def test_what_torchserve_refused_itself_is_not_answered() -> None:
    """Of 100 requests a full queue refused 95: no worker saw them, and the workers' own counters say all is well."""
    text = """# TYPE Requests5XX counter
Requests5XX{Level="Host"} 95.0
# TYPE cxr_requests_total counter
cxr_requests_total{ModelName="pneumonia",model_version="1.0.0",outcome="ok",code="OK"} 4.0
cxr_requests_total{ModelName="pneumonia",model_version="1.0.0",outcome="refused",code="UNKNOWN_FORMAT"} 1.0
"""
    report = report_of(Snapshot.parse(text, 0.0), None)
    assert report["server"]["answered"] == {"count": 4, "share": 0.04}
    assert any("answered, of all requests: 4.0 %" in line for line in lines_of(report))


def test_the_walls_around_the_decoders_are_told() -> None:
    line = 'cxr_sandbox_wall{{ModelName="pneumonia",model_version="1.0.0",wall="{}"}} {}'
    for seccomp, told in (("1.0", "all walls stand"), ("0.0", "without seccomp")):
        series = [line.format("limits", "1.0"), line.format("seccomp", seccomp)]
        requests = 'cxr_requests_total{ModelName="pneumonia",model_version="1.0.0",outcome="ok",code="OK"} 4.0'
        text = "\n".join(["# TYPE cxr_sandbox_wall gauge", *series, "# TYPE cxr_requests_total counter", requests, ""])
        report = report_of(Snapshot.parse(text, 0.0), None)
        assert report["versions"]["1.0.0"]["sandbox"] == {"limits": True, "seccomp": seccomp == "1.0"}
        assert any(line.split() == ["sandbox", *told.split()] for line in lines_of(report))


def test_a_server_whose_workers_are_not_ready_yet_has_a_report_too() -> None:
    report = report_of(Snapshot.parse("# TYPE CPUUtilization gauge\nCPUUtilization 3.0\n", 0.0), None)
    assert report["versions"] == {}
    assert any("no worker has been ready yet" in line for line in lines_of(report))


@pytest.mark.parametrize(("seconds", "shown"), [(0.001, "< 5 ms"), (30.0, "> 10 s"), (0.03, "37.5 ms")])
def test_a_quantile_beyond_the_buckets_is_not_given_a_number(seconds: float, shown: str) -> None:
    registry = CollectorRegistry()
    labels = ("ModelName", "model_version")
    Counter("cxr_requests_total", "", labels, registry=registry).labels("pneumonia", "1.0.0").inc()
    batch = Histogram("cxr_batch_seconds", "", labels, registry=registry, buckets=(0.005, 0.025, 0.05, 10.0))
    batch.labels("pneumonia", "1.0.0").observe(seconds)
    report = report_of(Snapshot.parse(generate_latest(registry).decode(), 0.0), None)
    (line,) = (line for line in lines_of(report) if line.split()[:1] == ["batch"] and "size" not in line)
    assert shown in line


def test_versions_stand_in_the_order_of_semantic_versioning() -> None:
    text = "".join(
        f'cxr_requests_total{{ModelName="pneumonia",model_version="{version}",outcome="ok",code="OK"}} 1\n'
        for version in ("1.10.0", "1.2.0", "1.2.0-rc.1")
    )
    report = report_of(Snapshot.parse("# TYPE cxr_requests_total counter\n" + text, 0.0), None)
    assert list(report["versions"]) == ["1.2.0-rc.1", "1.2.0", "1.10.0"]


def test_the_text_names_what_has_shifted_and_every_stage() -> None:
    page = exposition()
    text = "\n".join(lines_of(report_of(Snapshot.parse(page, 100.0), 10.0)))
    assert "10 (1.00/s)" in text
    assert "indeterminate 12.5 %   scored again 25.0 %" in text
    never = page.replace("cxr_rescored_total", "another_total")
    assert "scored again" not in "\n".join(lines_of(report_of(Snapshot.parse(never, 100.0), 10.0)))
    assert "ok 80.0 %  refused 20.0 %" in text
    shifted = [line for line in text.splitlines() if "SHIFTED" in line]
    assert len(shifted) == 1
    assert "score" in shifted[0]
    for stage in ("decode", "preprocess", "forward", "render", "batch"):
        assert any(line.split()[:1] == [stage] for line in text.splitlines()), stage


class _Growing(http.server.BaseHTTPRequestHandler):
    """Ten requests more at each look, and away for the third."""

    looks = 0

    def do_GET(self) -> None:
        type(self).looks += 1
        text = exposition(rounds=self.looks).encode()
        self.send_response(503 if self.looks == 3 else 200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        return


@pytest.mark.slow
def test_it_goes_on_past_a_server_that_is_away_until_it_is_interrupted() -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), _Growing) as server:
        threading.Thread(target=server.serve_forever).start()
        command = [sys.executable, "-m", "scripts.watch_metrics", "--every", "1", "--json"]
        url = f"http://127.0.0.1:{server.server_port}"
        with subprocess.Popen(
            [*command, "--url", url],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=hear_interrupts,
        ) as watching:
            try:
                assert watching.stdout is not None
                reports = [json.loads(watching.stdout.readline()) for _ in range(2)]
            finally:
                watching.send_signal(signal.SIGINT)
            _, errors = watching.communicate(timeout=20)
        server.shutdown()
    assert [report["versions"]["1.0.0"]["requests"] for report in reports] == [10, 20]
    assert all(report["versions"]["1.0.0"]["drift"]["signals"]["score"]["psi"] == 0.6 for report in reports)
    assert errors == f"pneumoscan watch: {url}/metrics: 503; give the address of the metrics port\n"
    assert watching.returncode == 0


@pytest.mark.parametrize(
    "arguments", [["--every", "0"], ["--url", "127.0.0.1:8082"], ["--export", "9108", "--once"], ["--export", "x"]]
)
def test_wrong_usage_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("watch", arguments) == 2
    assert capsys.readouterr().out == ""


def test_a_server_that_does_not_answer_ends_with_1_and_a_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("watch", ["--once", "--url", "http://127.0.0.1:9"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "nobody answers" in said.err


def test_a_port_that_is_taken_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run_command("watch", ["--export", str(port), "--run-dir", str(tmp_path)]) == 1
    assert f"port {port} cannot be used" in capsys.readouterr().err


def test_without_the_extra_the_command_says_what_to_install() -> None:
    blocked = (
        "import sys; sys.modules['prometheus_client'] = None; sys.argv[1:] = ['--once']; import runpy; "
        "runpy.run_module('scripts.watch_metrics', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", blocked], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == "pneumoscan watch needs prometheus_client: pip install 'pneumoscan[metrics]'"
