from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cxr_client import AnswerLost, InferenceClient, PredictionRefused, ServerFailed, ServerUnreachable
from tests.film_server import PNG, Answer, FilmServer, serving


@pytest.fixture
def server() -> Iterator[FilmServer]:
    with serving(FilmServer()) as server:
        yield server


@pytest.fixture
def client(server: FilmServer) -> Iterator[InferenceClient]:
    with InferenceClient(server.url, timeout_s=5) as client:
        yield client


def test_a_film_is_sent_as_it_is_and_the_reply_comes_back(server: FilmServer, client: InferenceClient) -> None:
    film = bytes(range(255, -1, -1))
    reply = client.predict(film)
    assert reply["label"] == "PNEUMONIA"
    assert reply["probabilities"] == {"NORMAL": 0.0, "PNEUMONIA": 1.0}
    (asked,) = server.asked
    assert asked.body == film
    assert asked.path == "/predictions/pneumonia"
    assert asked.headers["content-type"] == "application/octet-stream"


def test_a_path_is_read(server: FilmServer, client: InferenceClient, tmp_path: Path) -> None:
    film = tmp_path / "film.dcm"
    film.write_bytes(b"\x01film")
    client.predict(film)
    assert server.asked[0].body == b"\x01film"


def test_a_file_name_as_text_is_not_taken_for_a_film(server: FilmServer, client: InferenceClient) -> None:
    with pytest.raises(TypeError, match="pathlib"):
        client.predict("film.dcm")  # type: ignore[arg-type]
    assert server.asked == []


def test_options_go_both_as_query_and_as_headers(server: FilmServer, client: InferenceClient) -> None:
    # TorchServe 0.12.0 drops the query of /predictions; an edge or another server may read only that.
    client.predict(b"\x00", cam="heatmap", target="contrast", version="1.0.0-rc.1", view="PA")
    (asked,) = server.asked
    assert asked.path == "/predictions/pneumonia/1.0.0-rc.1"
    assert asked.query == {"cam": ["heatmap"], "target": ["contrast"], "view": ["PA"]}
    assert [asked.headers[f"cxr-{name}"] for name in ("cam", "target", "view")] == ["heatmap", "contrast", "PA"]
    assert "cxr-film" not in asked.headers


def test_the_films_own_picture_is_asked_for(server: FilmServer, client: InferenceClient) -> None:
    client.predict(b"\x00", film_picture=True)
    (asked,) = server.asked
    assert asked.query["film"] == ["png"]
    assert asked.headers["cxr-film"] == "png"


def test_regions_are_asked_for_at_a_level(server: FilmServer, client: InferenceClient) -> None:
    client.predict(b"\x00", regions=0.5)
    (asked,) = server.asked
    assert (asked.query["regions"], asked.headers["cxr-regions"]) == (["0.5"], "0.5")


def test_a_version_cannot_change_the_path(server: FilmServer, client: InferenceClient) -> None:
    client.predict(b"\x00", version="../../models?x")
    assert server.asked[0].path == "/predictions/pneumonia/..%2F..%2Fmodels%3Fx"


def test_an_overlay_is_the_png_itself(server: FilmServer, client: InferenceClient) -> None:
    assert client.overlay(b"\x00") == PNG
    assert server.asked[0].headers["accept"] == "image/png"


def test_an_overlay_that_is_no_png_is_not_handed_on(server: FilmServer, client: InferenceClient) -> None:
    server.answer = lambda _: Answer(body=b"{}", headers={"Content-Type": "application/json"})
    with pytest.raises(ServerFailed, match="BAD_REPLY"):
        client.overlay(b"\x00")


def test_a_refused_film_says_what_to_change(client: InferenceClient) -> None:
    with pytest.raises(PredictionRefused) as caught:
        client.predict(b"bad film")
    error = caught.value
    assert (error.status, error.code, error.request_id, error.retryable) == (422, "TOO_SMALL", "request-7", False)
    assert error.title == "Too small"
    assert "64" in error.detail


def test_a_failing_server_is_not_asked_again(server: FilmServer, client: InferenceClient) -> None:
    with pytest.raises(ServerFailed) as caught:
        client.predict(b"broken")
    assert caught.value.retryable
    assert len(server.asked) == 1


@pytest.mark.parametrize("body", [b"", b"hello", b"[1]", b'{"p": NaN}', b"\xff\xff"])
def test_a_200_that_is_no_json_object_is_the_servers_failure(
    server: FilmServer, client: InferenceClient, body: bytes
) -> None:
    server.answer = lambda _: Answer(body=body)
    with pytest.raises(ServerFailed, match="BAD_REPLY"):
        client.predict(b"\x00")


def test_a_redirect_is_not_followed_with_the_film(server: FilmServer, client: InferenceClient) -> None:
    server.answer = lambda _: Answer(307, headers={"Location": "http://127.0.0.1:9/"})
    with pytest.raises(ServerFailed, match="307"):
        client.predict(b"\x00")


def test_a_port_where_nobody_listens_is_named() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with InferenceClient(f"http://127.0.0.1:{port}") as client, pytest.raises(ServerUnreachable) as caught:
        client.predict(b"\x00")
    assert str(caught.value) == f"cannot reach http://127.0.0.1:{port}: [Errno 111] Connection refused"
    assert not isinstance(caught.value, AnswerLost)


def test_a_server_that_is_too_slow_is_not_waited_for(server: FilmServer) -> None:
    asked_for_an_end = threading.Event()

    def wait(_: object) -> Answer:
        asked_for_an_end.wait(10)
        return Answer()

    server.answer = wait
    with InferenceClient(server.url, timeout_s=0.1) as client, pytest.raises(AnswerLost, match=r"within 0\.1 s"):
        client.predict(b"\x00")
    asked_for_an_end.set()


def test_a_connection_that_breaks_off_is_an_answer_lost() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            connection, _ = listener.accept()
            connection.recv(65536)
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with InferenceClient(f"http://127.0.0.1:{listener.getsockname()[1]}") as client, pytest.raises(AnswerLost):
            client.predict(b"\x00")
        thread.join()


def test_a_film_for_this_machine_does_not_go_through_a_proxy(
    client: InferenceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert client.predict(b"\x00")["label"] == "NORMAL"


def test_the_client_needs_no_torch() -> None:
    code = "import sys, cxr_client; sys.exit(any(name.split('.')[0] in ('torch', 'ts', 'cxr') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_key_goes_with_every_request_and_no_netrc_takes_its_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = FilmServer()
    (tmp_path / "netrc").write_text("machine films.localhost login someone password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with serving(server):
        for host in ("127.0.0.1", "films.localhost"):
            with InferenceClient(server.url.replace("127.0.0.1", host), key="k-1") as client:
                try:
                    client.predict(b"\x00")
                except ServerUnreachable:  # a machine whose resolver knows no names below localhost
                    continue
    assert {asked.headers["authorization"] for asked in server.asked} == {"Bearer k-1"}
    with serving(server), InferenceClient(server.url) as client:
        client.predict(b"\x00")
    assert "authorization" not in server.asked[-1].headers


@pytest.mark.parametrize("key", ["two\nlines", "with space", "schlüssel"])
def test_a_key_that_no_header_can_hold_is_told_without_it(key: str) -> None:
    with pytest.raises(ValueError, match="one line of ASCII") as told:
        InferenceClient(key=key)
    assert key not in str(told.value)


def test_an_address_is_shown_without_its_password() -> None:
    client = InferenceClient("http://reader:word@127.0.0.1:9", timeout_s=1)
    with pytest.raises(ServerUnreachable, match=r"http://127\.0\.0\.1:9") as told:
        client.predict(b"film")
    assert "word" not in str(told.value)
