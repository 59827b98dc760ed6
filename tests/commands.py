"""The product's commands as tests call them."""

from __future__ import annotations

from collections.abc import Sequence

from pneumoscan import cli


def run_command(name: str, words: Sequence[str]) -> int:
    """Run ``pneumoscan NAME WORDS…`` in this process; its exit status."""
    try:
        return cli.main([name, *words])
    except SystemExit as stop:  # argparse's way to say that a command line cannot be read
        return int(stop.code or 0)
