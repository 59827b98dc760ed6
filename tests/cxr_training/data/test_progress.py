"""Bars on a terminal, and nowhere else."""

from __future__ import annotations

import io
import sys

import pytest

from cxr_training.data.progress import progress_bar


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "environment", "is_shown"),
    [
        (Terminal(), {}, True),
        (Terminal(), {"RANK": "0"}, True),
        (Terminal(), {"RANK": "1"}, False),
        (Terminal(), {"TQDM_DISABLE": "1"}, False),
        (io.StringIO(), {}, False),
    ],
)
def test_a_bar_is_on_the_terminal_of_the_first_process_and_nowhere_else(
    stream: io.StringIO, environment: dict[str, str], is_shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    for name in ("RANK", "TQDM_DISABLE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert list(progress_bar(range(3), "counting", "number")) == [0, 1, 2]
    assert ("counting" in stream.getvalue()) == is_shown
