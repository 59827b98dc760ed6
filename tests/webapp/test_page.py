from __future__ import annotations

import gzip
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from django.conf import settings
from django.contrib.staticfiles import finders
from django.test import Client, override_settings

from cxr import NOTICE
from cxr.errors import CODES
from cxr.films.film import FLAGS, MAX_BYTES
from cxr_webapp.environment import version_of
from pneumoscan.drawn_films import write_examples
from tests.film_server import FilmServer
from tests.webapp.pages import EXAMPLES, fresh, page_before, reader, scored

STATIC = Path(__file__).parents[2] / "webapp" / "cxr_webapp" / "static" / "webapp"
DRAWN = Path(settings.PNEUMOSCAN_EXAMPLES)


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inline: list[str] = []
        self.within = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.within = tag

    def handle_data(self, data: str) -> None:
        if self.within in ("script", "style") and data.strip():
            self.inline.append(data)

    def handle_endtag(self, _tag: str) -> None:
        self.within = ""


@pytest.mark.parametrize("path", ["/", "/about", "/history"])
def test_every_view_says_what_it_is_not_and_lets_nothing_in_from_elsewhere(tmp_path: Path, path: str) -> None:
    with page_before(FilmServer(scored), tmp_path):
        response = reader().get(path)
    text = response.content.decode()
    assert NOTICE in text
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert response.headers["Cache-Control"] == "no-store"
    page = Tags(text)
    assert page.inline == []
    for _, attributes in page.tags:
        assert not any(name == "style" or name.startswith("on") for name in attributes)
        for name in ("src", "href", "action"):
            assert (attributes.get(name) or "/").startswith(("/", "#", "?"))


def test_the_first_page_is_small_and_asks_nobody_else() -> None:
    write_examples(DRAWN)
    client = reader()
    page = client.get("/").content
    files = [*STATIC.glob("js/*.js"), *STATIC.glob("*.css"), STATIC / "icon.svg", *DRAWN.glob("*.thumb.jpg")]
    total = len(page) + len(client.get("/messages.js").content) + sum(path.stat().st_size for path in files)
    assert total < 150_000
    for path in STATIC.rglob("*"):
        if path.suffix in (".js", ".css", ".svg"):
            addresses = set(re.findall(r"https?://[^\s\"'`)]+", path.read_text(encoding="utf-8")))
            assert addresses <= {"http://www.w3.org/2000/svg"}, path


def test_static_files_are_kept_for_good_under_an_address_of_their_version_and_compressed() -> None:
    page = reader().get("/").content.decode()
    (script,) = re.findall(r'type="module" src="([^"]+main.js)"', page)
    reply = Client().get(script, headers={"Accept-Encoding": "gzip"})
    assert reply.status_code == 200
    assert "immutable" in reply.headers["Cache-Control"]
    assert int(re.search(r"max-age=(\d+)", reply.headers["Cache-Control"])[1]) > 10_000_000  # type: ignore[index]
    assert gzip.decompress(b"".join(reply.streaming_content)) == (STATIC / "js" / "main.js").read_bytes()  # type: ignore[arg-type]
    assert Client().get("/").headers["Cache-Control"] == "no-store"


def test_the_version_in_the_address_follows_every_file(tmp_path: Path) -> None:
    (tmp_path / "js").mkdir()
    (tmp_path / "js" / "one.js").write_text("1")
    before = version_of(tmp_path)
    assert version_of(tmp_path) == before
    (tmp_path / "js" / "one.js").write_text("2")
    changed = version_of(tmp_path)
    (tmp_path / "js" / "one.js").rename(tmp_path / "js" / "two.js")
    assert len({before, changed, version_of(tmp_path)}) == 3


def test_every_code_and_flag_of_the_server_has_plain_words() -> None:
    words = (STATIC / "js" / "messages.js").read_text(encoding="utf-8")
    shown_by_code = {name for name, code in CODES.items() if code.status < 500}
    options = {"BAD_BASE64", "BAD_JSON", "BAD_OPTION", "SEVERAL_FILMS"}  # of requests that the page never makes
    assert {name for name in shown_by_code - options if f"  {name}:" not in words} == set()
    assert {flag for flag in FLAGS if f"  {flag}:" not in words} == set()


def test_the_page_takes_as_many_bytes_as_the_server() -> None:
    assert settings.PNEUMOSCAN_MAX_BYTES == MAX_BYTES


def test_the_notice_is_acknowledged_once() -> None:
    client = Client()
    assert client.get("/").context["acknowledged"] is False
    client.post("/acknowledge")
    assert client.get("/").context["acknowledged"] is True
    assert client.cookies["pneumoscan_session"]["httponly"]
    assert client.cookies["pneumoscan_session"]["expires"] == ""  # gone with the browser


def test_the_examples_are_the_same_films_every_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_examples(tmp_path / name)
    made = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert made == sorted(name for example in EXAMPLES for name in (example.file, example.picture))
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in made)


def test_without_drawn_examples_the_page_has_none() -> None:
    shutil.rmtree(DRAWN, ignore_errors=True)
    assert "data-example" not in Client().get("/").content.decode()


def test_every_example_is_there_and_called_synthetic() -> None:
    write_examples(DRAWN)
    text = Client().get("/").content.decode()
    for example in EXAMPLES:
        assert finders.find(f"webapp/examples/{example.file}")
        assert f'data-name="Synthetic {example.file}"' in text


def test_the_page_about_the_model_tells_the_cards_figures_with_intervals(tmp_path: Path) -> None:
    with page_before(FilmServer(scored), tmp_path):
        text = Client().get("/about").content.decode()
    assert "0.900" in text
    assert "0.800 – 0.950" in text  # noqa: RUF001
    assert "Measured on synthetic films" in text
    assert "Not tested as a medical device." in text


def test_without_a_card_the_page_about_the_model_says_so_and_where_it_comes_from(tmp_path: Path) -> None:
    with override_settings(PNEUMOSCAN_CARD="", PNEUMOSCAN_SOCKET=tmp_path / "none.sock"):
        fresh()
        text = Client().get("/about").content.decode()
        assert Client().get("/server").json() == {"model": None, "synthetic": False}
    fresh()
    assert "PNEUMOSCAN_CARD" in text


def test_the_process_tells_that_it_lives() -> None:
    for host in ("testserver", "10.1.2.3:8000", "no.such.host"):  # probes ask by address
        assert Client().get("/healthz", headers={"Host": host}).content == b"ok\n"
    assert Client().get("/", headers={"Host": "no.such.host"}).status_code == 400
