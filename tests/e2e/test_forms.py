"""Forms of requests, on the port and at the edge: one film or an error, and nothing of any of them is written down."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.e2e.canary_forms import FORMS, WORD
from tests.e2e.edges import Edge, fresh_edge
from tests.e2e.small_server import SmallServer, small_server
from tests.films import dicom, encoded, film
from tests.programs import NEEDS_JAVA, NEEDS_NGINX

__all__ = ["small_server"]
pytestmark = [pytest.mark.e2e, NEEDS_JAVA, NEEDS_NGINX]

PNG, JPEG, DICOM = encoded(film(1)), encoded(film(2), "JPEG"), dicom(film(3), bits=8)
PREDICT = "/predictions/pneumonia"
FORM = "multipart/form-data; boundary=XX"
Part = tuple[str, bytes] | tuple[str, bytes, str]


def form(*parts: Part, kind: str = FORM) -> dict[str, Any]:
    """What `requests.post` sends of a form: each part's name and further words of its head, its bytes, its fields."""
    body = b""
    for name, data, *fields in parts:
        disposition = f'Content-Disposition: form-data; name="{name}"'
        body += b"--XX\r\n" + "\r\n".join([disposition, *fields]).encode() + b"\r\n\r\n" + data + b"\r\n"
    return {"data": body + b"--XX--\r\n", "headers": {"Content-Type": kind}}


FILE = '"; filename="x.png'
ANSWERED = {
    "a text before the film": form(("comment", b"before it"), ("image", PNG)),
    "a text after the film": form(("image", PNG), ("comment", b"after it")),
    "a part called body": form(("body", PNG)),
    "a note called body": form(("body", b"a note"), (f"image{FILE}", PNG)),
    "capitals": form(("film", PNG), kind="Multipart/Form-Data; boundary=XX"),
    "a quoted boundary": form(("film", PNG), kind='multipart/form-data; boundary="XX"'),
    "a part as binary": form(("film", PNG, "Content-Transfer-Encoding: binary")),
    "options": form(("cam", b"none"), ("view", b"PA"), (f"film{FILE}", PNG)),
    "a film in JSON": form(("film", b'{"instances": [{"b64": "' + b"iVBORw0KGgo" + b'"}]}')),
}
# Whether the port itself shows it: of equal names TorchServe 0.12.0 hands over the last.
TWO_FILMS = {
    "equal names": (form(("film", PNG), ("film", JPEG)), False),
    "equal names, equal films": (form(("film", PNG), ("film", PNG)), False),
    "equal names with files": (form((f"film{FILE}", PNG), (f"film{FILE}", JPEG)), False),
    "equal names beside others": (form(("cam", b"none"), ("film", PNG), ("film", JPEG)), False),
    "two names": (form(("film", PNG), ("image", JPEG)), True),
    "two names with files": (form((f"a{FILE}", PNG), (f"b{FILE}", DICOM)), True),
    "film and body": (form(("film", PNG), ("body", JPEG)), True),
    "body and another": (form(("body", DICOM), ("other", PNG)), True),
    "a film and JSON": (form(("film", PNG), ("json", b'{"data": "iVBORw0KGgo="}')), True),
    "a film and what is none": (form(("film", PNG), ("image", bytes(3000))), True),
    "three": (form(("a", PNG), ("b", JPEG), ("c", DICOM)), True),
    "two as capitals": (form(("a", PNG), ("b", JPEG), kind="Multipart/Form-Data; boundary=XX"), False),
}
BAD_FORMS = {
    "a part as base64": form(("film", PNG, "Content-Transfer-Encoding: base64")),
    "a part as quoted-printable": form(("film", PNG, "Content-Transfer-Encoding: quoted-printable")),
    "a form in a form": form(("film", PNG, "Content-Type: multipart/mixed; boundary=YY")),
    "an unknown charset": form(("film", PNG, "Content-Type: text/plain; charset=none-such")),
    "a part without a name": form(("", PNG)),
    "many parts": form(*[(f"x{n}", b"") for n in range(200)], ("film", PNG)),
    "no boundary": form(("film", PNG), kind="multipart/form-data"),
    "another boundary": form(("film", PNG), kind="multipart/form-data; boundary=YY"),
    "another kind": form(("film", PNG), kind="multipart/mixed; boundary=XX; charset=none-such"),
    "no part": form(),
    "no body": {"data": b"", "headers": {"Content-Type": FORM}},
}
TWICE = {
    "field": form(("view", b"PA"), ("view", b"AP"), ("film", PNG)),
    "equal field": form(("cam", b"none"), ("cam", b"none"), ("film", PNG)),
}


@pytest.fixture(scope="module")
def edge(small_server: SmallServer) -> Iterator[Edge]:
    with fresh_edge([small_server.url]) as edge:
        yield edge


def at_edge(edge: Edge, sent: dict[str, Any], query: str = "") -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {edge.key}", **sent["headers"]}
    return outcome(edge.ask("POST", PREDICT + query, headers, data=sent["data"]))


def at_port(server: SmallServer, sent: dict[str, Any]) -> tuple[int, str]:
    return outcome(requests.post(server.predictions, timeout=60, **sent))


def outcome(reply: requests.Response) -> tuple[int, str]:
    """The status and the code, or the label of an answer."""
    said = reply.json()
    return reply.status_code, str(said.get("code", said.get("label")))


@pytest.mark.parametrize("name", ANSWERED)
def test_a_form_with_one_film_is_answered(small_server: SmallServer, edge: Edge, name: str) -> None:
    status, said = at_edge(edge, ANSWERED[name])
    assert (
        (status, said) == (422, "DAMAGED_IMAGE") if name == "a film in JSON" else status == 200
    )  # that one is cut off
    # TorchServe 0.12.0 takes a form apart by its name in small letters alone.
    wanted = (415, "UNSUPPORTED_ENCODING") if name == "capitals" else (status, said)
    assert at_port(small_server, ANSWERED[name]) == wanted


@pytest.mark.parametrize("name", TWO_FILMS)
def test_a_form_with_two_films_is_refused(small_server: SmallServer, edge: Edge, name: str) -> None:
    sent, is_seen = TWO_FILMS[name]
    assert at_edge(edge, sent) == (400, "SEVERAL_FILMS")
    if is_seen:
        assert at_port(small_server, sent) == (400, "SEVERAL_FILMS")


@pytest.mark.parametrize("name", BAD_FORMS)
def test_a_form_that_torchserve_would_not_read_is_refused_in_words(edge: Edge, name: str) -> None:
    assert at_edge(edge, BAD_FORMS[name]) == (400, "BAD_FORM")


@pytest.mark.parametrize("name", TWICE)
def test_a_field_given_twice_is_refused(edge: Edge, name: str) -> None:
    assert at_edge(edge, TWICE[name]) == (400, "BAD_OPTION")


@pytest.mark.parametrize("first", ["PA", "AP"])
@pytest.mark.parametrize("name", ["Cxr-View", "Cxr-Cam", "cxr-target", "Content-Type"])
def test_a_header_given_twice_is_refused(edge: Edge, name: str, first: str) -> None:
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nX-Api-Key: {edge.key}\r\nConnection: close\r\n"
    head += f"{name}: {first}\r\n{name.upper()}: AP\r\nContent-Length: {len(PNG)}\r\n\r\n"
    with edge.connect() as connection:
        connection.sendall(head.encode() + PNG)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"code": "BAD_OPTION"' in answer


@pytest.mark.parametrize("query", ["?view=PA&view=AP", "?cam=none&view=PA&cam=none", "?film=png&film=none"])
def test_an_option_of_the_query_given_twice_is_refused(edge: Edge, query: str) -> None:
    sent = {"data": PNG, "headers": {"Content-Type": "application/octet-stream"}}
    assert at_edge(edge, sent, query) == (400, "BAD_OPTION")


def test_a_form_keeps_the_options_of_its_query_and_leaves_no_file(edge: Edge) -> None:
    sent = ANSWERED["a text before the film"]
    headers = {"Authorization": f"Bearer {edge.key}", **sent["headers"]}
    reply = edge.ask("POST", f"{PREDICT}?cam=none&view=AP", headers, data=sent["data"])
    assert reply.status_code == 200
    assert "cam" not in reply.json()
    assert reply.headers["Strict-Transport-Security"] == "max-age=31536000"
    assert list((edge.run_dir.path / "tmp" / "body").rglob("*")) == []
    assert '"status":200' in edge.log().splitlines()[-1]


def test_a_path_that_is_a_star_is_a_mistake_of_the_client(edge: Edge) -> None:
    for method in ("POST", "GET", "OPTIONS"):
        with edge.connect() as connection:
            connection.sendall(f"{method} * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            assert connection.recv(12) == b"HTTP/1.1 400"


def test_keys_that_open_nothing_are_counted(small_server: SmallServer) -> None:
    metrics = small_server.metrics_url.removeprefix("http://")
    with fresh_edge([small_server.url], "--metrics", metrics, "--metrics-allow", "127.0.0.1/32") as edge:
        for headers in ({}, {"X-Api-Key": "wrong"}, {"Authorization": "Bearer wrong"}):
            assert edge.ask("POST", PREDICT, headers, data=PNG).status_code == 401
        assert edge.ask("POST", PREDICT, data=PNG, headers=None).status_code in (200, 415)
        lines = edge.ask("GET", "/metrics/edge", {}).text.splitlines()
    assert 'pneumoscan_edge_keys_refused_total{key="missing"} 1' in lines
    assert 'pneumoscan_edge_keys_refused_total{key="wrong"} 2' in lines


# --- no byte of an upload anywhere -----------------------------------------------------------------------------------


def said(connection: socket.socket, sent: bytes) -> bytes:
    """Everything that is answered, until the connection ends or nothing more comes."""
    answer = b""
    with connection, contextlib.suppress(OSError):  # reset after a refusal
        connection.settimeout(5.0)
        connection.sendall(sent)
        if not isinstance(connection, ssl.SSLSocket):  # which has no half of a connection
            connection.shutdown(socket.SHUT_WR)
        while part := connection.recv(65536):
            answer += part
    return answer


def holders(folder: Path) -> list[str]:
    """The files under a folder that hold the word."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path.name for path in files if WORD.encode() in path.read_bytes()]


def test_there_are_many_forms() -> None:
    assert len({form.bytes("") for form in FORMS}) == len(FORMS) >= 60


def test_the_servers_own_port_writes_no_word_down_and_repeats_it_only_where_that_is_documented(
    small_server: SmallServer,
) -> None:
    address = ("127.0.0.1", small_server.server.ports[0])
    answers = {form.name: said(socket.create_connection(address), form.bytes("")) for form in FORMS}
    echoed = {name for name, answer in answers.items() if WORD.encode() in answer}
    assert echoed <= {form.name for form in FORMS if form.is_echoed}
    assert holders(small_server.server.run_dir.path) == []
    assert WORD not in requests.get(f"{small_server.metrics_url}/metrics", timeout=60).text
    logs = small_server.server.run_dir.logs
    assert f'"POST {PREDICT}" 415' in (logs / "access_log.log").read_text()  # and yet they say something
    assert "HttpPostRequestDecoder$ErrorDataDecoderException\n\tat io.netty" in (logs / "ts_log.log").read_text()


def test_the_edge_neither_writes_a_word_down_nor_repeats_it(small_server: SmallServer, edge: Edge) -> None:
    answers = {form.name: said(edge.connect(), form.bytes(edge.key)) for form in FORMS}
    assert [name for name, answer in answers.items() if WORD.encode() in answer] == []
    silent = {name for name, answer in answers.items() if not answer.startswith(b"HTTP/1.1 ")}
    assert silent <= {
        form.name for form in FORMS if form.name.partition(" ")[2].startswith(("bare", "HTTP/1.0", "line CONNECT"))
    }
    assert [name for name, answer in answers.items() if answer[9:12] == b"500"] == []
    assert holders(edge.run_dir.path) == holders(small_server.server.run_dir.path) == []
    assert WORD not in requests.get(f"{small_server.metrics_url}/metrics", timeout=60).text
