"""Kinds of arguments that several command lines take."""

from __future__ import annotations

import argparse


def positive(text: str) -> int:
    """Give the whole number of 1 or more that a text writes."""
    return _at_least(text, 1)


def not_negative(text: str) -> int:
    """Give the whole number of 0 or more that a text writes."""
    return _at_least(text, 0)


def _at_least(text: str, lowest: int) -> int:
    number = int(text)
    if number < lowest:
        raise argparse.ArgumentTypeError(f"{text} is not {lowest} or more")
    return number
