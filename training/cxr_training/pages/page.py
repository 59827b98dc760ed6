"""Pages written once, as Markdown templates, and read as Markdown or as one HTML file.

The text of a page is in `templates/`; Python gives it numbers and tables. A template may be indented and its paragraphs
wrapped: what is between two blank lines becomes one line, but for bullets, headings and rows of a table. Every value is
escaped when it is put in, so that a file name with Markdown or HTML in it stays a name. A picture has a paragraph to
itself, and in HTML the paragraph after it is its caption.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from markupsafe import Markup

from cxr import NOTICE
from cxr.model.classes import STANDARD
from cxr_training.measure.intervals import FEWEST_PATIENTS, LEVEL, MOST_UNDEFINED
from cxr_training.measure.records import Figure, Interval
from pneumoscan.files import write_text

_TEMPLATES: Final = Path(__file__).with_name("templates")
_TYPES: Final = {".png": "image/png", ".jpg": "image/jpeg"}
_OWN_LINE: Final = re.compile(r"- |\||#+ |!\[")
_VALUE: Final = "\0"  # before each value while lines are joined: one that looks like a bullet is none
_MARKDOWN: Final = re.compile(r"([\\`*|<\[\]])")  # what is escaped where people read the Markdown itself
_PUNCTUATION: Final = re.compile(r"([!-/:-@\[-`{-~])")  # all that can mean something to a Markdown parser


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a header; the first column is of names, the others are of numbers."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def number(value: float | None) -> str:
    """Three decimals, or a dash."""
    return "-" if value is None else f"{value:.3f}"


def signed(value: float | None) -> str:
    """Three decimals with the sign, or a dash."""
    return "-" if value is None else f"{value:+.3f}"


def between(interval: Interval | None) -> str:
    """The ends of an interval, or a dash."""
    return "-" if interval is None else f"{number(interval[0])} to {number(interval[1])}"


def figure(one: Figure) -> str:
    """A figure with its interval behind it, as a table shows it."""
    return "-" if one.value is None else f"{number(one.value)} ({between(one.interval)}){'†' if one.exact else ''}"


def percent(share: float) -> str:
    """A share in percent, three digits at most."""
    return f"{100 * share:.3g} %"


def listed(names: Sequence[str], word: str = "and") -> str:
    """Names in a sentence."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"


def render(template: str, **values: Any) -> str:
    """The Markdown of a template in `templates/`, which shows the pictures beside it."""
    return _render(template, values, html=False)


def render_html(template: str, folder: Path, **values: Any) -> str:
    """A template as one HTML file: no scripts, nothing fetched, the pictures inside.

    Parameters
    ----------
    folder
        Where the pictures lie.
    """
    tokens = _PARSER.parse(_render(template, values, html=True))
    title = "".join(child.content for child in tokens[1].children or ())
    page = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined)
    body = Markup("\n".join(_blocks(tokens, folder)))
    return page.get_template("page.html.j2").render(title=title, body=body) + "\n"


def write_page(path: Path, template: str, **values: Any) -> None:
    """Write a template as Markdown to `path` and as HTML beside it, whole or not at all; pictures lie there too."""
    write_text(path.with_suffix(".html"), render_html(template, path.parent, **values))
    write_text(path, render(template, **values))


def _render(template: str, values: dict[str, Any], *, html: bool) -> str:
    text = _environment(html).get_template(template).render(values).strip()
    return "\n\n".join(map(_joined, re.split(r"\n\s*\n", text))).replace(_VALUE, "") + "\n"


def _joined(block: str) -> str:
    lines: list[str] = []
    for line in map(str.strip, block.split("\n")):
        if lines and not _OWN_LINE.match(line):
            lines[-1] += f" {line}"
        else:
            lines.append(line)
    return "\n".join(lines)


@cache
def _environment(html: bool) -> Environment:
    """Jinja2 for Markdown; for the Markdown that becomes HTML nothing but the template's own marks is a mark."""
    special = _PUNCTUATION if html else _MARKDOWN

    def escaped(value: object) -> str:
        return _VALUE + special.sub(r"\\\1", re.sub(r"[\r\n]+", " ", str(value)))

    def code(value: str) -> Markup:
        name = " ".join(value.split())
        if not html:
            return Markup(f"`{name.replace('`', chr(39))}`")
        fence = "`" * (1 + max(map(len, re.findall("`+", name)), default=0))
        return Markup(f"{fence} {name} {fence}" if name else "")

    def table(one: Table) -> Markup:
        lines = [one.header, *one.rows]
        rows = [" | ".join(map(escaped, row)) for row in lines]
        rows.insert(1, " | ".join(["---", *["---:"] * (len(one.header) - 1)]))
        return Markup("\n".join(f"| {row} |" for row in rows))

    def finalize(value: object) -> Markup:
        if isinstance(value, Table):
            return table(value)
        return value if isinstance(value, Markup) else Markup(escaped(value))

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,  # what `finalize` made is Markup, which stays as it is
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        **{"code": code, "number": number, "signed": signed, "between": between},
        **{"figure": figure, "percent": percent, "listed": listed},
    }
    environment.globals |= {
        **{"html": html, "notice": NOTICE, "level": LEVEL},
        **dict(zip(("positive", "negative"), STANDARD.words, strict=True)),  # where a page names no others
        **{"fewest_patients": FEWEST_PATIENTS, "most_undefined": MOST_UNDEFINED},
    }
    return environment


_PARSER: Final = MarkdownIt("commonmark", {"html": False, "xhtmlOut": False}).enable("table")


class _Renderer(RendererHTML):
    """HTML as the parser makes it, but for tables, which scroll by themselves, and their headers."""

    def table_open(self, *_: object) -> str:
        return '<div class="wide"><table>\n'

    def table_close(self, *_: object) -> str:
        return "</table></div>\n"

    def th_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        tokens[idx].attrSet("scope", "col")
        return self.renderToken(tokens, idx, options, env)


_RENDERER: Final = _Renderer()


def _blocks(tokens: Sequence[Token], folder: Path) -> Iterator[str]:
    """The blocks of a page as HTML, pictures that follow each other side by side."""
    figures: list[str] = []
    captioned = True
    for block in _top_level(tokens):
        picture = _picture(block, folder)
        if picture is None and not captioned and block[0].type == "paragraph_open":
            caption = _RENDERER.renderInline(block[1].children or [], _PARSER.options, {})
            figures[-1] += f"<figcaption>{caption}</figcaption>"
            captioned = True
        elif picture is not None:
            figures.append(picture)
            captioned = False
        else:
            yield from _side_by_side(figures)
            figures, captioned = [], True
            yield _RENDERER.render(block, _PARSER.options, {})
    yield from _side_by_side(figures)


def _side_by_side(figures: Sequence[str]) -> Iterator[str]:
    if figures:
        inside = "\n".join(f"<figure>{one}</figure>" for one in figures)
        yield f'<div class="pictures">\n{inside}\n</div>'


def _top_level(tokens: Sequence[Token]) -> Iterator[list[Token]]:
    block: list[Token] = []
    for token in tokens:
        block.append(token)
        if token.level == 0 and token.nesting <= 0:
            yield block
            block = []


def _picture(block: Sequence[Token], folder: Path) -> str | None:
    """A paragraph that is a picture and nothing else, with its file inside; None for any other block."""
    children = block[1].children or [] if len(block) == 3 else []
    if [child.type for child in children] != ["image"]:
        return None
    path = folder / str(children[0].attrs["src"])
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    children[0].attrs["src"] = f"data:{_TYPES[path.suffix]};base64,{data}"
    return _RENDERER.renderInline(children, _PARSER.options, {})
