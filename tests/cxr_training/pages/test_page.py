"""A page in both its forms."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from PIL import Image

from cxr_training.pages import page as pages
from cxr_training.pages.page import Table, render, render_html

TEMPLATE = """
# {{ title }}

plain **strong** {{ code|code }}
{{ comparison }}

{% if true %}
- one
{% endif %}
- two {{ "x"|code }},
  still two
{% if html %}
- three
{% endif %}

{{ table }}

![{{ alt }}](one.png)

{{ caption }}: {{ "film.png"|code }}

![second](one.png)

## After
"""
VALUES = {
    "title": "Title & <more>",
    "code": "a`b|c",
    "comparison": "1 < 2",
    "table": Table(("name", "value"), (("a|b", "0.5 (0.4 to 0.6)"), ("<script>alert(1)</script>", "-"))),
    "alt": 'alt "quoted"',
    "caption": "- 1. caption",
}


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
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A picture, and a template in a folder of its own."""
    Image.new("L", (3, 2), 7).save(tmp_path / "one.png")
    (tmp_path / "some.md.j2").write_text(TEMPLATE, encoding="utf-8")
    (tmp_path / "page.html.j2").write_bytes((pages._TEMPLATES / "page.html.j2").read_bytes())
    monkeypatch.setattr(pages, "_TEMPLATES", tmp_path)
    pages._environment.cache_clear()
    yield tmp_path
    pages._environment.cache_clear()


def test_the_html_is_one_file_with_its_pictures_inside(folder: Path) -> None:
    page = render_html("some.md.j2", folder, **VALUES)
    read = Reader(page)
    assert read.open == []
    assert "script" not in read.tags
    assert "link" not in read.tags
    assert len(read.links) == 2
    for link in read.links:
        kind, data = link.split(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data) == (folder / "one.png").read_bytes()
    assert "url(" not in page
    assert "@import" not in page


def test_the_html_says_what_was_written_whatever_it_looks_like(folder: Path) -> None:
    words = Reader(render_html("some.md.j2", folder, **VALUES)).words
    for said in ("Title & <more>", "a`b|c", "a|b", "<script>alert(1)</script>", "- 1. caption: ", "film.png", "After"):
        assert said in words
    assert "a`b|c 1 < 2" in "".join(words)


@pytest.mark.parametrize(
    "value",
    [
        "*a* _b_ **c** ~~d~~",
        "&lt; &amp; &#60;",
        "[a](http://b) ![c](http://d) <http://e>",
        "# a",
        "1. a",
        "| a | b |",
        "a\\",
        "$a$ {{ b }} {% c %}",
    ],
)
def test_a_value_is_never_taken_for_a_mark(folder: Path, value: str) -> None:
    for name in ("title", "comparison", "caption"):
        read = Reader(render_html("some.md.j2", folder, **VALUES | {name: value}))
        assert value in "".join(read.words)
        assert read.tags.count("p") == 1
        assert read.tags.count("h2") == 1
        assert not {"em", "ol", "a", "h3"} & set(read.tags)
    cell = Table(("name", "value"), ((value, value),))
    assert Reader(render_html("some.md.j2", folder, **VALUES | {"table": cell})).words.count(value) == 2


def test_pictures_lie_side_by_side_each_with_the_paragraph_behind_it_as_its_caption(folder: Path) -> None:
    page = render_html("some.md.j2", folder, **VALUES)
    (pictures,) = re.findall(r'<div class="pictures">(.*?)</div>', page, re.DOTALL)
    assert pictures.count("<figure>") == 2
    assert pictures.count("<figcaption>") == 1


def test_the_markdown_keeps_its_table_and_its_marks(folder: Path) -> None:
    lines = render("some.md.j2", **VALUES).splitlines()
    assert (folder / "some.md.j2").is_file()
    assert lines[0] == r"# Title & \<more>"
    assert r"plain **strong** `a'b|c` 1 \< 2" in lines
    assert lines[4:6] == ["- one", "- two `x`, still two"]
    start = lines.index("| name | value |")
    assert lines[start + 1 : start + 4] == [
        "| --- | ---: |",
        r"| a\|b | 0.5 (0.4 to 0.6) |",
        r"| \<script>alert(1)\</script> | - |",
    ]
    assert '![alt "quoted"](one.png)' in lines
    assert "- 1. caption: `film.png`" in lines


def test_a_value_that_looks_like_a_bullet_stays_in_its_paragraph(folder: Path) -> None:
    assert "plain **strong** `a'b|c` - 2" in render("some.md.j2", **VALUES | {"comparison": "- 2"}).splitlines()
    assert folder.is_dir()


def test_a_value_that_a_template_names_and_nobody_gives_is_an_error(folder: Path) -> None:
    with pytest.raises(UndefinedError, match="caption"):
        render("some.md.j2", **{name: value for name, value in VALUES.items() if name != "caption"})
    assert folder.is_dir()
