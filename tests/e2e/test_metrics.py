"""A real Prometheus on a real server: all series arrive, all queries are answered, drift is told from no drift."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import yaml

from cxr.errors import CODES
from cxr.predict import Predictor
from cxr.serving.drift import DRIFT_FILE, FEWEST
from cxr.serving.metrics import SERIES, SIGNALS
from cxr_client.metrics import MetricsClient, Snapshot
from pneumoscan.archive import package
from tests.cxr.networks import save_model
from tests.cxr.references import reference_for
from tests.deploy.prometheus import ALERTS, dashboard_queries, promtool
from tests.e2e.servers import Server, fresh_server
from tests.films import Grey, dicom, encoded, film
from tests.places import REPOSITORY
from tests.ports import free_port
from tests.programs import NEEDS_JAVA, NEEDS_PROMETHEUS

pytestmark = [pytest.mark.e2e, NEEDS_JAVA]

VERSION = "1.0.0"
CANARY = "CANARY"
# TorchServe's own names are not in snake case, and neither are the labels it adds.
TOLERATED = "label names should be written in 'snake_case' not 'camelCase'"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A small model behind TorchServe, in an archive with a drift reference of a hundred films."""
    run = tmp_path_factory.mktemp("run")
    save_model(run)
    loaded = Predictor.load(run, "cpu")
    reference = reference_for(loaded, [film(10_000 + seed) for seed in range(100)])
    (run / DRIFT_FILE).write_text(reference.to_json(), encoding="utf-8")
    with fresh_server() as fresh:
        package(run, VERSION, fresh.store)
        started = fresh.call("--detach", "--device", "cpu", "--workers", "1")
        assert started.returncode == 0, started.stderr
        yield fresh


def metrics_url(server: Server) -> str:
    return f"http://127.0.0.1:{server.ports[1]}"


def send(server: Server, films: list[Grey]) -> None:
    with requests.Session() as session:
        for one in films:
            headers = {"X-Request-Start": f"t={time.time():.3f}"}
            reply = session.post(f"{server.url}/predictions/pneumonia", data=encoded(one), headers=headers, timeout=60)
            assert reply.status_code == 200


def look(server: Server) -> Snapshot:
    with MetricsClient(metrics_url(server)) as client:
        return client.look()


def wait_for(what: Callable[[], Any], seconds: float = 30.0) -> Any:
    """What a function gives as soon as it gives something."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.1)
    return found


@contextmanager
def process(*command: str, log: Path) -> Iterator[None]:
    with log.open("wb") as out:
        started = subprocess.Popen(command, cwd=REPOSITORY, stdout=out, stderr=out)
        try:
            yield
        finally:
            started.terminate()
            started.wait(20)


@contextmanager
def prometheus(folder: Path, targets: dict[str, str]) -> Iterator[str]:
    """Prometheus with the rules that are deployed, and a scrape each second; its address."""
    configuration = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ALERTS)],
        "scrape_configs": [
            {"job_name": name, "static_configs": [{"targets": [target]}]} for name, target in targets.items()
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration), encoding="utf-8")
    port = free_port()
    where = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with process("prometheus", *where, f"--web.listen-address=127.0.0.1:{port}", log=folder / "prometheus.log"):
        yield f"http://127.0.0.1:{port}"


def ask(url: str, query: str) -> list[dict[str, Any]]:
    """The series that a query gives now."""
    reply = requests.get(f"{url}/api/v1/query", params={"query": query}, timeout=10)
    assert reply.json()["status"] == "success", f"{query}: {reply.text}"
    result: list[dict[str, Any]] = reply.json()["data"]["result"]
    return result


def is_up(url: str, count: int) -> bool:
    try:
        return len(ask(url, "up == 1")) == count
    except requests.RequestException:
        return False


@NEEDS_PROMETHEUS
def test_prometheus_sees_every_series_and_answers_every_query_of_the_dashboard(server: Server, tmp_path: Path) -> None:
    port = free_port()
    export = [sys.executable, "-m", "scripts.watch_metrics", "--export", str(port)]
    targets = {"pneumoscan": f"127.0.0.1:{server.ports[1]}", "pneumoscan-workers": f"127.0.0.1:{port}"}
    exporter = process(*export, "--run-dir", str(server.run_dir.path), log=tmp_path / "export.log")
    with exporter, prometheus(tmp_path, targets) as url:
        wait_for(lambda: is_up(url, 2))
        assert len(ask(url, "cxr_requests_total")) == len(CODES) + 1  # at 0 before anybody asked, so that all can rise
        send(server, [film(seed) for seed in range(FEWEST)])
        requests.post(f"{server.url}/predictions/pneumonia", data=b"no film", timeout=60)
        requests.post(f"{server.url}/predictions/pneumonia", data=dicom(film(), bits=8, Modality="CT"), timeout=60)
        requests.post(f"{server.url}/predictions/other", data=b"", timeout=60)
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        requests.post(f"{server.url}/predictions/pneumonia", data=encoded(film()), headers=form, timeout=60)
        wait_for(lambda: ask(url, 'cxr_requests_total{code="NOT_A_RADIOGRAPH"} == 1'))

        for name, series in SERIES.items():
            (one, *_) = ask(url, f"{name}_count" if series.kind == "histogram" else name)
            labels = {"__name__", "job", "instance", "ModelName", "model_version", "Hostname", *series.labels}
            assert one["metric"].keys() == labels
            assert (one["metric"]["ModelName"], one["metric"]["model_version"]) == ("pneumonia", VERSION)
        assert {one["metric"]["signal"] for one in ask(url, "cxr_drift_psi")} == set(SIGNALS)
        assert ask(url, 'cxr_requests_total{outcome="refused",code="UNKNOWN_FORMAT"} == 1')
        assert ask(url, "sum(cxr_predictions_total) >= 50")
        assert ask(url, 'cxr_workers{state="READY"} == 1')
        assert ask(url, "cxr_workers_wanted == 1")
        wait_for(lambda: ask(url, "cxr_queue_length == 0"))  # the last scrape may be older than the last answer
        assert ask(url, "cxr_queue_capacity > 0")

        # A rate needs two scrapes of a series.
        queries = [query for query in dashboard_queries() if not query.startswith("ALERTS")]
        wait_for(lambda: all(ask(url, query) for query in queries))
        rules = requests.get(f"{url}/api/v1/rules", timeout=10).json()["data"]["groups"][0]["rules"]
        assert all(rule["health"] == "ok" for rule in rules)
        assert not ask(url, 'ALERTS{alertstate="firing"}')


@NEEDS_PROMETHEUS
def test_promtool_finds_nothing_in_our_series_but_the_labels_that_were_promised(server: Server) -> None:
    text = requests.get(f"{metrics_url(server)}/metrics", timeout=10).text
    said = promtool("check", "metrics", text=text)
    lines = [line for line in (said.stdout + said.stderr).splitlines() if line.startswith("cxr_")]
    # A histogram with its own buckets, which TorchServe 0.12 can only be given as counters.
    assert {line.split(" ", 1)[1] for line in lines if not line.startswith("cxr_request_seconds_")} <= {TOLERATED}
    with MetricsClient(metrics_url(server)) as client:
        seen = client.look()
    assert 0 < (seen.quantile("cxr_request_seconds", 0.95) or 0.0) < 60
    assert seen.total("cxr_request_seconds_bucket", {"le": "+Inf"}) == seen.total("cxr_request_seconds_count")


def test_nothing_of_a_request_becomes_a_label(server: Server) -> None:
    data = dicom(film(77), bits=8, PatientID=CANARY, PatientName=CANARY, AccessionNumber=CANARY)
    for url in (f"{server.url}/predictions/pneumonia", f"{server.url}/predictions/pneumonia/{VERSION}"):
        headers = {"X-Request-Id": CANARY, "User-Agent": CANARY}
        assert requests.post(url, data=data, headers=headers, timeout=60).status_code == 200
        files = {"film": (f"{CANARY}.dcm", data)}
        assert requests.post(url, files=files, timeout=60).status_code == 200
    requests.post(f"{server.url}/predictions/pneumonia/{CANARY}", data=data, timeout=60)
    page = requests.get(f"{metrics_url(server)}/metrics", timeout=10).text
    assert "cxr_requests_total" in page
    assert CANARY not in page


def test_watch_metrics_shows_what_the_server_answered(server: Server) -> None:
    before = look(server)
    send(server, [film(200), film(201)])
    wait_for(lambda: look(server).since(before).total("cxr_predictions_total") == 2)
    command = [sys.executable, "-m", "scripts.watch_metrics", "--once", "--url", metrics_url(server)]
    shown = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert f"pneumonia {VERSION}" in shown.stdout
    report = yaml.safe_load(
        subprocess.run([*command, "--json"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    )
    one = report["versions"][VERSION]
    assert one["films"] == look(server).total("cxr_predictions_total")
    assert one["latency_s"]["batch"]["count"] > 0
    assert sum(label["share"] for label in one["labels"].values()) == pytest.approx(1)


@NEEDS_PROMETHEUS
@pytest.mark.slow
def test_a_shifted_stream_raises_the_drift_alert_and_an_unshifted_one_does_not(server: Server, tmp_path: Path) -> None:
    """The values that the server publishes, held for an hour under the rules as they are deployed."""
    send(server, [film(1000 + seed) for seed in range(120)])
    assert drift_alerts(look(server), tmp_path) == set()
    send(server, [np.asarray(film(3000 + seed) // 3, dtype=np.uint8) for seed in range(120)])
    assert {"mean_grey", "contrast"} <= drift_alerts(look(server), tmp_path)


def drift_alerts(seen: Snapshot, folder: Path) -> set[str]:
    """The signals for which the drift alert fires where these gauges stay as they are and films keep coming."""
    model = f'ModelName="pneumonia", model_version="{VERSION}"'
    series = [{"series": f'cxr_predictions_total{{{model}, label="NORMAL"}}', "values": "0+1x60"}]
    gauges = {name: seen.by(name, "signal") for name in ("cxr_drift_psi", "cxr_drift_psi_limit")}
    assert set(gauges["cxr_drift_psi"]) == set(SIGNALS)
    for name, values in gauges.items():
        series += [
            {"series": f'{name}{{{model}, signal="{signal}"}}', "values": f"{value:.6f}x60"}
            for signal, value in values.items()
        ]
    firing: set[str] = set()
    for signal in SIGNALS:
        wanted = f'ALERTS{{alertname="PneumoScanDrift", alertstate="firing", signal="{signal}"}}'
        test = {
            "rule_files": [str(ALERTS)],
            "evaluation_interval": "1m",
            "tests": [
                {
                    "interval": "1m",
                    "input_series": series,
                    "promql_expr_test": [
                        {"expr": f"count({wanted}) or vector(0)", "eval_time": "60m", "exp_samples": [{"value": 1}]}
                    ],
                }
            ],
        }
        path = folder / "held.yml"
        path.write_text(yaml.safe_dump(test), encoding="utf-8")
        done = promtool("test", "rules", str(path))
        if done.returncode == 0:
            firing.add(signal)
        else:
            assert "got:" in done.stdout + done.stderr, done.stdout + done.stderr
    return firing
