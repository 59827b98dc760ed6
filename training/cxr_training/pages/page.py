"""A page of text, tables and pictures, written once and read as Markdown or as one HTML file."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1280px; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; }
h1, h2, h3 { line-height: 1.2; margin: 2rem 0 .6rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; margin: .5rem 0 1rem; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ccc; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
code { overflow-wrap: anywhere; font-size: 90%; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; max-width: 100%; }
figure img { max-width: 100%; height: auto; display: block; }
figcaption { font-size: 14px; max-width: 62em; overflow-wrap: anywhere; }
@page { size: A4 landscape; margin: 12mm; }
@media print { body { font-size: 12px; margin: 0; } table { font-size: 9px; } .pictures { display: block; }
  figure, tr { break-inside: avoid; } }
"""
_TYPES: Final = {".png": "image/png", ".jpg": "image/jpeg"}


@dataclass(frozen=True, slots=True)
class Strong:
    """Words that must not be overlooked."""

    text: str


@dataclass(frozen=True, slots=True)
class Code:
    """A name or a digest, as it stands in a file."""

    text: str


Words = str | Strong | Code


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading; level 1 is the page's title."""

    text: str
    level: int = 2


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph."""

    words: tuple[Words, ...]


@dataclass(frozen=True, slots=True)
class Bullets:
    """A list of paragraphs."""

    items: tuple[tuple[Words, ...], ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a header; the first column is of names, the others are of numbers."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture file, its name relative to the page."""

    name: str
    alt: str
    caption: tuple[Words, ...] = ()


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures that belong together."""

    pictures: tuple[Picture, ...]


Block = Heading | Text | Bullets | Table | Pictures


def text(*words: Words) -> Text:
    """A paragraph of some words."""
    return Text(words)


def to_markdown(blocks: Sequence[Block]) -> str:
    """The page as Markdown that shows the pictures beside it."""
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading(words, level):
            return f"{'#' * level} {_plain(words)}"
        case Text(words):
            return _markdown_words(words)
        case Bullets(items):
            return "\n".join(f"- {_markdown_words(words)}" for words in items)
        case Table(header, rows):
            lines = [header, ("---", *["---:"] * (len(header) - 1))]
            cells = [*lines, *rows]
            return "\n".join(f"| {' | '.join(map(_plain, row))} |" for row in cells)
        case Pictures(pictures):
            return "\n\n".join(_markdown_picture(one) for one in pictures)


def _markdown_picture(picture: Picture) -> str:
    shown = f"![{_plain(picture.alt)}]({picture.name})"
    return f"{shown}\n\n{_markdown_words(picture.caption)}" if picture.caption else shown


def _markdown_words(words: Sequence[Words]) -> str:
    parts: list[str] = []
    for one in words:
        match one:
            case Strong(said):
                parts.append(f"**{_plain(said)}**")
            case Code(said):
                parts.append(f"`{' '.join(said.replace('`', chr(39)).split())}`")
            case str(said):
                parts.append(_plain(said))
    return "".join(parts)


def _plain(said: str) -> str:
    return re.sub(r"([\\`*|<\[\]])", r"\\\1", re.sub(r"[\r\n]+", " ", said))


def to_html(blocks: Sequence[Block], folder: Path) -> str:
    """The page as one HTML file: no scripts, nothing fetched, the pictures inside.

    Parameters
    ----------
    folder
        Where the pictures lie.
    """
    title = next(block.text for block in blocks if isinstance(block, Heading))
    body = "\n".join(_html(block, folder) for block in blocks)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{html.escape(title)}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _html(block: Block, folder: Path) -> str:
    match block:
        case Heading(words, level):
            return f"<h{level}>{html.escape(words)}</h{level}>"
        case Text(words):
            return f"<p>{_html_words(words)}</p>"
        case Bullets(items):
            return "<ul>\n" + "\n".join(f"<li>{_html_words(words)}</li>" for words in items) + "\n</ul>"
        case Table(header, rows):
            head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in header)
            body = "\n".join(
                "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
            )
            return (
                f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'
            )
        case Pictures(pictures):
            return '<div class="pictures">\n' + "\n".join(_html_picture(one, folder) for one in pictures) + "\n</div>"


def _html_picture(picture: Picture, folder: Path) -> str:
    path = folder / picture.name
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    shown = f'<img alt="{html.escape(picture.alt)}" src="data:{_TYPES[path.suffix]};base64,{data}">'
    caption = f"<figcaption>{_html_words(picture.caption)}</figcaption>" if picture.caption else ""
    return f"<figure>{shown}{caption}</figure>"


def _html_words(words: Sequence[Words]) -> str:
    parts: list[str] = []
    for one in words:
        match one:
            case Strong(said):
                parts.append(f"<strong>{html.escape(said)}</strong>")
            case Code(said):
                parts.append(f"<code>{html.escape(said)}</code>")
            case str(said):
                parts.append(html.escape(said))
    return "".join(parts)
