"""Versions of a running server under load: nobody without an answer, and whatever fails changes nothing."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cxr.serving.self_check import SUMS_FILE, sums_text
from cxr_client import ClientError, InferenceClient, ManagementClient
from pneumoscan.archive import package
from pneumoscan.edge.comparer import PAIRS_NAME
from pneumoscan.versions.declared import read_declared
from tests.cxr.networks import save_model, small_network
from tests.e2e.edges import fresh_edge
from tests.e2e.servers import Server, clean_environment, fresh_server
from tests.films import encoded, film
from tests.places import REPOSITORY
from tests.programs import NEEDS_JAVA, NEEDS_NGINX

pytestmark = [pytest.mark.e2e, pytest.mark.slow, NEEDS_JAVA]

CLIENTS = 8
FILMS = [encoded(film(seed, 200, 220)) for seed in range(6)]
OLD, NEW = "1.0.0", "1.1.0"


def start(server: Server, workers: str = "2") -> None:
    started = server.call("--detach", "--device", "cpu", "--workers", workers)
    assert started.returncode == 0, started.stderr


def command(server: Server, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "scripts.models", *arguments, "--run-dir", str(server.run_dir.path)]


def run(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(server, *arguments),
        cwd=REPOSITORY,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def models(server: Server, *arguments: str, status: int = 0) -> str:
    """Run the command line; what it said, on stderr if it failed."""
    done = run(server, *arguments)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stderr if status else done.stdout


def served(server: Server) -> dict[str, bool]:
    """Versions on the server, and whether each is the default."""
    with ManagementClient(server.run_dir.socket) as management:
        return {state.version: state.is_default for state in management.ready("pneumonia").versions if state.is_ready}


@dataclass
class Load:
    """What clients that never pause were answered."""

    versions: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


@contextmanager
def load(server: Server, version: str | None = None, clients: int = CLIENTS) -> Iterator[Load]:
    found, stop = Load(), threading.Event()

    def ask(number: int) -> None:
        with InferenceClient(server.url) as client:
            while not stop.is_set():
                try:
                    reply = client.predict(FILMS[number % len(FILMS)], cam="grid", version=version)
                    found.versions[reply["model"]["version"]] += 1
                except ClientError as error:
                    found.failures.append(f"{time.strftime('%T')} {error}")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of a ResNet-10 that differ in their weights."""
    folder = tmp_path_factory.mktemp("archives")
    for seed, version in enumerate((OLD, NEW)):
        save_model(folder / version, small_network(seed))
        package(folder / version, version, folder / "store")
    return folder / "store"


@pytest.fixture
def server(archives: Path) -> Iterator[Server]:
    """A server of the old version, with the new one's archive beside it."""
    with fresh_server() as server:
        server.store.mkdir()
        put(server, archives, OLD)
        start(server)
        put(server, archives, NEW)
        yield server


def put(server: Server, archives: Path, version: str) -> Path:
    path = server.store / f"pneumonia-{version}.mar"
    path.write_bytes((archives / path.name).read_bytes())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, data in enumerate(FILMS):
        (tmp_path / f"{number}.png").write_bytes(data)
    (tmp_path / "small.png").write_bytes(encoded(film(1, 20, 20)))  # refused by both
    return tmp_path


def test_a_version_comes_and_goes_under_load_without_one_failed_request(server: Server, folder: Path) -> None:
    with load(server) as clients:
        assert f"the default is still {OLD}" in models(server, "register", NEW)
        assert served(server) == {OLD: True, NEW: False}
        assert "was not verified" in models(server, "promote", NEW, status=1)
        limits = ("--max-shift", "1", "--max-flips", "1")
        said: dict[str, Any] = json.loads(models(server, "verify", NEW, "--films", str(folder), *limits, "--json"))
        assert (said["films"], said["compared"], said["refused_by_both"], said["errors"]) == (7, 6, 1, 0)
        assert said["max_shift"] >= said["mean_shift"] > 0
        assert clients.versions.keys() == {OLD}

        models(server, "promote", NEW)
        assert served(server) == {OLD: False, NEW: True}
        wait_for_answers_of(clients, NEW)
        models(server, "rollback")
        assert served(server) == {OLD: True, NEW: False}
        clients.versions[NEW] = 0
        models(server, "promote", NEW)
        models(server, "retire", OLD)  # at once: it still has requests to answer
        assert served(server) == {NEW: True}
        wait_for_answers_of(clients, NEW)
    assert clients.failures == []
    assert clients.versions[OLD] > 20
    assert clients.versions[NEW] > 20

    assert server.call("--stop").returncode == 0
    start(server)
    assert served(server) == {NEW: True}  # though the other archive is still in the store
    assert (server.store / f"pneumonia-{OLD}.mar").is_file()


def wait_for_answers_of(clients: Load, version: str) -> None:
    deadline = time.monotonic() + 30
    while clients.versions[version] < 10:
        assert time.monotonic() < deadline, clients
        time.sleep(0.05)


def test_a_restart_keeps_the_set_and_a_default_that_is_not_the_newest(server: Server) -> None:
    models(server, "register", NEW)
    models(server, "promote", NEW, "--force")
    models(server, "rollback")
    assert "no previous default" in models(server, "rollback", status=1)
    assert server.call("--stop").returncode == 0
    start(server)
    assert served(server) == {OLD: True, NEW: False}


def test_a_corrupt_archive_is_refused_and_nothing_changes(server: Server, archives: Path) -> None:
    path = put(server, archives, NEW)
    whole = path.read_bytes()
    at = len(whole) // 2
    with load(server, clients=2) as clients:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        assert "has another checksum than when it was packed" in models(server, "register", NEW, status=1)
        path.write_bytes(whole[:-40])
        assert "that its directory does not name" in models(server, "register", NEW, status=1)
        path.unlink()
        assert f"no archive of {NEW}" in models(server, "register", NEW, status=1)
        assert served(server) == {OLD: True}
    assert clients.failures == []
    assert clients.versions.keys() == {OLD}
    assert read_declared(server.store) is None


def test_a_worker_that_refuses_its_archive_leaves_no_trace(server: Server, archives: Path) -> None:
    """The archive is whole, but the golden answers in it are not this model's."""
    with zipfile.ZipFile(archives / f"pneumonia-{NEW}.mar") as packed:
        content = {name: packed.read(name) for name in packed.namelist()}
    with zipfile.ZipFile(archives / f"pneumonia-{OLD}.mar") as packed:
        content["golden/answers.json"] = packed.read("golden/answers.json")
    content[SUMS_FILE] = sums_text(
        {name: hashlib.sha256(data).hexdigest() for name, data in content.items() if name != SUMS_FILE}
    ).encode()
    with zipfile.ZipFile(server.store / f"pneumonia-{NEW}.mar", "w") as packed:
        for name, data in content.items():
            packed.writestr(name, data)
    with load(server, clients=2) as clients:
        said = models(server, "register", NEW, status=1)
        assert f"a worker of pneumonia {NEW} died 2 times while loading" in said
        assert "golden" in said
    assert clients.failures == []
    assert served(server) == {OLD: True}
    assert read_declared(server.store) is None


def test_an_interrupted_registration_is_put_back(server: Server) -> None:
    with subprocess.Popen(
        command(server, "register", NEW), cwd=REPOSITORY, env=clean_environment(), stderr=subprocess.PIPE, text=True
    ) as registering:
        with ManagementClient(server.run_dir.socket) as management:
            while len(management.ready("pneumonia").versions) < 2:
                time.sleep(0.05)
        registering.send_signal(signal.SIGTERM)
        assert registering.wait(60) == 1
        assert registering.stderr is not None
        assert "what was begun was put back" in registering.stderr.read()
    with ManagementClient(server.run_dir.socket) as management:
        assert [state.version for state in management.ready("pneumonia").versions] == [OLD]
    assert read_declared(server.store) is None


def test_a_registration_that_was_killed_can_be_done_again(server: Server) -> None:
    with subprocess.Popen(command(server, "register", NEW), cwd=REPOSITORY, env=clean_environment()) as registering:
        with ManagementClient(server.run_dir.socket) as management:
            while len(management.ready("pneumonia").versions) < 2:
                time.sleep(0.05)
        registering.kill()
    models(server, "register", NEW)
    assert served(server) == {OLD: True, NEW: False}


def test_a_version_that_is_asked_for_by_name_is_not_taken_away(server: Server) -> None:
    models(server, "register", NEW)
    assert "is the default" in models(server, "retire", OLD, status=1)
    with load(server, version=NEW, clients=3) as clients:
        wait_for_answers_of(clients, NEW)
        before = read_declared(server.store)
        assert "clients still ask for" in models(server, "retire", NEW, "--timeout", "3", status=1)
        assert read_declared(server.store) == before
    assert clients.failures == []
    models(server, "retire", NEW)
    assert served(server) == {OLD: True}


def test_an_archive_that_was_replaced_is_not_served_in_the_registered_ones_name(
    server: Server, archives: Path, tmp_path: Path
) -> None:
    models(server, "register", NEW)
    assert server.call("--stop").returncode == 0
    save_model(tmp_path / "other", small_network(5))
    package(tmp_path / "other", NEW, server.store, force=True)
    refused = server.call("--detach", "--device", "cpu")
    assert refused.returncode == 2
    assert "is not the archive that was registered" in refused.stderr
    models(server, "retire", NEW, "--store", str(server.store))  # without a server, in the file alone
    start(server)
    assert served(server) == {OLD: True}
    assert "another" not in models(server, "register", NEW)
    assert put(server, archives, NEW).is_file()


def test_two_servers_of_a_store_serve_the_same_through_promotions_rollbacks_and_kills(server: Server) -> None:
    """20 changes on either server; every fourth command is killed on its way, and the servers' followers end it."""
    second = Server(server.folder / "second")
    second.folder.mkdir()
    (second.folder / "store").symlink_to(server.store)
    try:
        models(server, "register", NEW, "--workers", "1")  # first: without a declaration it would start with the newest
        start(second, "1")
        with load(server, clients=2) as first_clients, load(second, clients=2) as second_clients:
            for number in range(20):
                asked = (server, second)[number % 2]
                change = ("promote", NEW, "--force") if number % 4 in (0, 1) else ("rollback",)
                if number % 4 == 3:
                    with subprocess.Popen(
                        command(asked, *change), cwd=REPOSITORY, env=clean_environment(), stderr=subprocess.DEVNULL
                    ) as changing:
                        wait_until_file_changes(server.store / "versions.json", changing)
                        changing.kill()
                else:
                    done = run(asked, *change)
                    assert done.returncode == 0 or "no previous default" in done.stderr, done.stderr
                wait_until_both_serve_what_is_declared(server, second)
        assert first_clients.failures == second_clients.failures == []
        assert min(sum(clients.versions.values()) for clients in (first_clients, second_clients)) > 0
    finally:
        second.call("--stop")


def wait_until_file_changes(path: Path, changing: subprocess.Popen[bytes]) -> None:
    before = path.stat().st_mtime_ns
    while changing.poll() is None and path.stat().st_mtime_ns == before:
        time.sleep(0.001)


def wait_until_both_serve_what_is_declared(*servers: Server) -> None:
    deadline = time.monotonic() + 60
    while True:
        declared = read_declared(servers[0].store)
        assert declared is not None
        wanted = {version: version == declared.default for version in declared.versions}
        if all(served(server) == wanted for server in servers):
            return
        assert time.monotonic() < deadline, (wanted, *map(served, servers))
        time.sleep(0.1)


@NEEDS_NGINX
def test_two_real_versions_are_compared_behind_an_edge(server: Server) -> None:
    """A shadow of all requests, forms among them: the pairs are what the clients themselves get from either version."""
    models(server, "register", NEW, "--workers", "1")
    with fresh_edge([server.url]) as edge, edge.client() as client:
        trial = ("--edge", str(edge.run_dir.path), "--max-flips", "1", "--max-shift", "1", "--max-slower", "1000")
        models(server, "shadow", NEW, *trial)
        stable = [client.predict(data, cam="none") for data in FILMS]
        client.overlay(FILMS[0])
        assert edge.ask("POST", "/predictions/pneumonia", files={"film": ("x.png", FILMS[1])}).status_code == 200
        deadline = time.monotonic() + 60
        while (found := json.loads(models(server, "compare", *trial[:2], "--json")))["compared"] < len(FILMS) + 2:
            assert time.monotonic() < deadline, found
            time.sleep(0.1)
        new = [client.predict(data, cam="none", version=NEW) for data in FILMS]
        assert (found["unpaired"], found["errors"], found["stable"]) == (0, 0, OLD)
        lines = (edge.run_dir.logs / PAIRS_NAME).read_text().splitlines()
        pairs = {json.dumps([p["stable"]["probability"], p["trial"]["probability"]]) for p in map(json.loads, lines)}
        mine = [[one["probabilities"]["PNEUMONIA"] for one in pair] for pair in zip(stable, new, strict=True)]
        assert pairs == {json.dumps(pair) for pair in mine}
        models(server, "end", *trial[:2])
        models(server, "canary", NEW, "--share", "1", *trial)
        assert client.predict(FILMS[0], cam="none")["model"]["version"] == NEW
