"""What production does to a server: killed workers, killed JVMs, damaged weights, stops without a word."""

from __future__ import annotations

import dataclasses
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests
import yaml
from prometheus_client.parser import text_string_to_metric_families

from pneumoscan.archive import package
from pneumoscan.server.run_folder import SOCKET_PATH_LIMIT, WORKER_SOCKET_NAME
from tests.cxr.networks import save_model
from tests.deploy.prometheus import ALERTS, promtool
from tests.e2e.edges import Edge, fresh_edge
from tests.e2e.servers import Server, clean_environment, fresh_server
from tests.e2e.supervised import Supervised, load, supervised
from tests.e2e.test_edge_life import SLOW
from tests.e2e.test_server_life import leftovers, pack
from tests.places import REPOSITORY
from tests.ports import free_port
from tests.programs import NEEDS_JAVA, NEEDS_NGINX, NEEDS_PROMETHEUS

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.alone, NEEDS_JAVA]

VERSION = "1.0.0"
WORKER_KILLS, JVM_KILLS, UNCLEAN_STOPS = 20, 5, 20


@pytest.fixture(scope="module")
def pair() -> Iterator[list[Supervised]]:
    """Two servers of two workers each, which take 0.2 s for a film: every kill hits requests that are being answered.

    Their handler needs no torch; what a model takes to load comes on top of how long they are away.
    """
    with ExitStack() as stack:
        servers = [stack.enter_context(fresh_server()) for _ in range(2)]
        for server in servers:
            pack(server.store, VERSION, SLOW)
        both = [stack.enter_context(supervised(server, "--workers", "2")) for server in servers]
        start = time.monotonic()
        for one in both:
            one.seconds_until_back(start)
        yield both


@pytest.fixture(scope="module")
def edge(pair: list[Supervised]) -> Iterator[Edge]:
    """An edge in front of both."""
    with fresh_edge([one.server.url for one in pair]) as edge:
        yield edge


# --- Kills under load -------------------------------------------------------------------------------------------------


@NEEDS_NGINX
def test_workers_that_are_killed_under_load_cost_no_request(pair: list[Supervised], edge: Edge) -> None:
    """Through an edge before both servers, and through one that has no other server to ask again."""
    rng, recoveries = random.Random(20), list[float]()
    with fresh_edge([pair[0].server.url]) as lone, load([edge] * 6 + [lone] * 2) as asked:
        while len(recoveries) < WORKER_KILLS:
            killed: list[tuple[Supervised, int, float]] = []
            for one in pair:
                for _ in range(2):  # one that was sent just after the last kill has met the dead worker too
                    asked.wait_until_answered()
                pid = rng.choice(one.ready_workers())
                os.kill(pid, signal.SIGKILL)
                killed.append((one, pid, time.monotonic()))
            with ThreadPoolExecutor() as pool:
                recoveries += pool.map(lambda one: one[0].seconds_until_back(one[2], one[1]), killed)
        asked.wait_until_answered()
    asked.check("kill -9 of a worker", recoveries)
    assert [one.ends for one in pair] == [[], []]


@NEEDS_NGINX
def test_jvms_that_are_killed_under_load_cost_no_request_and_leave_no_process(
    pair: list[Supervised], edge: Edge
) -> None:
    recoveries: list[float] = []
    with load([edge] * 8) as asked:
        for one in itertools.islice(itertools.cycle(pair), JVM_KILLS):
            asked.wait_until_answered()
            state = one.server.run_dir.read_state()
            assert state is not None
            ended = len(one.ends)
            os.kill(state.jvm_pid, signal.SIGKILL)
            recoveries.append(one.seconds_until_back(time.monotonic()))
            # Its workers among them: they are in its run folder's temporary one.
            assert one.ends[ended:] == [(1, [])]
        asked.wait_until_answered()
    asked.check("kill -9 of a JVM", recoveries)


# --- Weights that are damaged when it starts again --------------------------------------------------------------------

SCRAPES = 25
UP = 'up{job="pneumoscan", instance="a"}'
SCRAPE_S = 15  # as deploy/prometheus/prometheus.yml


def damage_weights(archive: Path) -> None:
    """Change a bit of the weights in an archive that is whole as a zip file."""
    with zipfile.ZipFile(archive) as packed:
        content = {name: packed.read(name) for name in packed.namelist()}
    weights = bytearray(content["model.pth"])
    weights[len(weights) // 2] ^= 1
    content["model.pth"] = bytes(weights)
    with zipfile.ZipFile(archive, "w") as packed:
        for name, data in content.items():
            packed.writestr(name, data)


def scrape(job: str, port: int) -> dict[str, float]:
    """What Prometheus would store of one look at a port: ``up``, and what it found there, by series."""
    instance = f'job="{job}", instance="a"'
    try:
        page = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=5).text
    except requests.RequestException:
        return {f"up{{{instance}}}": 0.0}
    found = {f"up{{{instance}}}": 1.0}
    for family in text_string_to_metric_families(page):
        for sample in family.samples if family.name.startswith("cxr_") else ():
            labels = "".join(f', {name}="{value}"' for name, value in sample.labels.items())
            found[f"{sample.name}{{{instance}{labels}}}"] = sample.value
    return found


def firing(seen: Sequence[dict[str, float]], folder: Path) -> set[str]:
    """The alerts that fire when what was scraped comes again and again, at the deployed pace, for twenty minutes."""
    count = 20 * 60 // SCRAPE_S
    series = {name for one in seen for name in one}
    values = {
        name: " ".join(str(one.get(name, "stale")) for one in itertools.islice(itertools.cycle(seen), count))
        for name in series
    }
    alerts = [rule["alert"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    fired: set[str] = set()
    for alert in alerts:
        fires = f'count_over_time(ALERTS{{alertname="{alert}", alertstate="firing"}}[20m])'
        wanted = f"count({fires}) > bool 0 or vector(0)"
        test = {
            "rule_files": [str(ALERTS)],
            "evaluation_interval": f"{SCRAPE_S}s",
            "tests": [
                {
                    "interval": f"{SCRAPE_S}s",
                    "input_series": [{"series": name, "values": text} for name, text in values.items()],
                    "promql_expr_test": [{"expr": wanted, "eval_time": "20m", "exp_samples": [{"value": 1}]}],
                }
            ],
        }
        path = folder / "seen.yml"
        path.write_text(yaml.safe_dump(test, width=1_000_000), encoding="utf-8")
        done = promtool("test", "rules", str(path))
        if done.returncode == 0:
            fired.add(alert)
        else:
            assert "got:" in done.stdout + done.stderr, done.stdout + done.stderr
    return fired


@NEEDS_PROMETHEUS
def test_damaged_weights_are_never_ready_and_raise_an_alert_while_the_server_is_started_again_and_again(
    tmp_path: Path,
) -> None:
    save_model(tmp_path / "run")
    with fresh_server() as server:
        damage_weights(package(tmp_path / "run", VERSION, server.store))
        port = free_port()
        export = [sys.executable, "-m", "scripts.watch_metrics", "--run-dir", str(server.run_dir.path), "--export"]
        with (
            supervised(server, "--workers", "1") as one,
            (tmp_path / "export.log").open("wb") as log,
            subprocess.Popen([*export, str(port)], cwd=REPOSITORY, stdout=log, stderr=log) as exporter,
        ):
            try:
                seen: list[dict[str, float]] = []
                took: list[float] = []
                while len(seen) < SCRAPES or len(one.ends) < 2:
                    seen.append(scrape("pneumoscan", server.ports[1]) | scrape("pneumoscan-workers", port))
                    if len(seen) % 5 == 0:
                        before = time.monotonic()
                        asked = server.call("--ready")
                        took.append(time.monotonic() - before)
                        assert (asked.returncode, asked.stdout) == (1, "")
                        assert asked.stderr.startswith("not ready: ")
                    assert one.ready_workers() == []
                    time.sleep(0.5)
            finally:
                exporter.terminate()
            told = (server.folder / "supervisor.log").read_text()
        assert {status for status, _ in one.ends} == {1}
        assert "model.pth is damaged: its sha256 is not the one in SHA256SUMS" in told
    alerts = firing(seen, tmp_path)
    up = "".join(f"{one[UP]:.0f}" for one in seen)
    print(f"\ndamaged weights: not ready within {max(took):.1f} s of being asked; up {up}; firing {sorted(alerts)}")
    assert max(took) < 5
    assert "1" in up
    assert "PneumoScanNoWorker" in alerts


# --- Stops without a word ---------------------------------------------------------------------------------------------


@dataclass
class Stops:
    """What unclean stops left: bytes after each, and bytes of it that the next start did not clear."""

    left: list[int] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    under_load: int = 0


def files_in(*folders: Path) -> dict[tuple[str, int], int]:
    """Bytes of every file below, and of none that was made again under the same name."""
    found: dict[tuple[str, int], int] = {}
    for path in itertools.chain.from_iterable(folder.rglob("*") for folder in folders):
        with suppress(OSError):
            status = path.lstat()
            found[str(path), status.st_ctime_ns] = 0 if path.is_dir() else status.st_size
    return found


def processes_below(folder: Path) -> list[int]:
    """Every process with a path below a folder in its command line, wherever there its temporary files are."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it ended while we looked
            if f"{folder}/".encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def stop_uncleanly(server: Server, temp: Path, rng: random.Random, count: int) -> Stops:
    """Start a server and kill it, again and again; at its end it is started and stopped as it should be."""
    stops, before = Stops(), dict[tuple[str, int], int]()
    places = (temp, server.run_dir.path / "tmp")
    answered, done = threading.Semaphore(0), threading.Event()

    def ask() -> None:
        while not done.is_set():
            with suppress(requests.RequestException):
                if requests.post(f"{server.url}/predictions/pneumonia", data=b"film", timeout=30).ok:
                    answered.release()
            done.wait(0.05)

    with ThreadPoolExecutor(2) as pool, (server.folder / "serve.log").open("wb") as log:
        asking = [pool.submit(ask) for _ in range(2)]
        try:
            for number in range(count + 1):
                while answered.acquire(blocking=False):
                    pass
                started = subprocess.Popen(
                    server.command("--device", "cpu", "--workers", "1"),
                    cwd=REPOSITORY,
                    env=clean_environment() | {"TMPDIR": str(temp)},
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
                with started:
                    last, moment = number == count, rng.uniform(0.2, 3.0)
                    try:
                        # Every second one, and the last, while it answers.
                        if number % 2 or last:
                            assert answered.acquire(timeout=60), (server.folder / "serve.log").read_text()[-4000:]
                            stops.under_load += not last
                            moment = rng.uniform(0.0, 0.4)
                        end = time.monotonic() + moment
                        while time.monotonic() < end:
                            state = server.run_dir.read_state() if before else None
                            if state is not None and state.pid == started.pid and state.jvm_pid:
                                now = files_in(*places)
                                stops.kept.append(sum(before[name] for name in before.keys() & now.keys()))
                                before = {}
                            time.sleep(0.01)
                    finally:
                        if last:
                            started.terminate()
                        else:
                            started.kill()
                            # In turn the supervisor alone, and then all the others before one of them can clear up.
                            for pid in processes_below(temp.parent) if number // 2 % 2 else ():
                                with suppress(ProcessLookupError):
                                    os.kill(pid, signal.SIGKILL)
                    status = started.wait(60)
                    assert status == (0 if last else -signal.SIGKILL), (server.folder / "serve.log").read_text()[-4000:]
                deadline = time.monotonic() + 40
                # A process that is ending shows no command line any more while it still holds the lock.
                while (left := processes_below(temp.parent)) or server.run_dir.is_locked():
                    assert time.monotonic() < deadline, f"still there: {left}, or the run folder's lock"
                    time.sleep(0.05)
                before = before | files_in(*places)
                stops.left.append(sum(before.values()))
        finally:
            done.set()
    assert [one.exception() for one in asking] == [None, None]
    return stops


def test_twenty_unclean_stops_leave_nothing_that_grows() -> None:
    """In a run folder that holds the temporary files, and in one whose path is too long for that."""
    with ExitStack() as stack:
        lanes: list[tuple[Server, Path]] = []
        for length in (0, SOCKET_PATH_LIMIT - len(WORKER_SOCKET_NAME) - len("/tmp") + 1):
            folder = stack.enter_context(fresh_server()).folder
            temp = folder / "t"
            temp.mkdir()
            deep = folder / "x".ljust(length - len(f"{folder}//run"), "x")
            deep.mkdir()
            server = Server(deep)
            stack.callback(server.call, "--stop")
            pack(server.store, VERSION, SLOW)
            lanes.append((server, temp))
        with ThreadPoolExecutor(2) as pool:
            each = [
                pool.submit(stop_uncleanly, server, temp, random.Random(seed), UNCLEAN_STOPS // 2)
                for seed, (server, temp) in enumerate(lanes)
            ]
            stops = [one.result() for one in each]
        for (server, temp), found in zip(lanes, stops, strict=True):
            print(f"\nunclean stops: {dataclasses.asdict(found)}")
            assert found.under_load == UNCLEAN_STOPS // 4
            assert max(found.left) > 0  # there was something to clear
            assert found.kept
            assert set(found.kept) == {0}
            assert found.left[-1] == 0
            assert list(temp.iterdir()) == []
            assert leftovers(server.run_dir) == set()
