from __future__ import annotations

import socket
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from pneumoscan.server.management_port import management_port
from tests.film_server import serving_socket
from tests.pneumoscan.managed import Managed
from tests.ports import free_port


@dataclass
class Place:
    url: str
    server: Managed
    token_file: Path
    socket: Path

    def ask(self, method: str, path: str, **more: object) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.token_file.read_text().strip()}"}
        return requests.request(method, self.url + path, headers=headers, timeout=10, **more)  # type: ignore[arg-type]

    @property
    def passed_on(self) -> list[tuple[str, str]]:
        return [(asked.method, asked.path) for asked in self.server.asked]


@pytest.fixture
def place() -> Iterator[Place]:
    port = free_port()
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        place = Place(f"http://127.0.0.1:{port}", Managed("1.0.0"), Path(folder) / "token", Path(folder) / "m.sock")
        with serving_socket(place.server, place.socket), management_port(port, place.socket, place.token_file):
            yield place


def test_with_the_token_versions_are_managed_as_over_the_socket(place: Place) -> None:
    assert place.ask("GET", "/models/pneumonia/all").json()[0]["modelVersion"] == "1.0.0"
    assert place.ask("POST", "/models?url=pneumonia-1.1.0.mar&initial_workers=2").status_code == 202
    assert place.ask("PUT", "/models/pneumonia/1.1.0/set-default").status_code == 200
    assert place.ask("DELETE", "/models/pneumonia/1.0.0").status_code == 200
    assert (place.server.registered, place.server.default) == ({"1.1.0": 2}, "1.1.0")
    refused = place.ask("DELETE", "/models/pneumonia/1.1.0")
    assert (refused.status_code, "Cannot remove" in refused.json()["message"]) == (403, True)


@pytest.mark.parametrize("header", [None, "", "Bearer ", "Bearer x", "Basic eDp4", "Bearer \xe9"])
def test_without_the_token_nothing_is_passed_on(place: Place, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    said = requests.get(f"{place.url}/models", headers=headers, timeout=10)
    assert (said.status_code, said.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert place.passed_on == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/workflows?url=http://127.0.0.1/x.war", 404),
        ("POST", "/models/../workflows", 404),
        ("GET", "/models//pneumonia", 404),
        ("GET", "/api-description", 404),
        ("POST", "/models?url=/etc", 403),
        ("POST", "/models?url=..%2F..%2Fx.mar", 403),
        ("POST", "/models?url=http%3A%2F%2F127.0.0.1%2Fx.mar", 403),
        ("POST", "/models?url=pneumonia-1.1.0.mar&handler=os%3Asystem", 403),
        # TorchServe's Netty takes ";" for "&".
        ("POST", "/models?limit=1;handler=os%3Asystem&url=pneumonia-1.1.0.mar", 403),
        ("POST", "/models?limit=1;url=http://127.0.0.1/x.mar", 403),
    ],
)
def test_what_could_run_other_code_is_not_passed_on(place: Place, method: str, path: str, status: int) -> None:
    request = requests.Request(method, place.url).prepare()
    request.url = place.url + path  # as it is, dots and all
    request.headers["Authorization"] = f"Bearer {place.token_file.read_text().strip()}"
    with requests.Session() as session:
        assert session.send(request, timeout=10).status_code == status
    assert place.passed_on == []


def test_a_body_could_say_the_same_and_is_not_passed_on(place: Place) -> None:
    assert place.ask("POST", "/models", json={"url": "/etc"}).status_code == 413
    assert place.passed_on == []


def test_the_token_is_for_one_user_and_one_run(tmp_path: Path) -> None:
    token, tokens = tmp_path / "token", set()
    for _ in range(2):
        port = free_port()
        with management_port(port, tmp_path / "m.sock", token):
            assert stat.S_IMODE(token.stat().st_mode) == 0o600
            tokens.add(token.read_text())
        assert not token.exists()
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), timeout=1):
            pass
    assert len(tokens) == 2


def test_a_server_that_does_not_listen_yet_is_told(tmp_path: Path) -> None:
    port = free_port()
    with management_port(port, tmp_path / "m.sock", tmp_path / "token"):
        headers = {"Authorization": f"Bearer {(tmp_path / 'token').read_text().strip()}"}
        assert requests.get(f"http://127.0.0.1:{port}/models", headers=headers, timeout=10).status_code == 502
