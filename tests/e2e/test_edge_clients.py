"""Clients as they are, at an edge before a server that costs nothing: foreign pages, old HTTP, packed bodies."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from collections.abc import Iterator

import pytest

from tests.e2e.edges import Edge, fresh_edge
from tests.film_server import Answer, Asked, FilmServer, serving
from tests.programs import NEEDS_NGINX

pytestmark = [pytest.mark.e2e, NEEDS_NGINX]

PAGE = "https://viewer.example"
PATH = "/predictions/pneumonia"


def echo(asked: Asked) -> Answer:
    """What the server was sent: its body's size and the head that matters."""
    said = {"bytes": len(asked.body), "encoding": asked.headers.get("content-encoding"), "path": asked.path}
    return Answer(200, json.dumps(said).encode(), {"Content-Type": "application/json"})


@pytest.fixture(scope="module")
def edge() -> Iterator[Edge]:
    with serving(FilmServer(echo)) as films, fresh_edge([films.url], "--cors-origin", PAGE) as edge:
        yield edge


def test_a_page_that_was_named_may_ask_and_read_what_is_said(edge: Edge) -> None:
    asks = {"Origin": PAGE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    preflight = edge.ask("OPTIONS", PATH, asks)
    assert (preflight.status_code, preflight.text) == (204, "")
    assert preflight.headers["Access-Control-Allow-Origin"] == PAGE
    allowed = {name.lower() for name in preflight.headers["Access-Control-Allow-Headers"].split(", ")}
    options = {"cxr-cam", "cxr-film", "cxr-regions", "cxr-target", "cxr-view"}
    assert {"authorization", "content-type", *options} <= allowed
    assert preflight.headers["Access-Control-Allow-Methods"] == "POST, PUT"
    key = {"Authorization": f"Bearer {edge.key}", "Origin": PAGE}
    good = edge.ask("POST", f"{PATH}?cam=none", key, data=b"film")
    refused = edge.ask("POST", PATH, {"Origin": PAGE}, data=b"film")
    unknown = edge.ask("POST", f"{PATH}?x=1", key, data=b"film")
    assert [reply.status_code for reply in (good, refused, unknown)] == [200, 401, 400]
    for reply in (good, refused, unknown):
        assert reply.headers["Access-Control-Allow-Origin"] == PAGE
        assert "X-Request-Id" in reply.headers["Access-Control-Expose-Headers"]
        assert "Access-Control-Allow-Credentials" not in reply.headers
        assert reply.headers["Vary"] == "Origin"


@pytest.mark.parametrize("page", ["https://viewer.example.evil", "http://viewer.example", "null", ""])
def test_no_other_page_may(edge: Edge, page: str) -> None:
    asks = {"Origin": page, "Access-Control-Request-Method": "POST"}
    assert edge.ask("OPTIONS", PATH, asks).status_code == 405
    reply = edge.ask("POST", PATH, {"Authorization": f"Bearer {edge.key}", "Origin": page}, data=b"film")
    assert reply.status_code == 200
    assert "Access-Control-Allow-Origin" not in reply.headers


def raw(edge: Edge, head: str, body: bytes = b"") -> tuple[bytes, bytes]:
    """Send a head as it stands; give the reply's head and body, read to the connection's end."""
    with edge.connect() as connection:
        connection.settimeout(20)
        connection.sendall(head.encode() + body)
        reply = b""
        while more := connection.recv(65536):
            reply += more
    before, _, after = reply.partition(b"\r\n\r\n")
    return before, after


def test_old_and_terse_clients_are_answered_and_their_connection_is_closed(edge: Edge) -> None:
    key = f"X-Api-Key: {edge.key}\r\nContent-Length: 4\r\n"
    for head in (
        f"POST {PATH} HTTP/1.0\r\n{key}\r\n",
        f"POST {PATH} HTTP/1.0\r\nHost: edge\r\nConnection: close\r\n{key}\r\n",
        f"POST {PATH} HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n{key}\r\n",
        f"POST {edge.url}{PATH}?cam=none HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n{key}\r\n",
        f"POST http://anything{PATH} HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n{key}\r\n",
    ):
        before, body = raw(edge, head, b"film")
        assert before.startswith(b"HTTP/1.1 200 "), head
        assert b"connection: close" in before.lower()
        body = body if b"chunked" not in before.lower() else body.split(b"\r\n")[1]
        assert json.loads(body) == {"bytes": 4, "encoding": None, "path": PATH}


@pytest.mark.parametrize("path", ["/ping", "/readyz", "/nowhere", PATH])
def test_a_head_has_the_status_of_the_get_and_no_body(edge: Edge, path: str) -> None:
    status = {"/ping": 200, "/nowhere": 404, PATH: 405}.get(path)
    before, body = raw(edge, f"HEAD {path} HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n\r\n")
    assert body == b""
    assert int(before.split(b" ")[1]) == (status or edge.ask("GET", path, {}).status_code)


@pytest.mark.parametrize(
    ("encoding", "body"), [("gzip", gzip.compress(b"film")), ("deflate", zlib.compress(b"film")), ("br", b"x")]
)
def test_a_packed_body_reaches_the_server_by_its_name_which_refuses_it(edge: Edge, encoding: str, body: bytes) -> None:
    """`UNSUPPORTED_ENCODING` is the handler's word, tests/cxr/serving/test_request.py; the edge must not hide it."""
    key = {"Authorization": f"Bearer {edge.key}", "Content-Encoding": encoding}
    assert edge.ask("POST", PATH, key, data=body).json()["encoding"] == "other"
    plain = edge.ask("POST", PATH, key | {"Content-Encoding": "identity"}, data=body).json()
    assert (plain["encoding"], plain["bytes"]) == (None, len(body))


def test_json_in_any_writing_passes_byte_by_byte(edge: Edge) -> None:
    text = json.dumps({"data": base64.b64encode(b"film").decode()})
    key = {"Authorization": f"Bearer {edge.key}", "Content-Type": "application/json; charset=utf-16"}
    for written in (text.encode("utf-8-sig"), text.encode("utf-16")):
        assert edge.ask("POST", PATH, key, data=written).json()["bytes"] == len(written)
