"""An edge from its start to its end, with servers that come and go behind it and handlers that need no torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import requests

from pneumoscan.edge import keys as key_file
from pneumoscan.edge.run import read_state
from pneumoscan.edge.tls import link_certificate
from pneumoscan.server.run_folder import RunDir
from tests.e2e.edges import Edge, fresh_edge
from tests.e2e.servers import Server, clean_environment, fresh_server
from tests.e2e.test_server_life import HANDLER, pack
from tests.places import REPOSITORY
from tests.ports import free_port
from tests.programs import NEEDS_JAVA, NEEDS_NGINX

pytestmark = [pytest.mark.e2e, NEEDS_JAVA, NEEDS_NGINX]

SLOW = HANDLER.replace("    replies = []\n", "    replies = []\n    import time; time.sleep(0.2)\n")
STAYS = {"keys", "keys.lock", "logs", "nginx.conf", "nginx-adapter.conf", "server.lock"}
STAYS |= {"self-signed.crt", "self-signed.key", "tls.crt", "tls.key"}


@contextmanager
def running_server(handler: str) -> Iterator[Server]:
    with fresh_server() as server:
        pack(server.store, "1.0.0", handler)
        started = server.call("--detach", "--device", "cpu")
        assert started.returncode == 0, started.stderr
        yield server


@contextmanager
def load(edge: Edge, threads: int = 8) -> Iterator[list[str]]:
    """Ask without a pause, each request on its own connection; give the list of what was answered, by status."""
    said: list[str] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            try:
                said.append(str(edge.ask("POST", "/predictions/pneumonia", data=b"film").status_code))
            except requests.RequestException as error:
                said.append(repr(error))

    with ThreadPoolExecutor(threads) as pool:
        for _ in range(threads):
            pool.submit(ask)
        try:
            yield said
        finally:
            done.set()


def wait_for(said: list[str], more: int) -> None:
    wanted, deadline = len(said) + more, time.monotonic() + 60
    while len(said) < wanted:
        assert time.monotonic() < deadline, f"{len(said)} of {wanted} answers"
        time.sleep(0.01)


def test_two_servers_are_restarted_one_after_the_other_without_a_failed_request() -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(running_server(SLOW)) for _ in range(2)]
        edge = stack.enter_context(fresh_edge([server.url for server in servers]))
        with load(edge) as said:
            wait_for(said, 20)
            for server in servers:
                assert server.call("--stop").returncode == 0
                wait_for(said, 20)
                assert server.call("--detach", "--device", "cpu").returncode == 0
                wait_for(said, 20)
        assert len(said) > 100
        assert set(said) == {"200"}


def test_a_stop_finishes_what_is_on_its_way_and_lets_nobody_else_in() -> None:
    with running_server(SLOW) as server, fresh_edge([server.url]) as edge:
        upload = edge.connect()
        head = f"POST /predictions/pneumonia HTTP/1.1\r\nHost: x\r\nX-Api-Key: {edge.key}\r\nContent-Length: 8\r\n\r\n"
        upload.sendall(head.encode() + b"half")
        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(edge.ask, "POST", "/predictions/pneumonia", None, data=b"film") for _ in range(4)]
            deadline = time.monotonic() + 20
            while edge.log().count("\n") < 1:  # one answered, the others wait for the worker
                assert time.monotonic() < deadline
                time.sleep(0.01)
            edge.signal(signal.SIGTERM)
            while True:
                try:
                    edge.ask("GET", "/ping", {})
                except requests.ConnectionError:
                    break
            upload.sendall(b"half")
            assert upload.recv(64).startswith(b"HTTP/1.1 200")
            assert [one.result().status_code for one in asked] == [200] * 4
        upload.close()
        edge.wait_until_gone()
        assert {path.name for path in edge.run_dir.path.iterdir()} == STAYS
        assert server.call("--ready").returncode == 0


def test_an_edge_that_was_killed_leaves_no_process_and_starts_again_where_it_was() -> None:
    with running_server(HANDLER) as server, fresh_edge([server.url]) as edge:
        assert len(edge.processes()) >= 5  # supervisor, two nginx with workers
        edge.signal(signal.SIGKILL)
        edge.wait_until_gone()
        assert edge.call("--ready").returncode == 1
        edge.start()
        assert edge.ask("POST", "/predictions/pneumonia", data=b"film").status_code == 200
        again = edge.call("--detach")
        assert again.returncode == 2
        assert "an edge already runs from" in again.stderr
        edge.signal(signal.SIGKILL)
        edge.wait_until_gone()
        assert edge.call("--stop").returncode == 0
        assert {path.name for path in edge.run_dir.path.iterdir()} == STAYS


def test_an_edge_whose_nginx_was_killed_ends_and_says_so() -> None:
    with fresh_edge(["127.0.0.1:9"]) as edge:
        state = read_state(edge.run_dir)
        assert state is not None
        os.kill(state.nginx_pid, signal.SIGKILL)
        edge.wait_until_gone()
        assert "nginx ended by itself (exit status -9)" in edge.log("edge.log")


def test_a_renewed_certificate_is_taken_under_load_without_a_failed_request() -> None:
    with running_server(HANDLER) as server, fresh_edge([server.url]) as edge:
        new = edge.folder / "new"
        new.mkdir()
        link_certificate(new)
        edge.bundle = edge.folder / "bundle"
        edge.bundle.write_bytes(edge.certificate.read_bytes() + (new / "self-signed.crt").read_bytes())
        with load(edge, threads=4) as said:
            wait_for(said, 10)
            with edge.connect() as before:
                serial = before.getpeercert()
            # What an ACME client does: new files in place of the old ones.
            for name in ("self-signed.crt", "self-signed.key"):
                (new / name).replace(edge.run_dir.path / name)
            assert edge.call("--reload").returncode == 0
            deadline = time.monotonic() + 20
            while True:
                with edge.connect() as after:
                    if after.getpeercert() != serial:
                        break
                assert time.monotonic() < deadline
                time.sleep(0.05)
            wait_for(said, 10)
        assert set(said) == {"200"}


def test_both_started_together_stop_in_the_right_order(tmp_path: Path) -> None:
    with fresh_server() as server:
        pack(server.store, "1.0.0", SLOW)
        edge = Edge(server.folder, (server.url,), free_port())
        edge.run_dir.create()
        edge.key = key_file.add(edge.keys, "test")
        command = edge.command("--serve", "--", *server.command("--device", "cpu")[3:])
        with (
            (tmp_path / "out").open("w") as output,
            subprocess.Popen(command, cwd=REPOSITORY, env=clean_environment(), stdout=output, stderr=output) as both,
        ):
            deadline = time.monotonic() + 60
            while read_state(edge.run_dir) is None:
                assert both.poll() is None, (tmp_path / "out").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)
            with ThreadPoolExecutor(8) as pool:
                asked = [pool.submit(edge.ask, "POST", "/predictions/pneumonia", None, data=b"film") for _ in range(8)]
                while edge.log().count("\n") < 1:
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
                both.send_signal(signal.SIGINT)
                assert [one.result().status_code for one in asked] == [200] * 8
            assert both.wait(timeout=60) == 0
        assert server.processes() == []
        assert edge.processes() == []
        assert RunDir(server.run_dir.path).read_state() is None


def test_both_started_in_the_background_are_stopped_by_the_edge() -> None:
    with fresh_server() as server:
        pack(server.store, "1.0.0", SLOW)
        edge = Edge(server.folder, (server.url,), free_port())
        edge.start("--serve", "--", *server.command("--device", "cpu")[3:])
        assert edge.ask("POST", "/predictions/pneumonia", data=b"film").status_code == 200
        assert edge.call("--stop").returncode == 0
        edge.wait_until_gone()
        assert server.processes() == []


def test_a_server_that_ends_takes_the_edge_started_with_it_along() -> None:
    with fresh_server() as server:
        edge = Edge(server.folder, (server.url,), free_port())
        started = edge.call("--serve", "--", *server.command("--device", "cpu")[3:])
        assert started.returncode == 1
        assert "pneumoscan serve did not start (exit status 2)" in started.stderr
        assert edge.processes() == []


def test_the_module_runs_as_a_command() -> None:
    for module in ("scripts.edge", "scripts.edge_keys"):
        done = subprocess.run([sys.executable, "-m", module, "--help"], cwd=REPOSITORY, capture_output=True, text=True)
        assert done.returncode == 0
        assert "Exit status" in done.stdout
