"""The result of a benchmark: one record for all of them, its JSON file, and its text for the terminal and the docs."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter

from benchmarks.host import Host
from pneumoscan.errors import UsageError
from pneumoscan.files import write_text


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing that was measured, over rounds or with a confidence interval where a table says so."""

    median: float  # the value itself where there was one measurement
    unit: str = ""
    lowest: float | None = None
    highest: float | None = None
    rounds: tuple[float, ...] = ()  # the value of each

    @classmethod
    def of(cls, rounds: Iterable[float], unit: str = "") -> Figure:
        """The figure of some rounds, of one at least."""
        values = tuple(float(value) for value in rounds)
        return cls(statistics.median(values), unit, min(values), max(values), values)


Figures = dict[str, Figure]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    figure: str  # the name of the figure that it shows of each row
    template: str  # for `str.format`: takes the median, the lowest and the highest value
    heading: str = ""

    def cell(self, figure: Figure | None) -> str:
        """What the column shows of a row; ``-`` where the row lacks the figure or its range."""
        if figure is None:
            return "-".rjust(len(self.template.format(0.0, 0.0, 0.0)))
        template = self.template if figure.lowest is not None else re.sub(r"\(.*\)", "(-)", self.template)
        return template.format(figure.median, figure.lowest, figure.highest)

    def head(self) -> str:
        """The heading, over the end of a number or the start of a text."""
        width = len(self.template.format(0.0, 0.0, 0.0))
        return self.heading.rjust(width) if self.template.startswith("{") else self.heading.ljust(width)


@dataclass(frozen=True, slots=True)
class Row:
    """Figures of one thing by name, of which a table need not show all; or a note why there are none."""

    label: str
    figures: Mapping[str, Figure]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows with the same columns."""

    name: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    title: str = ""  # the line above, if any
    label: str = ""  # the heading of the labels
    width: int = 0  # of the labels, at least
    indent: int = 2


@dataclass(frozen=True, slots=True)
class Result:
    """The figures of one run of a benchmark, and how they came about."""

    what: str  # the benchmark's name on the command line
    settings: dict[str, Any]  # as requested, and what followed for this machine
    host: Host
    title: str  # one line on how it was measured
    tables: Sequence[Table]

    def rows(self, table: str) -> dict[str, Figures]:
        """The figures of a table by row; empty where there is no such table."""
        return {row.label: dict(row.figures) for one in self.tables if one.name == table for row in one.rows}


_JSON: Final = TypeAdapter(Result)


def over_rounds(rounds: Sequence[Mapping[str, Figure]]) -> Figures:
    """One figure for each name, over the medians of the rounds that have it."""
    names = dict.fromkeys(name for one in rounds for name in one)
    some = {name: [one[name] for one in rounds if name in one] for name in names}
    return {name: Figure.of((one.median for one in figures), figures[0].unit) for name, figures in some.items()}


def ratio_of(above: Sequence[float], below: Sequence[float]) -> Figure:
    """The ratios of two things, round by round; rounds in which the second is 0 have none."""
    return Figure.of(one / other for one, other in zip(above, below, strict=True) if other)


def text_of(result: Result) -> str:
    """The tables as text for the terminal, the machine first."""
    lines = [str(result.host), result.title]
    return "\n".join([*lines, *(line for table in result.tables for line in _lines(table))])


def markdown_of(result: Result) -> str:
    """The same for a page."""
    return f"```text\n{text_of(result)}\n```"


def _lines(table: Table) -> Iterator[str]:
    if table.title:
        yield table.title
    if any(column.heading for column in table.columns):
        yield _line(table, table.label, [column.head() for column in table.columns])
    for row in table.rows:
        if row.note:
            yield _line(table, row.label, row.note.splitlines()[:1])
            continue
        columns = list(table.columns)
        while columns and columns[-1].figure not in row.figures:
            columns.pop()
        yield _line(table, row.label, [column.cell(row.figures.get(column.figure)) for column in columns])


def _line(table: Table, label: str, cells: Sequence[str]) -> str:
    return (" " * table.indent + " ".join([label.ljust(table.width), *cells])).rstrip()


def page_with(page: str, results: Sequence[Result]) -> str:
    """The text of a page with each result between its marks, ``<!-- bench:serve -->`` and ``<!-- /bench -->``."""
    for result in results:
        start, end = f"<!-- bench:{result.what} -->", "<!-- /bench -->"
        before, *after = re.split(rf"{re.escape(start)}.*?{re.escape(end)}", page, flags=re.DOTALL)
        if len(after) != 1:
            raise UsageError(f"the page has {len(after)} places for {result.what}: one '{start}' is needed")
        page = f"{before}{start}\n{markdown_of(result)}\n{end}{after[0]}"
    return page


def json_of(result: Result) -> str:
    """The result as JSON."""
    return _JSON.dump_json(result, indent=1, exclude_defaults=True).decode()


def write_result(path: Path, result: Result) -> None:
    """Write a result as JSON."""
    write_text(path, json_of(result) + "\n")


def read_json(text: str) -> Result:
    """The result that `json_of` wrote."""
    return _JSON.validate_json(text)


def read_result(path: Path) -> Result:
    """A result that `write_result` wrote."""
    try:
        return read_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}; give a file that --out wrote") from error
    except ValueError as error:
        raise UsageError(f"{path} is no result of pneumoscan bench: give a file that --out wrote") from error


def check_writable(path: Path | None, *, force: bool) -> None:
    """Check before anything is measured that a file can be put there."""
    if path is None:
        return
    if path.exists() and not force:
        raise UsageError(f"{path} exists: choose another name, or --force")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path.parent} is not a folder: make it first")
