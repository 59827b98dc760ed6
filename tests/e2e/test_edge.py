"""The edge before a real server: who gets in, with what, and what of it is written down."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests

from cxr_client import ManagementClient
from cxr_client.metrics import MetricsClient
from pneumoscan.edge import keys as key_file
from pneumoscan.server.run_folder import RunDir, ServerState
from tests.e2e.edges import Edge, fresh_edge
from tests.e2e.servers import clean_environment
from tests.e2e.small_server import BATCH_SIZE, SmallServer, small_server
from tests.film_server import Answer, Asked, FilmServer, serving
from tests.films import dicom, encoded, film
from tests.places import REPOSITORY
from tests.programs import NEEDS_JAVA, NEEDS_NGINX

__all__ = ["small_server"]
pytestmark = [pytest.mark.e2e, NEEDS_JAVA, NEEDS_NGINX]

FIELDS = {"type", "title", "status", "code", "detail", "request_id", "retryable"}
FILM = encoded(film())
LEAVE = 30
OCTETS = {"Content-Type": "application/octet-stream"}


@pytest.fixture(scope="module")
def edge(small_server: SmallServer) -> Iterator[Edge]:
    with fresh_edge([small_server.url], "--server-run-dir", str(small_server.server.run_dir.path)) as edge:
        yield edge


def problem(reply: requests.Response) -> tuple[int, str]:
    """Give status and code of a problem document that is whole."""
    assert reply.headers["Content-Type"] == "application/problem+json", reply.text
    said = reply.json()
    assert set(said) == FIELDS
    assert said["status"] == reply.status_code
    assert said["type"] == f"urn:pneumoscan:error:{said['code']}"
    assert said["retryable"] == ("Retry-After" in reply.headers)
    return reply.status_code, said["code"]


def bearer(edge: Edge) -> dict[str, str]:
    return {"Authorization": f"Bearer {edge.key}"}


# --- who gets in --------------------------------------------------------------------------------------------------


def test_a_client_with_a_key_gets_the_servers_own_answer(edge: Edge, small_server: SmallServer) -> None:
    direct = requests.post(small_server.predictions, data=FILM, headers=OCTETS, timeout=60).json()
    with edge.client() as client:
        behind = client.predict(FILM)
        assert client.overlay(FILM).startswith(b"\x89PNG")
    assert {**behind, "request_id": ""} == {**direct, "request_id": ""}


def test_the_command_line_asks_through_the_edge(edge: Edge, tmp_path: Path) -> None:
    (tmp_path / "film.png").write_bytes(FILM)
    command = [sys.executable, "-m", "scripts.predict", str(tmp_path / "film.png"), "--url", edge.url, "--json"]
    command += ["--ca", str(edge.certificate)]

    def asked(key: str) -> subprocess.CompletedProcess[str]:
        ours = clean_environment() | {"PNEUMOSCAN_KEY": key}
        return subprocess.run(command, cwd=REPOSITORY, env=ours, capture_output=True, text=True, check=False)

    assert json.loads(asked(edge.key).stdout)[0]["label"]
    refused = asked("k-1")
    assert refused.returncode == 1
    assert "UNAUTHORIZED" in refused.stdout
    assert asked("a b").returncode == 2


def test_both_headers_open_and_nothing_else_does(edge: Edge) -> None:
    for good in (
        {"Authorization": f"Bearer {edge.key}"},
        {"authorization": f"bearer {edge.key}"},
        {"X-Api-Key": edge.key},
    ):
        assert edge.ask("POST", "/predictions/pneumonia", good, data=FILM).status_code == 200
    for bad in (
        {},
        {"Authorization": "Bearer "},
        {"Authorization": f"Bearer {edge.key[:-1]}"},
        {"Authorization": f"Bearer {edge.key}x"},
        {"Authorization": f"Basic {edge.key}"},
        {"Authorization": edge.key},
        {"X-Api-Key": edge.key.lower()},
        {"X-Api-Key": "k" * 4000},
        {"Cookie": f"key={edge.key}"},
    ):
        reply = edge.ask("POST", "/predictions/pneumonia", bad, data=FILM)
        assert problem(reply) == (401, "UNAUTHORIZED")
        assert reply.headers["WWW-Authenticate"].startswith("Bearer")
    assert edge.ask("POST", f"/predictions/pneumonia?key={edge.key}", {}, data=FILM).status_code == 400


def test_a_key_is_changed_under_load_without_a_refused_request(edge: Edge) -> None:
    using = [edge.key]
    refused: list[str] = []
    asked = 0
    done = threading.Event()

    def ask() -> None:
        nonlocal asked
        while not done.is_set():
            reply = edge.ask("POST", "/predictions/pneumonia", {"X-Api-Key": using[-1]}, data=FILM)
            asked += 1
            if reply.status_code != 200:
                refused.append(reply.text)

    def wait_for(more: int) -> None:
        wanted, deadline = asked + more, time.monotonic() + 60
        while asked < wanted and time.monotonic() < deadline:
            time.sleep(0.01)

    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pool.submit(ask)
        wait_for(20)
        using.append(key_file.add(edge.keys, "second"))
        wait_for(20)  # those that were on their way with the old key have been answered
        key_file.revoke(edge.keys, "test")
        wait_for(20)
        done.set()
    old, edge.key = edge.key, using[-1]
    assert refused == []
    assert problem(edge.ask("POST", "/predictions/pneumonia", {"X-Api-Key": old}, data=FILM)) == (401, "UNAUTHORIZED")
    assert edge.keys.stat().st_mode & 0o777 == 0o600
    assert edge.key not in edge.keys.read_text()
    assert '"key":"second"' in edge.log()


def test_a_file_of_keys_that_cannot_be_believed_lets_nobody_in_until_it_is_mended(edge: Edge) -> None:
    good = edge.keys.read_bytes()

    def status() -> int:
        return edge.ask("POST", "/predictions/pneumonia", data=FILM).status_code

    edge.keys.write_bytes(good + b"nonsense\n")
    assert status() == 401
    edge.keys.write_bytes(good)
    assert status() == 200
    edge.keys.chmod(0o644)
    assert status() == 401
    edge.keys.chmod(0o600)
    assert status() == 200
    edge.keys.unlink()
    assert status() == 401
    edge.keys.write_bytes(good)
    edge.keys.chmod(0o600)
    assert status() == 200
    said = edge.log("error.log")
    for why in (", line 3", " has mode", " cannot be read"):
        assert f"no key opens anything: {edge.keys}{why}" in said


# --- what is passed on --------------------------------------------------------------------------------------------


def test_options_of_the_query_count_as_those_of_headers_do(edge: Edge) -> None:
    asked = edge.ask(
        "POST", "/predictions/pneumonia/1.0.0?cam=heatmap&target=contrast&view=PA&regions=0.5&film=png", data=FILM
    ).json()
    assert asked["cam"]["target"] == "contrast"
    assert "regions" in asked["cam"]
    assert asked["cam"]["png"]
    assert asked["image"]["png"]
    headers = bearer(edge) | {"Cxr-Cam": "none"}
    assert "cam" not in edge.ask("POST", "/predictions/pneumonia", headers, data=FILM).json()
    assert "cam" in edge.ask("POST", "/predictions/pneumonia?cam=grid", headers, data=FILM).json()


@pytest.mark.parametrize("query", ["cam=", "cam=all", "cam=grid&x=1", "describe=true", "cam=grid&&", "cam"])
def test_an_option_that_is_none_is_told(edge: Edge, query: str) -> None:
    assert problem(edge.ask("POST", f"/predictions/pneumonia?{query}", data=FILM)) == (400, "BAD_OPTION")


def test_each_documented_body_is_answered_by_each_documented_path(edge: Edge) -> None:
    text = base64.b64encode(FILM).decode()
    v1 = {"instances": [{"b64": text}]}
    v2 = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [text]}]}
    assert edge.ask("PUT", "/predictions/pneumonia", data=FILM).json()["label"]  # curl -T
    assert edge.ask("POST", "/explanations/pneumonia", data=FILM).json()["cam"]["png"]
    assert edge.ask("POST", "/predictions/pneumonia", files={"film": ("x.png", FILM)}).json()["label"]
    assert edge.ask("POST", "/predictions/pneumonia", json={"data": text}).json()["label"]
    assert edge.ask("POST", "/v1/models/pneumonia:predict", json=v1).json()["predictions"][0]["label"]
    assert edge.ask("POST", "/v2/models/pneumonia/infer", json=v2).json()["outputs"][0]["shape"] == [1]
    chunked = edge.ask("POST", "/predictions/pneumonia", data=iter([FILM[:99], FILM[99:]]))
    assert chunked.json()["label"]
    form = bearer(edge) | {"Content-Type": "application/x-www-form-urlencoded"}  # curl --data-binary
    assert edge.ask("POST", "/predictions/pneumonia", form, data=FILM).json()["label"]


def test_the_model_card_is_not_told_to_who_knows_torchserves_header(edge: Edge) -> None:
    for name in ("describe", "Describe"):
        reply = edge.ask("POST", "/predictions/pneumonia", bearer(edge) | {name: "True"})
        assert problem(reply) == (400, "EMPTY_BODY")


def test_a_request_keeps_its_name_where_it_is_an_id_and_gets_one_where_it_is_text(edge: Edge) -> None:
    name = str(uuid.uuid4())
    reply = edge.ask("POST", "/predictions/pneumonia", bearer(edge) | {"X-Request-Id": name}, data=FILM)
    assert reply.headers["X-Request-Id"] == reply.json()["request_id"] == name
    entry = next(json.loads(line) for line in edge.log().splitlines() if name in line)
    assert (entry["status"], entry["upstream_request_id"]) == (200, reply.headers["X-Upstream-Request-Id"])
    reply = edge.ask("POST", "/nowhere", {"X-Request-Id": "Doe^Jane"})
    assert reply.json()["request_id"] == reply.headers["X-Request-Id"] != "Doe^Jane"


def test_films_whose_clients_left_are_not_computed_and_the_next_one_is_answered(
    edge: Edge, small_server: SmallServer
) -> None:
    """The worker stands still until all have left, so that what it does then does not hang on who was first."""

    def total(name: str) -> float:
        with MetricsClient(small_server.metrics_url) as metrics:
            return metrics.look().total(name)

    before, films = total("cxr_abandoned_total"), total("cxr_images_total")
    with ManagementClient(small_server.server.run_dir.socket) as management:
        (worker,) = management.ready("pneumonia").versions[0].workers
    gone = edge.log().count('"status":499')
    head = f"POST /predictions/pneumonia HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {edge.key}\r\n"
    head += f"Content-Type: application/octet-stream\r\nContent-Length: {len(FILM)}\r\n\r\n"
    os.kill(worker.pid, signal.SIGSTOP)
    try:
        clients = [edge.connect() for _ in range(LEAVE)]
        for client in clients:
            client.sendall(head.encode() + FILM)
        wait_for(lambda: waiting(small_server) >= LEAVE - BATCH_SIZE)
        for client in clients:
            client.close()
        wait_for(lambda: edge.log().count('"status":499') == gone + LEAVE)
        wait_for(lambda: len(list((small_server.server.run_dir.path / "tmp" / "left").iterdir())) >= LEAVE)
    finally:
        os.kill(worker.pid, signal.SIGCONT)
    assert edge.ask("POST", "/predictions/pneumonia", data=FILM).status_code == 200
    wait_for(lambda: total("cxr_abandoned_total") == before + LEAVE)
    assert total("cxr_images_total") == films + 1


def test_a_client_that_leaves_is_told_to_the_server_of_this_machine_by_a_name_of_its_own(tmp_path: Path) -> None:
    come: list[Asked] = []
    over = threading.Event()

    def answer(asked: Asked) -> Answer:
        come.append(asked)
        over.wait(30)
        return Answer(200, b"{}")

    server, run_dir = FilmServer(), RunDir(tmp_path)
    server.answer = answer
    marks = run_dir.path / "tmp" / "left"
    marks.mkdir(parents=True)
    with serving(server):
        run_dir.write_state(ServerState(1, 2, server.url, "", str(marks.parent), []))
        with fresh_edge([server.url], "--server-run-dir", str(run_dir.path)) as edge:
            name, trace = "ab" * 16, f"00-{'c' * 32}-{'d' * 16}-01"
            head = f"POST /predictions/pneumonia HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {edge.key}\r\n"
            head += f"traceparent: {trace}\r\nX-Request-Id: {name}\r\nContent-Length: 1\r\n\r\nx"
            with edge.connect() as client:
                client.sendall(head.encode())
                wait_for(lambda: bool(come))
            wait_for(lambda: bool(list(marks.iterdir())))
            over.set()
    sent = {field.lower(): value for field, value in come[0].headers.items()}
    assert (sent["x-request-id"], sent["traceparent"]) == (name, trace)
    assert [path.name for path in marks.iterdir()] == [sent["cxr-ticket"]] != [name]
    assert 0 <= time.time() - float(sent["x-request-start"].removeprefix("t=")) < 60


def waiting(small_server: SmallServer) -> int:
    with ManagementClient(small_server.server.run_dir.socket) as management:
        return sum(version.waiting for version in management.ready("pneumonia").versions)


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not what():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("OPTIONS", "/", 404),
        ("GET", "/api-description", 404),
        ("GET", "/models", 404),
        ("GET", "/models/pneumonia?customized=true", 404),
        ("POST", "/models?url=x.mar", 404),
        ("PUT", "/models/pneumonia?min_worker=0", 404),
        ("DELETE", "/models/pneumonia", 404),
        ("POST", "/workflows?url=http://127.0.0.1/x.war", 404),
        ("POST", "/wfpredict/x", 404),
        ("GET", "/metrics", 404),
        ("POST", "/invocations?model_name=pneumonia", 404),
        ("POST", "/predictions/other", 404),
        ("POST", "/predictions/pneumonia/", 404),
        ("POST", "/predictions/pneumonia/latest", 404),
        ("POST", "/predictions/pneumonia/9.9.9", 404),
        ("POST", "/predictions/pneumonia/9.9.9-rc.1", 404),
        ("POST", "/predictions/pneumonia/1.0.0-Jane.Doe", 404),
        ("POST", "/predictions/pneumonia%00", 400),
        ("POST", "/_key", 404),
        ("POST", "/_problem/500", 404),
        ("GET", "/v1/models/pneumonia", 404),
        ("GET", "/v2/health/ready", 404),
        ("GET", "/predictions/pneumonia", 405),
        ("DELETE", "/predictions/pneumonia", 405),
        ("OPTIONS", "/predictions/pneumonia", 405),
        ("TRACE", "/predictions/pneumonia", 405),
        ("POST", "/ping", 405),
        ("POST", "/readyz", 405),
    ],
)
def test_what_is_not_documented_is_not_there(edge: Edge, method: str, path: str, status: int) -> None:
    codes = {400: "BAD_REQUEST", 404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED"}
    reply = edge.ask(method, path, data=FILM if method == "POST" else None)
    assert problem(reply) == (status, codes[status])
    if status == 405:
        assert reply.headers["Allow"] == ("POST, PUT" if "predictions" in path else "GET, HEAD") or method == "TRACE"


@pytest.mark.parametrize(
    "path",
    [
        "/predictions/pneumonia/../../models",
        "/predictions/pneumonia/%2e%2e/%2e%2e/models",
        "/predictions/pneumonia/1.0.0/../../../workflows",
        "/predictions/pneumonia/1.0.0%2f..%2fother",
        "/predictions/pneumonia%0a",
        "/predictions/pneumonia/1.0.0%0A",
        "/predictions/pneumonia%0d%0aDescribe:%20True",
        "http://127.0.0.1:8081/models",
        "//models",
    ],
)
def test_no_way_of_writing_a_path_leads_past_the_list(edge: Edge, path: str) -> None:
    with edge.connect() as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nX-Api-Key: {edge.key}\r\n\r\n".encode())
        assert connection.recv(64).split(b" ")[1] == b"404"


@pytest.mark.parametrize(
    "head",
    [
        "POST {path} HTTP/1.1\r\nHost: x\r\n{key}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST {path} HTTP/1.0\r\nHost: x\r\n{key}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST {path} HTTP/1.1\r\nHost: x\r\n{key}Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        "POST {path} HTTP/1.1\r\nHost: x\r\n{key}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "POST {path} HTTP/1.1\r\nHost: x\r\n{key}Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
        "\0\x01POST {path} HTTP/1.1\r\nHost: x\r\n{key}Content-Length: 0\r\n\r\n",
        "CONNECT 127.0.0.1:8081 HTTP/1.1\r\nHost: x\r\n\r\n",
        "POST {path} HTTP/1.1\r\n{key}Content-Length: 0\r\n\r\n",
    ],
)
def test_a_head_that_two_servers_could_read_differently_is_refused(edge: Edge, head: str) -> None:
    with edge.connect() as connection:
        connection.settimeout(10)
        text = head.format(path="/predictions/pneumonia", key=f"X-Api-Key: {edge.key}\r\n")
        connection.sendall(text.encode())
        reply = b""
        while not reply.endswith(b"}"):
            more = connection.recv(4096)
            assert more, reply
            reply += more
    assert reply.startswith(b"HTTP/1.1 400")
    assert json.loads(reply.rpartition(b"\r\n\r\n")[2])["code"] == "BAD_REQUEST"


def test_a_client_with_long_fields_spoils_no_connection_for_the_next_one(edge: Edge) -> None:
    """TorchServe 0.12.0 reads a head of at most 8 kB, and the edge keeps its connections for whoever comes next."""
    long = {"Accept": "a/" + "b" * 7000, "Cxr-Cam": "c" * 7000, "Cxr-Target": "t" * 7000}
    long["Content-Type"] = f"multipart/form-data; boundary={'b' * 5000}"
    for _ in range(8):
        assert edge.ask("POST", "/predictions/pneumonia", bearer(edge) | long, data=FILM).status_code == 400
    for _ in range(16):
        began = time.monotonic()
        assert edge.ask("POST", "/predictions/pneumonia", data=FILM).status_code == 200
        assert time.monotonic() - began < 20


def test_a_body_over_64_mib_is_refused_in_json_and_one_of_64_is_the_servers_to_judge(edge: Edge) -> None:
    over = edge.ask("POST", "/predictions/pneumonia", data=bytes((64 << 20) + 1))
    assert problem(over) == (413, "TOO_MANY_BYTES")
    assert "64 MiB" in over.json()["detail"]
    whole = edge.ask("POST", "/predictions/pneumonia", data=bytes(64 << 20))
    assert problem(whole) == (413, "TOO_MANY_BYTES")
    assert "48" in whole.json()["detail"]
    endless = edge.ask("POST", "/predictions/pneumonia", data=(bytes(1 << 20) for _ in range(65)))
    assert problem(endless) == (413, "TOO_MANY_BYTES")


@pytest.mark.parametrize("path", ["/ping", "/readyz"])
def test_without_a_key_there_is_no_body_to_keep(edge: Edge, path: str) -> None:
    for body in (bytes(1 << 20), iter([bytes(1 << 20)])):
        assert problem(edge.ask("GET", path, {}, data=body)) == (413, "TOO_MANY_BYTES")
    assert edge.ask("GET", path, {}).status_code == 200


def test_what_torchserve_says_itself_becomes_a_problem_and_the_handlers_words_stay(edge: Edge) -> None:
    # TorchServe 0.12.0 answers 500 to a form that has a part without a name, and would not reach a worker with it.
    nameless = b"--x\r\nContent-Disposition: form-data\r\n\r\nJane\r\n--x--\r\n"
    headers = bearer(edge) | {"Content-Type": "multipart/form-data; boundary=x"}
    reply = edge.ask("POST", "/predictions/pneumonia", headers, data=nameless)
    assert problem(reply) == (400, "BAD_FORM")
    assert "Jane" not in reply.text
    assert problem(edge.ask("POST", "/predictions/pneumonia/9.9.9", data=FILM)) == (404, "NOT_FOUND")
    reply = edge.ask("POST", "/predictions/pneumonia", data=encoded(film(width=20, height=20)))
    assert problem(reply) == (422, "TOO_SMALL")
    assert "20" in reply.json()["detail"]


def always(answer: Answer, _: Asked) -> Answer:
    return answer


def test_what_torchserve_says_of_a_lost_worker_has_a_code_and_can_be_sent_again() -> None:
    """In TorchServe 0.12.0's own words, without a code, by a server that says nothing else."""
    said = {500: "WORKER_LOST", 503: "OVERLOADED", 507: "OUT_OF_MEMORY"}
    words = b'{"code": 500, "type": "InternalServerException", "message": "Worker died."}'
    with serving(FilmServer()) as films, fresh_edge([films.url]) as edge:
        for status, code in said.items():
            films.answer = partial(always, Answer(status, words, {"Content-Type": "application/json"}))
            reply = edge.ask("POST", "/predictions/pneumonia", data=FILM)
            assert problem(reply)[1] == code
            assert reply.json()["retryable"]
            assert "Worker died" not in reply.text


def test_one_client_with_too_many_requests_is_told_to_come_again(small_server: SmallServer) -> None:
    with fresh_edge([small_server.url], "--connections", "2") as edge:

        def ask(_: int) -> requests.Response:
            return edge.ask("POST", "/predictions/pneumonia", data=FILM)

        with ThreadPoolExecutor(16) as pool:
            replies = list(pool.map(ask, range(64)))
    refused = [reply for reply in replies if reply.status_code != 200]
    assert 0 < len(refused) < len(replies)
    assert {problem(reply) for reply in refused} == {(503, "OVERLOADED")}


def test_metrics_are_passed_on_to_networks_that_were_named_alone(small_server: SmallServer) -> None:
    where = small_server.metrics_url
    with fresh_edge([small_server.url], "--metrics", where, "--metrics-allow", "127.0.0.1/32") as edge:
        assert "ts_inference" in edge.ask("GET", "/metrics?CANARY", {}).text
        assert problem(edge.ask("GET", "/metrics", {}, data=bytes(100))) == (413, "TOO_MANY_BYTES")
        assert problem(edge.ask("POST", "/metrics", {})) == (405, "METHOD_NOT_ALLOWED")
    with fresh_edge([small_server.url], "--metrics", where, "--metrics-allow", "10.0.0.0/8") as edge:
        assert problem(edge.ask("GET", "/metrics", {})) == (403, "FORBIDDEN")


def test_an_edge_before_no_server_says_so_and_is_not_ready() -> None:
    with fresh_edge(["127.0.0.1:9"]) as edge:
        assert problem(edge.ask("POST", "/predictions/pneumonia", data=FILM)) == (503, "UNAVAILABLE")
        assert problem(edge.ask("GET", "/readyz")) == (503, "UNAVAILABLE")
        assert problem(edge.ask("GET", "/ping")) == (503, "UNAVAILABLE")
        asked = edge.call("--ready")
        assert (asked.returncode, asked.stdout) == (1, "")
        assert "no server behind the edge answers a film" in asked.stderr


def test_a_server_that_answers_films_makes_the_edge_ready(edge: Edge) -> None:
    assert edge.ask("GET", "/readyz", {}).json() == {"status": "ready"}
    assert edge.call("--ready").returncode == 0


# --- slow and odd clients -----------------------------------------------------------------------------------------


def seconds_until_closed(connection: socket.socket, drip: bytes) -> float:
    """Send one byte a second and measure until the other side is done with us."""
    began = time.monotonic()
    connection.settimeout(1.0)
    while time.monotonic() - began < 60:
        try:
            if connection.recv(4096) == b"":
                break
        except TimeoutError:
            try:
                connection.sendall(drip)
            except OSError:
                break
        except OSError:
            break
    return time.monotonic() - began


@pytest.mark.slow
def test_slow_clients_are_cut(edge: Edge) -> None:
    head = f"POST /predictions/pneumonia HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\nX-Api-Key: {edge.key}\r\n\r\n"
    bare = socket.create_connection(("127.0.0.1", edge.port))
    dripping, waiting, keyless = edge.connect(), edge.connect(), edge.connect()
    dripping.sendall(b"POST /predictions/pneumonia HTTP/1.1\r\nX-A: ")
    waiting.sendall(head.encode() + b"x" * 10)
    keyless.sendall(head.replace(edge.key, "none").encode())
    with ThreadPoolExecutor(4) as pool:
        took = list(pool.map(seconds_until_closed, (bare, dripping, waiting, keyless), (b"", b"a", b"", b"x")))
    for connection in (bare, dripping, waiting, keyless):
        connection.close()
    # No handshake; a head that never ends; a body that stops; a body that drips and has no key.
    assert max(took[:3]) < 8
    assert took[3] < 15
    assert min(took[:3]) > 3


def responses(connection: ssl.SSLSocket, count: int) -> list[tuple[dict[str, str], dict[str, Any]]]:
    """Read so many replies from one connection: header fields and JSON of each."""
    read: list[tuple[dict[str, str], dict[str, Any]]] = []
    with connection.makefile("rb") as stream:
        for _ in range(count):
            status = stream.readline()
            assert status.startswith(b"HTTP/1.1 200"), status
            fields: dict[str, str] = {}
            while (line := stream.readline().decode().strip()) != "":
                name, _, value = line.partition(":")
                fields[name.lower()] = value.strip()
            read.append((fields, json.loads(stream.read(int(fields["content-length"])))))
    return read


def test_a_hundred_pipelined_pairs_come_back_in_their_order(edge: Edge) -> None:
    # The first of a pair is the slower one: where two are on their way at once, it comes second.
    slow, fast = encoded(film(1, 1800, 1500)), encoded(film(2, 128, 120))

    def pair(_: int) -> int:
        names = [str(uuid.uuid4()), str(uuid.uuid4())]
        with edge.connect() as connection:
            whole = b""
            for name, data in zip(names, (slow, fast), strict=True):
                head = f"POST /predictions/pneumonia HTTP/1.1\r\nHost: x\r\nX-Api-Key: {edge.key}\r\n"
                whole += f"{head}X-Request-Id: {name}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data
            connection.sendall(whole)
            replies = responses(connection, 2)
        assert [fields["x-request-id"] for fields, _ in replies] == names
        return int([said["image"]["width"] for _, said in replies] != [1500, 120])

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(pair, range(100))) == 0


# --- what is written down -----------------------------------------------------------------------------------------


def test_nothing_of_a_client_is_left_on_disk(small_server: SmallServer) -> None:
    canary = "ZQXCANARY"
    with fresh_edge([small_server.url]) as edge:
        whole = dicom(film(), bits=8, PatientName=canary, PatientID=canary)
        key = bearer(edge)
        sent: list[requests.Response] = [
            edge.ask("POST", "/predictions/pneumonia", data=whole),
            edge.ask("POST", "/predictions/pneumonia", data=whole + canary.encode() * 200_000),  # to a temporary file
            edge.ask("POST", f"/predictions/pneumonia?cam={canary}", data=whole),
            edge.ask("POST", f"/predictions/pneumonia?{canary}=1", data=whole),
            edge.ask("POST", f"/predictions/pneumonia/1.0.0-{canary}", data=whole),
            edge.ask("POST", f"/{canary}?{canary}", data=whole),
            edge.ask(canary, "/predictions/pneumonia"),
            edge.ask("GET", f"/ping?{canary}={canary}", {}),
            edge.ask("GET", f"/readyz?{canary}", {}),
            edge.ask("POST", "/predictions/pneumonia", files={canary: (f"{canary}.dcm", whole, f"x/{canary}")}),
            edge.ask("POST", "/predictions/pneumonia", key | {"Content-Type": f"a/{canary}"}, data=canary),
            edge.ask(
                "POST",
                "/predictions/pneumonia",
                key | {"Content-Type": "application/x-www-form-urlencoded"},
                data=f"{canary}={canary}",
            ),
            edge.ask("POST", "/predictions/pneumonia", {"X-Api-Key": canary}, data=whole),
            edge.ask("POST", "/predictions/pneumonia", key | {"X-Request-Id": canary, "Cookie": canary}, data=whole),
            edge.ask("POST", "/predictions/pneumonia", key | {"User-Agent": canary, "Referer": canary}, data=whole),
            edge.ask("POST", "/predictions/pneumonia", key | {"Host": canary}, data=bytes((64 << 20) + 1)),
        ]
        raw = [
            f"POST /predictions/pneumonia HTTP/1.1\r\nHost: x\r\n{canary}: {'a' * 40000}\r\n\r\n",
            f"POST /{canary} HTTP/9.9\r\n\r\n",
            f"{canary}\r\n\r\n",
            f"GET /ping HTTP/1.1\r\nHost: {canary}/{canary}\r\n\r\n",
        ]
        for text in raw:
            with edge.connect() as connection:
                connection.sendall(text.encode())
                connection.settimeout(10)
                assert canary.encode() not in connection.recv(4096)
        half = edge.connect()  # on its way to a temporary file when the edge ends
        half.sendall(f"POST /predictions/pneumonia HTTP/1.1\r\nHost: x\r\nX-Api-Key: {edge.key}\r\n".encode())
        half.sendall(b"Content-Length: 9000000\r\n\r\n" + canary.encode() * 150_000)
        stopped = edge.call("--stop")
        half.close()
        assert stopped.returncode == 0, stopped.stderr
        assert [reply.text for reply in sent if canary in reply.text or canary in str(reply.headers)] == []
        assert {reply.status_code for reply in sent} >= {200, 400, 401, 404, 405, 413, 415}
        for text in (canary, edge.key, "PRIVATE"):
            assert held(edge.run_dir.path, text) == (["self-signed.key"] if text == "PRIVATE" else [])
    assert held(small_server.server.run_dir.path, canary) == []
    assert held(small_server.server.run_dir.path, edge.key) == []
    assert canary not in requests.get(f"{small_server.metrics_url}/metrics", timeout=60).text


def held(folder: Path, text: str) -> list[str]:
    """The names of the files under a folder that hold a text."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path.name for path in files if text.encode() in path.read_bytes()]
