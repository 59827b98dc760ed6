"""How far a long command is: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import IO, TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tqdm import tqdm

_EVERY_S: Final = 30.0  # of a log; what is done before has no line at all


class _Lines:
    """A stream that gets each state of a bar as a line of its own."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Write a state; what only clears a line of a terminal is none."""
        if state := text.replace("\r", "").strip():
            self._stream.write(f"{state}\n")

    def flush(self) -> None:
        """Flush the stream."""
        self._stream.flush()


def films_done(
    films: Iterable[Any] | None,
    total: int,
    *,
    initial: int = 0,
    stream: IO[str] | None = None,
    every_s: float = _EVERY_S,
) -> tqdm[Any]:
    """The films with their progress on stderr.

    Parameters
    ----------
    films
        None where each is counted by ``update()``.
    total, initial
        How many films there are, and how many of them were done before.
    every_s
        Seconds between two lines where stderr is no terminal.
    """
    from tqdm import tqdm as make

    made: Callable[..., tqdm[Any]] = make  # typed for streams with more methods than it uses
    stream = sys.stderr if stream is None else stream
    if stream.isatty():
        return made(films, total=total, initial=initial, unit="film", file=stream)
    form = "{n_fmt} of {total_fmt} films, {rate_fmt}, {remaining} left"
    pace = {"mininterval": every_s, "maxinterval": every_s, "delay": every_s}
    return made(films, total=total, initial=initial, unit="film", file=_Lines(stream), bar_format=form, **pace)
