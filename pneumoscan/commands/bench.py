"""``pneumoscan bench``: measure speed; the benchmarks come with the source and are never installed."""

from __future__ import annotations

from collections.abc import Sequence

from pneumoscan.errors import UsageError

OPTIONS = None  # the benchmarks have a parser of their own


def run(words: Sequence[str]) -> int:
    """Run `benchmarks` where there is a checkout.

    Raises
    ------
    UsageError
        If there is none.
    """
    try:
        from benchmarks.command import main
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "benchmarks":
            raise
        raise UsageError("the benchmarks come with the source alone: run this in a checkout") from error
    return main(words)
