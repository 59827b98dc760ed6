from __future__ import annotations

import dataclasses
import io
import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from django.core.handlers.wsgi import WSGIRequest
from django.test import Client, override_settings

from cxr_webapp.inference import CutOff, TooManyBytes, is_reply, read_film
from tests.film_server import Answer, Asked, FilmServer, problem
from tests.webapp.pages import CARD, Result, fresh, page_before, post_film, reader, reply_to, scored


def test_a_film_is_answered_with_the_servers_reply_and_what_its_map_is_drawn_by(tmp_path: Path) -> None:
    server = FilmServer(scored)
    with page_before(server, tmp_path):
        answer = post_film(reader(), b"\xccfilm").json()
    assert answer["reply"]["label"] == "PNEUMONIA"
    assert answer["scale"] == {"cam_scale": 2.0, "cam_cells": "centres", "indeterminate": [0.4, 0.6]}
    (asked,) = server.asked
    assert asked.body == b"\xccfilm"
    assert asked.headers["cxr-cam"] == "heatmap"
    assert asked.headers["cxr-film"] == "png"
    assert asked.headers["cxr-target"] == "contrast"


CAUSES = {
    "label": "VIRAL",
    "probabilities": {"NORMAL": 0.1, "BACTERIAL": 0.3, "VIRAL": 0.6},
    "logits": {"NORMAL": -1.0, "BACTERIAL": 0.1, "VIRAL": 0.8},
    "decision": {
        "operating_point": "youden",
        "threshold": 0.5,
        "indeterminate": False,
        "positive": {"classes": ["BACTERIAL", "VIRAL"], "probability": 0.9, "called": True},
    },
}


def of_causes(asked: Asked) -> Answer:
    return Answer(
        body=json.dumps(reply_to(asked.body, **CAUSES)).encode(), headers={"Content-Type": "application/json"}
    )


def test_a_model_of_other_classes_is_read_and_kept_and_brings_the_words_of_its_scale(tmp_path: Path) -> None:
    card = CARD | {"classes": ["NORMAL", "BACTERIAL", "VIRAL"], "positive": ["BACTERIAL", "VIRAL"]}
    with page_before(FilmServer(of_causes), tmp_path):
        (tmp_path / "card.json").write_text(json.dumps(card))
        answer = post_film(reader(), b"\xccfilm", "?keep=1").json()
        (kept,) = Result.objects.all()
    assert answer["reply"]["label"] == kept.label == "VIRAL"
    assert kept.probability == 0.9
    assert answer["scale"]["ends"] == ["NORMAL", "BACTERIAL/VIRAL"]


@pytest.mark.parametrize(
    "change",
    [
        {"label": "FUNGAL"},
        {"logits": {"NORMAL": 0.0, "VIRAL": 0.0}},
        {"probabilities": {"NORMAL": 0.1, "BACTERIAL": "0.3", "VIRAL": 0.6}},
        {"decision": {"threshold": 0.5}},
        {"decision": {"threshold": 0.5, "positive": {"classes": ["FUNGAL"], "probability": 0.9, "called": True}}},
        {"decision": {"threshold": 0.5, "positive": {"classes": ["VIRAL"], "probability": None, "called": True}}},
    ],
)
def test_a_reply_of_other_classes_that_contradicts_itself_is_none(change: dict[str, Any]) -> None:
    assert is_reply(reply_to(b"\xcc", **CAUSES))
    assert not is_reply(reply_to(b"\xcc", **{**CAUSES, **change}))


def test_a_card_of_other_weights_gives_no_scale(tmp_path: Path) -> None:
    other = CARD | {"model": {**CARD["model"], "weights_sha256": "cd" * 32}}  # type: ignore[dict-item]
    with page_before(FilmServer(scored), tmp_path):
        (tmp_path / "card.json").write_text(json.dumps(other))
        answer = post_film(reader(), b"\xccfilm").json()
    assert answer["reply"]["label"] == "PNEUMONIA"
    assert answer["scale"] is None


def test_fifty_films_at_once_get_each_its_own_answer(tmp_path: Path) -> None:
    def slowly(asked: Asked) -> Answer:
        time.sleep((asked.body[0] % 5) / 100)  # so that answers come in another order than films
        return scored(asked)

    with page_before(FilmServer(slowly), tmp_path):
        client = reader()
        cookies = client.cookies

        def ask(number: int) -> float:
            each = Client()
            each.cookies = cookies
            return float(post_film(each, bytes([number]) + b"film").json()["reply"]["probabilities"]["PNEUMONIA"])

        with ThreadPoolExecutor(50) as pool:
            found = list(pool.map(ask, range(100, 150)))
    assert found == [number / 255 for number in range(100, 150)]


TROUBLES: list[tuple[Callable[[Asked], Answer], str, int, bool]] = [
    (lambda _: problem(422, "DAMAGED_IMAGE", "It ends early."), "refused", 422, False),
    (lambda _: problem(503, "OVERLOADED", "The queue is full.", retryable=True), "overloaded", 503, True),
    (lambda _: Answer(401, b"who are you?"), "key", 502, True),
    (lambda _: Answer(403, b"<html>no</html>"), "key", 502, True),
    (lambda _: Answer(404, b"{}"), "failed", 502, True),
    (lambda _: problem(500, "INTERNAL", "A fault."), "failed", 502, True),
    (lambda _: Answer(200, b"<html>a login page</html>", {"Content-Type": "text/html"}), "failed", 502, True),
]


@pytest.mark.parametrize(("answer", "kind", "status", "retryable"), TROUBLES)
def test_the_page_says_what_kind_of_trouble_the_server_has(
    tmp_path: Path, answer: Callable[[Asked], Answer], kind: str, status: int, retryable: bool
) -> None:
    with page_before(FilmServer(answer), tmp_path):
        said = post_film(reader(), b"film")
    assert said.status_code == status
    assert said.json()["error"]["kind"] == kind
    assert said.json()["error"]["retryable"] is retryable


def test_a_server_that_does_not_answer_in_time_is_slow(tmp_path: Path) -> None:
    enough = threading.Event()

    def never(asked: Asked) -> Answer:
        enough.wait(10)
        return scored(asked)

    with page_before(FilmServer(never), tmp_path, PNEUMOSCAN_TIMEOUT_S=0.05):
        said = post_film(reader(), b"film")
        enough.set()
    assert (said.status_code, said.json()["error"]["kind"]) == (504, "slow")


def test_a_server_that_is_not_there_is_down_and_its_address_is_not_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with override_settings(PNEUMOSCAN_URL=f"http://127.0.0.1:{port}"):
        fresh()
        said = post_film(reader(), b"film")
    fresh()
    assert (said.status_code, said.json()["error"]["kind"]) == (502, "down")
    assert str(port) not in said.content.decode()


def test_the_key_is_sent_to_the_server(tmp_path: Path) -> None:
    server = FilmServer(scored)
    with page_before(server, tmp_path, PNEUMOSCAN_KEY="k-123"):
        post_film(reader(), b"film")
    assert server.asked[0].headers["authorization"] == "Bearer k-123"


def test_the_view_that_a_reader_knows_is_handed_on_and_nothing_else(tmp_path: Path) -> None:
    server = FilmServer(scored)
    with page_before(server, tmp_path):
        post_film(reader(), b"film", "?view=AP")
        post_film(reader(), b"film", "?view=sideways")
    assert [asked.headers.get("cxr-view") for asked in server.asked] == ["AP", None]


def test_a_film_that_is_too_large_is_refused_and_the_server_never_asked(tmp_path: Path) -> None:
    server = FilmServer(scored)
    with page_before(server, tmp_path, PNEUMOSCAN_MAX_BYTES=1000):
        said = post_film(reader(), b"f" * 1001)
        assert post_film(reader(), b"f" * 1000).status_code == 200
    assert (said.status_code, said.json()["error"]["kind"]) == (413, "size")
    assert len(server.asked) == 1


class Counted(io.BytesIO):
    given = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.given += len(data)
        return data


def request(stream: io.BytesIO, announced: str) -> WSGIRequest:
    return WSGIRequest({"REQUEST_METHOD": "POST", "wsgi.input": stream, "CONTENT_LENGTH": announced, "PATH_INFO": "/"})


def test_reading_stops_with_the_first_chunk_that_is_too_much() -> None:
    stream = Counted(bytes(4_000_000))
    with pytest.raises(TooManyBytes):
        read_film(request(stream, "4000000"), 1_000_000)
    assert stream.given == 0


def test_a_film_that_ends_before_its_announced_length_is_cut_off() -> None:
    with pytest.raises(CutOff):
        read_film(request(Counted(b"half"), "8"), 1000)


def test_without_the_notice_acknowledged_no_film_is_scored(tmp_path: Path) -> None:
    server = FilmServer(scored)
    with page_before(server, tmp_path):
        said = post_film(Client(), b"film")
    assert (said.status_code, said.json()["error"]["kind"]) == (403, "notice")
    assert server.asked == []


def test_a_film_without_the_pages_token_is_refused_in_a_form_the_page_understands(tmp_path: Path) -> None:
    server = FilmServer(scored)
    with page_before(server, tmp_path):
        client = reader(enforce_csrf_checks=True)
        said = post_film(client, b"film", Accept="application/json")
        token = client.get("/").context["csrf_token"]
        with_token = post_film(client, b"film", **{"X-CSRFToken": str(token)})
    assert (said.status_code, said.json()["error"]["kind"]) == (403, "session")
    assert with_token.status_code == 200
    assert len(server.asked) == 1


def test_a_form_with_a_file_is_stopped_and_nothing_of_it_kept(tmp_path: Path) -> None:
    server = FilmServer(scored)
    with page_before(server, tmp_path):
        client = reader()
        said = client.post("/acknowledge", {"film": io.BytesIO(b"film")})
        assert said.status_code in (302, 400)
        assert not list(said.wsgi_request.FILES)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "x"},
        {"label": "MAYBE"},
        {"probabilities": {"NORMAL": 0.5}},
        {"probabilities": {"NORMAL": None, "PNEUMONIA": 0.5}},
        {"decision": {"threshold": None}},
        {"cam": {"grid": [[0.0, 1.0], [2.0]], "bias": 0.0, "png": ""}},
        {"cam": {"grid": "seven", "bias": 0.0, "png": ""}},
        {"image": ["x"]},
        {"image": {"format": "PNG", "width": 4, "height": 4, "flags": None, "png": ""}},
        {"image": {"format": "PNG", "width": 4, "height": 4, "flags": []}},
    ],
)
def test_an_answer_that_is_none_is_a_failure_of_the_server_and_not_of_the_page(
    change: dict[str, object], tmp_path: Path
) -> None:
    """A login page or an edge before the server can answer 200 with anything."""

    def odd(asked: Asked) -> Answer:
        answer = scored(asked)
        return dataclasses.replace(answer, body=json.dumps(json.loads(answer.body) | change).encode())

    with page_before(FilmServer(odd), tmp_path):
        answer = post_film(reader(), b"\xccfilm", "?keep=1")
    assert answer.status_code == 502
    assert answer.json()["error"]["kind"] == "failed"
    assert answer.json()["error"]["retryable"]
