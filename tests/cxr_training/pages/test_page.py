"""A page in both its forms."""

from __future__ import annotations

import base64
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from cxr_training.pages.page import (
    Block,
    Bullets,
    Code,
    Heading,
    Picture,
    Pictures,
    Strong,
    Table,
    text,
    to_html,
    to_markdown,
)

PAGE: list[Block] = [
    Heading("Title & <more>", 1),
    text("plain ", Strong("strong"), " ", Code("a`b|c"), " 1 < 2"),
    Bullets((("one",), ("two ", Code("x")))),
    Table(("name", "value"), (("a|b", "0.5 (0.4 to 0.6)"), ("<script>alert(1)</script>", "-"))),
    Pictures((Picture("one.png", 'alt "quoted"', ("caption ", Code("film.png"))),)),
]


class Reader(HTMLParser):
    """What a browser would find: tags in order, what they refer to, and the words between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("L", (3, 2), 7).save(tmp_path / "one.png")
    return tmp_path


def test_the_html_is_one_file_with_its_pictures_inside(folder: Path) -> None:
    page = to_html(PAGE, folder)
    read = Reader(page)
    assert read.open == []
    assert "script" not in read.tags
    assert "link" not in read.tags
    (link,) = read.links
    kind, data = link.split(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(data) == (folder / "one.png").read_bytes()
    assert "url(" not in page
    assert "@import" not in page


def test_the_html_says_what_was_written_whatever_it_looks_like(folder: Path) -> None:
    words = Reader(to_html(PAGE, folder)).words
    for said in ("Title & <more>", "a`b|c", " 1 < 2", "a|b", "<script>alert(1)</script>", "film.png"):
        assert said in words


def test_the_markdown_keeps_its_table_and_its_marks() -> None:
    lines = to_markdown(PAGE).splitlines()
    assert lines[0] == r"# Title & \<more>"
    assert "plain **strong** `a'b|c` 1 \\< 2" in lines
    start = lines.index("| name | value |")
    assert lines[start + 1 : start + 4] == [
        "| --- | ---: |",
        r"| a\|b | 0.5 (0.4 to 0.6) |",
        r"| \<script>alert(1)\</script> | - |",
    ]
    assert '![alt "quoted"](one.png)' in lines
    assert "caption `film.png`" in lines
