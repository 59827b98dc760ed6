"""Progress of a long command: a bar for a person, lines for a log."""

from __future__ import annotations

import io

import pytest

from pneumoscan.progress import films_done


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_lines_and_no_bars() -> None:
    log = io.StringIO()
    assert list(films_done(range(1000), 1000, stream=log, every_s=0.0)) == list(range(1000))
    lines = log.getvalue().splitlines()
    assert all(" of 1000 films, " in line for line in lines)
    assert "\r" not in log.getvalue()
    assert lines[-1].startswith("1000 of 1000 films")


@pytest.mark.parametrize("count", [0, 3])
def test_what_is_done_soon_leaves_no_line_in_a_log(count: int) -> None:
    log = io.StringIO()
    with films_done(None, count, stream=log) as bar:
        for _ in range(count):
            bar.update()
    assert log.getvalue() == ""


def test_a_terminal_gets_a_bar() -> None:
    terminal = Terminal()
    list(films_done(range(3), 3, stream=terminal))
    assert "100%" in terminal.getvalue()
