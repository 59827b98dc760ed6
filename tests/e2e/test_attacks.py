"""Attacks on a real server, kept: code from elsewhere is to be run, and is not."""

from __future__ import annotations

import http.server
import json
import shutil
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import requests
import requests_unixsocket

from tests.e2e.edges import fresh_edge
from tests.e2e.servers import Server, fresh_server
from tests.e2e.test_server_life import HANDLER, pack
from tests.programs import NEEDS_JAVA, NEEDS_NGINX

pytestmark = [pytest.mark.e2e, NEEDS_JAVA]

EVIL = """
from pathlib import Path
Path({marker!r}).write_text("ran")

def handle(data, context):
    return [b"evil"] * len(data or [])
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with fresh_server() as server:
        pack(server.store, "1.0.0", HANDLER)
        started = server.call("--detach", "--device", "cpu")
        assert started.returncode == 0, started.stderr
        yield server


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder outside the store with archives that leave a mark where their code runs."""
    marker = tmp_path / "ran"
    handler = EVIL.format(marker=str(marker))
    pack(tmp_path, "6.6.6", handler)
    (tmp_path / "pneumonia-6.6.6.mar").rename(tmp_path / "evil.mar")
    spec = "models:\n  m1:\n    url: evil.mar\ndag:\n  pre: [m1]\n"
    workflow = {"workflowName": "evil", "specFile": "spec.yaml", "handler": "h.py"}
    manifest = {"createdOn": "1", "archiverVersion": "1", "workflow": workflow}
    with zipfile.ZipFile(tmp_path / "evil.war", "w") as war:
        war.writestr("WAR-INF/MANIFEST.json", json.dumps(manifest))
        war.writestr("spec.yaml", spec)
        war.writestr("h.py", handler)
    return tmp_path


@contextmanager
def website(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve a folder over HTTP; give its address and what was asked for."""
    asked: list[str] = []

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as site:
        thread = threading.Thread(target=site.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{site.server_address[1]}", asked
        site.shutdown()
        thread.join()


def models(server: Server, session: requests.Session) -> str:
    return session.get(f"{address(server)}/models", timeout=30).text


def address(server: Server) -> str:
    return "http+unix://" + str(server.run_dir.socket).replace("/", "%2F")


def test_not_even_the_management_socket_takes_code_from_elsewhere(server: Server, outside: Path) -> None:
    session = requests_unixsocket.Session()
    before = models(server, session)
    up = "/".join([".."] * 12)
    # A link in the store would be the store's owner's own doing; a name that leads out of it is not.
    urls = [f"{outside}/evil.mar", f"file://{outside}/evil.mar", f"file:{outside}/evil.mar", f"{up}{outside}/evil.mar"]
    urls += [f"./{up}{outside}/evil.mar", f"..%2f..%2f{outside}/evil.mar", "../evil.mar", "/evil.mar"]
    with website(outside) as (site, asked):
        urls += [f"{site}/evil.mar", f"{site}/evil.mar#", site.replace("http", "HTTP") + "/evil.mar"]
        for url in urls:
            options = {"url": url, "model_name": "evil", "initial_workers": "1", "synchronous": "true"}
            reply = session.post(f"{address(server)}/models", params=options, timeout=60)
            assert 400 <= reply.status_code < 500, (url, reply.text)
        for url in [*urls, f"{outside}/evil.war", f"file://{outside}/evil.war", f"{site}/evil.war", "evil.war"]:
            options = {"url": url, "workflow_name": "evil"}
            reply = session.post(f"{address(server)}/workflows", params=options, timeout=60)
            assert reply.status_code >= 400, (url, reply.text)
        assert asked == []
    assert models(server, session) == before
    assert not (outside / "ran").exists()
    assert not list(server.run_dir.path.rglob("evil*"))


@NEEDS_NGINX
def test_neither_the_servers_port_nor_the_edge_registers_anything(server: Server, outside: Path) -> None:
    session = requests_unixsocket.Session()
    before = models(server, session)
    with website(outside) as (site, asked), fresh_edge([server.url]) as edge:
        for kind in ("mar", "war"):
            query = f"url={site}/evil.{kind}&initial_workers=1&synchronous=true"
            for path in (f"/workflows?{query}", f"/models?{query}", f"/predictions/pneumonia/../../workflows?{query}"):
                assert requests.post(f"{server.url}{path}", timeout=30).status_code in (404, 405)
                assert edge.ask("POST", path).status_code == 404
                assert edge.ask("PUT", path).status_code == 404
        assert asked == []
    assert models(server, session) == before
    assert not (outside / "ran").exists()


def test_the_management_socket_is_for_the_servers_user_alone(server: Server) -> None:
    assert server.run_dir.path.stat().st_mode & 0o077 == 0
    assert server.run_dir.socket.parent == server.run_dir.path
    assert server.run_dir.socket.stat().st_mode & 0o777 == 0o600


def test_no_process_of_the_server_has_a_secret_of_the_shell(server: Server) -> None:
    # The server was started with SOME_SECRET in its environment; the supervisor's own is the caller's.
    state = server.run_dir.read_state()
    assert state is not None
    seen = {pid: Path(f"/proc/{pid}/environ").read_bytes() for pid in server.processes()}
    assert b"SOME_SECRET" in seen.pop(state.pid)
    assert len(seen) >= 2
    assert [pid for pid, environment in seen.items() if b"SOME_SECRET" in environment] == []


def test_the_mark_is_left_where_an_archive_does_run(server: Server, outside: Path) -> None:
    """Without this, a mark that nothing leaves would prove nothing above."""
    session = requests_unixsocket.Session()
    shutil.copy(outside / "evil.mar", server.store / "evil.mar")  # what only the store's owner can do
    options = {"url": "evil.mar", "model_name": "evil", "initial_workers": "1", "synchronous": "true"}
    assert session.post(f"{address(server)}/models", params=options, timeout=60).status_code == 200
    assert (outside / "ran").exists()
    assert session.delete(f"{address(server)}/models/evil", timeout=60).status_code == 200
    (server.store / "evil.mar").unlink()
